"""The loss on planes: a linear model on paper, plain loops, and a gradient that leads nowhere."""

import math

import numpy as np
import pytest
import torch
from tests.conftest import record_of, small_snn
from torch import nn

from robustspike.audits import surface
from robustspike.data import Split
from robustspike.draws import Draws, sampling
from robustspike.gradients import RGA
from robustspike.results.audits import Plane, Surface
from robustspike.results.views import Matrix


class TwoClasses(nn.Module):
    """Logits (w·x, 0): the cross-entropy of class 0 is log(1 + exp(−w·x)), its margin −w·x."""

    def __init__(self, *w):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))

    def forward(self, x):
        z = x.double().flatten(1) @ self.w
        return torch.stack([z, torch.zeros_like(z)], 1)


class Blind(nn.Module):
    """Its gradient looks at the first pixel, its answer at the second."""

    def forward(self, x):
        first, second = x.double().flatten(1)[:, :2].unbind(1)
        z = 4 * second.detach() + first - first.detach()
        return torch.stack([z, torch.zeros_like(z)], 1)


def images(n=6):
    torch.manual_seed(0)
    return Split(torch.rand(n, 1, 8, 8), torch.arange(n) % 4)


def loss(z):
    return math.log(1 + math.exp(-z))


def direction(seed, samples, shape):
    streams = Draws.of(seed, samples).fork("surface").fork("direction")
    return 1 - 2 * streams.integers(2, shape).double()


def test_a_linear_model_by_hand():
    """w = (2, −1) at x = (0.5, 0.5): z = 0.5, along sign(g) = (−1, 1) it is 0.5 − 3·a."""
    data = Split(torch.tensor([[0.5, 0.5]]), torch.tensor([0]))
    found = surface(TwoClasses(2.0, -1.0), data, eps=0.1, points=5)
    r = direction(0, torch.tensor([0]), (2,))[0]
    slope = float(2 * r[0] - r[1])
    assert found.coordinates == pytest.approx((-0.2, -0.1, 0, 0.1, 0.2))
    (plane,) = found.planes
    for i, b in enumerate(found.coordinates):
        for j, a in enumerate(found.coordinates):
            z = 0.5 - 3 * a + slope * b
            assert plane.loss[i][j] == pytest.approx(loss(z), rel=1e-4)
            assert plane.margin[i][j] == pytest.approx(-z, rel=1e-4, abs=1e-12)
    steepness = 1 / (1 + math.exp(0.5))  # −dCE/dz
    assert plane.slopes == pytest.approx((3 * steepness, -slope * steepness), rel=1e-4)
    assert (found.l1[0], found.on_random[0]) == plane.slopes
    assert found.along_gradient[0] == plane.loss[2]
    assert found.along_random[0] == tuple(row[2] for row in plane.loss)
    assert found.rises()[0] == pytest.approx(loss(-0.1) - loss(0.5), rel=1e-3)
    both = (loss(0.5 + 0.2 * slope) + loss(0.5 - 0.2 * slope)) / 2 - loss(0.5)
    assert found.rises()[1] == pytest.approx(both, rel=1e-2)
    assert found.signs_right(plane) == 1
    assert found.correlation(plane) > 0.99


def test_a_spiking_network_against_a_plain_loop():
    model, data = small_snn(time_steps=3).double(), images(3)
    found = surface(model, data, eps=0.1, points=3, pictures=2, seed=5, scale=3)
    model.eval()
    for i in range(3):
        x, y = data.images[i : i + 1].double().requires_grad_(), int(data.labels[i])
        (g,) = torch.autograd.grad(-model(x).log_softmax(1)[0, y], x)
        r = direction(5, torch.tensor([i]), (1, 8, 8))
        assert found.l1[i] == pytest.approx(float(g.abs().sum()), rel=1e-4)
        assert found.on_random[i] == pytest.approx(float((g * r).sum()), rel=1e-4)
        for k, c in enumerate((-0.3, 0.0, 0.3)):
            for line, step in ((found.along_gradient, g.sign()), (found.along_random, r)):
                expected = -model(x + c * step).log_softmax(1)[0, y].item()
                assert line[i][k] == pytest.approx(expected, rel=1e-4)
    for plane in found.planes:
        x = data.images[plane.sample : plane.sample + 1].double().requires_grad_()
        assert plane.label == int(data.labels[plane.sample])
        (g,) = torch.autograd.grad(-model(x).log_softmax(1)[0, plane.label], x)
        r = direction(5, torch.tensor([plane.sample]), (1, 8, 8))
        z = model(x + 0.3 * g.sign() - 0.3 * r)[0].detach()
        assert plane.loss[0][2] == pytest.approx(float(-z.log_softmax(0)[plane.label]), rel=1e-4)
        others = torch.cat([z[: plane.label], z[plane.label + 1 :]])
        assert plane.margin[0][2] == pytest.approx(float(others.max() - z[plane.label]), rel=1e-4)


def test_a_masked_gradient_is_suspected():
    torch.manual_seed(0)
    data = Split(torch.rand(8, 1, 2, 2), torch.zeros(8, dtype=torch.int64))
    masked = surface(Blind(), data, eps=0.1, points=3)
    assert masked.rises()[0] == 0
    assert masked.steeper() == 0
    assert "does not rise more along the gradient than along random directions" in masked.answer()
    assert "0 of 8 cannot be told from chance, which gives a third at most" in masked.answer()
    assert "Suspect that the gradient is masked" in masked.answer()
    sound = surface(TwoClasses(4.0, 1.0, 1.0, 1.0), data, eps=0.1, points=3)
    assert sound.steeper() >= 6  # r is now and then sign(g) itself, with four pixels
    assert "uspect" not in sound.answer()
    assert "chance" not in sound.answer()


def test_figures_do_not_depend_on_the_batch_and_repeat_under_one_seed():
    model, data = small_snn(time_steps=4).double(), images(5)
    one, other, again, else_ = (
        surface(model, data, points=3, pictures=3, eps=0.2, batch_size=size, seed=seed)
        for size, seed in ((5, 0), (2, 0), (5, 0), (5, 1))
    )
    assert one.planes == other.planes == again.planes != else_.planes
    assert one.along_random == other.along_random
    assert one.along_gradient == other.along_gradient == else_.along_gradient
    assert [plane.sample for plane in other.planes] == [0, 1, 2]


def test_a_poisson_encoders_draws_are_those_of_the_gradient():
    model, data = small_snn(encoder="poisson").double(), images(3)
    found = surface(model, data, points=3, eps=0.1)
    streams = Draws.of(0, torch.arange(3)).fork("surface").fork("encoder").fork(0)
    x = data.images.double().requires_grad_()
    with sampling(streams):
        losses = -model.eval()(x).log_softmax(1).gather(1, data.labels[:, None])[:, 0]
    (g,) = torch.autograd.grad(losses.sum(), x)
    assert found.l1 == pytest.approx(g.abs().flatten(1).sum(1).tolist(), rel=1e-4)
    assert [line[1] for line in found.along_gradient] == pytest.approx(losses.tolist(), rel=1e-4)
    assert [plane.loss[1][1] for plane in found.planes] == pytest.approx(losses.tolist(), rel=1e-4)


def test_the_gradient_is_the_estimators():
    model, data = small_snn().double(), images(3)
    own, other = (surface(model, data, points=3, estimator=estimator) for estimator in (None, RGA()))
    assert own.l1 != other.l1
    assert own.along_random == other.along_random
    assert "RGA" in other.under


def test_the_model_is_left_as_it_was_also_where_the_watch_ends_it():
    model, heard = small_snn(), []
    before = record_of(model)
    surface(model, images(4), points=3, batch_size=2, watch=heard.append)
    assert heard == [0.5, 1.0]

    def ends(_share):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        surface(model, images(4), points=3, watch=ends)
    assert record_of(model) == before


def test_flat_and_broken_samples_are_named():
    class Half(nn.Module):
        def forward(self, x):
            flat = x.flatten(1)
            return torch.stack([flat.sum(1) * torch.where(flat[:, 0] > 0.5, torch.nan, 0.0), flat[:, 1] * 0], 1)

    data = Split(torch.tensor([[0.9, 0.1], [0.1, 0.1]]), torch.tensor([0, 0]))
    found = surface(Half(), data, eps=0.1, points=3)
    assert found.not_finite == 1
    assert "For 1 of 2 samples the gradient is exactly 0" in found.answer()
    assert found.answer().startswith("Not finite: the loss or its gradient, for 1 of 2 samples; they are left out.")
    assert "nothing changes on them" in found.answer()
    assert "does not answer to its input" in found.answer()
    assert "uspect" not in found.answer()
    assert Surface.model_validate_json(found.model_dump_json()) == found
    assert found.views()


def by_hand(**changes):
    plane = Plane(
        sample=0, label=3, loss=((1.0, 1.5, 2.5), (0.5, 1.0, 2.0), (0.75, 1.0, 1.5)), margin=((-1.0,) * 3,) * 3,
        slopes=(10.0, -1.0),
    )  # fmt: skip
    fields = {
        "n": 2, "seed": 0, "under": "a pencil", "eps": 0.1, "coordinates": (-0.1, 0.0, 0.1), "planes": (plane,),
        "along_gradient": ((0.5, 1.0, 2.0), (1.0, 2.0, 2.5)), "along_random": ((1.5, 1.0, 1.0), (3.0, 2.0, 2.0)),
        "l1": (10.0, 5.0), "on_random": (-1.0, 0.0), "not_finite": 0,
    }  # fmt: skip
    return Surface(**fields | changes)


def test_a_record_by_hand():
    found = by_hand()
    (plane,) = found.planes
    measured, predicted = found.changes(plane)
    assert measured.tolist() == [0.0, 0.5, 1.5, -0.5, 1.0, -0.25, 0.0, 0.5]
    assert predicted.tolist() == pytest.approx([-0.9, 0.1, 1.1, -1.0, 1.0, -1.1, -0.1, 0.9])
    assert found.signs_right(plane) == 6 / 8  # the two that do not change are wrong
    assert found.correlation(plane) == pytest.approx(np.corrcoef(measured, predicted)[0, 1])
    assert found.rises() == (pytest.approx(0.75), pytest.approx((0.5 + 0 + 1 + 0) / 4))
    assert found.steeper() == 1  # 1 > 0.5, but 0.5 < 1
    assert found.by_chance() == pytest.approx(1 - (2 / 3) ** 2)
    assert "1 of 2 cannot be told from chance" in found.answer()
    assert "uspect" not in found.answer()  # a half is more than a third
    flat = by_hand(planes=(plane.model_copy(update={"loss": ((1.0,) * 3,) * 3}),))
    assert flat.correlation(flat.planes[0]) is None
    assert flat.signs_right(flat.planes[0]) == 0


def steep(k, n, **changes):
    """A record of n samples whose loss rises by 1 along r, and for k of them by 2 along the gradient, else by 0.9."""
    ups = ((0.0, 0.0, 2.0),) * k + ((0.0, 0.0, 0.9),) * (n - k)
    ways = {"along_gradient": ups, "along_random": ((-1.0, 0.0, 1.0),) * n}
    return by_hand(**{"n": n, "planes": (), "l1": (1.0,) * n, "on_random": (0.0,) * n} | ways | changes)


@pytest.mark.parametrize(("k", "n", "told", "suspected"), [(20, 60, False, True), (24, 60, False, False),
                                                            (30, 60, True, False), (3, 3, True, False),
                                                            (2, 2, False, False)])  # fmt: skip
def test_chance_is_a_third_at_most(k, n, told, suspected):
    found = steep(k, n)
    exact = sum(math.comb(n, i) * (1 / 3) ** i * (2 / 3) ** (n - i) for i in range(k, n + 1))
    assert found.by_chance() == pytest.approx(exact)
    assert (exact <= 0.05) == told
    assert ("cannot be told from chance" not in found.answer()) == told
    assert ("Suspect" in found.answer()) == suspected


def test_of_three_directions_alike_the_first_is_the_steepest_for_a_third():
    """What the loss rises by along the gradient, r and −r is drawn alike."""
    draw = np.random.default_rng(0)
    ends = draw.standard_normal((3, 3000))
    gradient = tuple((0.0, 0.0, float(v)) for v in ends[0])
    across = tuple((float(a), 0.0, float(b)) for a, b in zip(*ends[1:], strict=True))
    found = steep(0, 3000, along_gradient=gradient, along_random=across)
    assert found.steeper() / 3000 == pytest.approx(1 / 3, abs=0.03)
    assert 2 * found.steeper() < 3000


def test_samples_that_are_not_finite_are_left_out():
    lost = {"along_gradient": ((0.0, 0.0, 2.0), (0.0,) * 3), "along_random": ((-1.0, 0.0, 1.0), (0.0,) * 3)}
    found = steep(1, 2, not_finite=1, **lost)
    assert found.rises() == (2.0, 0.0)
    assert "on average over 1 samples" in found.answer()
    assert found.headline()["steeper along ∇CE"] == "1 of 1"
    none = steep(0, 1, not_finite=1, along_gradient=((0.0,) * 3,), along_random=((0.0,) * 3,), l1=(0.0,))
    assert none.answer().startswith("Not finite")
    assert "Nothing moves" not in none.answer()
    assert set(none.headline().values()) == {"–"}
    assert none.views()


def test_what_a_record_shows_is_what_it_holds():
    found = by_hand()
    table, lines, losses, margins = found.views()
    assert table.rows == (("0", "3", "75.0", f"{found.correlation(found.planes[0]):.3f}", "10", "-1"),)
    up, across, first_order, random = lines.lines
    assert up.x == pytest.approx((-1, 0, 1))
    assert up.y == pytest.approx((0.75, 1.5, 2.25))
    assert across.y == pytest.approx((2.25, 1.5, 1.5))
    assert first_order.y == pytest.approx((1.5 - 0.75, 1.5, 1.5 + 0.75))
    assert random.y == pytest.approx((1.5 + 0.05, 1.5, 1.5 - 0.05))
    assert first_order.dashed
    assert isinstance(losses, Matrix)
    assert losses.values == found.planes[0].loss
    assert losses.columns == losses.rows == ("-1", "0", "+1")
    assert margins.signed
    assert margins.values == found.planes[0].margin
    headlines, both = Surface.compared({"a": found, "b": found})
    assert [row[0] for row in headlines.rows] == ["a", "b"]
    assert both.lines[0].y == pytest.approx((-0.75, 0, 0.75))
    assert [line.dashed for line in both.lines] == [False, True, False, True]


def test_it_survives_json():
    found = surface(small_snn(), images(5), points=5)
    assert Surface.model_validate_json(found.model_dump_json()) == found
    assert found.gradients == found.n == 5
    assert len(surface(small_snn(), images(5), points=3, samples=2).planes) == 2
    assert surface(small_snn(), images(5), points=3, pictures=0).headline()["sign right, %"] == "–"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"points": 4}, "points must be odd and ≥ 3"),
        ({"points": 1}, "points must be odd and ≥ 3"),
        ({"eps": 0}, "must be positive"),
        ({"eps": 8}, "8/255"),
        ({"scale": 0}, "must be positive"),
        ({"samples": 0}, "samples ≥ 1"),
        ({"pictures": -1}, "pictures ≥ 0"),
    ],
)
def test_bad_input_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        surface(TwoClasses(1.0), Split(torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64)), **options)


def test_an_empty_split_is_refused():
    with pytest.raises(ValueError, match="at least one sample"):
        surface(TwoClasses(1.0), Split(torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64)))
