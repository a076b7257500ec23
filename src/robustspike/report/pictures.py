"""Small pictures as PNG: inside a page, and as a contact sheet."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from robustspike.report.colours import DIVERGING, SEQUENTIAL, shades
from robustspike.report.sheet import cut, short, span, wrapped
from robustspike.report.svg import DPI, plain_style
from robustspike.results import Picture, Pictures

SIDE = 88  # about so many CSS pixels high is a picture in the page
BOLD = 0.85  # of a line's width is left where letters are bold
SHADES = {
    "signed": "blue: negative, neutral: 0, orange: positive; ± is what the strongest colours stand for",
    "magnitude": "dark: 0, yellow: the largest value, given as ≤",
}


@dataclass(frozen=True)
class Shown:
    """A picture as the page needs it; sizes in CSS pixels."""

    uri: str
    width: int
    height: int
    alt: str
    caption: str
    scale: str


def pixels(picture: Picture) -> NDArray[np.uint8]:
    """Red, green and blue [H, W, 3]: a heatmap in its shades."""
    levels = picture.levels()
    if picture.kind == "image":
        return np.repeat(levels, 3, axis=2) if picture.channels == 1 else levels
    one = levels[:, :, 0].astype(np.float64)
    return shades((one - 128) / 127 if picture.kind == "signed" else one / 255, picture.kind == "signed")[:, :, :3]


def png(picture: Picture) -> bytes:
    """The smaller of two PNG files: in full colour, or with a palette of the colours that occur."""
    levels = picture.levels()
    colours = pixels(picture)
    made = [Image.fromarray(levels[:, :, 0]) if _is_grey(picture) else Image.fromarray(colours)]
    if picture.channels == 1 and not _is_grey(picture):
        used, index = np.unique(levels[:, :, 0], return_inverse=True)
        where = [int(np.flatnonzero(levels[:, :, 0].ravel() == one)[0]) for one in used]
        indexed = Image.fromarray(index.reshape(levels.shape[:2]).astype(np.uint8), mode="L").convert("L")
        indexed.putpalette(colours.reshape(-1, 3)[where].ravel().tolist())
        made.append(indexed)
    files = []
    for image in made:
        buffer = io.BytesIO()
        image.save(buffer, format="PNG", optimize=True)
        files.append(buffer.getvalue())
    return min(files, key=len)


def _is_grey(picture: Picture) -> bool:
    return picture.kind == "image" and picture.channels == 1


def shown(picture: Picture) -> Shown:
    """For the page: pixels are enlarged by a whole number where they are few."""
    factor = SIDE / picture.height
    factor = max(1, round(factor)) if factor >= 0.75 else factor
    return Shown(
        uri="data:image/png;base64," + base64.b64encode(png(picture)).decode(),
        width=round(factor * picture.width), height=round(factor * picture.height),
        alt=picture.alt, caption=picture.caption, scale=scale_of(picture),
    )  # fmt: skip


def scale_of(picture: Picture) -> str:
    """What the strongest colour of a heatmap stands for; empty for an image."""
    return {"image": "", "signed": f"± {short(picture.scale, 3)}", "magnitude": f"≤ {short(picture.scale, 3)}"}[
        picture.kind
    ]


def kinds(view: Pictures) -> list[str]:
    """The kinds of heatmaps among the pictures."""
    found = {picture.kind for row in view.rows for picture in row.pictures if picture is not None}
    return [kind for kind in SHADES if kind in found]


def strip(kind: str) -> str:
    """The shades of a heatmap from its smallest to its largest value, as a CSS gradient."""
    shade = DIVERGING if kind == "signed" else SEQUENTIAL
    stops = [f"rgb({r},{g},{b})" for r, g, b, _ in (shade(x, bytes=True) for x in np.linspace(0, 1, 7))]
    return f"linear-gradient(90deg,{','.join(stops)})"


@dataclass(frozen=True)
class Sizes:
    """Of a contact sheet, in pixels: a picture's side, the labels at the left, gaps, one row, the head, all of it."""

    side: float
    left: float
    gap: float
    row: float
    head: float
    width: float
    height: float

    @classmethod
    def of(cls, view: Pictures) -> Sizes:
        """Room for all labels."""
        side, gap = 96.0, 14.0
        left = 2 * gap + min(span((row.label for row in view.rows), 11), 140)
        width = max(left + len(view.columns) * (side + gap), 320)
        below = [wrapped(_below(p), side + gap) for row in view.rows for p in row.pictures if p is not None]
        row = side + gap + 12 * max(map(len, below), default=0)
        head = 18 * len(wrapped(view.title, BOLD * width)) + 36
        foot = 13 * len(wrapped(legend(view), width, 6)) + gap
        return cls(side, left, gap, row, head, width, head + row * len(view.rows) + foot)


def legend(view: Pictures) -> str:
    """What the colours of the heatmaps mean, and the view's note."""
    return " ".join([*(f"{SHADES[kind]}." for kind in kinds(view)), view.note]).strip()


def contact_sheet(view: Pictures, path: Path) -> None:
    """All pictures with their labels on white paper, as one PNG file."""
    size = Sizes.of(view)
    with plain_style():
        figure = Figure(figsize=(size.width / DPI, size.height / DPI), dpi=DPI, facecolor="white")

        def write(x: float, y: float, lines: Sequence[str], **style: Any) -> None:
            given = {"fontsize": 11, "va": "top", "color": "#111111", **style}
            figure.text(x / size.width, 1 - y / size.height, "\n".join(lines), **given)

        write(size.gap, 10, wrapped(view.title, BOLD * size.width), fontsize=14, fontweight="bold")
        for c, name in enumerate(view.columns):
            middle = size.left + c * (size.side + size.gap) + size.side / 2
            write(middle, size.head - 6, [cut(name, 1.25 * size.side)], ha="center", va="bottom")
        for r, row in enumerate(view.rows):
            top = size.head + r * size.row
            write(
                size.gap, top + size.side / 2, wrapped(row.label, 1.3 * (size.left - 2 * size.gap) + 4, 5), va="center"
            )
            for c, picture in enumerate(row.pictures):
                if picture is not None:
                    x = size.left + c * (size.side + size.gap)
                    box = (x, size.height - top - size.side, size.side, size.side)
                    place(
                        figure, picture, tuple(b / s for b, s in zip(box, 2 * (size.width, size.height), strict=True))
                    )
                    below = wrapped(_below(picture), size.side + size.gap)
                    write(x + size.side / 2, top + size.side + 4, below, ha="center", fontsize=9, color="#444444")
        foot = wrapped(legend(view), size.width, 6)
        write(size.gap, size.head + size.row * len(view.rows), foot, fontsize=9, color="#444444")
        figure.savefig(path, format="png", dpi=2 * DPI, metadata={"Software": None})


def place(figure: Any, picture: Picture, box: tuple[float, ...]) -> None:
    """A picture in a box of shares of the figure, its pixels as squares."""
    axes = figure.add_axes(box)
    axes.imshow(pixels(picture), interpolation="none")
    axes.set_axis_off()


def _below(picture: Picture) -> str:
    return " ".join(part for part in (picture.caption, scale_of(picture)) if part)
