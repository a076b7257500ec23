"""HART, PDSG and ASSG: hand values, quadrature, independence of samples, and what an attack's memory holds."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate
from tests.conftest import small_snn

from robustspike.gradients import ASSG, BPTT, HART, PDSG, Memory, estimating, input_gradient
from robustspike.gradients.adaptive import _UNITS
from robustspike.neurons import LIF
from robustspike.surrogates import Gaussian, Triangle

SHAPES = pytest.mark.parametrize("shape", _UNITS)


def gradient(estimator, currents, weights, **neuron):
    currents = currents.clone().requires_grad_()
    (estimator(LIF(**neuron), currents) * weights).sum().backward()
    return currents.grad


def test_hart_by_hand():
    currents = torch.tensor([0.6, 0.8, 0.1], dtype=torch.float64).reshape(3, 1, 1)
    weights = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64).reshape(3, 1, 1)
    # u = 0.6, 1.4 (spike, back to 0), 0.1; triangle(1): 0.6, 0.6, 0.1
    mean = (1 * 0.6 + 2 * 0.6 + 4 * 0.1) / 3
    torch.testing.assert_close(
        gradient(HART(), currents, weights).flatten(), torch.full((3,), mean, dtype=torch.float64)
    )


def test_hart_has_no_path_between_steps():
    currents = torch.rand(4, 2, 3, dtype=torch.float64)
    only_last = torch.zeros(4, 1, 1, dtype=torch.float64)
    only_last[3] = 1
    d = LIF().potentials(currents) - 1
    expected = (Triangle(2.0).slope(d)[3] / 4).expand(4, 2, 3)
    torch.testing.assert_close(gradient(HART(2.0), currents, only_last), expected)


def test_pdsg_by_hand():
    # One channel with two places, two steps, no spikes (threshold 10): u = (1, 3) then (2, 6) under IF.
    currents = torch.tensor([[1.0, 3.0], [1.0, 3.0]], dtype=torch.float64).reshape(2, 1, 1, 2)
    u = LIF(threshold=10.0).potentials(currents)
    first, both = np.std([1, 3]), np.std([1, 3, 2, 6])
    sigma = PDSG().sigma(u)
    assert sigma.shape == (2, 1, 1, 1)
    np.testing.assert_allclose(sigma.flatten(), [first, both])
    slopes = [math.exp(-0.5 * ((v - 10 - s / 2) / s) ** 2) / (s * math.sqrt(2 * math.pi))
              for v, s in [(1, first), (3, first), (2, both), (6, both)]]  # fmt: skip
    weights = torch.tensor([0.0, 1.0], dtype=torch.float64).reshape(2, 1, 1, 1)
    found = gradient(PDSG(), currents, weights, threshold=10.0, detach_reset=True)
    np.testing.assert_allclose(found[1].flatten(), slopes[2:])  # the last step has no later path


def test_pdsg_takes_sigma_over_a_sample_never_over_the_batch():
    u = torch.randn(3, 5, 4, 6, 6, dtype=torch.float64)
    whole = PDSG().sigma(u)
    for i in range(5):
        torch.testing.assert_close(PDSG().sigma(u[:, i : i + 1]), whole[:, i : i + 1])
    expected = u[:2, 1, 2].std(correction=0)
    torch.testing.assert_close(whole[1, 1, 2].squeeze(), expected)


def test_pdsg_of_constant_potentials_takes_sigma_one():
    assert torch.equal(PDSG().sigma(torch.full((2, 1, 3), 0.7)), torch.ones(2, 1, 1))


def test_assg_on_a_sequence_by_hand():
    assg, kept = ASSG(0.85), None
    omega = 2 * math.tan(math.pi * 0.85 / 2) / math.pi
    M, D = 1.0, 0.0
    for distance in (0.5, 2.0, 0.25, 0.0):
        alpha, *kept = assg.sharpness(torch.tensor([[distance]], dtype=torch.float64), kept)
        M = 0.9 * M + 0.1 * distance
        D = 0.9 * D + 0.1 * abs(distance - M)
        assert kept[0].item() == pytest.approx(M, abs=1e-14)
        assert kept[1].item() == pytest.approx(D, abs=1e-14)
        assert alpha.item() == pytest.approx(omega / (M + 1.5 * D + 1e-4), abs=1e-14)
    assert pytest.approx(0.9**4 + 0.1 * (0.5 * 0.9**3 + 2 * 0.9**2 + 0.25 * 0.9)) == M


def test_assg_first_update_by_hand():
    alpha, M, D = ASSG(0.85).sharpness(torch.tensor([0.5]), None)
    assert M.item() == pytest.approx(0.95)
    assert D.item() == pytest.approx(0.045)  # 0.1·|0.5 − 0.95|
    assert alpha.item() == pytest.approx(2.6519 / (0.95 + 1.5 * 0.045 + 1e-4), rel=1e-4)


@SHAPES
@pytest.mark.parametrize("degree", [0.3, 0.85, 0.87, 0.99])
def test_omega_against_quadrature(shape, degree):
    unit = _UNITS[shape][0]
    omega = ASSG(degree, shape).omega
    density = lambda s: unit.slope(torch.tensor([s], dtype=torch.float64)).item()  # noqa: E731
    share, _ = integrate.quad(density, -omega, omega, points=[0.0], limit=200)
    assert share == pytest.approx(degree, abs=1e-8)


@SHAPES
def test_every_shape_has_mass_one(shape):
    density = lambda s: _UNITS[shape][0].slope(torch.tensor([s], dtype=torch.float64)).item()  # noqa: E731
    assert 2 * integrate.quad(density, 0, np.inf, limit=500)[0] == pytest.approx(1, abs=1e-3)


def test_the_papers_sharpness():
    assert ASSG(0.85).omega == pytest.approx(2.652, abs=5e-4)  # a = 0.425 in the authors' code
    assert ASSG(0.87).omega == pytest.approx(3.074, abs=5e-4)  # a = 0.435


@SHAPES
def test_the_vanishing_degree_stays_below_its_aim(shape):
    generator = torch.Generator().manual_seed(0)
    assg, kept, degrees = ASSG(0.85, shape), None, []
    scale = torch.rand(200, generator=generator, dtype=torch.float64) * 3
    grid = torch.linspace(-1, 1, 401, dtype=torch.float64)
    for k in range(400):
        d = scale * torch.randn(200, generator=generator, dtype=torch.float64).abs()
        alpha, *kept = assg.sharpness(d, kept)
        if k >= 300:
            reach = (alpha * d)[:, None] * grid
            degrees.append(torch.trapezoid(_UNITS[shape][0].slope(reach), reach, dim=1))
    assert torch.stack(degrees).mean() < 0.85


def test_assg_gradient_is_that_of_an_arctan_of_each_elements_sharpness():
    currents = torch.randn(3, 2, 4, dtype=torch.float64)
    neuron, memory = LIF(leak=0.7), Memory()
    for _ in range(3):
        memory.begin()
        at = currents.clone().requires_grad_()
        ASSG()(neuron, at, memory).sum().backward()
    d = neuron.potentials(currents) - 1
    M, D = torch.ones_like(d), torch.zeros_like(d)
    for _ in range(3):
        M = 0.9 * M + 0.1 * d.abs()
        D = 0.9 * D + 0.1 * (d.abs() - M).abs()
    alpha = ASSG().omega / (M + 1.5 * D + 1e-4)
    slopes = alpha / 2 / (1 + (math.pi / 2 * alpha * d) ** 2)
    by_hand = currents.clone().requires_grad_()
    neuron.fire(by_hand, slopes=slopes, detach_reset=True).sum().backward()
    torch.testing.assert_close(at.grad, by_hand.grad)


def test_memory_follows_the_samples_that_stay():
    memory, layer = Memory(), LIF()
    memory.begin()
    memory.store(memory.place(layer), torch.arange(6.0).reshape(2, 3))
    memory.keep(torch.tensor([True, False, True]))
    memory.begin()
    (kept,) = memory.recall(memory.place(layer))
    assert kept.tolist() == [[0.0, 2.0], [3.0, 5.0]]
    assert memory.recall(memory.place(layer)) is None  # the second call of the layer in one pass has its own


def test_memory_learns_from_the_first_draw_only():
    memory, layer = Memory(), LIF()
    memory.begin()
    memory.store(memory.place(layer), torch.zeros(1))
    memory.begin(learning=False)
    memory.store(memory.place(layer), torch.ones(1))
    memory.begin()
    assert memory.recall(memory.place(layer))[0].item() == 0


def test_outside_an_attack_assg_starts_anew():
    model, x, y = small_snn().double().eval(), torch.rand(3, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2])
    first = input_gradient(model, x, y, ASSG())
    with estimating(model, ASSG()):
        model(torch.rand_like(x))
    assert torch.equal(input_gradient(model, x, y, ASSG()), first)


@pytest.mark.parametrize("estimator", [HART(), PDSG(), ASSG(), ASSG(shape="triangle")], ids=str)
@pytest.mark.parametrize("encoder", ["direct", "poisson", "phase"])
def test_logits_stay_those_of_the_network_bit_for_bit(estimator, encoder):
    model, x = small_snn(encoder=encoder).eval(), torch.rand(4, 1, 8, 8)
    torch.manual_seed(1)
    plain = model(x)
    torch.manual_seed(1)
    with estimating(model, estimator):
        assert torch.equal(model(x), plain)


@pytest.mark.parametrize("estimator", [HART(), PDSG(), ASSG()], ids=str)
def test_a_samples_gradient_does_not_depend_on_its_batch(estimator):
    model, x, y = small_snn().double().eval(), torch.rand(8, 1, 8, 8, dtype=torch.float64), torch.arange(8) % 4
    whole = input_gradient(model, x, y, estimator)
    assert whole.abs().sum() > 0
    for part in [torch.tensor([i]) for i in range(8)] + list(torch.arange(8).split(2)):
        torch.testing.assert_close(input_gradient(model, x[part], y[part], estimator), whole[part], rtol=0, atol=1e-12)


def test_pdsg_tends_to_a_fixed_gaussian_where_sigma_is_one():
    currents = torch.zeros(1, 1, 3, dtype=torch.float64)  # constant potentials: σ := 1
    found = gradient(PDSG(), currents, torch.ones(1, 1, 1, dtype=torch.float64))
    torch.testing.assert_close(found, Gaussian(1.0).slope(currents - 1 - 0.5))


@pytest.mark.parametrize("options", [{"degree": 0.0}, {"degree": 1.0}, {"shape": "square"}, {"decay": 1.0}])
def test_unfit_settings_are_refused(options):
    with pytest.raises(ValueError, match="must"):
        ASSG(**options)


def test_bptt_is_untouched_by_a_memory():
    model, x = small_snn().double().eval(), torch.rand(2, 1, 8, 8, dtype=torch.float64)
    with estimating(model, BPTT(Triangle(0.5)), Memory()):
        (with_memory,) = torch.autograd.grad(model(at := x.clone().requires_grad_()).sum(), at)
    with estimating(model, BPTT(Triangle(0.5))):
        (without,) = torch.autograd.grad(model(at := x.clone().requires_grad_()).sum(), at)
    assert torch.equal(with_memory, without)
