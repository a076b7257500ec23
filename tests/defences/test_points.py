"""Where terms are taken: random streams of the samples, mini-batches in parts, estimators in force, points passed once."""

import pytest
import torch
from tests.conftest import small_snn
from tests.defences.plain import Constant, images, passes, push, two_layers
from torch import nn

from robustspike.attacks import PGD, FromClean, fgsm, rfgsm
from robustspike.balls import Linf
from robustspike.defences import (
    Divergence,
    Mixed,
    Noisy,
    Objective,
    Part,
    Point,
    alp,
    at,
    clp,
    hire,
    mart,
    mpd_sgr,
    mppd,
    sr,
    sr_star,
    tgo,
    trades,
    vanilla,
)
from robustspike.draws import Draws, sampling, uniform_per_step
from robustspike.gradients import BPTR, RGA, estimating

pytestmark = pytest.mark.usefixtures("one_thread")


def gradients(objective, model, x, y, **options):
    model.zero_grad()
    loss = objective(model, x, y, **options)
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


# Random numbers


RANDOM = {
    "AT, random start": at(PGD(Linf(0.1), steps=2)),
    "AT, R-FGSM": at(rfgsm(Linf(0.1))),
    "AT, mixed per sample": at(Mixed((PGD(Linf(0.1), steps=1), fgsm(Linf(0.2), BPTR())), per="sample")),
    "noise": at(Noisy(0.1)),
    "SR": sr(0.5),
    "SR*": sr_star(PGD(Linf(0.1), steps=2), 0.5),
    "TRADES": trades(PGD(Linf(0.1), steps=2, loss=FromClean())),
    "MART": mart(PGD(Linf(0.1), steps=2)),
    "ALP": alp(PGD(Linf(0.1), steps=2)),
    "HIRE": hire(0.1),
    "MPPD": mppd(PGD(Linf(0.1), steps=2)),
    "TGO": tgo(0.4),
}


@pytest.mark.parametrize("encoder", ["direct", "poisson"])
@pytest.mark.parametrize("name", RANDOM)
def test_a_batch_in_two_parts_gives_the_same_gradient(name, encoder):
    """Each part weighted by its share of the samples, in evaluation mode: the random numbers belong to the samples."""
    model = small_snn(encoder=encoder).double().eval()
    x, y = torch.rand(6, 1, 8, 8, dtype=torch.float64), torch.arange(6) % 4
    draws = Draws.of(7, torch.arange(6))
    torch.manual_seed(1)
    whole = gradients(RANDOM[name], model, x, y, draws=draws)
    parts = [torch.tensor([4, 1]), torch.tensor([0, 2, 3, 5])]
    each = [gradients(RANDOM[name], model, x[k], y[k], draws=draws[k]) for k in parts]
    for value, small, large in zip(whole, *each, strict=True):
        torch.testing.assert_close((2 * small + 4 * large) / 6, value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("encoder", ["direct", "poisson"])
def test_the_same_streams_give_the_same_loss_and_others_another(encoder):
    model = small_snn(encoder=encoder).eval()
    x, y = torch.rand(6, 1, 8, 8), torch.arange(6) % 4
    objective = trades(PGD(Linf(0.1), steps=2, loss=FromClean()))
    draws = Draws.of(0, torch.arange(6))
    losses = [objective(model, x, y, draws=d).item() for d in (draws, draws, Draws.of(1, torch.arange(6)))]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("encoder", ["direct", "poisson"])
def test_without_streams_the_global_generator_decides(encoder):
    model = small_snn(encoder=encoder).eval()
    x, y = torch.rand(6, 1, 8, 8), torch.arange(6) % 4
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(at(PGD(Linf(0.1), steps=2))(model, x, y).item())
    assert losses[0] == losses[1] != losses[2]


def test_parts_with_different_attacks_draw_different_numbers():
    batches = []
    parts = (Part(Constant(1.0, batches), attack=Noisy(0.1)), Part(Constant(1.0, batches), attack=Noisy(0.11)))
    x, y = torch.full((3, 4), 0.5), torch.zeros(3, dtype=torch.int64)
    Objective("mine", parts)(nn.Flatten(), x, y, draws=Draws.of(0, torch.arange(3)))
    first, second = ((batch.point.x - x) / scale for batch, scale in zip(batches, (0.1, 0.11), strict=True))
    assert (first - second).abs().min() > 1e-4


class Shaky(nn.Module):
    """Noise on the logits from the streams in force; whether it says so is up to ``stochastic``."""

    def __init__(self, declares):
        super().__init__()
        if declares:
            self.stochastic = True

    def forward(self, x):
        return x + 0.1 * uniform_per_step(x.detach(), 1)[0]


@pytest.mark.parametrize("declares", [True, False])
def test_a_model_draws_from_its_samples_streams_also_where_it_does_not_declare_itself(declares):
    x, y, draws = torch.rand(4, 3), torch.zeros(4, dtype=torch.int64), Draws.of(0, torch.arange(4))
    losses = {vanilla()(Shaky(declares), x, y, draws=draws).item() for _ in range(3)}
    assert len(losses) == 1


def test_all_points_of_a_stochastic_model_share_their_numbers():
    """Else TRADES would pay for the noise alone, where the images do not move at all."""
    x, y = torch.rand(4, 3), torch.zeros(4, dtype=torch.int64)
    still = Objective("mine", (Part(Divergence(), attack=lambda model, x, y: x.clone()),))
    assert still(Shaky(True), x, y).item() == 0
    assert still(Shaky(True), x, y, draws=Draws.of(0, torch.arange(4))).item() == 0
    assert still(Shaky(False), x, y).item() != 0  # not declared and without streams


def test_streams_of_the_caller_are_back_afterwards():
    x, y, outer = torch.rand(4, 3), torch.zeros(4, dtype=torch.int64), Draws.of(5, torch.arange(4))
    with sampling(outer):
        before = uniform_per_step(x, 1)
        at(Noisy(0.1))(Shaky(True), x, y, draws=Draws.of(0, torch.arange(4)))
        assert torch.equal(uniform_per_step(x, 1), before)


# Estimators in force


@pytest.mark.parametrize("objective", [tgo(0.4), mpd_sgr(0.3), mppd(push)], ids=lambda o: o.name)
def test_within_an_estimator_the_loss_is_the_same_and_its_gradient_the_estimators(objective):
    (x, y), own = images(), two_layers().eval()
    plain = gradients(objective, own, x, y)
    with estimating(own, RGA()):
        seen = gradients(objective, own, x, y)
        cross_entropy = gradients(vanilla(), own, x, y)
    assert torch.equal(plain[0], seen[0])
    assert not torch.allclose(plain[1], seen[1], rtol=0.01)
    assert not torch.allclose(cross_entropy[1], seen[1], rtol=0.01)
    assert all(torch.equal(a, b) for a, b in zip(gradients(objective, own, x, y), plain, strict=True))


# Points


def test_a_point_is_passed_when_it_is_first_asked_for_and_only_once():
    model, (x, _) = two_layers().eval(), images()
    seen = passes(model)
    point = Point(model, x, records=True)
    assert seen == []
    point.logits, point.layers, point.potentials, point.logits  # noqa: B018
    assert len(seen) == 1
    assert [tuple(currents.shape) for _, currents in point.layers] == [(4, 6, 3, 4, 4), (4, 6, 5)]
    assert [layer for layer, _ in point.layers] == [model.layers[2], model.layers[6]]


def test_a_point_that_does_not_record_has_no_layers():
    model, (x, _) = two_layers().eval(), images()
    with pytest.raises(ValueError, match="^found no spiking layer"):
        Point(model, x).layers  # noqa: B018


def test_logits_are_float32_or_wider():
    model = nn.Flatten()
    for dtype, wanted in ((torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64,) * 2):
        assert Point(model, torch.rand(2, 3).to(dtype)).logits.dtype == wanted


def test_noise_of_clean_logit_pairing_is_one_draw_for_both_terms():
    objective = clp(0.5, noise=0.1)
    batches = []
    parts = tuple(Part(Constant(1.0, batches), part.weight, part.attack) for part in objective.parts)
    x, y = torch.full((4, 3), 0.5), torch.zeros(4, dtype=torch.int64)
    Objective("mine", parts)(nn.Flatten(), x, y)
    assert batches[0].point is batches[1].point
    assert not torch.equal(batches[0].point.x, x)
