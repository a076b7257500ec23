"""Matrices as shades, with the scale beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from robustspike.report.colours import INK, MUTED, PAPER, ink_on, shades
from robustspike.report.sheet import FONT, LINE, WIDTH, Sheet, cut, short, span, wrapped
from robustspike.results import Matrix

LONGEST = 180  # pixels of a row's or column's name
LEAST, MOST = 20, 36  # height of a row in pixels
SMALLEST = 11  # size of the numbers in the cells


def limits(view: Matrix) -> tuple[float, float]:
    """The values of the first and the last shade: symmetric where signed, from 0 where the values come near it."""
    found = [v for row in view.values for v in row if math.isfinite(v)]
    if view.signed:
        largest = max(map(abs, found), default=0.0) or 1.0
        return -largest, largest
    low, high = min(found, default=0.0), max(found, default=1.0)
    low = 0.0 if 0 <= low < 0.4 * high else low
    return low, high if high > low else low + 1.0


def shares(view: Matrix) -> NDArray[np.float64]:
    """Where each value lies between the limits: [0, 1], or [−1, 1] where signed; NaN where it is not finite."""
    low, high = limits(view)
    values = np.array(view.values, dtype=np.float64).reshape(len(view.rows), len(view.columns))
    values[~np.isfinite(values)] = np.nan
    found: NDArray[np.float64] = values / high if view.signed else (values - low) / (high - low)
    return found


def draw_matrix(view: Matrix, sheet: Sheet, top: float = 0.0) -> float:
    """All of it; ``top``: pixels left free above. Returns the width: more than usual where numbers need it."""
    rows = [cut(name, LONGEST) for name in view.rows]
    left = 12 + span(rows) + (LINE if view.y else 0)
    texts = [[short(v, 3) for v in row] for row in view.values]
    cell = (WIDTH - left - 76) / max(len(view.columns), 1)
    if view.written:
        cell = max(cell, span((t for row in texts for t in row), SMALLEST) + 8)
    width = left + cell * len(view.columns) + 76
    each = min(max(LEAST, 200 / max(len(rows), 1)), MOST) if len(rows) <= 30 else max(360 / len(rows), 1.0)
    columns, turned = column_names(view.columns, cell)
    deep = 12 + (0.72 * span(columns) + 8 if turned else LINE)
    below = wrapped(view.x, width - left, 2)
    start = top + 10
    bottom = start + each * len(rows)
    sheet.fresh(width, max(bottom + deep + LINE * len(below), start + 60))
    box = (left, start, left + cell * len(view.columns), bottom)
    cells(view, sheet, box)
    if view.written:
        numbers(view, texts, sheet, box)
    every = max(1, math.ceil(14 / each))
    for k, name in enumerate(rows[::every]):
        sheet.text(left - 8, start + each * (k * every + 0.5), name, anchor="end", size=min(FONT, each * every))
    for k, name in enumerate(columns):
        at, angle = left + cell * (k + 0.5) + (2 if turned else 0), 45 if turned else 0
        if name:
            sheet.text(at, bottom + (10 if turned else 13), name, anchor="end" if turned else "middle", turned=angle)
    if view.y:
        sheet.text(9, (start + bottom) / 2, cut(view.y, max(bottom - start, 60)), turned=90, anchor="middle",
                   colour=MUTED)  # fmt: skip
    for k, line in enumerate(below):
        sheet.text((box[0] + box[2]) / 2, bottom + deep + LINE * (k + 0.2), line, anchor="middle", colour=MUTED)
    bar(view, sheet, (box[2] + 14, start, box[2] + 26, max(bottom, start + 50)))
    return width


def column_names(names: Sequence[str], cell: float) -> tuple[list[str], bool]:
    """The names that fit, "" for those left out, and whether they are turned: long ones, and numbers never."""
    found = [cut(name, LONGEST) for name in names]
    step = math.ceil((span(found) + 6) / cell)
    numeric = all(name.lstrip("+-−").replace(".", "").replace("/", "").isdigit() for name in found)
    if step == 1 or (numeric and len(found) > 3):
        return [name if k % step == 0 else "" for k, name in enumerate(found)], False
    step = math.ceil(20 / cell)
    return [name if k % step == 0 else "" for k, name in enumerate(found)], True


def cells(view: Matrix, sheet: Sheet, box: tuple[float, float, float, float]) -> None:
    """The shades, as one image with a pixel for each cell; thin lines part them where they are large enough."""
    left, top, right, bottom = box
    image = shades(shares(view), view.signed)
    if not image.size:
        return
    sheet.axes.imshow(
        image, extent=(left, right, bottom, top), interpolation="none", clip_on=False, aspect="auto", origin="upper"
    )
    sheet.fresh_limits()
    across, down = (right - left) / len(view.columns), (bottom - top) / len(view.rows)
    if min(across, down) >= 8:
        line = {"color": PAPER, "linewidth": 1, "clip_on": False}
        sheet.axes.vlines([left + across * k for k in range(1, len(view.columns))], top, bottom, **line)  # type: ignore[arg-type]
        sheet.axes.hlines([top + down * k for k in range(1, len(view.rows))], left, right, **line)  # type: ignore[arg-type]


def numbers(view: Matrix, texts: Sequence[Sequence[str]], sheet: Sheet, box: tuple[float, float, float, float]) -> None:
    """The values in their cells, in the ink that is clearer there."""
    across, down = (box[2] - box[0]) / max(len(view.columns), 1), (box[3] - box[1]) / max(len(view.rows), 1)
    longest = span((text for row in texts for text in row), 1)
    size = min(FONT, max(SMALLEST, (across - 6) / max(longest, 0.1)), down * 0.8)
    image = shades(shares(view), view.signed)
    for r, row in enumerate(texts):
        for c, text in enumerate(row):
            ink = ink_on(image[r, c]) if image[r, c, 3] else INK
            x, y = box[0] + across * (c + 0.5), box[1] + down * (r + 0.5)
            sheet.text(x, y, text, anchor="middle", size=size, colour=ink)


def bar(view: Matrix, sheet: Sheet, box: tuple[float, float, float, float]) -> None:
    """The scale: a strip of shades with its ends, and 0 where signed."""
    left, top, right, bottom = box
    strip = np.linspace(1, -1 if view.signed else 0, 33)[:, None]
    sheet.axes.imshow(
        shades(strip, view.signed),
        extent=(left, right, bottom, top),
        interpolation="none",
        clip_on=False,
        aspect="auto",
    )
    sheet.fresh_limits()
    low, high = limits(view)
    marks = [(high, top + 7), (low, bottom - 7)]
    marks += [(0.0, (top + bottom) / 2)] if view.signed else []
    for value, place in marks:
        sheet.text(right + 5, place, short(value, 3), size=FONT - 1)


def matrix_in_words(view: Matrix) -> str:
    """What it shows, for readers who do not see it: all numbers where they are few, the extremes else."""
    cells = [
        (v, f"{row} / {column}")
        for row, values in zip(view.rows, view.values, strict=True)
        for column, v in zip(view.columns, values, strict=True)
    ]
    there = [(v, where) for v, where in cells if math.isfinite(v)]
    size = f"{len(view.rows)} rows ({view.y}) by {len(view.columns)} columns ({view.x})"
    if not there:
        return f"Matrix: {view.title}. {size}, without a value."
    if len(cells) <= 36:
        figures = "; ".join(f"{where} {short(v)}" for v, where in cells)
    else:
        low, high = min(there, key=lambda one: one[0]), max(there, key=lambda one: one[0])
        gone = len(cells) - len(there)
        figures = f"lowest {short(low[0])} ({low[1]}), highest {short(high[0])} ({high[1]})"
        figures += f", {gone} without a value" if gone else ""
    return f"Matrix: {view.title}. {size}. {figures}."
