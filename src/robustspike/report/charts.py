"""Charts of lines: axes, bands, gaps, markers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from robustspike.report.colours import MUTED
from robustspike.report.legends import Look, Palette, legend, room
from robustspike.report.sheet import PLOT, WIDTH, Frame, Scale, Sheet, framed, grid, short, span, titles
from robustspike.report.svg import plain
from robustspike.results import Chart, Line

SPOTS = 14  # markers on a long line
DENSE = 400  # of more points than this, those that lie within two pixels of each other are drawn once


def draw_chart(view: Chart, sheet: Sheet, palette: Palette, top: float = 0.0) -> None:
    """All of it, the legend first; ``top``: pixels left free above."""
    looks = [
        replace(look, dashed=line.dashed, points=line.points)
        for look, line in zip(palette.looks([line.label for line in view.lines]), view.lines, strict=True)
    ]
    y = y_scale(view)
    marks = [0, 20, 40, 60, 80, 100] if view.percent and not view.y_log else y.ticks(6)
    frame = framed(top + room(looks), view.y, view.x, [short(m) for m in marks])
    y = y.over(frame.bottom, frame.top)
    x = Scale.of((v for line in view.lines for v in line.x), view.x_log).over(frame.left + 8, frame.right - 8)
    sheet.fresh(WIDTH, frame.height)
    if room(looks):
        legend(sheet, looks, top=top + 4)
    titles(sheet, frame)
    grid(sheet, frame, y, marks)
    abscissa(view, sheet, frame, x)
    if y.low < 0 < y.high and not y.log:
        sheet.axes.hlines(y(0.0), frame.left, frame.right, color=MUTED, linewidth=1, clip_on=False, zorder=1)
    if not any(math.isfinite(x(a) + y(b)) for line in view.lines for a, b in zip(line.x, line.y, strict=True)):
        sheet.text(
            (frame.left + frame.right) / 2, frame.top + PLOT / 2, "no value to draw", anchor="middle", colour=MUTED
        )
    for line, look in zip(view.lines, looks, strict=True):
        draw_line(line, look, sheet, (x, y), alpha=0.17 / max(1, len(view.lines) / 3))


def y_scale(view: Chart) -> Scale:
    """What the values and their bands span; from 0 where they come near it, 0 to 100 for shares."""
    values = [v for line in view.lines for v in (*line.y, *line.low, *line.high) if math.isfinite(v)]
    if view.percent and not view.y_log:
        return Scale(min([0.0, *values]), max([100.0, *values]), False)
    near = bool(values) and 0 <= min(values) < 0.4 * max(values)
    return Scale.of(values, view.y_log, zero=near, pad=0.04)


def abscissa(view: Chart, sheet: Sheet, frame: Frame, x: Scale) -> None:
    """Numbers below the data: the values themselves where they are few, round ones else."""
    values = sorted({v for line in view.lines for v in line.x if not math.isnan(x(v))})
    if not values or len(values) > 9 or not roomy(values, x):
        values = x.ticks(max(2, int((frame.right - frame.left) / 62)))
        while len(values) > 2 and not roomy(values, x):
            values = values[::2]
    places = [x(v) for v in values]
    sheet.axes.vlines(places, frame.bottom, frame.bottom + 5, color=MUTED, linewidth=1, clip_on=False)
    for value, place in zip(values, places, strict=True):
        text = short(value)
        sheet.text(min(place, WIDTH - span([text]) / 2), frame.bottom + 15, text, anchor="middle")


def roomy(values: Sequence[float], x: Scale) -> bool:
    """Whether the numbers do not touch each other when written at their places."""
    halves = [span([short(v)]) / 2 for v in values]
    return all(
        x(b) - x(a) > after + before + 6
        for a, b, after, before in zip(values, values[1:], halves, halves[1:], strict=False)
    )


def draw_line(line: Line, look: Look, sheet: Sheet, scales: tuple[Scale, Scale], alpha: float) -> None:
    """Its band, itself with gaps, and its markers."""
    x, y = scales
    places = sorted((x(a), k) for k, a in enumerate(line.x) if not math.isnan(x(a)))
    xs, order = [a for a, _ in places], [k for _, k in places]
    ys = [y(line.y[k]) for k in order]
    if line.low:
        draw_band(xs, [(line.low[k], line.high[k]) for k in order], look, sheet, y, alpha)
    if line.points:
        xs, ys = apart(xs, ys)
        style = {**look.style, "alpha": 0.45} if len(xs) > 60 else look.style
        sheet.axes.plot(xs, ys, **{**style, "markeredgewidth": 0, "markersize": 6 if len(xs) <= 60 else 5})
        return
    sheet.axes.plot(xs, ys, markevery=spots(ys, look.number), zorder=3, **look.style)


def draw_band(
    xs: Sequence[float], bounds: Sequence[tuple[float, float]], look: Look, sheet: Sheet, y: Scale, alpha: float
) -> None:
    """Between the bounds; what a logarithmic axis cannot show ends at its edge. A single point has a bar instead."""
    low = [y.start if y.log and a <= 0 < b else y(a) for a, b in bounds]
    high = [y(b) for _, b in bounds]
    if len(xs) == 1:
        sheet.axes.vlines(xs, low, high, color=look.colour, linewidth=1.5, clip_on=False)
    else:
        sheet.axes.fill_between(xs, low, high, color=look.colour, alpha=alpha, linewidth=0, clip_on=False)


def spots(ys: Sequence[float], number: int) -> list[int]:
    """Which points have a marker: all of a short line, some of a long one, and those without a neighbour."""
    there = [not math.isnan(v) for v in ys]
    step = max(1, math.ceil(len(ys) / SPOTS)) if len(ys) > 2 * SPOTS else 1
    return [
        k
        for k, finite in enumerate(there)
        if finite and ((k - number) % step == 0 or not (any(there[max(k - 1, 0) : k]) or any(there[k + 1 : k + 2])))
    ]


def apart(xs: Sequence[float], ys: Sequence[float]) -> tuple[list[float], list[float]]:
    """Points for drawing; of very many, only one of those that would cover each other."""
    points = [(a, b) for a, b in zip(xs, ys, strict=True) if not math.isnan(b)]
    if len(points) > DENSE:
        points = list({(round(a / 2), round(b / 2)): (a, b) for a, b in points}.values())
    return [a for a, _ in points], [b for _, b in points]


def chart_in_words(view: Chart) -> str:
    """What it shows, for readers who do not see it: where each line begins, ends, is lowest and highest."""
    kind = "Scatter plot" if view.lines and all(line.points for line in view.lines) else "Line chart"
    logs = [name for name, log in (("x", view.x_log), ("y", view.y_log)) if log]
    axes = f"{view.y} against {view.x}" + (f", {' and '.join(logs)} logarithmic" if logs else "")
    lines = " ".join(line_in_words(line) for line in view.lines) or "It is empty."
    return f"{kind}: {view.title}. {axes}. {lines}"


def line_in_words(line: Line) -> str:
    """One line of a chart."""
    label = line.label or "values"
    points = sorted((x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(x) and math.isfinite(y))
    missing = len(line.x) - len(points)
    without = f", {missing} of {len(line.x)} without a value" if missing else ""
    if not points:
        return f"{label}: no value{without}."
    low, high = min(points, key=lambda p: p[1]), max(points, key=lambda p: p[1])

    def at(point: tuple[float, float]) -> str:
        return f"{short(point[1])} at {short(point[0])}"

    if line.points:
        (x0, _), (x1, _) = points[0], points[-1]
        across = f"x from {short(x0)} to {short(x1)}, y from {short(low[1])} to {short(high[1])}"
        return f"{label}: {len(points)} point{'s' if len(points) > 1 else ''}, {across}{without}."
    parts = list(dict.fromkeys([at(points[0]), at(points[-1])]))
    ends = {points[0][1], points[-1][1]}
    extremes = [
        f"{word} {at(p)}" for word, p in (("lowest", low), ("highest", high)) if len(points) > 2 and p[1] not in ends
    ]
    return f"{plain(label)}: {' to '.join(parts)}{''.join(f', {e}' for e in extremes)}{without}."
