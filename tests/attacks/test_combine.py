"""Noise, the worst case over several attacks, transfer, and the published suites."""

import math

import pytest
import torch
from tests.conftest import small_snn
from torch import nn

from robustspike.attacks import (
    PGD,
    EncodedPGD,
    GaussianNoise,
    Transfer,
    UniformNoise,
    WorstOf,
    fgsm,
)
from robustspike.attacks.attempt import Attempt
from robustspike.balls import L2, Linf
from robustspike.draws import Draws, uniform_per_step
from robustspike.gradients import BPTR, BPTT, CBA, RGA

pytestmark = pytest.mark.usefixtures("one_thread")


def streams(n, seed=0):
    return Draws.of(seed, torch.arange(n))


def threshold_model():
    """Class 1 where the pixel is 0.6 or more, by a margin."""
    model = nn.Linear(1, 2).double()
    model.weight.data = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    model.bias.data = torch.tensor([0.6, 0.0], dtype=torch.float64)
    return model


def errs(model, x, y):
    with torch.no_grad():
        return model(x).argmax(1) != y


def half(n):
    return torch.full((n, 1), 0.5, dtype=torch.float64), torch.zeros(n, dtype=torch.int64)


# Noise


def test_uniform_noise_is_uniform_on_the_interval():
    x, y = half(4000)
    offset = (UniformNoise(Linf(0.2))(threshold_model(), x, y, streams(4000)) - x).flatten()
    assert offset.abs().max() <= 0.2
    assert offset.mean().item() == pytest.approx(0, abs=0.006)
    assert offset.std().item() == pytest.approx(0.2 / math.sqrt(3), rel=0.03)


def test_gaussian_noise_has_deviation_eps_and_is_cut_at_the_ball():
    x, y = half(4000)
    offset = (GaussianNoise(Linf(0.2))(threshold_model(), x, y, streams(4000)) - x).flatten()
    inside = offset.abs() < 0.2 - 1e-9
    assert inside.double().mean().item() == pytest.approx(math.erf(1 / math.sqrt(2)), abs=0.025)  # 68 % within one σ
    below_half = (offset.abs() < 0.1).double().mean().item()
    assert below_half == pytest.approx(math.erf(0.5 / math.sqrt(2)), abs=0.025)


@pytest.mark.parametrize("noise", [UniformNoise, GaussianNoise])
def test_more_tries_stop_at_the_first_error_and_spend_no_gradient(noise):
    x, y = half(300)
    model = threshold_model()
    one, many = (noise(Linf(0.2), tries).run(model, x, y, streams(300)) for tries in (1, 6))
    broken = errs(model, one.x_adv, y)
    assert 0 < broken.sum() < 300
    assert torch.equal(many.x_adv[broken], one.x_adv[broken])
    assert (many.restart[broken] == 0).all()
    assert (many.restart[~broken] > 0).all()
    assert errs(model, many.x_adv[many.restart < 5], y[many.restart < 5]).all()
    assert errs(model, many.x_adv, y).sum() > broken.sum()
    assert many.gradients.sum() == many.zero.sum() == many.nan.sum() == 0


@pytest.mark.parametrize(("noise", "name"), [(UniformNoise, "uniform noise"), (GaussianNoise, "Gaussian noise")])
def test_names_of_noise(noise, name):
    assert noise(Linf(0.1)).name == name
    assert noise(Linf(0.1), 3).name == f"{name} ×3"


@pytest.mark.parametrize("noise", [UniformNoise, GaussianNoise])
def test_fewer_than_one_try_is_refused(noise):
    with pytest.raises(ValueError, match="tries must be ≥ 1"):
        noise(Linf(0.1), tries=0)


# The worst case


class Shift:
    """Adds a constant; notes the samples that it was run on."""

    def __init__(self, by, gradients=1):
        self.by, self.gradients, self.seen, self.name = by, gradients, [], f"shift by {by}"

    def run(self, model, x, y, draws=None):
        self.seen.append((x.flatten().tolist(), y.tolist(), draws.keys.tolist()))
        attempt = Attempt.begin((x + self.by).clamp(0, 1))
        attempt.gradients += self.gradients
        return attempt


def test_members_run_only_on_the_survivors_of_earlier_ones():
    x = torch.tensor([[0.55], [0.45], [0.1], [0.7]], dtype=torch.float64)
    y, draws = torch.zeros(4, dtype=torch.int64), streams(4)
    first, second, third = Shift(0.1, 1), Shift(0.2, 10), Shift(0.3, 100)
    attempt = WorstOf((first, second, third)).run(threshold_model(), x, y, draws)
    assert [s for member in (first, second, third) for s in member.seen] == [
        ([0.55, 0.45, 0.1, 0.7], [0] * 4, draws.fork(0).keys.tolist()),
        ([0.45, 0.1], [0] * 2, draws.fork(1).keys[1:3].tolist()),
        ([0.1], [0], draws.fork(2).keys[2:3].tolist()),
    ]
    assert attempt.x_adv.flatten().tolist() == pytest.approx([0.65, 0.65, 0.4, 0.8])
    assert attempt.gradients.tolist() == [1, 11, 111, 1]


def test_no_member_runs_once_all_are_broken():
    never = Shift(0.0)
    x, y = half(3)
    WorstOf((Shift(0.3), never)).run(threshold_model(), x, y, streams(3))
    assert never.seen == []


def test_the_worst_case_is_no_better_for_the_defender_than_any_member():
    torch.manual_seed(0)
    model = small_snn().double().eval()
    x = torch.rand(24, 1, 8, 8, dtype=torch.float64)
    y, draws = model(x).argmax(1), streams(24)
    members = tuple(fgsm(Linf(0.03), e) for e in (BPTR(), RGA(), CBA(), BPTT()))
    alone = [errs(model, m.run(model, x, y, draws.fork(k)).x_adv, y) for k, m in enumerate(members)]
    worst = errs(model, WorstOf(members)(model, x, y, draws), y)
    assert torch.equal(worst, torch.stack(alone).any(0))
    assert max(int(a.sum()) for a in alone) <= worst.sum() < 24


def test_the_name_of_a_worst_case():
    assert WorstOf((fgsm(Linf(0.1)), PGD(Linf(0.1)))).name == "worst of FGSM, PGD-10"


# Transfer


def test_transfer_from_oneself_is_the_white_box_attack(double_model):
    x = torch.rand(6, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y, draws = double_model(x).argmax(1), streams(6)
    for attack in (PGD(Linf(0.1), steps=4), UniformNoise(L2(0.2))):
        expected = attack.run(double_model, x, y, draws)
        got = Transfer(attack, source=double_model).run(double_model, x, y, draws)
        assert torch.equal(got.x_adv, expected.x_adv)
        assert torch.equal(got.gradients, expected.gradients)


def test_transfer_switches_early_stopping_off():
    source = threshold_model()
    x, y = half(1)
    attack = PGD(Linf(0.4), steps=4, step_size=0.15, random_start=False, early_stop=True)
    assert attack(source, x, y).item() == pytest.approx(0.65)
    assert Transfer(attack, source)(nn.Linear(1, 2), x, y).item() == pytest.approx(0.9)
    assert attack.early_stop


def test_transfer_asks_only_its_source():
    class Untouchable(nn.Module):
        def forward(self, x):
            raise AssertionError("the attacked model was called")

    x, y = half(2)
    assert Transfer(fgsm(Linf(0.1)), threshold_model())(Untouchable(), x, y).tolist() == [[0.6], [0.6]]


def test_the_name_of_a_transfer():
    assert Transfer(PGD(Linf(0.1), steps=3), nn.Linear(1, 2)).name == "PGD-3 from Linear"


# Suites


def test_of_several_tries_on_a_noisy_model_the_worst_example_is_kept():
    class Coin(nn.Module):
        """Right where the first pixel is 0.5; errs the more often the further it is from it."""

        stochastic = True

        def forward(self, x):
            wrong = uniform_per_step(x, 1)[0, :, 0] < 4 * (x[:, 0] - 0.5).abs()
            return torch.stack([~wrong, wrong], 1).float()

    x, y = torch.full((6, 1), 0.5), torch.zeros(6, dtype=torch.int64)
    draws = Draws.of(0, torch.arange(6))
    tries = torch.stack([UniformNoise(Linf(0.2)).run(Coin(), x, y, draws.fork(k)).x_adv for k in range(8)])
    kept = UniformNoise(Linf(0.2), tries=8)(Coin(), x, y, draws)
    assert (kept - 0.5).abs().mean() > 1.5 * (tries - 0.5).abs().mean()


def test_attacks_on_the_encoded_tensor_do_not_combine():
    encoded = EncodedPGD(Linf(0.1))
    for combine in (lambda: WorstOf((encoded,)), lambda: Transfer(encoded, threshold_model())):
        with pytest.raises(ValueError, match="attacks on pixels, got one on the encoded tensor"):
            combine()


def test_a_worst_case_is_not_transferred_as_a_whole():
    with pytest.raises(ValueError, match=r"use WorstOf\(tuple\(Transfer"):
        Transfer(WorstOf((fgsm(Linf(0.1)),)), threshold_model())
