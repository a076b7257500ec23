"""Rows that no evaluation could have written are found, and those of evaluations are not."""

import dataclasses

import numpy as np
import pytest
import torch
from tests.conftest import small_snn
from tests.report import made

from robustspike.attacks import FAB, PGD, GaussianNoise, Transfer, fgsm, rfgsm
from robustspike.balls import L2, Linf
from robustspike.data import Split
from robustspike.evaluate import evaluate
from robustspike.results import ATTEMPT_FIELDS, Budget, Member
from robustspike.results.checking import faults

CLASSES = 10


def changed(outcome, sample, member, **fields):
    """The outcome with some fields of one attempt set."""
    attempts = outcome.attempts.copy()
    for name, value in fields.items():
        attempts[sample, member, ATTEMPT_FIELDS.index(name)] = value
    return dataclasses.replace(outcome, attempts=attempts)


def without(outcome, sample, *members):
    """The outcome without some attempts."""
    attempts = outcome.attempts.copy()
    attempts[sample, list(members)] = np.nan
    return dataclasses.replace(outcome, attempts=attempts)


@pytest.fixture
def outcome():
    """Forty samples; survivors only."""
    made_up = made.outcome(seed=3, n=40, survivors_only=True, strength=0.6)
    assert faults(made_up, CLASSES) == ()
    return made_up


def standing(outcome):
    """A sample that every member was tried on."""
    return int(np.flatnonzero(outcome.tried.all(1) & outcome.robust)[0])


def broken(outcome):
    """(sample, member) that broke it, with members after it."""
    first = outcome.first_break()
    sample = int(np.flatnonzero((first >= 0) & (first < len(outcome.header.members) - 1))[0])
    return sample, int(first[sample])


# --- what evaluations write


IMAGES = Split(torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 4)
ATTACKS = [fgsm(Linf(0.2)), GaussianNoise(Linf(0.2)), rfgsm(Linf(0.2)), PGD(Linf(0.2), 3, restarts=2)]


@pytest.mark.parametrize("options", [{}, {"survivors_only": False}, {"budget": Budget(gradients=2)}, {"batch_size": 5}])
@pytest.mark.parametrize("kind", ["deterministic", "stochastic"])
def test_real_evaluations_check_out(kind, options):
    model = small_snn(encoder="poisson" if kind == "stochastic" else "direct").eval()
    labels = torch.stack([model(IMAGES.images) for _ in range(5)]).sum(0).argmax(1)
    outcome = evaluate(model, Split(IMAGES.images, labels), ATTACKS, doubts=0, progress=False, **options)
    assert outcome.correct.any()
    assert outcome.fooled.any()
    assert faults(outcome, classes=4) == ()


@pytest.mark.parametrize("ball", [Linf(0.3), L2(1.0)])
def test_any_ball_and_none(ball):
    model = small_snn().eval()
    labels = model(IMAGES.images).argmax(1)
    outcome = evaluate(model, Split(IMAGES.images, labels), [PGD(ball, 2)], doubts=0, progress=False)
    assert faults(outcome, classes=4) == ()
    members = tuple(one.model_copy(update={"settings": "Mine(size=2)"}) for one in outcome.header.members)
    header = outcome.header.model_copy(update={"eps": float("nan"), "members": members})
    free = dataclasses.replace(outcome, header=header)
    if ball.norm == "Linf":
        assert faults(free, classes=4) == ()
    assert "moved further than ε = nan" in faults(changed(free, 0, 0, distance=1.1), classes=4)[0]


def test_members_with_a_caveat_are_tried_on_every_correct_sample():
    members = (*made.MEMBERS[:2], Member(attack="x", estimator="–", settings="x", caveat="it does not count"))
    outcome = made.outcome(n=20, members=members[:2], survivors_only=True)
    extra = np.full((20, 1, len(ATTEMPT_FIELDS)), np.nan)
    extra[outcome.correct, 0] = [2, 0, 0, 0, 1, 0, 0, 0, 0, 0.1]
    extra[outcome.correct, 0, 2] = outcome.labels[outcome.correct]
    header = outcome.header.model_copy(update={"members": members})
    whole = dataclasses.replace(outcome, header=header, attempts=np.concatenate([outcome.attempts, extra], 1))
    assert faults(whole, CLASSES) == ()
    one = int(np.flatnonzero(outcome.correct)[0])
    assert "not tried on just the samples" in faults(without(whole, one, 2), CLASSES)[0]


@pytest.mark.parametrize("attack", [FAB(Linf(0.0), 2), PGD(Linf(0.0), 2)])
def test_without_a_radius_no_gradient_is_needed(attack):
    model = small_snn().eval()
    labels = model(IMAGES.images).argmax(1)
    outcome = evaluate(model, Split(IMAGES.images, labels), [attack], doubts=0, progress=False)
    assert faults(outcome, classes=4) == ()


# --- what they do not write


@pytest.mark.parametrize("ball", [Linf(0.2), L2(1.0)])
@pytest.mark.parametrize("changes", [{"eps": 0.3}, {"eps": 0.1}, {"eps": float("nan")}, {"norm": "other"}])
def test_a_header_of_another_ball_than_its_members(ball, changes):
    """A larger ε, a smaller one, none, another norm: the settings of the members tell."""
    changes = {"norm": "L2" if ball.norm == "Linf" else "Linf"} if "norm" in changes else changes
    model = small_snn().eval()
    attacks = [PGD(ball, 2), Transfer(PGD(ball, 3), small_snn()), GaussianNoise(ball)]
    outcome = evaluate(
        model, Split(IMAGES.images, model(IMAGES.images).argmax(1)), attacks, doubts=0, progress=False
    )  # fmt: skip
    assert faults(outcome, classes=4) == ()
    header = outcome.header.model_copy(update=changes)
    said = f"the header says {header.norm} ε = {header.eps!r}, but PGD-2 is set to {ball.norm} ε = {ball.eps!r}"
    assert faults(dataclasses.replace(outcome, header=header), classes=4)[0] == said


def with_members(outcome, **changes):
    """The outcome with fields of every member set."""
    members = tuple(member.model_copy(update=changes) for member in outcome.header.members)
    return dataclasses.replace(outcome, header=outcome.header.model_copy(update={"members": members}))


def test_no_sample_withstands_a_gradient_attack_without_a_gradient(outcome):
    sample = standing(outcome)
    unused = changed(outcome, sample, 3, gradients=0)
    expected = (f"a sample withstood a gradient attack that evaluated no gradient (sample {sample})",)
    assert faults(unused, CLASSES) == faults(with_members(unused, kind="one-step"), CLASSES) == expected
    for other in ({"kind": "black-box"}, {"kind": "noise"}, {"estimator": "–"}):
        assert faults(with_members(unused, **other), CLASSES) == ()
    assert faults(changed(outcome, *broken(outcome), gradients=0), CLASSES) == ()  # broken before the first gradient


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"predicted": 10}, "a class under attack is none of the network"),
        ({"predicted": -2}, "a class under attack is none of the network"),
        ({"predicted": np.nan}, "a class under attack is none of the network"),
        ({"gradients": 1.5}, "an attempt has a count that is no whole number"),
        ({"restart": 0.5}, "an attempt has a count that is no whole number"),
        ({"queries": -1}, "an attempt has a negative count"),
        ({"restart": -1}, "an attempt has a negative count"),
        ({"zero": 11}, "more gradients were zero or NaN than were evaluated"),
        ({"nan": 11}, "more gradients were zero or NaN than were evaluated"),
        ({"seconds": -1}, "an attempt took a time that is no number"),
        ({"seconds": np.inf}, "an attempt took a time that is no number"),
        ({"fooled": 1}, "a member is said to have fooled the model, or not to, against the class under attack"),
        ({"distance": 0.1 * (1 + 1e-5) + 2e-6}, "a sample was moved further than ε = 0.1"),
        ({"distance": -0.1}, "a sample was moved further than ε = 0.1"),
        ({"distance": np.nan}, "a sample was moved further than ε = 0.1"),
    ],
)
def test_an_attempt_that_cannot_be(outcome, fields, sentence):
    sample = standing(outcome)
    found = faults(changed(outcome, sample, len(outcome.header.members) - 1, **fields), CLASSES)
    assert f"{sentence} (sample {sample})" in found


def test_the_distance_may_be_rounded_up_a_little(outcome):
    sample = standing(outcome)
    assert faults(changed(outcome, sample, 0, distance=0.1 * (1 + 1e-5) + 9e-7), CLASSES) == ()


def test_a_break_that_is_hidden_shows_in_the_class_or_in_the_order(outcome):
    """A broken sample made to stand: the class under attack, the members after, or both tell."""
    sample, member = broken(outcome)
    label = int(outcome.labels[sample])
    only_flag = faults(changed(outcome, sample, member, fooled=0), CLASSES)
    assert any("against the class under attack" in text for text in only_flag)
    consistent = faults(changed(outcome, sample, member, fooled=0, predicted=label), CLASSES)
    assert consistent == (f"a member was not tried on just the samples that the header gives it (sample {sample})",)
    left_out = faults(without(outcome, sample, member), CLASSES)
    assert left_out == (f"a member was not tried on just the samples that the header gives it (sample {sample})",)


def test_attempts_that_are_left_out_or_too_many(outcome):
    sample = standing(outcome)
    expected = (f"a member was not tried on just the samples that the header gives it (sample {sample})",)
    for members in ([0], [5], [len(outcome.header.members) - 1]):
        assert faults(without(outcome, sample, *members), CLASSES) == expected
    each = made.outcome(seed=3, n=40, survivors_only=False)
    told_otherwise = dataclasses.replace(each, header=each.header.model_copy(update={"survivors_only": True}))
    assert "not tried on just the samples" in faults(told_otherwise, CLASSES)[0]


def plain_wanted(outcome):
    """Who was to be tried on what, sample by sample in plain loops: the reference."""
    header = outcome.header
    wanted = np.zeros(outcome.tried.shape, dtype=bool)
    for i in range(len(outcome.samples)):
        stands = right = outcome.clean[i] == outcome.labels[i]
        spent = 0
        for m, member in enumerate(header.members):
            attempt = dict(zip(ATTEMPT_FIELDS, outcome.attempts[i, m], strict=True))
            if member.caveat:
                wanted[i, m] = right
                continue
            wanted[i, m] = (stands if header.survivors_only else right) and not (
                header.budget is not None and spent >= header.budget
            )
            if wanted[i, m]:
                spent += attempt["gradients"] + attempt["queries"]
                stands = stands and attempt["fooled"] != 1
    return wanted


@pytest.mark.parametrize("survivors_only", [False, True])
@pytest.mark.parametrize("budget", [None, 1, 21, 22, 60, 10_000])
def test_a_budget_says_who_was_tried(survivors_only, budget):
    outcome = made.outcome(seed=5, n=30, survivors_only=survivors_only, strength=0.4)
    outcome = dataclasses.replace(outcome, header=outcome.header.model_copy(update={"budget": budget}))
    attempts = outcome.attempts.copy()
    attempts[~plain_wanted(outcome)] = np.nan
    cut = dataclasses.replace(outcome, attempts=attempts)
    assert faults(cut, CLASSES) == ()
    assert cut.cut.any() == (budget in (1, 21, 22, 60))
    if budget not in (None, 10_000):
        assert faults(outcome, CLASSES) != ()


def test_samples_and_classes_that_cannot_be(outcome):
    numbers = outcome.samples.copy()
    numbers[4] = -4
    assert faults(dataclasses.replace(outcome, samples=numbers), CLASSES) == (
        "a sample's number is negative (sample -4)",
    )
    assert "a label is no class of the network" in faults(outcome, classes=5)[0]
    wrong = int(np.flatnonzero(~outcome.correct)[0])
    clean = outcome.clean.copy()
    clean[wrong] = -2
    assert faults(dataclasses.replace(outcome, clean=clean), CLASSES) == (
        f"a class without attack is none of the network (sample {wrong})",
    )
    clean[wrong] = -1  # no class by majority, or logits that are not finite
    assert faults(dataclasses.replace(outcome, clean=clean), CLASSES) == ()
    assert faults(outcome) == ()


def test_a_misclassified_sample_that_was_attacked(outcome):
    sample, clean = standing(outcome), outcome.clean.copy()
    clean[sample] = (clean[sample] + 1) % CLASSES
    found = faults(dataclasses.replace(outcome, clean=clean), CLASSES)
    assert f"a sample that is misclassified without attack was attacked (sample {sample})" in found


def test_several_samples_are_counted(outcome):
    attempts = outcome.attempts.copy()
    attempts[:, 0, ATTEMPT_FIELDS.index("seconds")] = -1
    attempts[~outcome.tried] = np.nan
    tried = outcome.samples[outcome.tried[:, 0]]
    [found] = faults(dataclasses.replace(outcome, attempts=attempts), CLASSES)
    assert found.endswith(f"(sample {tried[0]} and {len(tried) - 1} more)")
