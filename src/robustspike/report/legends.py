"""Which colour and marker each series of a view has, and the legend that says so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.patches import Rectangle

from robustspike.report.colours import INK, PAPER, series
from robustspike.report.figures import MARKERS
from robustspike.report.sheet import LINE, WIDTH, Sheet, cut, span

MARKER = 7  # a marker's size in pixels
GUIDES: dict[str, Any] = {"linewidth": 2.0, "markersize": MARKER, "markeredgewidth": 1.5, "clip_on": False}
LONGEST = WIDTH - 36  # pixels of a label
HATCHES = ("", "///", "...", "xxx")


@dataclass(frozen=True)
class Look:
    """How one series is drawn; ``number`` chooses its marker and, in bars, its hatching."""

    label: str
    colour: str
    number: int
    dashed: bool = False
    points: bool = False

    @property
    def style(self) -> dict[str, Any]:
        """For a line: a bound or prediction has dashes and hollow markers."""
        return {
            "color": self.colour,
            "marker": MARKERS[self.number % len(MARKERS)],
            "linestyle": "none" if self.points else (0, (4, 2.5)) if self.dashed else "-",
            "markerfacecolor": PAPER if self.dashed else self.colour,
            **GUIDES,
        }

    @property
    def fill(self) -> dict[str, Any]:
        """For a bar; beyond eight, hatched."""
        return {
            "facecolor": self.colour, "edgecolor": PAPER, "linewidth": 0.7,
            "hatch": HATCHES[self.number // 8 % len(HATCHES)],
        }  # fmt: skip


@dataclass(frozen=True)
class Palette:
    """The colours of a page: a network has the same one in every figure.

    Attributes:
        networks: the number of each network by its name.
        first: the number of the first series that names no network.
        special: colours of series with a meaning of their own.
    """

    networks: Mapping[str, int] = field(default_factory=dict)
    first: int = 0
    special: Mapping[str, str] = field(default_factory=dict)

    def network(self, label: str) -> int | None:
        """The number of the network that a label names, alone or before more words."""
        name = prefix(label, self.networks, (" ", ",", ":", ";"))
        return None if name is None else self.networks[name]

    def looks(self, labels: Sequence[str]) -> list[Look]:
        """One for each label; up to fifteen have markers of their own. "AT, bound" has the colour of "AT"."""
        named = [self.network(label) for label in labels]
        free = iter(range(self.first if not any(n is not None for n in named) else len(self.networks), 10**6))
        taken: set[int] = set()
        of: dict[str, int] = {}
        found = []
        for label, number in zip(labels, named, strict=True):
            akin = prefix(label, of, (", ", ": ", " ("))
            colour = number if number is not None else next(free) if akin is None else of[akin]
            of[label] = colour
            marker = colour
            while marker in taken:
                marker += 1
            taken.add(marker)
            found.append(Look(label, self.special.get(label, series(colour)), marker))
        return found


def prefix(label: str, names: Iterable[str], ends: tuple[str, ...]) -> str | None:
    """The longest of the names that the label is, or begins with before one of the ends."""
    found = [name for name in names if label == name or (name and label.startswith(tuple(name + end for end in ends)))]
    return max(found, key=len, default=None)


def rows_of(looks: Sequence[Look], width: float = WIDTH) -> list[list[Look]]:
    """The entries in rows that fit."""
    rows: list[list[Look]] = []
    room = 0.0
    for look in looks:
        needed = 46 + span([cut(look.label, LONGEST)])
        if not rows or needed > room:
            rows.append([])
            room = width + 14
        rows[-1].append(look)
        room -= needed
    return rows


def legend(sheet: Sheet, looks: Sequence[Look], bars: bool = False, top: float = 4) -> None:
    """The entries from the top left corner, row by row."""
    for k, row in enumerate(rows_of(looks)):
        x, y = 2.0, top + LINE * (k + 0.5)
        for look in row:
            if bars:
                sheet.axes.add_patch(Rectangle((x + 6, y - 6), 14, 12, clip_on=False, **look.fill))
            else:
                ends = [x + 13] if look.points else [x, x + 26]
                sheet.axes.plot(ends, [y] * len(ends), **{**look.style, "marker": "none"})
                sheet.axes.plot([x + 13], [y], **look.style)
            text = cut(look.label, LONGEST)
            sheet.text(x + 31, y, text, colour=INK)
            x += 46 + span([text])


def room(looks: Sequence[Look]) -> float:
    """The pixels that a legend takes; nothing where the only series has no name."""
    return LINE * len(rows_of(looks)) + 12 if any(look.label for look in looks) else 0.0
