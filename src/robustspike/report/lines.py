"""The line charts of the page: accuracy against ε, against gradient evaluations and against steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from robustspike.report.colours import GRID, INK, series
from robustspike.report.figures import DASHES, LINE, MARKERS, NARROW, WIDE, Drawing, Format, blank, short_names, spread
from robustspike.report.svg import inline, plain_style
from robustspike.report.words import is_pixel_fraction, norm_symbol, percent
from robustspike.results import Curve, Network, Rate


@dataclass(frozen=True)
class Line:
    """The accuracies of one network, number ``index`` of the page, from the smallest x to the largest."""

    index: int
    name: str
    x: tuple[float, ...]
    rates: tuple[Rate, ...]

    @classmethod
    def of(cls, index: int, name: str, x: Sequence[float], rates: Sequence[Rate]) -> Line:
        """With its points in order."""
        points = sorted(zip(x, rates, strict=True), key=lambda point: point[0])
        return cls(index, name, tuple(p for p, _ in points), tuple(r for _, r in points))


@dataclass(frozen=True)
class Abscissa:
    """What a chart has to the right: ``place`` maps a value to its position, ``label`` writes ticks and title."""

    name: str
    place: Callable[[float], float]
    label: Callable[[Axes, Sequence[Line], Format], None]
    write: Callable[[float], str]
    from_zero: bool


def chart(lines: Sequence[Line], form: Format, prefix: str, abscissa: Abscissa) -> Drawing:
    """A line with its 95 % band for each network, labelled at its end."""
    names = short_names([line.name for line in lines], form.characters)
    right = 34 + 7 * max(len(name) for name in names)
    height = max(420 if form is WIDE else 340, LINE * len(lines) + 80)
    positions = [abscissa.place(x) for line in lines for x in line.x]
    low = 0.0 if abscissa.from_zero else min(positions)
    high = max(positions) if max(positions) > low else low + 1.0
    with plain_style():
        figure, axes = blank(form.width, height, 50, right, 50)
        for line in lines:
            draw(axes, line, abscissa, crowded=len(lines) > 6)
        ends = spread([100 * line.rates[-1].value for line in lines], LINE * 100 / (height - 62), 0, 100)
        label_ends(axes, lines, names, ends, abscissa, (high, (high - low) / (form.width - 50 - right)))
        axes.set(ylim=(0, 100), xlim=(low, high))
        axes.set_ylabel("robust accuracy in %", color=INK, fontsize=13)
        axes.set_yticks(range(0, 101, 20))
        axes.grid(axis="y", color=GRID, linewidth=1)
        axes.set_axisbelow(True)
        abscissa.label(axes, lines, form)
        alt = in_words(lines, abscissa)
        return Drawing(inline(figure, f"{prefix}-{form.name}", alt), alt)


def draw(axes: Axes, line: Line, abscissa: Abscissa, crowded: bool) -> None:
    """One line with markers on its interval's band; a band fades where many lie upon each other."""
    i, x = line.index, [abscissa.place(value) for value in line.x]
    low, high = [100 * r.low for r in line.rates], [100 * r.high for r in line.rates]
    colour = series(i)
    axes.fill_between(x, low, high, color=colour, alpha=0.06 if crowded else 0.16, linewidth=0)
    if len(x) == 1:
        axes.vlines(x, low, high, color=colour, linewidth=1.5)
    axes.plot(
        x,
        [100 * r.value for r in line.rates],
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
    lines: Sequence[Line],
    names: Sequence[str],
    heights: Sequence[float],
    abscissa: Abscissa,
    edge: tuple[float, float],
) -> None:
    """Each network's marker and name beside the end of its line, joined by a thin line; ``edge``: where, and a pixel."""
    limit, pixel = edge
    for line, name, y in zip(lines, names, heights, strict=True):
        end = (abscissa.place(line.x[-1]), 100 * line.rates[-1].value)
        x = [end[0], limit + 16 * pixel]
        colour, marker = series(line.index), MARKERS[line.index % len(MARKERS)]
        axes.plot(x, [end[1], y], color=colour, linewidth=0.8, alpha=0.6, clip_on=False)
        axes.plot(x[1], y, color=colour, marker=marker, markersize=6, markeredgewidth=0, clip_on=False)
        axes.text(x[1] + 8 * pixel, y, name, color=INK, fontsize=13, va="center_baseline")


def in_words(lines: Sequence[Line], abscissa: Abscissa) -> str:
    """What the lines show, for readers who do not see them."""
    parts = []
    for line in lines:
        points = (0, -1) if len(line.x) > 1 else (0,)
        ends = [f"{percent(line.rates[k].value)} % at {abscissa.write(line.x[k])}" for k in points]
        falls = line.rates[-1].value < line.rates[0].value
        parts.append(f"{line.name}: {', falling to '.join(ends) if falls else ', then '.join(ends)}")
    return f"Line chart of robust accuracy against {abscissa.name} with 95 % bands. {'; '.join(parts)}."


def curves(networks: Sequence[Network], form: Format) -> Drawing:
    """Robust accuracy against ε for each network that has a curve."""
    shown = [(i, network.name, network.curve) for i, network in enumerate(networks) if network.curve is not None]

    def label(axes: Axes, lines: Sequence[Line], form: Format) -> None:
        label_epsilon(axes, [curve for _, _, curve in shown], form)

    lines = [Line.of(i, name, curve.eps, curve.robust) for i, name, curve in shown]
    return chart(lines, form, "curves", Abscissa("ε", float, label, lambda x: f"ε = {x:.4g}", True))


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


def costs(networks: Sequence[Network], form: Format) -> Drawing:
    """Robust accuracy against what was spent on a sample, on a logarithmic axis."""
    shown = [(i, n.name, n.summary.cost) for i, n in enumerate(networks) if n.summary.cost is not None]
    what = "gradient evaluations per sample"
    if any(cost.with_queries for _, _, cost in shown):
        what = "gradient evaluations and forward passes per sample"
    lines = [Line.of(i, name, cost.gradients, cost.robust) for i, name, cost in shown]
    return chart(lines, form, "costs", _logarithmic(what, what))


def steps(networks: Sequence[Network], form: Format) -> Drawing:
    """The worst case over estimators against the attack's number of steps, on a logarithmic axis."""
    shown = [(i, n.name, n.summary.steps) for i, n in enumerate(networks) if n.summary.steps is not None]
    lines = [Line.of(i, name, curve.steps, curve.worst) for i, name, curve in shown]
    return chart(lines, form, "steps", _logarithmic("the attack's steps", "steps of the attack"))


def _logarithmic(name: str, title: str) -> Abscissa:
    def label(axes: Axes, lines: Sequence[Line], form: Format) -> None:
        values = sorted({x for line in lines for x in line.x})
        if len(values) > (5 if form is NARROW else 12):
            values = [x for x in values if math.log10(x).is_integer()]
        axes.set_xticks([math.log10(x) for x in values], [f"{x:g}" if x < 10_000 else f"{x / 1000:g}k" for x in values])
        shown = title.replace("evaluations", "eval.").replace(" and forward passes", " + passes")
        axes.set_xlabel(shown if form is NARROW else title, color=INK, fontsize=13)

    return Abscissa(name, math.log10, label, lambda x: f"{x:g}", False)
