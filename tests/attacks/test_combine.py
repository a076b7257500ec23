"""Noise, the worst case over several attacks, transfer, and the published suites."""

import math

import pytest
import torch
from tests.conftest import small_snn
from torch import nn

from robustspike.attacks import (
    ATTACKS,
    PGD,
    SUITES,
    GaussianNoise,
    Suite,
    Transfer,
    UniformNoise,
    WorstOf,
    fgsm,
    suites,
)
from robustspike.attacks.attempt import Attempt
from robustspike.attacks.suites import LIU_ENSEMBLE, describe
from robustspike.balls import L2, Linf
from robustspike.draws import Draws, uniform_per_step
from robustspike.gradients import BPTR, BPTT, CBA, RGA
from robustspike.surrogates import ArcTan, Sigmoid, Triangle

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


def test_liu_2024_has_twelve_members_in_the_order_of_the_paper():
    suite = suites.liu2024()
    assert isinstance(suite, Suite)
    assert (suite.name, suite.ball) == ("liu2024", Linf(8 / 255))
    assert [a.name for a in suite.attacks] == ["FGSM"] * 4 + ["R-FGSM"] * 4 + ["PGD-10"] * 4
    ensemble = [BPTT(Triangle(1.0)), BPTT(Sigmoid(4.0)), BPTT(ArcTan(2.0)), RGA(0.2)]
    assert [a.estimator for a in suite.attacks] == ensemble * 3
    assert list(LIU_ENSEMBLE) == ensemble
    assert all(a.ball == suite.ball and a.early_stop for a in suite.attacks)
    assert len(set(suite.attacks)) == 12


@pytest.mark.parametrize(("eps", "step"), [("8/255", 0.01), (8 / 255, 0.01), ("4/255", 0.005), (0.15, 0.0478125)])
def test_liu_2024_takes_steps_of_a_hundredth_at_8_of_255_and_in_proportion_elsewhere(eps, step):
    suite = suites.liu2024(eps)
    assert [a.step_size for a in suite.attacks[8:]] == pytest.approx([step] * 4, rel=1e-12)
    assert [a.step_size for a in suite.attacks[:4]] == [suite.ball.eps] * 4
    assert [a.step_size for a in suite.attacks[4:8]] == [suite.ball.eps / 2] * 4
    assert [a.random_start for a in suite.attacks] == [False] * 4 + ["sign"] * 4 + [True] * 4


def test_liu_2024_with_the_other_numbers_of_steps_and_without_early_stopping():
    suite = suites.liu2024(0.1, steps=(10, 30, 50), early_stop=False)
    assert [a.steps for a in suite.attacks] == [1] * 8 + [10] * 4 + [30] * 4 + [50] * 4
    assert not any(a.early_stop for a in suite.attacks)


def test_liu_2024_at_eps_zero_moves_nothing(double_model):
    x, y = torch.rand(2, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 1])
    for attack in suites.liu2024(0).attacks:
        assert torch.equal(attack(double_model, x, y), x)


def test_how_members_are_described():
    suite = suites.liu2024()
    assert describe(suite.attacks[0]) == ("FGSM", "BPTT triangle 1")
    assert describe(suite.attacks[-1]) == ("PGD-10", "RGA")
    assert describe(PGD(Linf(0.1), estimator=RGA(0.3))) == ("PGD-10", "RGA(gamma=0.3)")
    assert describe(PGD(Linf(0.1))) == ("PGD-10", "BPTT own surrogate")
    assert describe(UniformNoise(Linf(0.1))) == ("uniform noise", "–")


def test_the_dicts_hold_what_they_name():
    assert {name: ATTACKS[name](Linf(0.1)).name for name in ATTACKS} == {
        "fgsm": "FGSM",
        "rfgsm": "R-FGSM",
        "pgd": "PGD-10",
        "uniform-noise": "uniform noise",
        "gaussian-noise": "Gaussian noise",
    }
    assert SUITES["liu2024"]("8/255") == suites.liu2024("8/255")


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
