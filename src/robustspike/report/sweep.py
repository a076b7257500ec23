"""The curve of a sweep: clean and robust accuracy against one setting."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from robustspike.report.colours import GRID, INK
from robustspike.report.figures import LINE, WIDE, blank, short_names, spread
from robustspike.report.lines import Abscissa, Line, draw, in_words, label_ends
from robustspike.report.svg import inline, plain_style, standalone
from robustspike.results import Rate

# Label, values of the setting, clean and robust accuracy at each.
Series = tuple[str, Sequence[float], Sequence[Rate], Sequence[Rate]]


def placing(values: Sequence[float]) -> Callable[[float], float]:
    """Where a value lies on the axis: linear, or logarithmic where the positive ones span a factor of ten or more.

    On a logarithmic axis 0 lies as far below the smallest positive value as the values lie from each other on average.

    Example:
        >>> place = placing([0, 0.01, 0.1, 1])
        >>> [place(x) for x in (0, 0.01, 1)]
        [-3.0, -2.0, 0.0]
    """
    values = sorted(set(values))
    positive = [x for x in values if x > 0]
    if values[0] < 0 or len(positive) < 2 or positive[-1] / positive[0] < 10:
        return float
    low = math.log10(positive[0])
    gap = (math.log10(positive[-1]) - low) / (len(positive) - 1)
    return lambda x: math.log10(x) if x > 0 else low - gap


def sweep_curve(setting: str, series: Sequence[Series], caption: str) -> str:
    """An SVG file's text: for each series the robust and the clean accuracy with their 95 % intervals.

    Args:
        setting: the name of what varies.
        series: label ("" where there is only one), values, clean and robust accuracy.
        caption: what they were measured under.

    Example:
        >>> one = ("", [0.1, 1.0], [rate(9, 10), rate(8, 10)], [rate(1, 10), rate(5, 10)])
        >>> sweep_curve("weight", [one], "under FGSM, n = 10")[:4]
        '<svg'
    """
    values = sorted({x for _, xs, _, _ in series for x in xs})
    lines: list[Line] = []
    for label, xs, clean, robust in series:
        for what, rates in (("clean", clean), ("worst case", robust)):
            name = f"{label}, {what}" if label else what
            lines.append(Line.of(len(lines), name, xs, rates))
    abscissa = Abscissa(setting, placing(values), lambda *_: None, lambda x: f"{setting} = {x:g}", False)
    names = short_names([line.name for line in lines], WIDE.characters)
    right = 34 + 7 * max(len(name) for name in names)
    height = max(420, LINE * len(lines) + 110)
    places = [abscissa.place(x) for x in values]
    low, high = places[0], places[-1] if places[-1] > places[0] else places[0] + 1
    with plain_style():
        figure, axes = blank(WIDE.width, height, 50, right, 50, top=40)
        for line in lines:
            draw(axes, line, abscissa, crowded=len(lines) > 6)
        ends = spread([100 * line.rates[-1].value for line in lines], LINE * 100 / (height - 90), 0, 100)
        label_ends(axes, lines, names, ends, abscissa, (high, (high - low) / (WIDE.width - 50 - right)))
        axes.set(ylim=(0, 100), xlim=(low, high))
        axes.set_title(caption, color=INK, fontsize=12, loc="left")
        axes.set_ylabel("accuracy in %", color=INK, fontsize=13)
        axes.set_xlabel(setting, color=INK, fontsize=13)
        axes.set_xticks(places, [f"{x:g}" for x in values])
        axes.set_yticks(range(0, 101, 20))
        axes.grid(axis="y", color=GRID, linewidth=1)
        axes.set_axisbelow(True)
        alt = in_words(lines, abscissa).replace("robust accuracy", "clean and robust accuracy")
        return standalone(inline(figure, "sweep", f"{alt} {caption}"))
