"""Our attacks against other libraries' on one ReLU network, at equal budgets; run by `make oracles`."""

import copy
from math import comb

import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted

from oracles import libraries
from oracles.contest import L_2, LINF, rows, score
from oracles.network import digits, relu_network
from robustspike import attacks
from robustspike.attacks.losses import dlr, margin, targeted_dlr

SAMPLES, QUERIES = 200, 1000
ROWS = rows(QUERIES)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def chance_of(fewer, more):
    """The probability of at most ``fewer`` heads in fewer + more throws of a fair coin."""
    throws = fewer + more
    return sum(comb(throws, k) for k in range(fewer + 1)) / 2**throws


@pytest.mark.parametrize(("name", "who"), [(name, who) for name, row in ROWS.items() for who in row.theirs])
def test_ours_is_not_weaker(name, who):
    """Samples that only one of the two breaks decide: two more for them, or what a fair coin gives in 5 % of cases."""
    row = ROWS[name]
    ours = score(row, "ours", SAMPLES, QUERIES).robust
    theirs = score(row, who, SAMPLES, QUERIES).robust
    only_ours, only_theirs = int((~ours & theirs).sum()), int((ours & ~theirs).sum())
    told = f"{name}: only ours breaks {only_ours}, only {who}'s {only_theirs} of {SAMPLES}"
    assert only_theirs - only_ours <= 2 or chance_of(only_ours, only_theirs) >= 0.05, told


def in_double():
    x, y = digits(SAMPLES)
    return copy.deepcopy(relu_network()).double(), x.double(), y


def _pairs():
    for ball in (LINF, L_2):
        step = 2.5 * ball.eps / 20
        pgd = attacks.PGD(ball, 20, step, random_start=False)
        by_margin = attacks.PGD(ball, 20, step, random_start=False, loss=margin)
        for name, ours, theirs in (
            ("FGSM", attacks.fgsm(ball), libraries.fast_gradient(ball)),
            ("PGD-20", pgd, libraries.pgd(ball, 20, step, random_start=False)),
            ("margin PGD-20", by_margin, libraries.margin_pgd(ball, 20, step, random_start=False)),
        ):
            for who, attack in theirs.items():
                yield pytest.param(ours, attack, id=f"{name}-{ball.norm}-{who}")


@pytest.mark.parametrize(("ours", "theirs"), list(_pairs()))
def test_without_chance_the_examples_are_the_same(ours, theirs):
    model, x, y = in_double()
    torch.testing.assert_close(ours(model, x, y), theirs(model, x, y).detach(), rtol=0, atol=1e-9)


def test_the_dlr_losses_are_the_authors():
    model, x, y = in_double()
    z = model(x)
    theirs = APGDAttack(model, eps=0.1, device="cpu").dlr_loss(z, y)
    torch.testing.assert_close(dlr(z, y), theirs, rtol=0, atol=1e-12)
    targeted = APGDAttack_targeted(model, eps=0.1, device="cpu")
    targeted.y_target = (y + 1) % 10
    theirs = targeted.dlr_loss_targeted(z, y)
    torch.testing.assert_close(targeted_dlr(z, y, targeted.y_target), theirs, rtol=0, atol=1e-12)
