"""Charts, matrices and pictures as plain values."""

import numpy as np
import pytest

from robustspike.results import Bars, Chart, Line, Matrix, Picture, PictureRow, Pictures, rate


def test_a_line_of_rates_is_in_percent_with_its_intervals():
    line = Line.of_rates("clean", [1, 2], [rate(0, 4), rate(4, 4)], dashed=True)
    assert (line.x, line.y, line.dashed) == ((1, 2), (0, 100), True)
    assert line.low[0] == 0
    assert line.high[0] == pytest.approx(60.24, abs=0.01)  # 1 − 0.025^(1/4)


@pytest.mark.parametrize("wrong", [{"y": (1.0,)}, {"low": (0.0,), "high": (1.0, 1.0)}])
def test_lines_of_unequal_lengths_are_refused(wrong):
    with pytest.raises(ValueError, match="equal lengths"):
        Line(**{"label": "a", "x": (1.0, 2.0), "y": (1.0, 2.0)} | wrong)


def test_bars_and_matrices_of_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="needs 2 values"):
        Bars(title="a", y="%", categories=("a", "b"), series={"x": (1.0,)})
    with pytest.raises(ValueError, match="2 rows of 1 numbers"):
        Matrix(title="a", x="x", y="y", rows=("a", "b"), columns=("c",), values=((1.0,),))
    with pytest.raises(ValueError, match="needs 2 pictures"):
        Pictures(title="a", columns=("a", "b"), rows=(PictureRow(label="r", pictures=(None,)),))


def test_an_image_keeps_its_pixels_to_8_bits():
    image = np.random.default_rng(0).random((3, 4, 5))
    picture = Picture.of(image, "image", "noise")
    assert (picture.height, picture.width, picture.channels) == (4, 5, 3)
    np.testing.assert_allclose(picture.values(), image.transpose(1, 2, 0), atol=0.5 / 255)


def test_a_signed_heatmap_by_hand():
    """Two channels are summed: (1 − 2, 0 + 4) = (−1, 4); 4 is drawn strongest, −1 is a quarter of it: 128 − 31.75."""
    picture = Picture.of(np.array([[[1.0, 0.0]], [[-2.0, 4.0]]]), "signed", "g")
    assert picture.scale == 4
    assert picture.levels().flatten().tolist() == [96, 255]
    assert Picture.of(np.array([[[1.0, 0.0]], [[-2.0, 4.0]]]), "magnitude", "g").levels().tolist() == [[[191], [255]]]


def test_zero_is_drawn_exactly_and_a_common_scale_cuts():
    signed = Picture.of(np.array([[[0.0, 9.0, -9.0]]]), "signed", "g", scale=3.0)
    assert signed.values().flatten().tolist() == [0.0, 3.0, -3.0]
    assert Picture.of(np.zeros((1, 2, 2)), "magnitude", "g").levels().max() == 0
    assert Picture.of(np.zeros((1, 2, 2)), "signed", "g").levels().tolist() == [[[128]] * 2] * 2


def test_what_is_not_a_number_is_drawn_as_zero():
    picture = Picture.of(np.array([[[np.nan, 1.0]]]), "signed", "g", scale=1.0)
    assert picture.levels().flatten().tolist() == [128, 255]


def test_images_of_other_channels_are_drawn_grey():
    assert Picture.of(np.full((2, 1, 1), [[[0.2]], [[0.4]]]), "image", "frames").values().item() == pytest.approx(
        0.3, abs=0.002
    )


def test_a_picture_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"made of \[C, H, W\], got \[2, 2\]"):
        Picture.of(np.zeros((2, 2)), "image", "g")


def test_views_come_back_from_json():
    chart = Chart(title="t", x="x", y="y", lines=(Line(label="a", x=(1.0,), y=(float("nan"),)),))
    again = Chart.model_validate_json(chart.model_dump_json())
    assert again.lines[0].x == (1.0,)
    assert np.isnan(again.lines[0].y[0])
