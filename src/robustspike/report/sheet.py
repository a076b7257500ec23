"""The paper of the views' figures: one matplotlib figure, drawn on again and again in CSS pixels from the top left corner.

Drawing in pixels on one figure without an axis of its own takes a quarter of the time that new axes with ticks take.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import MaxNLocator

from robustspike.report.colours import GRID, INK, MUTED
from robustspike.report.svg import DPI, Text, inline, plain

WIDTH = 440  # of every figure but a wide matrix; small, for the text must stay readable on a phone
PLOT = 205  # height of the part with the data
FONT = 14
LINE = 18  # from one line of text to the next
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def short(value: float, digits: int = 4) -> str:
    """A number as it is written into a figure.

    Example:
        >>> [short(x) for x in (0.0, -0.25, 1234.5678, 3e-7, 1e6, float("nan"))]
        ['0', '−0.25', '1235', '3·10⁻⁷', '10⁶', '–']
    """
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "∞" if value > 0 else "−∞"
    mantissa, exponent = f"{abs(value):.{digits - 1}e}".split("e")
    sign = "−" if value < 0 else ""
    if value == 0 or -4 <= int(exponent) < 5:
        text = f"{float(f'{abs(value):.{digits}g}'):.10f}".rstrip("0").rstrip(".")
        return sign + text
    mantissa = mantissa.rstrip("0").rstrip(".")
    power = f"10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
    return sign + (power if mantissa == "1" else f"{mantissa}·{power}")


@cache
def _advance(letter: str) -> float:
    """The width of a letter at size 1, in the font that matplotlib brings: wider than most readers' fonts; 1 if unknown."""
    font = get_font(findfont("DejaVu Sans"))
    if not font.get_char_index(ord(letter)):
        return 1.0
    font.set_size(100, DPI)
    return float(font.load_char(ord(letter)).linearHoriAdvance) / 65536 / 100


def span(texts: Iterable[str], size: float = FONT) -> float:
    """The pixels of the longest text."""
    return size * max((sum(map(_advance, text)) for text in texts), default=0.0)


def cut(text: str, width: float) -> str:
    """Text whose middle is left out where it needs more pixels."""
    text = plain(text)
    if span([text]) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        shorter = text[: kept - kept // 2] + "…" + text[len(text) - kept // 2 :]
        if span([shorter]) <= width:
            return shorter
    return "…"


def wrapped(text: str, width: float, most: int = 3) -> list[str]:
    """Text in lines of so many pixels; what does not fit into the last one is cut."""
    lines: list[str] = []
    for word in plain(text).split():
        if lines and (len(lines) == most or span([f"{lines[-1]} {word}"]) <= width):
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return [cut(line, width) for line in lines]


@dataclass(frozen=True)
class Scale:
    """From values to pixels: ``low`` and ``high`` (exponents of ten where ``log``) lie at ``start`` and ``end``."""

    low: float
    high: float
    log: bool
    start: float = 0.0
    end: float = 1.0

    @classmethod
    def of(cls, values: Iterable[float], log: bool = False, *, zero: bool = False, pad: float = 0.0) -> Scale:
        """That spans the finite values; ``zero``: 0 belongs to it; ``pad``: so much of its length more at either end."""
        found = [math.log10(v) if log else v for v in values if math.isfinite(v) and (v > 0 or not log)]
        if zero and not log:
            found.append(0.0)
        low, high = (min(found), max(found)) if found else (0.0, 1.0)
        if not high - low > 1e-9 * max(abs(low), abs(high)):
            low, high = (low - 0.5, high + 0.5) if log or not low else (min(0.0, 2 * low), max(0.0, 2 * high))
        margin = pad * (high - low)
        low, high = low - (margin if log or low else 0.0), high + (margin if log or high else 0.0)
        return cls(low, high, log)

    def over(self, start: float, end: float) -> Scale:
        """The same between two pixels."""
        return Scale(self.low, self.high, self.log, start, end)

    def __call__(self, value: float) -> float:
        """The pixel of a value; NaN where it has none."""
        if not math.isfinite(value) or (self.log and value <= 0):
            return math.nan
        value = math.log10(value) if self.log else value
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, most: int) -> list[float]:
        """Round values, about ``most`` of them."""
        if not self.log:
            found = MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
            slack = 1e-9 * (self.high - self.low)
            return [float(f"{v:.10g}") for v in found if self.low - slack <= v <= self.high + slack]
        powers = range(math.ceil(self.low - 1e-9), math.floor(self.high + 1e-9) + 1)
        found = [10.0**p for p in powers[:: math.ceil(len(powers) / most) or 1]]
        if len(powers) <= 2:
            around = range(math.floor(self.low), math.ceil(self.high) + 1)
            some = [k * 10.0**p for p in around for k in (1, 2, 5)]
            found = [v for v in some if self.low - 1e-9 <= math.log10(v) <= self.high + 1e-9]
        if len(found) < 2:
            found = Scale(10**self.low, 10**self.high, False).ticks(most)
        return found


class Sheet:
    """One figure for many drawings, one after another."""

    def __init__(self) -> None:
        self.figure = Figure(dpi=DPI)
        self.axes: Axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.axes.set_autoscale_on(False)
        self.figure.patch.set_visible(False)
        self.size = (0.0, 0.0)
        self.texts: list[Text] = []

    def fresh(self, width: float, height: float) -> Axes:
        """The empty axes at this size, y downwards."""
        axes = self.axes
        for artist in (*axes.lines, *axes.collections, *axes.texts, *axes.patches, *axes.images):
            artist.remove()
        self.size = (width, height)
        self.texts = []
        self.figure.set_size_inches(width / DPI, height / DPI)
        self.fresh_limits()
        return axes

    def fresh_limits(self) -> None:
        """Pixels as coordinates, whatever an artist made of them."""
        self.axes.set_xlim(0, self.size[0])
        self.axes.set_ylim(self.size[1], 0)

    def text(
        self, x: float, y: float, words: str, *, anchor: str = "start", colour: str = INK, size: float = FONT,
        bold: bool = False, turned: float = 0.0,
    ) -> None:  # fmt: skip
        """Words in ink; (x, y) is the start, middle or end of their line at half the height of a small letter."""
        style = f"font-size:{size:.3g}px;text-anchor:{anchor};fill:{colour}" + (";font-weight:600" if bold else "")
        drop = 0.33 * size
        angle = math.radians(turned)
        x, y = x + drop * math.sin(angle), y + drop * math.cos(angle)
        self.texts.append(Text(x, y, words, style, turned))

    def svg(self, prefix: str, alt: str) -> str:
        """What was drawn, as one ``<svg>`` element."""
        return inline(self.figure, prefix, alt, self.texts)


@dataclass(frozen=True)
class Frame:
    """Where the data lie, and the texts around them."""

    left: float
    top: float
    right: float
    bottom: float
    above: tuple[str, ...]
    below: tuple[str, ...]

    @property
    def height(self) -> float:
        """Of the whole figure."""
        return self.bottom + 26 + LINE * len(self.below) + (4 if self.below else 0)


def framed(top: float, y: str, x: str, ticks: Sequence[str], tall: float = PLOT, right: float = WIDTH - 14) -> Frame:
    """Room for the title of y above, ticks at the left, ticks and the title of x below."""
    above = tuple(wrapped(y, WIDTH - 4)) if y else ()
    below = tuple(wrapped(x, WIDTH - 4)) if x else ()
    start = top + LINE * len(above) + 14
    return Frame(14 + span(ticks), start, right, start + tall, above, below)


def titles(sheet: Sheet, frame: Frame) -> None:
    """The names of the axes: y above the data at the left, x below them."""
    for k, line in enumerate(frame.above):
        sheet.text(2, frame.top - 12 - LINE * (len(frame.above) - k) + LINE / 2, line, colour=MUTED)
    for k, line in enumerate(frame.below):
        middle = min(max((frame.left + frame.right) / 2, span([line]) / 2), WIDTH - span([line]) / 2)
        sheet.text(middle, frame.bottom + 26 + LINE * (k + 0.5), line, anchor="middle", colour=MUTED)


def grid(sheet: Sheet, frame: Frame, y: Scale, ticks: Sequence[float]) -> None:
    """Horizontal lines with their numbers at the left, the lowest one stronger."""
    places = [y(tick) for tick in ticks]
    sheet.axes.hlines(places, frame.left, frame.right, color=GRID, linewidth=1, clip_on=False, zorder=0)
    sheet.axes.hlines(frame.bottom, frame.left, frame.right, color=MUTED, linewidth=1, clip_on=False, zorder=1)
    for tick, place in zip(ticks, places, strict=True):
        sheet.text(frame.left - 8, place, short(tick), anchor="end")
