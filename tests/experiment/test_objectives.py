"""From the fields of a record to its objective and its attack in training."""

import pytest

from robustspike.attacks import APGD, LOSSES, PGD, FromClean, fgsm, rfgsm
from robustspike.balls import Linf
from robustspike.checkpoints import settings_text
from robustspike.defences import (
    CosineRamp,
    CrossEntropy,
    Linear,
    Mixed,
    alp,
    at,
    clp,
    gr,
    hire,
    mpd_sgr,
    mppd,
    rat,
    rat_penalty,
    sr,
    sr_star,
    tgo,
    trades,
)
from robustspike.experiment import Experiment, make_objective
from robustspike.experiment.objectives import training_attack
from robustspike.experiment.runs import validation_attack
from robustspike.gradients import BPTR, BPTT, RGA

BALL = Linf("2/255")
PGD5 = PGD(BALL, 5, 0.01)
MIXED = Mixed((fgsm(BALL), fgsm(BALL, BPTR())))
KL = PGD(BALL, 5, 0.01, loss=FromClean())


def made(defence, **given):
    return make_objective(Experiment.of(data="cifar10", defence=defence, **given))


@pytest.mark.parametrize(
    ("defence", "given", "expected"),
    [
        ("at", {}, at(PGD5)),
        ("at", {"train_attack": "fgsm", "train_eps": "8/255"}, at(fgsm(Linf("8/255")))),
        ("rat", {}, rat(MIXED)),
        ("rat", {"beta": 0.01, "rows": 0.5}, rat(MIXED, 0.01, 0.5)),
        ("rat-penalty", {"weight": 0.5}, rat_penalty(MIXED, 0.5)),
        ("sr", {"h": 0.02, "form": "exact"}, sr(0.008, h=0.02, form="exact")),
        ("sr-star", {"classes": "all", "penalty": "square"}, sr_star(PGD5, 0.002, classes="all", penalty="square")),
        ("gr", {"weight": 0.3, "gradient_norm": "l2"}, gr(0.3, norm="l2")),
        ("gr", {"train_attack": "pgd"}, gr(attack=PGD5)),
        ("trades", {}, trades(KL, 6.0)),
        ("alp", {"weight": 1}, alp(PGD5, 1.0)),
        ("clp", {"noise": 0.2}, clp(noise=0.2)),
        ("hire", {"train_eps": "8/255", "periods": 4}, hire(8 / 255, 4)),
        ("mppd", {"mix": 0.3, "penalty": "square"}, mppd(fgsm(Linf("4/255")), 1.0, "square", 0.3)),
        ("mpd-sgr", {"width": 0.5}, mpd_sgr(width=0.5)),
        ("tgo", {"margin": 0.2}, tgo(CosineRamp(0.6), 0.2)),
        ("tgo", {"weight_schedule": "constant", "weight": 0.1}, tgo(0.1)),
        ("sr", {"weight_schedule": "linear"}, sr(Linear(0.0, 0.008))),
        ("sr:0.002+trades:5", {}, sr(0.002) + trades(KL, 5.0)),
        ("at+sr:0.002", {"weight_schedule": "cosine"}, at(PGD5) + sr(CosineRamp(0.002))),
        ("at", {"label_smoothing": 0.1}, at(PGD5).smoothed(0.1)),
    ],
)
def test_the_fields_of_a_record_reach_the_builder(defence, given, expected):
    found = made(defence, **given)
    assert settings_text(found) == settings_text(expected)
    assert (found.name, found.weight_decay) == (expected.name, expected.weight_decay)


def test_cross_entropy_in_both_parts_of_a_sum_counts_once():
    terms = [part.term for part in made("at+sr-star").parts]
    assert sum(isinstance(term, CrossEntropy) for term in terms) == 1
    terms = [part.term for part in made("at+sr").parts]
    assert sum(isinstance(term, CrossEntropy) for term in terms) == 2  # at x_adv, and at x


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, PGD5),
        ({"train_attack": "rfgsm"}, rfgsm(BALL)),
        ({"train_attack": "apgd"}, APGD(BALL, 5)),
        ({"train_estimators": "rga"}, PGD(BALL, 5, 0.01, estimator=RGA())),
        ({"train_loss": "margin"}, PGD(BALL, 5, 0.01, loss=LOSSES["margin"])),
        (
            {"train_estimators": "bptt, rga", "train_choice": "sample"},
            Mixed((PGD5, PGD(BALL, 5, 0.01, estimator=RGA())), "sample"),
        ),
    ],
)
def test_the_attack_in_training(given, expected):
    attack = training_attack(Experiment.of(data="cifar10", defence="at", **given))
    assert settings_text(attack) == settings_text(expected)


def test_without_an_attack_there_is_none():
    assert training_attack(Experiment.of(defence="sr")) is None
    assert training_attack(Experiment.of(defence="tgo")) is None


def test_the_attack_on_held_out_images_has_the_recipes_radius_and_the_own_surrogate():
    assert validation_attack(Experiment.of(validation_attack="none")) is None
    one = validation_attack(Experiment.of(data="cifar10"))
    assert (one.name, one.ball, one.estimator) == ("FGSM", Linf("8/255"), BPTT())
    several = validation_attack(Experiment.of(validation_attack="pgd"))
    assert (several.steps, several.ball) == (10, Linf(0.15))
