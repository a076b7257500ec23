"""Ding's bound of the distance of spike trains, and the distance."""

import itertools
import math

import numpy as np
import pytest
import torch
from tests.conftest import InDouble, small_snn
from torch import nn

from robustspike.attacks import EncodedPGD, fgsm
from robustspike.attacks.attempt import Attempt
from robustspike.audits import affine, bounds
from robustspike.audits.affine import ways
from robustspike.audits.trains import trains
from robustspike.balls import Linf
from robustspike.data import Split
from robustspike.models import SNN, Settings, spiking_resnet18, wrn16
from robustspike.neurons import LIF, OverTime
from robustspike.results import Chart, Table
from robustspike.results.audits import Bounds

pytestmark = pytest.mark.usefixtures("one_thread")


class Moving:
    """Adds a number to every pixel."""

    name = "moving"

    def __init__(self, by):
        self.by = by

    def run(self, model, x, y, draws=None):
        attempt = Attempt.begin(x)
        attempt.x_adv = (x + self.by).clamp(0, 1)
        return attempt


def images(n=3, shape=(1, 8, 8), seed=0):
    return Split(torch.rand((n, *shape), generator=torch.Generator().manual_seed(seed)), torch.arange(n) % 2)


def linear(weight, bias):
    layer = nn.Linear(len(weight[0]), len(weight))
    layer.weight.data, layer.bias.data = torch.tensor(weight), torch.tensor(bias)
    return layer


def network(*layers, time_steps=2, size=8, features=2, **options):
    options = {"in_channels": 1, "image_size": size} | options
    settings = Settings("bounded", 2, time_steps, **options)
    return SNN(settings, OverTime(*layers), nn.Linear(features, 2)).eval()


def only(found, path):
    (layer,) = (layer for layer in found.layers if layer.path == path)
    return layer


def pencil(**options):
    """Four pixels, a neuron for each, then two neurons: T = 2, θ = 1."""
    second = linear([[1.0, -2.0, 0.5, 0.0], [0.0, 1.0, -1.0, 0.0]], [0.25, -0.5])
    identity = linear(torch.eye(4).tolist(), [0.0] * 4)
    return network(nn.Flatten(), identity, LIF(), second, LIF(**options), size=2)


def test_constants_by_hand():
    """W = [[1, −2, ½, 0], [0, 1, −1, 0]], b = (¼, −½): γ = 1½ + 2, with the bias 1¾ + 2; Γ = 2·2·3·(γ + γ²)."""
    found = only(bounds(pencil(), images(1, (1, 2, 2)), attack=Moving(0.1)), "layers.4")
    one = found.operator
    assert (one.gamma, one.gamma_bias, one.norm_inf, one.exact) == (3.5, 3.75, 3.5, True)
    assert found.constant(2) == 12 * (3.75 + 3.75**2)
    assert found.constant(2, with_bias=False) == 12 * (3.5 + 3.5**2)
    weight = np.array([[1, -2, 0.5, 0], [0, 1, -1, 0]])
    assert one.sigma == pytest.approx(np.linalg.svd(weight)[1][0], rel=1e-9)
    assert (one.inputs, found.neurons, found.previous, found.why) == (4, 2, ("layers.2",), "")


def test_leak_and_threshold_count():
    found = only(bounds(pencil(leak=0.5, threshold=2.0), images(1, (1, 2, 2)), attack=Moving(0.1)), "layers.4")
    r = 3.75 / 2
    assert found.constant(2) == pytest.approx(2 * 2 * 3 / 0.5 * (r + r * r))
    assert found.gain() == pytest.approx((found.operator.sigma / 2) ** 2)
    found = only(bounds(pencil(leak=0.0), images(1, (1, 2, 2)), attack=Moving(0.1)), "layers.4")
    assert found.constant(2) == math.inf
    assert not found.applies


def test_distances_by_hand():
    """Pixels (0.6, 0.3, 0.9, 1): spikes 01, 00, 01, 11. Moved by 0.3 and clipped: 01, 01, 11, 11. D₂² = 2."""
    data = Split(torch.tensor([0.6, 0.3, 0.9, 1.0]).reshape(1, 1, 2, 2), torch.tensor([0]))
    found = bounds(pencil(), data, attack=Moving(0.3))
    assert only(found, "layers.2").distance == (2.0,)
    assert found.input_distance == pytest.approx((2 * (0.3**2 + 0.3**2 + 0.1**2),))
    # currents ¼ + s₁ − 2s₂ + ½s₃ and −½ + s₂ − s₃: before (¼, −½), (1¾, −1½); after (¾, −1½), (−¼, −½)
    last = only(found, "layers.4")
    assert last.distance == (1.0,)
    assert last.operator.seen == pytest.approx(math.hypot(2, 1), rel=1e-5)  # the second step: (2, −1) for one spike
    assert found.bound(last) == pytest.approx((last.gain() * 2 + last.constant(2),))
    assert found.slack(last) == pytest.approx(found.bound(last)[0] / 4)


def dense(layers, shape):
    """W and b of plain modules as a matrix: one column for each input."""
    units = torch.eye(torch.Size(shape).numel(), dtype=torch.float64).reshape(-1, *shape)
    with torch.no_grad():
        bias = layers(torch.zeros(1, *shape, dtype=torch.float64)).flatten()
        return (layers(units).flatten(1) - bias).T.numpy(), bias.numpy()


def batch_norm(channels):
    layer = nn.BatchNorm2d(channels)
    nn.init.uniform_(layer.running_mean, -1, 1)
    nn.init.uniform_(layer.running_var, 0.2, 2)
    nn.init.uniform_(layer.weight, -2, 2)
    nn.init.uniform_(layer.bias, -1, 1)
    return layer


BETWEEN = {
    "convolution": lambda: (nn.Conv2d(2, 3, 3, padding=1), batch_norm(3)),
    "stride and groups": lambda: (nn.Conv2d(2, 4, 3, stride=2, groups=2, bias=False),),
    "pooling before": lambda: (nn.AvgPool2d(2), nn.Conv2d(2, 3, 3, padding=1), batch_norm(3)),
    "overlapping pooling": lambda: (nn.AvgPool2d(3, 2, padding=1), nn.Conv2d(2, 3, 3, padding=1)),
    "pooling behind": lambda: (nn.Conv2d(2, 3, 3), nn.AvgPool2d(2)),
    "two convolutions": lambda: (nn.Conv2d(2, 3, 3), nn.Conv2d(3, 2, 3, padding=1), batch_norm(2)),
    "linear": lambda: (nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, 5)),
    "spectral norm": lambda: (nn.Flatten(), torch.nn.utils.parametrizations.spectral_norm(nn.Linear(72, 5))),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_the_operator_is_the_matrix_of_its_columns(name):
    torch.manual_seed(0)
    between = BETWEEN[name]()
    layers = (nn.Conv2d(1, 2, 3), LIF(threshold=0.2), *between, LIF(threshold=0.2), nn.Flatten())
    model = network(*layers, features=1, time_steps=3)
    model.head = nn.LazyLinear(2)
    x = torch.rand(1, 1, 8, 8)
    model(x)
    one = ways(model, trains(model, x, None), x)[1].affine
    matrix, bias = dense(nn.Sequential(*between).double().eval(), (2, 6, 6))
    v, u = torch.randn(matrix.shape[1]).double(), torch.randn(matrix.shape[0]).double()
    np.testing.assert_allclose(one.times(v), matrix @ v.numpy(), atol=1e-12)
    np.testing.assert_allclose(one.transposed(u), u.numpy() @ matrix, atol=1e-12)
    np.testing.assert_allclose(one.bias, bias, atol=1e-12)
    assert one.sigma_max(100) == pytest.approx(np.linalg.norm(matrix, 2), rel=1e-6)
    found = one.row_sums()
    plus, minus = np.maximum(matrix, 0).sum(1), np.maximum(-matrix, 0).sum(1)
    assert found.gamma == pytest.approx(plus.max() + minus.max(), rel=1e-9)
    biased = (plus + np.maximum(bias, 0)).max() + (minus + np.maximum(-bias, 0)).max()
    assert found.gamma_bias == pytest.approx(biased, rel=1e-9)
    assert found.norm_inf == pytest.approx(np.linalg.norm(matrix, np.inf), rel=1e-9)
    assert found.exact


def matrix_operator(matrix, most):
    """An operator that is a matrix, with no bias."""
    W = torch.tensor(matrix)
    zero = torch.zeros(len(W), dtype=torch.float64)
    return affine.Affine(W.shape[1], W.shape[0], lambda v: W @ v, lambda u: W.T @ u, zero, W.sum(1), torch.tensor(most))


@pytest.mark.parametrize("how", ["loose", "too small in one row", "too small in all"])
def test_row_sums_are_exact_however_good_their_upper_bounds_are(how):
    """Loose bounds order the rows wrongly; those that are none are noticed, by the sum of a row or by its size."""
    draw = np.random.default_rng(0)
    for _ in range(20):
        matrix = draw.standard_normal((30, 6))
        size = np.abs(matrix).sum(1)
        if how == "loose":
            most = size * (1 + 2 * draw.random(30))
        elif how == "too small in one row":
            matrix[7] = np.abs(matrix[7]) + 2
            most = np.abs(matrix).sum(1) + 1
            most[7] = 0.1
        else:
            matrix -= matrix.mean(1, keepdims=True)
            most = np.abs(matrix).sum(1) * np.linspace(0.1, 0.9, 30)
        found = matrix_operator(matrix, most).row_sums()
        plus, minus = np.maximum(matrix, 0).sum(1), np.maximum(-matrix, 0).sum(1)
        assert found.gamma == found.gamma_bias == pytest.approx(plus.max() + minus.max())
        assert found.norm_inf == pytest.approx(np.linalg.norm(matrix, np.inf))
        assert found.exact


def test_row_sums_that_are_not_searched_to_the_end_are_upper_bounds(monkeypatch):
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 2, 3), LIF(threshold=0.2), nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3), LIF(), nn.Flatten())
    model, x = network(*layers, features=8), torch.rand(1, 1, 8, 8)
    one = ways(model, trains(model, x, None), x)[1].affine
    exact = one.row_sums()
    monkeypatch.setattr(affine, "ROWS", 1)
    found = one.row_sums()
    assert exact.exact
    assert not found.exact
    assert found.gamma > exact.gamma
    assert found.norm_inf > exact.norm_inf


def test_norms_bound_what_spikes_can_do():
    """Every s of −1, 0, 1 and of 0, 1 through a small matrix: Λ ≤ σ_max, γ as the supremum, 2‖W‖_∞, 2√n·‖W‖₂."""
    torch.manual_seed(0)
    weight = torch.randn(3, 5)
    first, second = nn.Linear(4, 5), linear(weight.tolist(), [0.0] * 3)
    model, x = network(nn.Flatten(), first, LIF(), second, LIF(), size=2, features=3), torch.rand(1, 1, 2, 2)
    one = ways(model, trains(model, x, None), x)[1].affine
    sums, sigma = one.row_sums(), one.sigma_max(100)
    W = weight.double().numpy()
    signs = [np.array(s) for s in itertools.product((-1, 0, 1), repeat=5) if any(s)]
    spikes = [np.array(s) for s in itertools.product((0, 1), repeat=5)]
    largest = max(np.linalg.norm(W @ s) / np.linalg.norm(s) for s in signs)
    assert 0.9 * sigma <= largest <= sigma
    assert sums.gamma == pytest.approx(max((W @ s).max() for s in spikes) + max((-W @ s).max() for s in spikes))
    assert sums.gamma <= 2 * sums.norm_inf <= 2 * math.sqrt(5) * sigma


def test_neurons_that_can_fire_have_a_bound_that_says_nothing():
    """γ ≥ θ/T once a neuron fires, so that Γ > N·T: random layers, leaks, thresholds, resets and biases."""
    fired = 0
    for seed in range(40):
        torch.manual_seed(seed)
        options = {
            "leak": float(torch.rand(())) * 0.9 + 0.1,
            "threshold": float(10 ** (2 * torch.rand(()) - 1)),
            "reset": ("hard", "soft")[seed % 2],
        }
        layers = (nn.Flatten(), nn.Linear(4, 6), LIF(threshold=0.2), nn.Linear(6, 3), LIF(**options))
        found = bounds(
            network(*layers, size=2, features=3, time_steps=4), images(3, (1, 2, 2), seed), attack=Moving(0.5)
        )
        last = only(found, "layers.4")
        assert found.missed() == 0
        if last.mean > 0:
            fired += 1
            assert last.operator.gamma_bias >= last.threshold / 4
            assert last.constant(4) > found.trivial(last)
            assert found.slack(last) > 1
            assert "says nothing about it" in found.answer()
    assert fired >= 10


def test_without_the_bias_in_gamma_the_theorem_is_false():
    """One weight of 0.01 on a bias of 0.995: a spike more or less decides, but γ of W alone allows almost nothing."""
    layers = (nn.Flatten(), linear([[1.0]], [0.0]), LIF(), linear([[0.01]], [0.995]), LIF())
    data = Split(torch.tensor([0.8]).reshape(1, 1, 1, 1), torch.tensor([0]))
    found = bounds(network(*layers, size=1, features=1, time_steps=1), data, attack=Moving(0.2))
    last = only(found, "layers.4")
    assert last.distance == (1.0,)
    assert found.bound(last, with_bias=False)[0] == pytest.approx(0.01**2 + 2 * (0.01 + 0.01**2), rel=1e-4)
    assert (found.missed(with_bias=False), found.missed()) == (1, 0)
    assert "the theorem is wrong for 1 pairs" in found.answer()


def test_a_bound_below_what_any_trains_keep_to_needs_neurons_that_cannot_fire():
    layers = (nn.Flatten(), linear([[1.0]], [0.0]), LIF(), linear([[0.01]], [0.0]), LIF())
    found = bounds(network(*layers, size=1, features=1), images(2, (1, 1, 1)), attack=Moving(0.3))
    assert found.slack(only(found, "layers.4")) < 1
    assert "neurons that cannot fire" in found.answer()


def test_what_is_no_affine_operator_of_one_train_is_said():
    def reason(*layers, **options):
        return only(bounds(network(*layers, **options), images(1), attack=Moving(0.2)), "layers.3").why

    convolution, neurons = nn.Conv2d(1, 2, 3, padding=1), LIF(threshold=0.2)
    assert "not affine" in reason(convolution, neurons, nn.MaxPool2d(2), LIF(), nn.Flatten(), features=32)
    assert "not affine" in reason(convolution, neurons, nn.Tanh(), LIF(), nn.Flatten(), features=128)


def test_the_first_layer_reads_spikes_only_behind_a_poisson_code():
    found = {
        code: only(bounds(small_snn(encoder=code).eval(), images(2), attack=Moving(0.2)), "layers.2")
        for code in ("direct", "phase", "poisson")
    }
    assert [found[code].applies for code in found] == [False, False, True]
    assert all(layer.operator is not None and layer.previous == ("encoded image",) for layer in found.values())
    assert "no train of spikes" in found["direct"].why


def test_learned_weights_of_time_steps_are_no_one_operator():
    model = small_snn(neuron="dlif", time_steps=3).eval()
    model.layers[2].p.data = torch.tensor([1.0, 0.5, 2.0])
    found = bounds(model, images(1), attack=Moving(0.2))
    assert "differ between time steps" in found.layers[0].why
    assert found.layers[0].operator is None
    assert "applies to none" in found.answer()


def test_an_encoder_that_is_not_ours_is_not_known():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.neuron = nn.Linear(4, 3), LIF(threshold=0.2)

        def forward(self, x):
            return self.neuron(torch.stack([self.inner(x.flatten(1))] * 2)).mean(0)

    found = bounds(Own().eval(), images(2, (1, 2, 2)), attack=Moving(0.3))
    assert found.layers[0].previous == ("image",)
    assert "not known" in found.layers[0].why
    assert found.input_distance[0] > 0


@pytest.mark.parametrize("build", [wrn16, spiking_resnet18])
def test_residual_networks_are_measured_and_their_sums_named(build):
    model = build(time_steps=2, image_size=8, in_channels=1, encoder="direct", threshold=0.2).eval()
    found = bounds(model, images(1), attack=Moving(0.2), iterations=2)
    joined = [layer for layer in found.layers if len(layer.previous) > 1]
    assert joined
    assert all("join" in layer.why and layer.operator is None and layer.mean > 0 for layer in joined)
    assert any(layer.applies for layer in found.layers)
    assert Bounds.model_validate_json(found.model_dump_json()) == found


def test_a_trained_network_keeps_every_inequality(trained, digits):
    model = trained.model
    found = bounds(model, digits.test.subset(4), eps=0.2, batch_size=3)
    assert found.missed() == 0
    for layer in found.layers:
        one = layer.operator
        assert 0 < one.seen <= one.sigma * (1 + 1e-5)
        assert one.gamma <= one.gamma_bias + 1e-12
        assert one.gamma <= 2 * one.norm_inf <= 2 * math.sqrt(one.inputs) * one.sigma
        assert all(d == int(d) and d <= found.trivial(layer) for d in layer.distance)
    assert "says nothing about any of them" in found.answer()
    assert "n = 4" in found.conditions()
    assert found.gradients > 0


def test_no_attack_no_distance():
    found = bounds(small_snn(encoder="poisson").eval(), images(2), attack=Moving(0.0))
    assert found.layers[0].distance == (0.0, 0.0)
    assert found.input_distance == (0.0, 0.0)  # the same draws with and without attack
    assert "No spike of any layer differs" in found.answer()


def test_figures_do_not_depend_on_the_batches():
    model, data = InDouble(small_snn()).eval(), images(5)
    whole, parts = (bounds(model, data, eps=0.2, batch_size=size) for size in (5, 2))
    assert whole.layers[0].distance == parts.layers[0].distance
    assert whole.layers[0].operator.sigma == pytest.approx(parts.layers[0].operator.sigma, rel=1e-9)
    assert whole.layers[0].operator.seen == pytest.approx(parts.layers[0].operator.seen, rel=1e-9)


def test_views_show_the_records_figures():
    found = bounds(pencil(), images(2, (1, 2, 2)), attack=Moving(0.3))
    distances, chart, operators = found.views()
    assert isinstance(distances, Table)
    assert [row[0] for row in distances.rows] == [layer.path for layer in found.layers]
    assert distances.rows[1][2] == f"{found.layers[1].mean:.4g}"
    assert isinstance(chart, Chart)
    measured, trivial, bound = chart.lines
    assert measured.y == tuple(layer.mean for layer in found.layers)
    assert trivial.y == (8.0, 4.0)
    assert math.isnan(bound.y[0])
    assert bound.y[1] == pytest.approx(sum(found.bound(found.layers[1])) / 2)
    assert operators.rows[1][5] == "3.5"
    both = Bounds.compared({"a": found, "b": found})
    assert both[1].lines[0].y == tuple(100 * found.share(layer) for layer in found.layers)
    assert Bounds.model_validate_json(found.model_dump_json()) == found


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="expected a network with spiking layers"):
        bounds(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), images(1))
    with pytest.raises(ValueError, match="takes attacks on pixels"):
        bounds(small_snn(), images(1), attack=EncodedPGD(Linf(0.1), 1))
    with pytest.raises(ValueError, match="at least one sample"):
        bounds(small_snn(), images(0), attack=fgsm(Linf(0.1)))
