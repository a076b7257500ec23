"""Terms on membrane potentials: traces on paper, plain loops, SciPy's normal distribution, and what takes gradient."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from tests.defences.plain import (
    CLEAN,
    LEAK,
    MOVED,
    THRESHOLD,
    TwoNeurons,
    at_one_point,
    at_two_points,
    images,
    pixels,
    push,
    seen,
    two_layers,
)
from torch import nn

from robustspike.defences import PotentialPerturbation, SurrogateMass, ThresholdGuard, mppd, perturbation_dynamics, tgo
from robustspike.neurons import DLIF, LIF

pytestmark = pytest.mark.usefixtures("one_thread")
LABEL = torch.tensor([0])


# MPPD


def test_dynamics_by_hand():
    """λ = ½, differences 1, −2, 0, 4: 1; ½ − 2 = −1.5; −0.75; −0.375 + 4 = 3.625."""
    difference = pixels([[1.0], [-2.0], [0.0], [4.0]])
    assert perturbation_dynamics(difference, 0.5).flatten().tolist() == [1, -1.5, -0.75, 3.625]
    assert perturbation_dynamics(difference, 0.0).tolist() == difference.tolist()
    assert perturbation_dynamics(difference, 1.0).flatten().tolist() == [1, -1, -1, 3]


def test_dynamics_is_how_far_apart_two_silent_neurons_are():
    """Below the threshold the potentials of two runs differ by exactly this."""
    currents, moved = (torch.rand(6, 3, 4, dtype=torch.float64) / 9 for _ in range(2))
    neuron = LIF(leak=0.7)
    apart = neuron.potentials(moved) - neuron.potentials(currents)
    torch.testing.assert_close(perturbation_dynamics(moved - currents, 0.7), apart, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("form", "expected"), [("abs", 0.375), ("square", 0.1625)])
def test_perturbation_of_two_neurons_by_hand(form, expected):
    """λ = ½, x = (1, 0.3), x_adv = (0.6, 0.5): d = (−0.4, 0.2) at both steps, ε[1] = d, ε[2] = 1.5·d.

    Mean |ε| = (0.4 + 0.2 + 0.6 + 0.3)/4 = 0.375; mean ε² = (0.16 + 0.04 + 0.36 + 0.09)/4 = 0.1625.
    """
    value = at_two_points(PotentialPerturbation(form), TwoNeurons(leak=0.5), pixels(CLEAN), pixels(MOVED), LABEL)
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_the_objective_of_two_neurons_by_hand():
    """No leak: ε[1] = d, ε[2] = 2·d, mean |ε| = 0.45. Cross-entropies −ln σ(2) at x and ln 2 at x_adv."""
    model, x = TwoNeurons(), pixels(CLEAN)
    loss = mppd(lambda model, x, y: pixels(MOVED), weight=2.0, mix=0.25)(model, x, LABEL).item()
    assert loss == pytest.approx(0.25 * math.log(1 + math.exp(-2)) + 0.75 * math.log(2) + 2 * 0.45)


def test_learned_weights_of_the_steps_count():
    """DLIF with p = (2, 0.5) and λ = ½: ε[1] = 2·d, ε[2] = 2·d/2 + 0.5·d = 1.5·d; mean |ε| = 3.5/2 · mean |d|."""
    model = TwoNeurons()
    model.neuron = DLIF(2, LIF(leak=0.5)).double()
    model.neuron.p.data = pixels([2.0, 0.5])
    value = at_two_points(PotentialPerturbation(), model, pixels(CLEAN), pixels(MOVED), LABEL)
    assert value.item() == pytest.approx(3.5 / 2 * 0.3)
    value.backward()
    assert model.neuron.p.grad.abs().min() > 0


def test_only_the_last_spiking_layer_counts_and_only_the_moved_images_take_gradient():
    model, (x, y) = two_layers(), images()
    model.eval()
    x_adv = push(model, x, y)
    got = at_two_points(PotentialPerturbation("square"), model, x, x_adv, y)
    still, moved = seen(model, x).currents[1], seen(model, x_adv).currents[1]

    def by_loops(still, moved):
        error, total = 0, 0
        for a, b in zip(still, moved, strict=True):
            error = LEAK * error + b - a
            total = total + error.square().sum()
        return total / (len(still) * still[0].numel())

    expected = by_loops([s.detach() for s in still], moved)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=0)
    weight = model.layers[5].weight
    (gradient,) = torch.autograd.grad(got, weight, retain_graph=True)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, weight, retain_graph=True)[0])
    (both,) = torch.autograd.grad(by_loops(still, moved), weight)
    assert not torch.allclose(gradient, both, rtol=0.01)


# MPD-SGR


def phi(z):
    return 0.5 * (1 + math.erf(z / math.sqrt(2)))


def test_mass_of_two_neurons_by_hand():
    """One step, two images, θ = 1, γ = 1. Neuron 1 has u = 0.5 and 1.5: μ = 1, σ = ½, Ω = Φ(2) − Φ(−2) = 0.9545.

    Neuron 2 has u = 0 and 1: μ = σ = ½, Ω = Φ((2 − ½)/½) − Φ((0 − ½)/½) = Φ(3) − Φ(−1) = 0.8400.
    """
    model = TwoNeurons(time_steps=1)
    value = at_one_point(SurrogateMass(1.0), model, pixels([[0.5, 0.0], [1.5, 1.0]]), torch.tensor([0, 1]))
    assert value.item() == pytest.approx((phi(2) - phi(-2) + phi(3) - phi(-1)) / 2, abs=1e-7)
    assert value.item() == pytest.approx((0.9545 + 0.8400) / 2, abs=1e-4)


@pytest.mark.parametrize("width", [0.2, 1.0])
def test_mass_by_scipy_for_every_layer_channel_and_step(width):
    """A convolution's channel is a population over samples and places, a linear layer's neuron one over samples."""
    model, (x, y) = two_layers(), images(8)
    layers = []
    for potentials in seen(model, x).potentials:
        masses = []
        for u in potentials:
            for channel in u.detach().numpy().swapaxes(0, 1):
                normal = scipy.stats.norm(channel.mean(), math.sqrt(channel.var() + 1e-8))
                masses.append(normal.cdf(THRESHOLD + width) - normal.cdf(THRESHOLD - width))
        layers.append(np.mean(masses))
    assert len(layers) == 2
    got = at_one_point(SurrogateMass(width), model, x, y).item()
    assert got == pytest.approx(np.mean(layers), rel=1e-9)
    assert 0 < got < 1


def test_mass_is_the_share_of_normal_potentials_within_the_surrogate():
    """With 40 000 samples drawn from a normal distribution, the mass is the share that is counted."""
    u = 0.7 + 0.6 * torch.randn(40_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = TwoNeurons(time_steps=1)
    value = at_one_point(SurrogateMass(0.5), model, u, torch.zeros(len(u), dtype=torch.int64)).item()
    assert value == pytest.approx(((u - 1).abs() < 0.5).double().mean().item(), abs=0.01)


def test_a_wider_surrogate_has_more_mass_and_a_very_wide_one_all():
    model, (x, y) = two_layers(), images()
    values = [at_one_point(SurrogateMass(width), model, x, y).item() for width in (0.01, 0.1, 1.0, 100.0)]
    assert values == sorted(values)
    assert values[0] < 0.1
    assert values[-1] == pytest.approx(1)


def test_one_image_and_constant_potentials_give_finite_gradients():
    model = nn.Sequential(nn.Linear(2, 2).double(), TwoNeurons())
    value = at_one_point(SurrogateMass(), model, pixels(CLEAN), LABEL)
    assert 0 <= value.item() <= 1
    value.backward()
    assert model[0].weight.grad.isfinite().all()


# TGO


def test_guard_on_a_trace_by_hand():
    """θ = 1, no leak, x = (0.6, 0.5), δ = ½: u = (0.6, 1.2) and (0.5, 1.0); |u − θ| = 0.4, 0.2, 0.5, 0.

    0.1 + 0.3 + 0 + 0.5 = 0.9 over 4 potentials: 0.225.
    """
    value = at_one_point(ThresholdGuard(0.5), TwoNeurons(), pixels(MOVED), LABEL)
    assert value.item() == pytest.approx(0.225, rel=1e-12)
    loss = tgo(weight=0.4, margin=0.5)(TwoNeurons(), pixels(MOVED), LABEL).item()
    assert loss == pytest.approx(math.log(2) + 0.4 * 0.225)


def test_after_a_spike_the_trace_starts_from_zero():
    """x = (1, 0.3): u = (1, 1) as it fires at once and is reset, and (0.3, 0.6). δ = ½: ½ + ½ + 0 + 0.1 over 4."""
    value = at_one_point(ThresholdGuard(0.5), TwoNeurons(), pixels(CLEAN), LABEL)
    assert value.item() == pytest.approx(1.1 / 4, rel=1e-12)


@pytest.mark.parametrize("margin", [0.1, 0.7])
def test_guard_by_loops_sums_the_layers(margin):
    model, (x, y) = two_layers(), images()
    layers = [
        np.mean([max(0.0, margin - abs(value - THRESHOLD)) for step in potentials for value in step.flatten().tolist()])
        for potentials in seen(model, x).potentials
    ]
    assert at_one_point(ThresholdGuard(margin), model, x, y).item() == pytest.approx(sum(layers), rel=1e-9)


def test_the_guard_pushes_potentials_away_from_the_threshold():
    """u = 0.8 and 1.2 around θ = 1, δ = ½: a step against the gradient makes one smaller and the other larger."""
    model = TwoNeurons(time_steps=1)
    x = pixels([[0.8, 1.2]])
    leaf = nn.Parameter(x.clone())
    value = at_one_point(ThresholdGuard(0.5), nn.Sequential(Added(leaf - x), model), x, LABEL)
    value.backward()
    assert leaf.grad.tolist() == [[0.5, -0.5]]


class Added(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, x):
        return x + self.what


# What is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PotentialPerturbation("cube"), '^penalty must be "abs" or "square", got \'cube\''),
        (lambda: SurrogateMass(0), "^width must be positive, in units of the potential, got 0"),
        (lambda: SurrogateMass(math.nan), "^width must be positive, in units of the potential, got nan"),
        (lambda: ThresholdGuard(-1), "^margin must be positive, in units of the potential, got -1"),
        (lambda: mppd(push, mix=1.5), r"^mix must lie in \[0, 1\], the share of the clean cross-entropy, got 1.5"),
        (lambda: mppd(push, mix=math.nan), r"^mix must lie in \[0, 1\]"),
        (lambda: mppd(push, penalty="tv"), '^penalty must be "abs" or "square", got \'tv\''),
    ],
)
def test_unfit_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("term", [PotentialPerturbation(), SurrogateMass(), ThresholdGuard()], ids=repr)
def test_a_network_without_spiking_layers_is_refused(term):
    model, x = nn.Linear(2, 2), torch.rand(3, 2)
    with pytest.raises(
        ValueError, match="^found no spiking layer in Linear; objectives on membrane potentials need one"
    ):
        at_two_points(term, model, x, x, torch.tensor([0, 1, 0]))
