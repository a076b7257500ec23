"""Bars by category: beside or upon each other, upright where the categories' names fit below them, lying else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from robustspike.report.colours import GRID, MUTED
from robustspike.report.legends import Look, Palette, legend, room
from robustspike.report.sheet import (
    FONT,
    LINE,
    PLOT,
    WIDTH,
    Frame,
    Scale,
    Sheet,
    cut,
    framed,
    grid,
    short,
    span,
    titles,
    wrapped,
)
from robustspike.report.svg import plain
from robustspike.results import Bars

TALL = 480  # about so many pixels high are many lying bars at most
LONGEST = 190  # pixels of a category's name beside a lying bar


@dataclass(frozen=True)
class Bar:
    """One bar: its category and series, where it begins and ends on the value axis, and the value."""

    category: int
    series: int
    start: float
    end: float
    value: float


def bars_of(view: Bars, base: float) -> list[Bar]:
    """All bars; stacked ones begin where the one before ended, negative ones on a stack of their own."""
    found = []
    for c in range(len(view.categories)):
        ends = {True: base, False: base}
        for s, values in enumerate(view.series.values()):
            value = values[c]
            start = ends[value >= 0] if view.stacked else base
            end = start + value if view.stacked else value
            if view.stacked and math.isfinite(value):
                ends[value >= 0] = end
            found.append(Bar(c, s, start, end, value))
    return found


def value_scale(view: Bars) -> Scale:
    """From 0, or from a power of ten below the smallest on a logarithmic axis."""
    ends = [bar.end for bar in bars_of(view, 0.0) if math.isfinite(bar.end)]
    if view.percent and not view.y_log:
        return Scale(min([0.0, *ends]), max([100.0, *ends]), False)
    if view.y_log:
        positive = [v for values in view.series.values() for v in values if v > 0 and math.isfinite(v)]
        lowest = math.floor(math.log10(min(positive, default=1.0)) - 0.15)
        return Scale(lowest, max(math.log10(max(positive, default=10.0)) + 0.08, lowest + 1), True)
    return Scale.of(ends, zero=True, pad=0.08)


def draw_bars(view: Bars, sheet: Sheet, palette: Palette, top: float = 0.0) -> None:
    """All of it, the legend first; ``top``: pixels left free above."""
    looks = looks_of(view, palette)
    scale = value_scale(view)
    names = [wrapped(name, (WIDTH - 80) / max(len(view.categories), 1), 2) or [""] for name in view.categories]
    fits = all(plain(" ".join(lines)) == plain(name) for lines, name in zip(names, view.categories, strict=True))
    wide = sum(span(lines) + 10 for lines in names) <= WIDTH - 70
    if fits and wide and len(view.categories) * (1 if view.stacked else len(view.series)) <= 40:
        upright(view, looks, scale, sheet, names, top)
    else:
        lying(view, looks, scale, sheet, top)


def looks_of(view: Bars, palette: Palette) -> list[list[Look]]:
    """[category][series]: a series' own look, or, of a single one, that of the network after which a category is named."""
    if len(view.series) == 1 and view.categories and all(palette.network(name) is not None for name in view.categories):
        return [[look] for look in palette.looks(view.categories)]
    return [palette.looks(list(view.series)) for _ in view.categories] or [[]]


def upright(
    view: Bars, looks: Sequence[Sequence[Look]], scale: Scale, sheet: Sheet, names: Sequence[Sequence[str]], top: float
) -> None:
    """Bars that rise, the categories' names below them."""
    marks = [0, 20, 40, 60, 80, 100] if view.percent and not view.y_log else scale.ticks(6)
    lines = max(map(len, names), default=1)
    frame = framed(top + room(entries(view, looks)), view.y, "", [short(m) for m in marks])
    sheet.fresh(WIDTH, frame.height + LINE * (lines - 1))
    y = scale.over(frame.bottom, frame.top)
    step = (frame.right - frame.left) / max(len(names), 1)
    around(sheet, entries(view, looks), frame, top)
    grid(sheet, frame, y, marks)
    for c, words in enumerate(names):
        for k, line in enumerate(words):
            sheet.text(frame.left + step * (c + 0.5), frame.bottom + 14 + LINE * k, line, anchor="middle")
    base = frame.bottom if scale.log else y(0.0)
    wide = min(step * 0.8, 46.0 * (1 if view.stacked else len(view.series)))
    thick = wide if view.stacked else wide / max(len(view.series), 1)
    bars = bars_of(view, 0.0)
    room_each = step if len(view.series) == 1 else thick - 2
    written = not view.stacked and span(short(bar.value, 3) for bar in bars) * (FONT - 1) / FONT <= room_each
    for bar in bars:
        left = frame.left + step * (bar.category + 0.5) - wide / 2 + (0 if view.stacked else thick * bar.series)
        low, high = (base if view.y_log and not bar.start else y(bar.start)), y(bar.end)
        if not math.isnan(high):
            sheet.axes.bar(
                left + thick / 2, high - low, thick, low, clip_on=False, **looks[bar.category][bar.series].fill
            )
        if written:
            place = (base if math.isnan(high) else high) + (11 if bar.value < 0 else -9)
            sheet.text(left + thick / 2, place, short(bar.value, 3), anchor="middle", size=FONT - 1)


def lying(view: Bars, looks: Sequence[Sequence[Look]], scale: Scale, sheet: Sheet, top: float) -> None:
    """Bars that go to the right, the categories' names to their left."""
    names = [cut(name, LONGEST) for name in view.categories]
    beside = 1 if view.stacked else max(len(view.series), 1)
    thick = min(max((TALL / max(len(names), 1) - 9) / beside, 3.0), 16.0)
    each = max(thick * beside + 9, FONT + 2.0)
    bars = bars_of(view, 0.0)
    written = not view.stacked and thick >= 9
    texts = [short(bar.value, 3) for bar in bars] if written else []
    right = WIDTH - 10 - max(span(texts), 10)
    frame = framed(top + room(entries(view, looks)), "", view.y, names, max(each * len(names), PLOT / 3), right)
    sheet.fresh(WIDTH, frame.height)
    x = scale.over(frame.left, frame.right)
    around(sheet, entries(view, looks), frame, top)
    marks = scale.ticks(max(2, int((frame.right - frame.left) / 62)))
    sheet.axes.vlines([x(m) for m in marks], frame.top, frame.bottom, color=GRID, linewidth=1, clip_on=False, zorder=0)
    base = frame.left if scale.log else x(0.0)
    sheet.axes.vlines(base, frame.top, frame.bottom, color=MUTED, linewidth=1, clip_on=False, zorder=1)
    for mark in marks:
        sheet.text(x(mark), frame.bottom + 14, short(mark), anchor="middle")
    for c, name in enumerate(names):
        sheet.text(frame.left - 8, frame.top + each * (c + 0.5), name, anchor="end")
    for bar in bars:
        y = frame.top + each * (bar.category + 0.5) + thick * (0 if view.stacked else bar.series + 0.5 - beside / 2)
        low, high = (base if view.y_log and not bar.start else x(bar.start)), x(bar.end)
        if not math.isnan(high):
            sheet.axes.barh(y, high - low, thick, low, clip_on=False, **looks[bar.category][bar.series].fill)
        if written:
            at = max(base if math.isnan(high) else high, base) + 5
            sheet.text(at, y, short(bar.value, 3), size=min(FONT - 1, thick + 3))


def entries(view: Bars, looks: Sequence[Sequence[Look]]) -> Sequence[Look]:
    """What the legend lists: the series, unless each category has its own colour."""
    return looks[0] if list(view.series) == [look.label for look in looks[0]] else []


def around(sheet: Sheet, looks: Sequence[Look], frame: Frame, top: float) -> None:
    """Legend and the name of the value axis."""
    if room(looks):
        legend(sheet, looks, bars=True, top=top + 4)
    titles(sheet, frame)


def bars_in_words(view: Bars) -> str:
    """What they show, for readers who do not see them: all values where they are few, the extremes else."""
    kind = "Stacked bar chart" if view.stacked else "Bar chart"
    unit = view.y + (", logarithmic" if view.y_log else "")
    parts = []
    few = len(view.categories) * len(view.series) <= 60
    for label, values in view.series.items():
        there = [(v, name) for v, name in zip(values, view.categories, strict=True) if math.isfinite(v)]
        if few or not there:
            figures = ", ".join(f"{name} {short(v)}" for v, name in zip(values, view.categories, strict=True))
        else:
            low, high = min(there, key=lambda one: one[0]), max(there, key=lambda one: one[0])
            figures = f"from {short(low[0])} ({low[1]}) to {short(high[0])} ({high[1]}) over {len(values)} categories"
        parts.append(f"{label}: {figures or 'no value'}." if label else f"{figures or 'no value'}.")
    return f"{kind}: {view.title}. {unit}. {' '.join(parts) or 'It is empty.'}"
