"""Matrices, pictures, tables, and what holds for every view: equal records, hostile words, files of their own."""

import base64
import io
import re
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image
from tests.report import audited
from tests.report.drawings import Drawing, drawn
from tests.report.page_reader import Page

from robustspike.report import barcharts, charts, matrices, pictures, sheet, view_png, view_svg, views
from robustspike.report.colours import ON_DARK, ON_LIGHT, ink_on, shades
from robustspike.report.legends import Palette
from robustspike.report.svg import plain_style
from robustspike.report.views import Drawer, cells_of, number
from robustspike.results import Bars, Chart, Line, Matrix, Picture, PictureRow, Pictures, Table

HOSTILE = """<script>alert(1)</script>"'&<b> $\\frac{1}$ 网络 _x\x01\n{{ 7 * 7 }} </style>"""
NAN = float("nan")
DRAWN = [
    audited.chart(), audited.scatter(), audited.bars(), audited.bars(True), audited.matrix(),
    audited.bars(categories=("a very long name of a layer",) * 8, y_log=True), audited.matrix(40, 30, written=False),
    audited.matrix(3, 12, signed=False),
]  # fmt: skip


def cell(found, image, x, y):
    """The colour [4] of an image at a place of the figure."""
    pixels, (a, d, e, f) = image
    return pixels[int((y - f) // d), int((x - e) // a)]


@pytest.mark.parametrize("signed", [True, False])
def test_each_cell_has_the_shade_of_the_number_written_in_it(signed):
    view = audited.matrix(4, 6, signed=signed)
    found = drawn(view)
    image = found.images()[0]
    low, high = np.nanmin(view.values), np.nanmax(view.values)
    largest = np.nanmax(np.abs(view.values))
    numbers = [(w, x, y) for w, x, y in found.texts() if re.fullmatch(r"−?\d+(\.\d+)?", w)]
    seen = 0
    for words, x, y in numbers:
        value = float(words.replace("−", "-"))
        if x > float(found.root.get("width")) - 60:  # the scale beside the matrix
            continue
        share = value / largest if signed else (value - low) / (high - low)
        expected = shades(np.array([share]), signed)[0]
        assert cell(found, image, x, y - 4) == pytest.approx(expected, abs=6)
        seen += 1
    assert seen == 23
    ends = {f"{largest:g}", "0", f"−{largest:g}"} if signed else {f"{high:g}", f"−{-low:g}"}
    assert ends <= {words for words, x, _ in numbers if x > float(found.root.get("width")) - 60}


def test_a_cell_without_a_value_is_empty():
    found = drawn(audited.matrix(4, 6))
    pixels, (_, d, _, _) = found.images()[0]
    corner = pixels[0 if d > 0 else -1, 0]
    assert corner[3] == 0
    assert (pixels[..., 3] == 0).sum() == 1
    infinite = Matrix(
        title="t", x="", y="", rows=("a",), columns=("b", "c"), values=((float("inf"), 1.0),), written=True
    )
    found = drawn(infinite)
    assert found.images()[0][0][0, :, 3].tolist() == [0, 255]
    assert "∞" in [words for words, *_ in found.texts()]


def test_shades_are_neutral_at_zero_and_rise_in_lightness():
    zero, low, high = shades(np.array([0.0, -1.0, 1.0]), True).astype(int)
    assert np.ptp(zero[:3]) <= 3
    assert low[2] > low[0] + 40
    assert high[0] > high[2] + 40
    grey = shades(np.linspace(0, 1, 50), False)[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(grey) > 0).all()


def test_numbers_on_shades_are_clear():
    def luminance(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.asarray(colour[:3]) / 255]
        return np.dot(linear, [0.2126, 0.7152, 0.0722])

    inks = {ON_DARK: (255, 255, 255), ON_LIGHT: (0, 0, 0)}
    for signed in (True, False):
        for shade in shades(np.linspace(-1 if signed else 0, 1, 60), signed):
            a, b = luminance(shade), luminance(inks[ink_on(shade)])
            assert (max(a, b) + 0.05) / (min(a, b) + 0.05) >= 4.5


def test_a_matrix_in_words():
    view = Matrix(title="T", x="to", y="from", rows=("a", "b"), columns=("c",), values=((1.5,), (NAN,)))
    assert drawn(view).alt == "Matrix: T. 2 rows (from) by 1 columns (to). a / c 1.5; b / c –."
    large = drawn(audited.matrix(10, 10)).alt
    assert "lowest −2.71 (layer" in large
    assert "1 without a value" in large
    empty = Matrix(title="T", x="to", y="from", rows=(), columns=(), values=())
    assert drawn(empty).alt.endswith("without a value.")


@pytest.mark.parametrize("view", DRAWN, ids=range(len(DRAWN)))
def test_what_was_drawn_before_leaves_no_trace(view):
    drawer = Drawer()
    with plain_style():
        alone = drawer.svg(view, Palette(), "x")
        for other in DRAWN:
            drawer.svg(other, Palette(), "y")
        assert drawer.svg(view, Palette(), "x") == alone == Drawer().svg(view, Palette(), "x")


@pytest.mark.parametrize("view", DRAWN, ids=range(len(DRAWN)))
def test_nothing_lies_outside_the_drawing(view):
    found = drawn(view)
    width, height = (float(found.root.get(name)) for name in ("width", "height"))
    for words, x, y in found.texts():
        assert -1 <= x <= width + 1, words
        assert 0 <= y <= height + 1, words
    for pieces in found.paths("stroke"):
        for x, y in (corner for piece in pieces for corner in piece):
            assert -1 <= x <= width + 1
            assert -1 <= y <= height + 1


@pytest.mark.parametrize("view", DRAWN, ids=range(len(DRAWN)))
def test_a_view_alone_is_a_whole_file_whatever_the_readers_settings(view, tmp_path):
    text = view_svg(view)
    with mpl.rc_context({"font.size": 30, "lines.linewidth": 9, "svg.hashsalt": "other"}):
        assert view_svg(view) == text
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    used = set(re.findall(r"var\((--[a-z0-9]+)\)", text))
    assert all(f"{name}: " in text for name in used)
    assert "prefers-color-scheme: dark" in text
    words = " ".join(e.text for e in root.iter("{http://www.w3.org/2000/svg}text"))
    assert view.title in words
    ids = re.findall(r'id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', text)) <= set(ids)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_only_drawings_become_svg():
    with pytest.raises(TypeError, match="view_png"):
        view_svg(audited.pictures())


def hostile_views():
    line = Line(label=HOSTILE, x=(1.0, 2.0), y=(1.0, 2.0))
    picture = Picture.of(np.ones((1, 2, 2)), "signed", HOSTILE, caption=HOSTILE)
    return [
        Chart(title=HOSTILE, x=HOSTILE, y=HOSTILE, lines=(line,), note=HOSTILE),
        Bars(title=HOSTILE, y=HOSTILE, categories=(HOSTILE,), series={HOSTILE: (1.0,)}, note=HOSTILE),
        Matrix(title=HOSTILE, x=HOSTILE, y=HOSTILE, rows=(HOSTILE,), columns=(HOSTILE,), values=((1.0,),), note=HOSTILE),
        Pictures(title=HOSTILE, columns=(HOSTILE,), rows=(PictureRow(label=HOSTILE, pictures=(picture,)),), note=HOSTILE),
        Table(HOSTILE, (HOSTILE, HOSTILE), ((HOSTILE, HOSTILE),), HOSTILE),
    ]  # fmt: skip


@pytest.mark.parametrize("view", hostile_views(), ids=lambda view: type(view).__name__)
def test_hostile_words_stay_words(view, tmp_path):
    if isinstance(view, Pictures):
        view_png(view, tmp_path / "p.png")
        with Image.open(tmp_path / "p.png") as sheet_:
            assert sheet_.size[0] > 100
    elif not isinstance(view, Table):
        text = view_svg(view)
        assert {e.tag.rpartition("}")[2] for e in ElementTree.fromstring(text).iter()} <= {
            "svg", "style", "g", "path", "text", "use", "defs", "image",
        }  # fmt: skip
        assert "script" in Drawing(re.sub(" xmlns=[^>]*", "", text, count=1)).alt


def decoded(one):
    data = base64.b64decode(one.uri.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), len(data)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_keeps_its_pixels(channels):
    values = np.random.default_rng(0).random((channels, 5, 7))
    pixels, _ = decoded(pictures.shown(Picture.of(values, "image", "alt")))
    expected = np.round(255 * values).astype(np.uint8).transpose(1, 2, 0)
    assert (pixels == np.broadcast_to(expected, (5, 7, 3))).all()


@pytest.mark.parametrize("side", [2, 8, 32])
def test_a_heatmap_has_the_shades_of_its_numbers(side):
    values = np.random.default_rng(1).normal(0, 1, (1, side, side))
    values[0, 0, 0] = 0
    for kind in ("signed", "magnitude"):
        picture = Picture.of(values, kind, "alt")
        pixels, size = decoded(pictures.shown(picture))
        share = picture.values()[:, :, 0] / picture.scale
        assert (pixels == shades(share, kind == "signed")[:, :, :3]).all()
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
        assert size <= len(buffer.getvalue())
        assert size < len(buffer.getvalue()) or side < 32
    neutral = decoded(pictures.shown(Picture.of(np.zeros((1, 2, 2)), "signed", "alt")))[0]
    assert np.ptp(neutral) <= 3
    assert neutral.min() > 230


def test_pictures_are_enlarged_by_whole_numbers_and_shrunk_where_too_large():
    def size(height, width):
        found = pictures.shown(Picture.of(np.zeros((1, height, width)), "image", "alt"))
        return found.width, found.height

    assert [size(8, 8), size(32, 32), size(28, 28), size(64, 32)] == [(88, 88), (96, 96), (84, 84), (32, 64)]
    assert size(224, 448) == (176, 88)


def test_the_scale_of_a_heatmap_is_said():
    made = [pictures.shown(p) for row in audited.pictures().rows for p in row.pictures if p]
    assert [one.scale for one in made[:2]] == ["", "± 0.4"]
    assert made[4].scale.startswith("≤ 0.")
    with plain_style():
        grid = Drawer().one(audited.pictures(), Palette())
    assert [meaning.split(":")[0] for _, meaning in grid.strips] == ["blue", "dark"]
    assert all(shade.startswith("linear-gradient(90deg,rgb(") for shade, _ in grid.strips)


def test_a_contact_sheet_shows_every_picture(tmp_path):
    values = np.zeros((3, 4, 4))
    values[0] = 1
    red = Picture.of(values, "image", "red", caption="all red")
    rows = tuple(PictureRow(label=f"row {k}", pictures=(red, None if k else red)) for k in range(3))
    view = Pictures(title="Red", columns=("one", "two"), rows=rows)
    path = tmp_path / "new" / "sheet.png"
    view_png(view, path)
    first = path.read_bytes()
    with Image.open(path) as sheet_:
        pixels = np.asarray(sheet_.convert("RGB")).astype(int)
    share = ((pixels == [255, 0, 0]).all(2)).sum() / (4 * 192 * 192)
    assert share == pytest.approx(1, abs=0.02)
    assert (pixels[0, 0] == 255).all()
    view_png(view, path)
    assert path.read_bytes() == first


def test_numbers_and_words_of_a_table():
    found = cells_of(audited.table(), "t")
    assert found.numeric == (False, True, False)
    assert [row[1].key for row in found.rows] == ["9.5", "", "80"]
    assert [row[2].key for row in found.rows] == [None, None, None]
    mixed = cells_of(Table("", ("a", "b"), (("x", "1"), ("y", "two"))), "t")
    assert mixed.numeric == (False, False)
    assert cells_of(Table("", ("a", "b"), ()), "t").rows == ()
    cases = {
        "12 of 40": 12.0, "≤ 3": 3.0, "1.5e-3": 0.0015, "−4": -4.0, "+2": 2.0, "50 %": 50.0, ".5": 0.5, "3 min": 3.0,
        "9.85 k": 9850.0, "2.33 M": 2.33e6, "15 ms": 0.015, "(3)": None, "3x": None, "": None, "5, 6": None,
        "4 → 6 (2)": None, "1/2": None, "conv1": None,
    }  # fmt: skip
    assert {text: number(text) for text in cases} == cases


def test_alt_texts_are_in_the_page():
    drawer = Drawer()
    with plain_style():
        found = drawer.all(DRAWN, Palette())
    assert len({one.id for one in found}) == len(DRAWN)
    text = "".join(one.svg for one in found)
    ids = [e.attributes["id"] for e in Page(text).elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    for one, view in zip(found, DRAWN, strict=True):
        assert views.in_words(view).split(".")[0] in Drawing(one.svg).alt


@pytest.mark.parametrize("module", [views, sheet, charts, barcharts, matrices, pictures])
def test_examples_in_docstrings(module, tmp_path, monkeypatch):
    import doctest

    from robustspike import results

    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(module, extraglobs=vars(results)).failed == 0
