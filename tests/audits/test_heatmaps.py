"""∇f_y as pictures: a linear model by hand, finite differences, and scales that compare networks."""

import math

import numpy as np
import pytest
import torch
from tests.conftest import small_snn
from torch import nn

from robustspike.audits import heatmaps
from robustspike.audits.heatmaps import tenth_of
from robustspike.data import Split
from robustspike.gradients import RGA
from robustspike.results import Pictures, Table
from robustspike.results.audits import Heatmaps

pytestmark = pytest.mark.usefixtures("one_thread")


def images(n=8, classes=4, shape=(1, 8, 8)):
    generator = torch.Generator().manual_seed(5)
    return Split(torch.rand(n, *shape, generator=generator), torch.arange(n) % classes)


class Flat(nn.Module):
    """A linear model, or a small smooth network, on flattened images in float64."""

    def __init__(self, weight, hidden=0):
        super().__init__()
        weight = torch.as_tensor(weight, dtype=torch.float64)
        self.weight = nn.Parameter(weight)
        self.first = nn.Parameter(torch.randn(hidden, weight.shape[1], dtype=torch.float64)) if hidden else None

    def forward(self, x):
        x = x.flatten(1).double()
        if self.first is None:
            return x @ self.weight.T
        return (x @ self.first.T).tanh() @ self.weight[:, : len(self.first)].T


def same(found):
    return found.model_copy(update={"seconds": 0.0})


def test_a_linear_model_by_hand():
    """z = (3a − b, 0, 2c − 5): at y = 0 and x = (0, 1, 0, 0) the rival is 1, f = σ(−1), g = f(1 − f)·(3, −1, 0, 0)."""
    model = Flat([[3.0, -1.0, 0.0, 0.0], [0.0] * 4, [0.0, 0.0, 2.0, 0.0]])
    model.register_buffer("shift", torch.tensor([0.0, 0.0, 5.0], dtype=torch.float64))
    model.register_forward_hook(lambda module, inputs, logits: logits - module.shift)
    x = torch.tensor([[0.0, 1.0], [0.0, 0.0]]).reshape(1, 1, 2, 2)
    (one,) = heatmaps(model, Split(x, torch.tensor([0])), class_names=("a", "b", "c")).maps
    f = 1 / (1 + math.exp(1))
    slope = f * (1 - f)
    assert one.f_y == pytest.approx(f, rel=1e-5)
    assert one.l1 == pytest.approx(4 * slope, rel=1e-5)
    assert one.l0 == 0.5
    assert one.tenth == pytest.approx(0.75, rel=1e-5)  # one of four entries is its tenth, rounded up
    assert (one.label, one.predicted) == (0, 1)
    assert one.signed.scale == pytest.approx(3 * slope, rel=1e-5)
    expected = np.array([[[3.0], [-1.0]], [[0.0], [0.0]]]) * slope
    np.testing.assert_allclose(one.signed.values(), expected, atol=3 * slope / 254)
    np.testing.assert_allclose(one.magnitude.values(), np.abs(expected), atol=3 * slope / 510)
    np.testing.assert_allclose(one.image.values()[..., 0], x[0, 0])


def test_finite_differences_of_a_smooth_network():
    torch.manual_seed(2)
    model = Flat(torch.randn(3, 12), hidden=5)
    data = images(3, 3, (3, 2, 2))
    found = heatmaps(model, data)

    def f_y(x, y):
        with torch.no_grad():
            z = model(torch.as_tensor(x)[None])[0].numpy()
        return 1 / (1 + math.exp(max(np.delete(z, y)) - z[y]))

    for one, x, y in zip(found.maps, data.images.double().numpy(), data.labels.tolist(), strict=True):
        g, h = np.zeros_like(x), 1e-6
        for place in np.ndindex(x.shape):
            step = np.zeros_like(x)
            step[place] = h
            g[place] = (f_y(x + step, y) - f_y(x - step, y)) / (2 * h)
        assert one.l1 == pytest.approx(np.abs(g).sum(), rel=2e-5)
        assert one.signed.scale == pytest.approx(np.abs(g.sum(0)).max(), rel=2e-5)
        np.testing.assert_allclose(one.signed.values()[..., 0], g.sum(0), atol=one.signed.scale / 253)
        np.testing.assert_allclose(one.magnitude.values()[..., 0], np.abs(g).sum(0), atol=found.scale / 509)
        largest = np.sort(np.abs(g).ravel())[::-1]
        assert one.tenth == pytest.approx(largest[:2].sum() / largest.sum(), rel=2e-5)
    # one scale of the magnitude for all, signed pictures have their own
    assert len({one.magnitude.scale for one in found.maps}) == 1
    assert len({one.signed.scale for one in found.maps}) == 3
    assert max(one.magnitude.levels().max() for one in found.maps) == 255


def test_the_magnitude_of_frames_does_not_cancel():
    """The two frames' gradients are opposite: their mean is 0, the mean of their magnitudes is not."""
    model = Flat([[1.0] * 4 + [-1.0] * 4, [0.0] * 8])
    (one,) = heatmaps(model, Split(torch.zeros(1, 2, 1, 2, 2), torch.tensor([0]))).maps
    assert one.signed.scale == 0
    assert one.magnitude.scale == pytest.approx(0.25)
    assert one.l1 == pytest.approx(2.0)
    assert one.image.height == one.image.width == 2


def test_one_sample_of_each_class(double_model):
    data = Split(images().images, torch.tensor([1, 1, 1, 0, 3, 1, 2, 0]), torch.arange(8) * 10)
    found = heatmaps(double_model, data, pictures=3)
    assert [(one.sample, one.label) for one in found.maps] == [(0, 1), (30, 0), (40, 3)]
    assert found.n == found.gradients == 3
    assert [one.label for one in heatmaps(double_model, data, pictures=20).maps] == data.labels.tolist()


@pytest.mark.parametrize("options", [{}, {"encoder": "poisson"}, {"encoder": "frames", "time_steps": 3}], ids=str)
def test_neither_the_batch_nor_the_run_matters_but_the_seed(options):
    model = small_snn(**options).double()
    data = images(shape=(3, 1, 8, 8) if "time_steps" in options else (1, 8, 8))
    whole, parts = (heatmaps(model, data, batch_size=size, pictures=7) for size in (7, 3))
    assert same(whole) == same(parts)
    other = same(heatmaps(model, data, pictures=7, seed=1)).model_copy(update={"seed": 0})
    assert (other == same(whole)) == ("poisson" not in options.values())


def test_json_comes_back_exactly(double_model):
    found = heatmaps(double_model, images(), estimator=RGA())
    assert Heatmaps.model_validate_json(found.model_dump_json()) == found
    assert found.under == "RGA"


def test_views_show_what_the_record_holds(double_model):
    found = heatmaps(double_model, images(), pictures=4, class_names=("cat", "dog", "ox", "pig"))
    pictures, table = found.views()
    assert isinstance(pictures, Pictures)
    assert pictures.columns == tuple(f"{name} (sample {k})" for k, name in enumerate(("cat", "dog", "ox", "pig")))
    for row, name in zip(pictures.rows, ("image", "signed", "magnitude"), strict=True):
        assert [p.data for p in row.pictures] == [getattr(one, name).data for one in found.maps]
    assert f"{found.scale:.3g}" in pictures.note
    assert all(picture.alt for row in pictures.rows for picture in row.pictures)
    assert "cat" in pictures.rows[0].pictures[0].alt
    assert isinstance(table, Table)
    assert [float(row[4]) for row in table.rows] == pytest.approx([one.l1 for one in found.maps], rel=1e-3)
    for one, picture in zip(found.maps, pictures.rows[1].pictures, strict=True):
        assert f"{one.l1:.3g}" in picture.caption


def test_networks_compare_on_one_scale():
    """The second network's gradient is a tenth of the first one's: a tenth of the colour, the same structure."""
    weight = torch.eye(4).repeat(1, 16)
    data = images(3)
    large, small = heatmaps(Flat(weight * 1e-3), data), heatmaps(Flat(weight * 1e-4), data)
    table, structure, size = Heatmaps.compared({"large": large, "small": small})
    assert [row[0] for row in table.rows] == ["large", "small"]
    assert [row.label for row in size.rows] == ["image", "large", "small"]
    for a, b in zip(size.rows[1].pictures, size.rows[2].pictures, strict=True):
        assert a.scale == b.scale == large.scale
        assert int(a.levels().max()) == pytest.approx(10 * int(b.levels().max()), abs=6)
    turned = Heatmaps.compared({"small": small, "large": large})[2]
    assert [turned.rows[k].pictures for k in (2, 1)] == [size.rows[k].pictures for k in (1, 2)]
    for a, b in zip(structure.rows[1].pictures, structure.rows[2].pictures, strict=True):
        assert a.data == b.data
        assert a.scale == pytest.approx(10 * b.scale, rel=1e-3)


def test_other_samples_are_not_set_side_by_side(double_model):
    found = {k: heatmaps(double_model, images(8).subset(torch.tensor([k, 3])), pictures=2) for k in (0, 1)}
    (table,) = Heatmaps.compared(found)
    assert isinstance(table, Table)


def test_a_gradient_of_zero_is_said():
    found = heatmaps(Flat(torch.zeros(3, 64)), images(3, 3))
    assert found.answer().startswith("Nowhere: ")
    assert all(one.tenth == one.l1 == one.l0 == 0 for one in found.maps)
    assert found.views()[0].rows[2].pictures[0].levels().max() == 0
    assert Heatmaps.compared({"a": found, "b": found})[2].rows[1].pictures[0].levels().max() == 0


def test_a_gradient_that_is_not_finite_is_said():
    class Broken(Flat):
        def forward(self, x):
            return super().forward(x) + (x.flatten(1)[:, :1].double() * 0).sqrt()

    found = heatmaps(Broken(torch.eye(3, 64)), images(3, 3))
    assert not any(one.finite for one in found.maps)
    assert found.answer().startswith("Not finite: under ")
    assert "exactly zero" not in found.answer()
    assert found.headline() == dict.fromkeys(found.headline(), "–") | {"not finite": "3"}
    assert {picture.caption for picture in found.views()[0].rows[1].pictures} == {"not finite"}
    assert Heatmaps.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_samples_that_are_not_finite_are_left_out_of_means(scale):
    """NaN for images whose first pixel is 1; of the others ``scale`` times a linear model."""

    class Half(Flat):
        def forward(self, x):
            return scale * super().forward(x) * torch.where(x.flatten(1)[:, :1] == 1, torch.nan, 1.0)

    data = images(3, 3)
    data.images[1, 0, 0, 0] = 1
    found = heatmaps(Half(torch.eye(3, 64)), data)
    assert [one.finite for one in found.maps] == [True, False, True]
    assert found.answer().startswith("Not finite: the gradients of 1 of 3 samples, which are left out.")
    assert ("of the other 2 samples is exactly zero" in found.answer()) == (scale == 0)
    assert found.mean("l1") == pytest.approx((found.maps[0].l1 + found.maps[2].l1) / 2)
    assert found.headline()["not finite"] == "1"


def test_the_answer_says_whose_view_it_is(double_model):
    found = heatmaps(double_model, images())
    assert "the attack's view under BPTT own surrogate" in found.answer()
    assert f"{found.mean('l1'):.3g}" in found.answer()
    plain = heatmaps(Flat(torch.eye(4, 64)), images())
    assert "view" not in plain.answer()


def test_the_tenth_of_even_entries_is_a_tenth():
    assert float(tenth_of(torch.full((100,), -2.0))) == pytest.approx(0.1)
    assert float(tenth_of(torch.tensor([0.0] * 19 + [5.0]))) == 1.0
    assert float(tenth_of(torch.arange(20.0))) == pytest.approx((19 + 18) / 190)
    assert float(tenth_of(torch.zeros(5))) == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pictures": 0}, "pictures must be ≥ 1, got 0"),
        ({"class_names": ("a",)}, "expected 4 names, one for each class of the model, got 1"),
        ({"batch_size": 0}, "batch_size must be ≥ 1"),
    ],
    ids=str,
)
def test_bad_input(double_model, options, message):
    with pytest.raises(ValueError, match=message):
        heatmaps(double_model, images(), **options)


def test_an_estimator_needs_spiking_layers_and_a_split_samples(double_model):
    with pytest.raises(ValueError, match="found no spiking layer in Flat"):
        heatmaps(Flat(torch.eye(4, 64)), images(), estimator=RGA())
    with pytest.raises(ValueError, match="expected at least one sample"):
        heatmaps(double_model, images().subset(0))
