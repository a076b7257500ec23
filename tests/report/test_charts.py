"""Charts and bars lie where their numbers say, and are told apart without colours."""

import math
import re
from itertools import pairwise

import numpy as np
import pytest
from tests.report import audited
from tests.report.drawings import drawn

from robustspike.report.charts import spots
from robustspike.report.legends import Palette
from robustspike.report.sheet import Scale, cut, short, span, wrapped
from robustspike.results import Bars, Chart, Line

NAN = float("nan")


def line_chart(*lines, **options):
    return Chart(**{"title": "t", "x": "x", "y": "y", "lines": lines} | options)


def straight(low, high, at_low, at_high):
    """The map that takes two numbers to the places where they are written."""
    return lambda v: at_low + (v - low) / (high - low) * (at_high - at_low)


def test_a_line_and_its_band_lie_where_the_axes_say():
    line = Line(label="a", x=(1.0, 2.0, 4.0), y=(10.0, 30.0, 90.0), low=(5.0, 20.0, 80.0), high=(20.0, 50.0, 95.0))
    found = drawn(line_chart(line, percent=True))
    x = straight(1, 4, found.at("1", 0), found.at("4", 0))
    y = straight(20, 80, found.at("20", 1), found.at("80", 1))
    drop = found.at("20", 1) - y_of_grid(found)[1]  # from the middle of a number to its foot
    [[corners]] = found.paths("stroke:var(--c0)", "stroke-width:2", "fill:none")[1:]
    wanted = [(x(a), y(b) - drop) for a, b in zip(line.x, line.y, strict=True)]
    assert np.array(corners) == pytest.approx(np.array(wanted), abs=0.2)
    assert np.array(found.spots("var(--c0)")[2:]) == pytest.approx(np.array(wanted), abs=0.2)
    [band] = bands(found)
    bounds = {
        (round(x(a)), round(y(b) - drop))
        for values in (line.low, line.high)
        for a, b in zip(line.x, values, strict=True)
    }
    assert {(round(a), round(b)) for a, b in band} == bounds


def y_of_grid(found):
    """The heights of the horizontal lines, from the lowest up."""
    return sorted({piece[0][1] for [piece] in found.paths("stroke:var(--grid)")}, reverse=True)


def bands(found):
    """The corners of every band, in pixels of the figure."""
    shapes, height = [], float(found.root.get("height"))
    for element, style in found.marks:
        if element.tag == "path" and "id" in element.attrib and "stroke" not in style:
            numbers = list(map(float, re.findall(r"-?[\d.]+", element.get("d"))))
            shapes.append([(a, b + height) for a, b in zip(numbers[::2], numbers[1::2], strict=True)])
    return shapes


def test_logarithmic_axes_have_equal_decades_and_leave_out_what_is_not_positive():
    line = Line(label="a", x=(0.0, 0.01, 0.1, 1.0, 10.0), y=(5.0, 1e-3, 1e-1, 0.0, 1e3))
    found = drawn(line_chart(line, x_log=True, y_log=True))
    steps = np.diff([found.at(t, 0) for t in ("0.01", "0.1", "1", "10")])
    assert steps == pytest.approx(np.full(3, steps[0]), abs=0.2)
    points = np.array(found.spots("var(--c0)")[1:])
    assert points[:, 0] == pytest.approx([found.at(t, 0) for t in ("0.01", "0.1", "10")], abs=0.2)
    low, middle, high = points[:, 1]  # 10⁻³, 10⁻¹, 10³
    assert middle - high == pytest.approx(2 * (low - middle), abs=0.3)
    [pieces] = found.paths("stroke:var(--c0)", "stroke-width:2", "fill:none")[1:]
    assert [len(piece) for piece in pieces if len(piece) > 1] == [2]


def test_a_gap_stays_open_and_a_lonely_point_has_a_marker():
    y = (1.0, 2.0, NAN, 3.0, NAN, 4.0, 5.0)
    found = drawn(line_chart(Line(label="a", x=tuple(range(7)), y=y)))
    [pieces] = found.paths("stroke:var(--c0)", "stroke-width:2", "fill:none")[1:]
    assert [len(piece) for piece in pieces if len(piece) > 1] == [2, 2]
    assert len(found.spots("var(--c0)")) == 1 + 5


def test_long_lines_have_some_markers_and_all_lonely_points():
    ys = [0.0] * 40 + [NAN] + [1.0] + [NAN] + [0.0] * 57
    found = spots(ys, 0)
    assert 41 in found
    assert 10 < len(found) < 20
    assert spots([0.0] * 20, 3) == list(range(20))


@pytest.mark.parametrize("values", [(NAN,) * 3, (float("inf"), NAN, -math.inf)])
def test_without_a_value_it_says_so(values):
    found = drawn(line_chart(Line(label="a", x=(1.0, 2.0, 3.0), y=values)))
    assert "no value to draw" in [words for words, *_ in found.texts()]
    assert "a: no value, 3 of 3 without a value." in found.alt
    assert "no value to draw" in [words for words, *_ in drawn(line_chart()).texts()]


def test_fifteen_lines_are_told_apart_without_colours():
    lines = tuple(Line(label=f"n{k}", x=(0.0, 1.0), y=(float(k), 1.0)) for k in range(15))
    found = drawn(line_chart(*lines))
    shapes = {e.get("id"): re.sub(r"\s+", " ", e.get("d")) for e, _ in found.marks if e.tag == "path" and e.get("id")}
    used = [e.get("href")[1:] for e, _ in found.marks if e.tag == "use"]
    assert len({shapes[name] for name in used}) == 15


def test_a_bound_has_dashes_hollow_markers_and_the_colour_of_what_it_bounds():
    found = drawn(
        line_chart(
            Line(label="SR", x=(0.0, 1.0), y=(1.0, 2.0)),
            Line(label="SR, bound", x=(0.0, 1.0), y=(3.0, 4.0), dashed=True),
            Line(label="AT", x=(0.0, 1.0), y=(0.0, 1.0)),
        )
    )
    assert len(found.paths("stroke:var(--c0)", "stroke-dasharray")) == 2  # in the legend and in the chart
    assert len(found.paths("stroke:var(--c1)", "stroke-width:2")) == 2
    hollow = [e for e, style in found.marks if e.tag == "use" and "fill:var(--paper)" in style]
    assert len(hollow) == 3


def test_a_network_has_its_colour_in_every_figure():
    palette = Palette({"vanilla": 0, "AT": 1, "SR": 2, "SR*": 3, "a, b": 4})
    colours = {
        look.label: look.colour[-1] for look in palette.looks(["SR*", "SR* bound", "SR: measured", "bound", "a, b"])
    }
    assert colours == {"SR*": "3", "SR* bound": "3", "SR: measured": "2", "bound": "5", "a, b": "4"}
    assert Palette({"a": 0, "a net": 1}).network("a net, bound") == 1
    assert [look.number for look in palette.looks(["AT", "AT, bound", "SR"])] == [1, 2, 3]
    assert [look.colour[-1] for look in Palette(first=3).looks(["x", "y"])] == ["3", "4"]


def test_very_many_points_are_thinned_to_those_that_are_seen():
    many = audited.scatter(20_000)
    found = drawn(many)
    assert 300 < len(found.spots("var(--c0)")) < 15_000
    assert "samples: 20000 points, x from 0.001001 to 100, y from 0 to" in found.alt


def test_a_chart_in_words():
    lines = (
        Line(label="vanilla", x=(1.0, 2.0, 3.0, 4.0), y=(50.0, 80.0, 10.0, 20.0)),
        Line(label="", x=(0.5,), y=(1e-7,)),
        Line(label="dots", x=(2.0, 1.0), y=(3.0, NAN), points=True),
    )
    assert drawn(Chart(title="T", x="ε", y="share in %", lines=lines, x_log=True)).alt == (
        "Line chart: T. share in % against ε, x logarithmic. vanilla: 50 at 1 to 20 at 4, lowest 10 at 3, highest 80 at 2. "
        "values: 10⁻⁷ at 0.5. dots: 1 point, x from 2 to 2, y from 3 to 3, 1 of 2 without a value."
    )


def heights(found, colour):
    """(left, right, top, bottom) of every bar of this colour but the legend's."""
    shapes = [piece for [piece] in found.paths(f"fill:{colour}", "stroke:var(--paper)")]
    boxes = [(min(x), max(x), min(y), max(y)) for x, y in ([*zip(*shape, strict=True)] for shape in shapes)]
    return boxes[1:]


def test_bars_are_as_high_as_their_values():
    view = Bars(title="t", y="y", categories=("a", "b", "c"), series={"s": (20.0, -10.0, NAN), "u": (40.0, 0.0, 5.0)})
    found = drawn(view)
    grid = y_of_grid(found)
    unit = (found.at("0", 1) - found.at("40", 1)) / 40
    zero = found.at("0", 1) - (found.at("40", 1) - grid[-1])
    first, second = heights(found, "var(--c0)"), heights(found, "var(--c1)")
    assert [(b - t) / unit for _, _, t, b in first] == pytest.approx([20, 10], abs=0.2)
    assert (first[0][3], first[1][2]) == pytest.approx((zero, zero), abs=0.2)
    assert [(b - t) / unit for _, _, t, b in second] == pytest.approx([40, 0, 5], abs=0.2)
    assert all(a[1] <= b[0] + 0.1 for a, b in zip(first, second, strict=False))
    assert [words for words, *_ in found.texts()].count("–") == 1
    assert found.alt == "Bar chart: t. y. s: a 20, b −10, c –. u: a 40, b 0, c 5."


def test_stacked_bars_lie_upon_each_other():
    view = Bars(
        title="t",
        y="%",
        categories=("a", "b"),
        series={"s": (20.0, 50.0), "u": (80.0, 10.0)},
        stacked=True,
        percent=True,
    )
    found = drawn(view)
    unit = (found.at("0", 1) - found.at("100", 1)) / 100
    lower, upper = heights(found, "var(--c0)"), heights(found, "var(--c1)")
    assert [(b - t) / unit for _, _, t, b in (*lower, *upper)] == pytest.approx([20, 50, 80, 10], abs=0.2)
    assert [a[2] for a in lower] == pytest.approx([b[3] for b in upper], abs=0.2)
    assert upper[0][2] == pytest.approx(y_of_grid(found)[-1], abs=0.2)


def test_bars_with_long_names_lie():
    view = audited.bars(categories=tuple(f"features.{k}.a long name of a layer" for k in range(6)))
    found = drawn(view)
    unit = (found.at("100", 0) - found.at("0", 0)) / 100
    boxes = heights(found, "var(--c1)")
    assert [(right - left) / unit for left, right, _, _ in boxes] == pytest.approx(view.series["AT"], abs=0.3)
    assert all(a[3] < b[2] for a, b in pairwise(boxes))


def test_logarithmic_bars_stand_on_a_power_of_ten():
    view = Bars(title="t", y="y", categories=("a", "b", "c"), series={"s": (0.02, 2.0, 0.0)}, y_log=True)
    found = drawn(view)
    a, b = heights(found, "var(--c0)")
    decade = found.at("0.1", 1) - found.at("1", 1)
    assert (a[3] - a[2]) / decade == pytest.approx(math.log10(0.02 / 0.01), abs=0.02)
    assert (b[3] - b[2]) / decade == pytest.approx(math.log10(2 / 0.01), abs=0.02)


def test_bars_named_after_networks_have_their_colours():
    palette = Palette({"vanilla": 0, "AT": 1})
    view = Bars(title="t", y="y", categories=("AT", "vanilla"), series={"ratio": (1.0, 2.0)})
    found = drawn(view, palette)
    assert len(found.paths("fill:var(--c0)")) == len(found.paths("fill:var(--c1)")) == 1
    assert "ratio" not in [words for words, *_ in found.texts()]


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    "values", [(0.0, 1.0), (3.0, 3.0), (-1e-9, 2e-9), (1e3, 2e7), (0.0013, 0.0014), (7e-5, 1.0), ()]
)
def test_ticks_are_few_and_within(values, log):
    if log:
        values = tuple(abs(v) + 1e-12 for v in values)
    scale = Scale.of(values, log)
    ticks = scale.ticks(6)
    places = [scale(tick) for tick in ticks]
    assert 2 <= len(ticks) <= 12
    assert all(-1e-6 <= place <= 1 + 1e-6 for place in places)
    assert places == sorted(set(places))
    assert all(0 <= scale(v) <= 1 for v in values)
    assert len({short(tick) for tick in ticks}) == len(ticks)


def test_less_than_two_decades_have_ticks_between():
    assert {5, 10, 20} <= set(Scale.of((2.5, 40.0), True).ticks(6))
    assert Scale.of((1e-3, 1e9), True).ticks(6) == pytest.approx([1e-3, 1, 1e3, 1e6, 1e9])


def test_text_is_cut_and_wrapped_to_its_room():
    text = "the quick brown fox jumps over the lazy dog " * 3
    assert all(span([line]) <= 120 for line in wrapped(text, 120))
    assert len(wrapped(text, 120)) == 3
    assert span([cut(text, 90)]) <= 90
    assert cut("fine", 90) == "fine"
    assert cut("网络" * 40, 60) == "网络…络"
    assert wrapped("", 100) == []
