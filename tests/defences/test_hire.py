"""HIRE-SNN's noise: two neurons on paper, the images of each period, limits, and what it needs of a model."""

import math

import pytest
import torch
from tests.conftest import record_of, small_snn
from tests.defences.plain import TwoNeurons, at_one_point, images, two_layers
from torch import nn

from robustspike.defences import CraftedNoise, hire, vanilla
from robustspike.draws import Draws

pytestmark = pytest.mark.usefixtures("one_thread")


class Framed(TwoNeurons):
    """Two neurons whose encoder may be replaced, as that of the package's networks."""


def periods_of(model):
    """What the encoder is given, period by period."""
    given = []
    model.encoder.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0].detach().clone()))
    return given


def test_two_neurons_and_two_periods_by_hand():
    """x = (0.6, 0.5), label 0, T = 2 in 2 periods, ε = 0.25.

    Period 1: u = (0.6, 0.5), no spike, logits (0, 0): CE₁ = ln 2. The slopes of both spikes are positive, so CE₁ falls with
    x₁ and rises with x₂: δ = (−0.25, 0.25). Period 2 sees (0.35, 0.75): u[2] = (0.95, 1.25), rates (0, ½), logits (0, 1):
    CE₂ = ln(1 + e).
    """
    x, y = torch.tensor([[0.6, 0.5]], dtype=torch.float64), torch.tensor([0])
    model = Framed()
    given = periods_of(model)
    loss = hire(0.25, periods=2)(model, x, y)
    assert loss.item() == pytest.approx((math.log(2) + math.log(1 + math.e)) / 2, rel=1e-12)
    assert [g[0].tolist() for g in given] == [[0.6, 0.5], pytest.approx([0.35, 0.75])]


def test_noise_adds_up_within_eps_and_images_stay_in_the_box():
    model = small_snn(time_steps=4).double().eval()
    x, y = 0.2 + 0.6 * torch.rand(6, 1, 8, 8, dtype=torch.float64), torch.arange(6) % 4
    x[0], x[1] = 0, 1
    given = periods_of(model)
    hire(0.1, periods=4)(model, x, y)
    assert len(given) == 4
    assert torch.equal(given[0], x)
    for seen in given[1:]:
        # δ is a sum of −ε, 0 and ε cut at ε: nothing between is left, but for pixels cut by the box
        assert set((seen - x)[2:].flatten().div(0.1).round(decimals=9).tolist()) <= {-1.0, 0.0, 1.0}
        assert 0 <= seen.min() <= seen.max() <= 1
    assert not torch.equal(given[1], given[0])
    assert not torch.equal(given[2], given[1])


def gradients(objective, model, x, y, **options):
    model.zero_grad()
    loss = objective(model, x, y, **options)
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters())]


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("encoder", ["direct", "poisson", "phase", "frames"])
def test_one_period_is_vanilla_bit_for_bit(encoder, mode):
    make = lambda: getattr(small_snn(time_steps=4, encoder=encoder), mode)()  # noqa: E731
    x = torch.rand(5, *[4] * (encoder == "frames"), 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y, draws = torch.arange(5) % 4, Draws.of(0, torch.arange(5))
    got = gradients(hire(0.1, periods=1), make(), x, y, draws=draws)
    expected = gradients(vanilla(), make(), x, y, draws=draws)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_without_noise_it_is_the_mean_cross_entropy_after_each_period():
    model, (x, y) = two_layers().eval(), images()
    half, whole = (shortened(steps) for steps in (2, 4))
    expected = (vanilla()(half, x, y) + vanilla()(whole, x, y)) / 2
    torch.testing.assert_close(hire(0, periods=2)(model, x, y), expected, rtol=1e-12, atol=0)


def shortened(steps):
    model = two_layers().eval()
    model.encoder.time_steps = steps
    return model


def test_event_frames_have_no_next_image_to_craft_noise_for():
    model, x = small_snn(time_steps=4, encoder="frames"), torch.rand(2, 4, 1, 8, 8)
    with pytest.raises(
        ValueError, match="^event frames differ from step to step, so noise crafted on those of one period"
    ):
        hire(periods=2)(model, x, torch.tensor([0, 1]))


def test_the_encoder_is_back_afterwards_also_where_the_network_fails():
    model, (x, y) = small_snn(time_steps=4).eval(), (torch.rand(3, 1, 8, 8), torch.arange(3))
    before, encoder = record_of(model), model.encoder
    hire(0.1)(model, x, y)
    assert model.encoder is encoder
    assert record_of(model) == before
    with pytest.raises(ValueError, match="takes inputs"):
        hire(0.1)(model, torch.rand(3, 1, 7, 7), y)
    assert model.encoder is encoder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": -0.1}, "^eps must be ≥ 0, in pixel units, got -0.1"),
        ({"eps": math.nan}, "^eps must be ≥ 0, in pixel units, got nan"),
        ({"periods": 0}, "^periods must be ≥ 1, got 0"),
    ],
)
def test_unfit_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        hire(**options)


def test_periods_that_do_not_divide_the_steps_are_refused():
    with pytest.raises(ValueError, match="^3 periods must divide the 4 time steps; choose another number"):
        hire(periods=3)(small_snn(time_steps=4), torch.rand(2, 1, 8, 8), torch.tensor([0, 1]))


def test_a_model_without_an_encoder_is_refused():
    with pytest.raises(ValueError, match="^noise for each period needs a model with a module `encoder`.*got Linear"):
        at_one_point(CraftedNoise(), nn.Linear(2, 2), torch.rand(1, 2), torch.tensor([0]))


def test_weights_of_single_steps_do_not_fit_a_part_of_them():
    """DLIF neurons have a weight for each of T steps; the first period has fewer."""
    with pytest.raises(ValueError, match="DLIF neurons take all their time steps at once"):
        hire()(small_snn(time_steps=4, neuron="dlif"), torch.rand(2, 1, 8, 8), torch.tensor([0, 1]))
