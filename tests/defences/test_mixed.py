"""Attacks made of chance: how often each is chosen, who gets which, and where the numbers come from."""

import math
from dataclasses import dataclass

import pytest
import torch
from tests.conftest import small_snn
from torch import nn

from robustspike.attacks import PGD, fgsm
from robustspike.balls import Linf
from robustspike.defences import Mixed, Noisy, at, rat
from robustspike.draws import Draws, sampling
from robustspike.gradients import BPTR

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class Marked:
    """Writes its number into every pixel of what it gets."""

    number: float

    def __call__(self, model, x, y):
        return torch.full_like(x, self.number) + 0.001 * y[:, None]


class Noted:
    """Leaves the images as they are and keeps what it was given."""

    def __init__(self):
        self.calls = []

    def __call__(self, model, x, y):
        self.calls.append((x.clone(), y.clone()))
        return x


def batch(n=8):
    return torch.rand(n, 3, generator=torch.Generator().manual_seed(0)), torch.arange(n)


BOTH = Mixed((Marked(0.25), Marked(0.75)))
EACH = Mixed((Marked(0.25), Marked(0.75)), per="sample")
NO_MODEL = nn.Flatten()


def test_a_batch_gets_one_attack_and_both_are_chosen_equally_often():
    """Of 400 batches each attack gets 200 ± 60 (six standard deviations)."""
    torch.manual_seed(0)
    x, y = batch()
    chosen = [BOTH(NO_MODEL, x, y)[0, 0].item() for _ in range(400)]
    for seen in (BOTH(NO_MODEL, x, y) for _ in range(5)):
        assert len((seen - 0.001 * y[:, None]).round(decimals=3).unique()) == 1
    assert {round(value, 2) for value in chosen} == {0.25, 0.75}
    assert abs(sum(value < 0.5 for value in chosen) - 200) <= 60


def test_the_choice_for_a_batch_repeats_under_a_seed_whatever_the_streams():
    x, y = batch()
    runs = []
    for streams in (None, Draws.of(0, y), Draws.of(1, y)):
        torch.manual_seed(3)
        with sampling(streams):
            runs.append([BOTH(NO_MODEL, x, y)[0, 0].item() for _ in range(10)])
    assert runs[0] == runs[1] == runs[2]
    assert len(set(runs[0])) == 2


def test_each_sample_gets_exactly_the_attack_that_was_chosen_for_it():
    x, y = batch(400)
    torch.manual_seed(0)
    got = EACH(NO_MODEL, x, y)
    number = got - 0.001 * y[:, None]  # with its own label, in its own place
    first, second = (number - 0.25).abs().amax(1) < 1e-4, (number - 0.75).abs().amax(1) < 1e-4
    assert (first ^ second).all()
    assert abs(int(first.sum()) - 200) <= 60


def test_each_attack_sees_only_its_samples_once_and_in_order():
    attacks = Noted(), Noted(), Noted()
    x, y = batch(30)
    x_adv = Mixed(attacks, per="sample")(NO_MODEL, x, y)
    assert torch.equal(x_adv, x)
    assert [len(attack.calls) for attack in attacks] == [1, 1, 1]
    given = torch.cat([attack.calls[0][1] for attack in attacks])
    assert sorted(given.tolist()) == list(range(30))
    for attack in attacks:
        images, labels = attack.calls[0]
        assert torch.equal(images, x[labels])
        assert labels.tolist() == sorted(labels.tolist())


def test_an_attack_that_nobody_drew_is_not_run():
    attacks = Noted(), Noted()
    Mixed(attacks, per="sample")(NO_MODEL, *batch(1))
    assert sorted(len(attack.calls) for attack in attacks) == [0, 1]


def test_a_samples_choice_and_its_attacks_numbers_belong_to_the_sample():
    """Two random attacks on a network: a sample moves the same way alone, among others, and in any order."""
    model = small_snn().double().eval()
    mixed = Mixed((PGD(Linf(0.1), steps=1), PGD(Linf(0.02), steps=2)), per="sample")
    x, y = torch.rand(12, 1, 8, 8, dtype=torch.float64), torch.arange(12) % 4
    draws = Draws.of(0, torch.arange(12))
    with sampling(draws):
        whole = mixed(model, x, y)
    moved = (whole - x).flatten(1).abs().amax(1)
    assert 0 < (moved > 0.03).sum() < 12
    for part in (torch.tensor([5]), torch.tensor([11, 2, 7]), torch.arange(11)):
        with sampling(draws[part]):
            torch.testing.assert_close(mixed(model, x[part], y[part]), whole[part], rtol=0, atol=1e-12)


def test_without_streams_the_global_generator_decides():
    x, y = batch(50)
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        runs.append(EACH(NO_MODEL, x, y))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("per", ["batch", "sample"])
def test_one_attack_mixed_is_that_attack(per):
    model, (x, y) = small_snn().eval(), (torch.rand(4, 1, 8, 8), torch.arange(4))
    attack = fgsm(Linf("2/255"))
    torch.testing.assert_close(Mixed((attack,), per)(model, x, y), attack(model, x, y), rtol=0, atol=1e-6)


def test_an_objective_of_mixed_attacks_is_each_in_its_turn():
    model = small_snn().eval()
    x, y = torch.rand(6, 1, 8, 8), torch.arange(6) % 4
    kinds = fgsm(Linf(0.2)), fgsm(Linf(0.2), BPTR())
    losses = [at(attack)(model, x, y).item() for attack in kinds]
    assert losses[0] != losses[1]
    torch.manual_seed(0)
    seen = {rat(Mixed(kinds))(model, x, y).item() for _ in range(12)}
    assert seen == set(losses)


# Noise


def test_noise_has_its_deviation_and_is_clipped():
    x = torch.full((2000, 10), 0.5)
    moved = Noisy(0.1)(NO_MODEL, x, torch.zeros(2000, dtype=torch.int64)) - x
    assert moved.mean().item() == pytest.approx(0, abs=0.005)
    assert moved.std().item() == pytest.approx(0.1, rel=0.03)
    wild = Noisy(2.0)(NO_MODEL, x, torch.zeros(2000, dtype=torch.int64))
    assert wild.min() == 0
    assert wild.max() == 1
    assert torch.equal(Noisy(0)(NO_MODEL, x, torch.zeros(2000, dtype=torch.int64)), x)


def test_noise_belongs_to_the_samples():
    x, y = batch()
    with sampling(Draws.of(0, y)):
        whole = Noisy(0.1)(NO_MODEL, x, y)
    some = torch.tensor([6, 1])
    with sampling(Draws.of(0, some)):
        assert torch.equal(Noisy(0.1)(NO_MODEL, x[some], y[some]), whole[some])
    assert not torch.equal(whole[0] - x[0], whole[1] - x[1])


# What is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mixed(()), "^Mixed needs at least one attack, got none"),
        (lambda: Mixed((Marked(0),), per="pixel"), '^per must be "batch" or "sample", got \'pixel\''),
        (lambda: Noisy(-0.1), "^noise must have a standard deviation ≥ 0, got -0.1"),
        (lambda: Noisy(math.nan), "^noise must have a standard deviation ≥ 0, got nan"),
    ],
)
def test_unfit_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
