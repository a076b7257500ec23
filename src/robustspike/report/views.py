"""Every view as the page shows it, and as a file of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from robustspike.report.barcharts import bars_in_words, draw_bars
from robustspike.report.charts import chart_in_words, draw_chart
from robustspike.report.legends import Palette
from robustspike.report.matrices import draw_matrix, matrix_in_words
from robustspike.report.pictures import BOLD, SHADES, Shown, contact_sheet, kinds, shown, strip
from robustspike.report.sheet import LINE, WIDTH, Sheet, span, wrapped
from robustspike.report.svg import plain, plain_style, standalone
from robustspike.results import Bars, Chart, Matrix, Pictures, Table, View

_NUMBER = re.compile(
    r"^[<>≤≥~≈±]?\s*([-−+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)(?=$|\s*[%[(±×]|\s+[^\W\d_])", re.UNICODE
)
_PREFIX = re.compile(r"\s+([pnµmkMGT])(?:J|s|B|Hz)?$")
_POWERS = {"p": "e-12", "n": "e-9", "µ": "e-6", "m": "e-3", "k": "e3", "M": "e6", "G": "e9", "T": "e12"}
_INTERVAL = re.compile(r"(.*\S)\s+(\[[^\[\]]*\])")
_MISSING = {"", "–", "-", "·", "nan", "NaN", "—"}


@dataclass(frozen=True)
class Figure:
    """A drawing with what stands around it; ``wide``: it needs more than the usual width."""

    id: str
    title: str
    note: str
    svg: str
    wide: bool
    kind: str = "figure"


@dataclass(frozen=True)
class Grid:
    """Pictures in rows; ``strips``: the shades of each kind of heatmap as CSS, and what they mean."""

    id: str
    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Shown | None, ...]], ...]
    strips: tuple[tuple[str, str], ...]
    wide: bool
    kind: str = "pictures"


@dataclass(frozen=True)
class Cell:
    """One cell of a table; ``key``: the number by which its column is sorted, None in a column of words."""

    text: str
    key: str | None


@dataclass(frozen=True)
class Cells:
    """A table; ``numeric``: which columns hold numbers; ``wide``: it needs more than half of the page."""

    id: str
    title: str
    note: str
    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[Cell, ...], ...]
    wide: bool
    kind: str = "table"


Drawn = Figure | Grid | Cells


class Drawer:
    """Draws the views of one page on one sheet, each with an id of its own."""

    def __init__(self) -> None:
        self.sheet = Sheet()
        self.count = 0

    def all(self, views: Iterable[View], palette: Palette) -> tuple[Drawn, ...]:
        """Each of them, in order."""
        return tuple(self.one(view, palette) for view in views)

    def one(self, view: View, palette: Palette) -> Drawn:
        """One view."""
        self.count += 1
        name = f"v{self.count}"
        if isinstance(view, Table):
            return cells_of(view, name)
        if isinstance(view, Pictures):
            return grid_of(view, name)
        svg, width = self.svg(view, palette, name)
        return Figure(name, view.title, view.note, svg, width > 1.2 * WIDTH)

    def svg(self, view: Chart | Bars | Matrix, palette: Palette, name: str, top: float = 0.0) -> tuple[str, float]:
        """One drawing and its width."""
        width: float = WIDTH
        if isinstance(view, Chart):
            draw_chart(view, self.sheet, palette, top)
        elif isinstance(view, Bars):
            draw_bars(view, self.sheet, palette, top)
        else:
            width = draw_matrix(view, self.sheet, top)
        if top:
            for k, line in enumerate(wrapped(view.title, BOLD * width)):
                self.sheet.text(2, LINE * (k + 0.5) + 2, line, bold=True)
        return self.sheet.svg(name, in_words(view)), width


def in_words(view: Chart | Bars | Matrix) -> str:
    """What a view shows, for readers who do not see it.

    Example:
        >>> in_words(Bars(title="Sparsity", y="share in %", categories=("conv1",), series={"": (25.0,)}))
        'Bar chart: Sparsity. share in %. conv1 25.'
    """
    if isinstance(view, Chart):
        return chart_in_words(view)
    return bars_in_words(view) if isinstance(view, Bars) else matrix_in_words(view)


def number(text: str) -> float | None:
    """The number with which a cell begins, 1200 for "1.2 k"; None where it is a word.

    Example:
        >>> number("50.0 [18.7, 81.3]"), number("< 0.1"), number("8/255"), number("960 k"), number("2.5 µJ")
        (50.0, 0.1, None, 960000.0, 2.5e-06)
    """
    found = _NUMBER.match(text.strip())
    if not found:
        return None
    prefix = _PREFIX.match(text.strip(), found.end())
    return float(found[1].replace("−", "-") + (_POWERS[prefix[1]] if prefix and "e" not in found[1].lower() else ""))


def grid_of(view: Pictures, name: str) -> Grid:
    """Pictures with their files."""
    rows = tuple((row.label, tuple(shown(p) if p else None for p in row.pictures)) for row in view.rows)
    strips = tuple((strip(kind), SHADES[kind]) for kind in kinds(view))
    needed = min(span((plain(row.label) for row in view.rows), 13), 140) + 15
    for k, column in enumerate(view.columns):
        pictures = [row[k] for _, row in rows]
        under = span((plain(text) for p in pictures if p for text in (p.caption, p.scale, column)), 13)
        needed += max(max((p.width for p in pictures if p), default=0), min(under, 140)) + 15
    return Grid(name, view.title, view.note, view.columns, rows, strips, needed > WIDTH + 24)


def cells_of(view: Table, name: str) -> Cells:
    """A table whose columns of numbers are sorted as numbers; a dash comes last."""
    columns = list(zip(*view.rows, strict=True)) if view.rows else [()] * len(view.columns)
    numeric = tuple(
        k > 0 and any(number(c) is not None for c in column)
        and all(number(c) is not None or c.strip() in _MISSING for c in column)
        for k, column in enumerate(columns)
    )  # fmt: skip

    def cell(text: str, is_number: bool) -> Cell:
        value = number(text)
        return Cell(text, None if not is_number else "" if value is None else f"{value:.12g}")

    rows = tuple(tuple(cell(c, n) for c, n in zip(row, numeric, strict=True)) for row in view.rows)
    texts = [[head[: len(head) // 2 + 6], *(part for cell in column for part in split(cell))]
             for head, column in zip(view.columns, columns, strict=True)]  # fmt: skip
    wide = sum(span(map(plain, column)) + 22 for column in texts) > WIDTH + 24
    return Cells(name, view.title, view.note, view.columns, numeric, rows, wide)


def split(text: str) -> tuple[str, str]:
    """A figure and its interval, "" where it has none.

    Example:
        >>> split("50.0 [18.7, 81.3]")
        ('50.0', '[18.7, 81.3]')
    """
    found = _INTERVAL.fullmatch(text)
    return (found[1], found[2]) if found else (text, "")


def view_svg(view: Chart | Bars | Matrix) -> str:
    """A chart, bars or a matrix as the text of an SVG file with its title; it follows the reader's light or dark setting.

    Raises:
        TypeError: for a table or pictures.

    Example:
        >>> bars = Bars(title="Sparsity", y="share in %", categories=("conv1", "conv2"), series={"SR": (25.0, 31.0)})
        >>> view_svg(bars)[:4]
        '<svg'
    """
    if not isinstance(view, Chart | Bars | Matrix):
        raise TypeError(f"expected a Chart, Bars or a Matrix, got {type(view).__name__}; see view_png for Pictures")
    with plain_style():
        top = LINE * len(wrapped(view.title, BOLD * WIDTH)) + 8
        svg, _ = Drawer().svg(view, Palette(), "view", top)
        return standalone(svg, margin=12)


def view_png(view: Pictures, path: str | Path) -> None:
    """Pictures with their labels as one PNG file on white paper; its folder is made where missing.

    Args:
        view: the pictures.
        path: the file.

    Example:
        >>> import numpy as np
        >>> from robustspike.results import Picture, PictureRow
        >>> one = Picture.of(np.eye(8)[None], "magnitude", "a diagonal")
        >>> view_png(Pictures(title="One", columns=("a",), rows=(PictureRow(label="b", pictures=(one,)),)), "sheet.png")
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(view, path)
