"""The figures of the page, as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robustspike.report.colours import GRID, INK, MUTED, series
from robustspike.report.svg import DPI, inline, plain_style
from robustspike.report.words import is_pixel_fraction, norm_symbol, percent
from robustspike.results import Curve, Network

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


def curves(networks: Sequence[Network], form: Format) -> Drawing:
    """Robust accuracy against ε: a line with its 95 % band for each network that has a curve, labelled at its end."""
    shown = [(i, network.curve) for i, network in enumerate(networks) if network.curve is not None]
    names = short_names([networks[i].name for i, _ in shown], form.characters)
    right = 34 + 7 * max(len(name) for name in names)
    height = max(420 if form is WIDE else 340, LINE * len(shown) + 80)
    with plain_style():
        figure, axes = blank(form.width, height, 50, right, 50)
        for i, curve in shown:
            draw_curve(axes, i, curve, crowded=len(shown) > 6)
        ends = [100 * curve.robust[-1].value for _, curve in ordered(shown)]
        limit = max(max(curve.eps) for _, curve in shown) or 1.0
        label_ends(
            axes,
            ordered(shown),
            names,
            spread(ends, LINE * 100 / (height - 62), 0, 100),
            limit,
            form.width - 50 - right,
        )
        axes.set(ylim=(0, 100), xlim=(0, limit))
        axes.set_ylabel("robust accuracy in %", color=INK, fontsize=13)
        axes.set_yticks(range(0, 101, 20))
        axes.grid(axis="y", color=GRID, linewidth=1)
        axes.set_axisbelow(True)
        label_epsilon(axes, [curve for _, curve in shown], form)
        alt = curves_in_words([(networks[i].name, curve) for i, curve in ordered(shown)])
        return Drawing(inline(figure, f"curves-{form.name}", alt), alt)


def ordered(shown: Sequence[tuple[int, Curve]]) -> list[tuple[int, Curve]]:
    """The curves with their points from the smallest ε to the largest."""
    result = []
    for i, curve in shown:
        points = sorted(range(len(curve.eps)), key=lambda k: curve.eps[k])
        update = {"eps": tuple(curve.eps[k] for k in points), "robust": tuple(curve.robust[k] for k in points)}
        result.append((i, curve.model_copy(update=update)))
    return result


def draw_curve(axes: Axes, i: int, curve: Curve, crowded: bool) -> None:
    """One line with markers on its interval's band; a band fades where many lie upon each other."""
    [(_, curve)] = ordered([(i, curve)])
    low, high = [100 * r.low for r in curve.robust], [100 * r.high for r in curve.robust]
    colour = series(i)
    axes.fill_between(curve.eps, low, high, color=colour, alpha=0.06 if crowded else 0.16, linewidth=0)
    if len(curve.eps) == 1:
        axes.vlines(curve.eps, low, high, color=colour, linewidth=1.5)
    axes.plot(
        curve.eps,
        [100 * r.value for r in curve.robust],
        color=colour,
        linewidth=2,
        linestyle=DASHES[i // 8 % len(DASHES)],
        marker=MARKERS[i % len(MARKERS)],
        markersize=7,
        markeredgewidth=0,
        clip_on=False,
        zorder=3,
    )


def label_ends(
    axes: Axes,
    shown: Sequence[tuple[int, Curve]],
    names: Sequence[str],
    heights: Sequence[float],
    limit: float,
    across: float,
) -> None:
    """Each network's marker and name beside the end of its line, joined by a thin line."""
    pixel = limit / across
    for (i, curve), name, y in zip(shown, names, heights, strict=True):
        end = (curve.eps[-1], 100 * curve.robust[-1].value)
        x = [end[0], limit + 16 * pixel]
        axes.plot(x, [end[1], y], color=series(i), linewidth=0.8, alpha=0.6, clip_on=False)
        marker = MARKERS[i % len(MARKERS)]
        axes.plot(x[1], y, color=series(i), marker=marker, markersize=6, markeredgewidth=0, clip_on=False)
        axes.text(x[1] + 8 * pixel, y, name, color=INK, fontsize=13, va="center_baseline")


def label_epsilon(axes: Axes, shown: Sequence[Curve], form: Format) -> None:
    """The axis of ε in pixel units: in 255ths where every ε is a whole number of them."""
    norms = ", ".join(dict.fromkeys(norm_symbol(curve.norm) for curve in shown))
    values = sorted({eps for curve in shown for eps in curve.eps})
    fewest = 5 if form is NARROW else 10
    in_levels = all(is_pixel_fraction(eps) or eps == 0 for eps in values) and all(c.norm == "Linf" for c in shown)
    if in_levels and len(values) <= fewest:
        axes.set_xticks(values, [f"{round(255 * eps)}/255" if eps else "0" for eps in values])
    else:
        axes.locator_params(axis="x", nbins=fewest - 1)
        axes.xaxis.set_major_formatter("{x:.4g}")
    unit = "pixel units" if form is NARROW else "pixel units (1 is a pixel's whole range)"
    axes.set_xlabel(f"{norms} radius ε in {unit}", color=INK, fontsize=13)


def curves_in_words(shown: Sequence[tuple[str, Curve]]) -> str:
    """What the curves show, for readers who do not see them."""
    parts = []
    for name, curve in shown:
        points = (0, -1) if len(curve.eps) > 1 else (0,)
        ends = [f"{percent(curve.robust[k].value)} % at ε = {curve.eps[k]:.4g}" for k in points]
        parts.append(f"{name}: {', falling to '.join(ends) if falls(curve) else ', then '.join(ends)}")
    return f"Line chart of robust accuracy against ε with 95 % bands. {'; '.join(parts)}."


def falls(curve: Curve) -> bool:
    """Whether the last point lies below the first."""
    return curve.robust[-1].value < curve.robust[0].value


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
            axes.barh(i, 100 * robust.value, height=0.56, color=series(i), alpha=0.8, linewidth=0)
            axes.hlines(i, 100 * robust.low, 100 * robust.high, color=INK, linewidth=1.5)
            axes.vlines([100 * robust.low, 100 * robust.high], i - 0.12, i + 0.12, color=INK, linewidth=1.5)
            axes.plot([100 * clean.value] * 2, [i - 0.36, i + 0.36], color=series(i), linewidth=2.5, clip_on=False)
            axes.annotate(
                f"{percent(robust.value)} %", (1, i), xytext=(10, 0), xycoords=("axes fraction", "data"),
                textcoords="offset points", color=INK, fontsize=13, va="center_baseline",
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
        for network in networks
        for s in [network.summary]
    ]
    return f"Bar chart of the worst case per sample. {'; '.join(parts)}."
