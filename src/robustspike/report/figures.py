"""The figures of the page, as inline SVG: how they look, and the bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robustspike.report.colours import GRID, INK, MUTED, series
from robustspike.report.svg import DPI, inline, plain_style
from robustspike.report.words import percent
from robustspike.results import Network

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h", "d", "8", "H")
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
LINE = 15  # pixels from one label to the next


@dataclass(frozen=True)
class Format:
    """How wide a figure is, in CSS pixels, and how many characters of a network's name fit."""

    name: str
    width: int
    characters: int


WIDE, NARROW = Format("wide", 1000, 30), Format("narrow", 340, 13)


@dataclass(frozen=True)
class Drawing:
    """A figure and what it shows, in words."""

    svg: str
    alt: str


def short_names(names: Sequence[str], limit: int) -> list[str]:
    """Names that fit: their middle is left out where they are too long, and equal ones get their number.

    Example:
        >>> short_names(["SR*", "a name that is far too long"], 11)
        ['SR*', 'a nam… long']
    """
    clean = [" ".join("".join(c if c.isprintable() else " " for c in name).split()) or "?" for name in names]
    tail = limit // 2
    cut = [name if len(name) <= limit else name[: limit - tail - 1] + "…" + name[-tail:] for name in clean]
    return [f"{i + 1}: {name}" if cut.count(name) > 1 else name for i, name in enumerate(cut)]


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions moved apart as little as is simple, each at least ``gap`` from the next, within [low, high].

    Example:
        >>> spread([50, 50, 3], 5, 0, 100)
        [50, 55, 3]
    """
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    placed = list(positions)
    for before, i in zip([None, *order], order, strict=False):
        placed[i] = max(placed[i], low if before is None else placed[before] + gap)
    ceiling = high
    for i in reversed(order):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - gap
    return placed


def blank(
    width: float, height: float, left: float, right: float, bottom: float, top: float = 12
) -> tuple[Figure, Axes]:
    """A figure in CSS pixels with its margins, and its one set of axes."""
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    box = (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)
    axes = figure.add_axes(box)
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(colors=INK, length=0, labelsize=13)
    axes.tick_params(axis="both", pad=6)
    return figure, axes


def bars(networks: Sequence[Network], form: Format) -> Drawing:
    """The worst case of each network as a bar with its 95 % interval, and a tick where its clean accuracy lies."""
    names = short_names([network.name for network in networks], form.characters)
    left = 18 + 7.4 * max(len(name) for name in names)
    step = 34
    with plain_style():
        figure, axes = blank(form.width, step * len(networks) + 56, left, 64, 44)
        axes.set(xlim=(0, 100), ylim=(len(networks) - 0.5, -0.5))
        axes.grid(axis="x", color=GRID, linewidth=1)
        axes.set_axisbelow(True)
        for i, network in enumerate(networks):
            clean, robust = network.summary.clean, network.summary.robust
            axes.plot([100 * clean.value] * 2, [i - 0.36, i + 0.36], color=series(i), linewidth=2.5, clip_on=False)
            if network.summary.has_worst_case:
                axes.barh(i, 100 * robust.value, height=0.56, color=series(i), alpha=0.8, linewidth=0)
                axes.hlines(i, 100 * robust.low, 100 * robust.high, color=INK, linewidth=1.5)
                axes.vlines([100 * robust.low, 100 * robust.high], i - 0.12, i + 0.12, color=INK, linewidth=1.5)
            axes.annotate(
                f"{percent(robust.value)} %" if network.summary.has_worst_case else "–", (1, i), xytext=(10, 0),
                xycoords=("axes fraction", "data"), textcoords="offset points", color=INK, fontsize=13,
                va="center_baseline",
            )  # fmt: skip
        axes.set_yticks(range(len(networks)), names)
        axes.set_xticks(range(0, 101, 20))
        axes.set_xlabel("accuracy in %", color=INK, fontsize=13)
        alt = bars_in_words(networks)
        return Drawing(inline(figure, f"bars-{form.name}", alt), alt)


def bars_in_words(networks: Sequence[Network]) -> str:
    """What the bars show, for readers who do not see them."""
    parts = [
        f"{network.name}: {percent(s.robust.value)} % (95 % interval {percent(s.robust.low)} to "
        f"{percent(s.robust.high)}), clean {percent(s.clean.value)} %"
        if s.has_worst_case
        else f"{network.name}: no worst case, clean {percent(s.clean.value)} %"
        for network in networks
        for s in [network.summary]
    ]
    return f"Bar chart of the worst case per sample. {'; '.join(parts)}."
