"""Who attacks with what, and how every attack is judged: alike."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from oracles import libraries
from oracles.network import digits, relu_network
from robustspike import attacks
from robustspike.attacks.losses import dlr, margin
from robustspike.balls import L2, Ball, Linf
from robustspike.draws import Draws

LIBRARIES = ("torchattacks", "autoattack", "foolbox")
LINF, L_2 = Linf(0.15), L2(0.8)
SLACK = 1e-5  # ε is exceeded by as much in some libraries, by rounding


@dataclass(frozen=True)
class Row:
    """One attack at one budget: ours and the other libraries'."""

    name: str
    ball: Ball
    ours: Any
    theirs: dict[str, libraries.Attack]

    def __str__(self) -> str:
        return f"{self.name}, {self.ball.norm}"


def rows(queries: int) -> dict[str, Row]:
    """All comparisons by name; ``queries``: of the square attack, the start included."""
    found = [row for ball in (LINF, L_2) for row in _rows(ball, queries)]
    return {str(row): row for row in found}


def _rows(ball: Ball, queries: int) -> list[Row]:
    step = {"step_size": 2.5 * ball.eps / 20}
    stop, suite = {"early_stop": True}, attacks.suites.autoattack(ball, queries=queries)
    return [
        Row("FGSM", ball, attacks.fgsm(ball), libraries.fast_gradient(ball)),
        Row("PGD-20", ball, attacks.PGD(ball, 20, **step), libraries.pgd(ball, 20, random_start=True, **step)),
        Row(
            "C&W-margin PGD-20", ball, attacks.PGD(ball, 20, loss=margin, **step),
            libraries.margin_pgd(ball, 20, random_start=True, **step),
        ),
        Row("APGD-CE", ball, attacks.APGD(ball, **stop), libraries.apgd(ball, "ce")),
        Row("APGD-DLR", ball, attacks.APGD(ball, loss=dlr, **stop), libraries.apgd(ball, "dlr")),
        Row("APGD-T", ball, attacks.APGD(ball, targets=9, **stop), libraries.apgd_t(ball)),
        Row("FAB-T", ball, attacks.FAB(ball), libraries.fab_t(ball)),
        Row("Square", ball, attacks.Square(ball, queries), libraries.square(ball, queries)),
        Row("AutoAttack", ball, attacks.WorstOf(suite.attacks), libraries.standard(ball, queries)),
    ]  # fmt: skip


@dataclass(frozen=True)
class Score:
    """What one library's attack did to the digits.

    Attributes:
        robust: [N] bool, no example that errs in ball and box.
        seconds: of processor time.
        passes: forward passes per sample.
    """

    robust: Tensor
    seconds: float
    passes: float


@cache
def _score(row_name: str, who: str, n: int, queries: int) -> Score:
    row, model, (x, y) = rows(queries)[row_name], relu_network(), digits(n)
    attack = row.theirs[who] if who != "ours" else _with_draws(row.ours)
    passed: list[int] = []
    counting = model.register_forward_hook(lambda _module, _inputs, logits: passed.append(len(logits)))
    torch.manual_seed(0)
    started = time.process_time()
    try:
        x_adv = attack(model, x.clone(), y.clone()).detach()
    finally:
        counting.remove()
    seconds = time.process_time() - started
    return Score(robust(x_adv, x, y, row.ball), seconds, sum(passed) / n)


def score(row: Row, who: str, n: int, queries: int) -> Score:
    """The score of ``who``, one of LIBRARIES or "ours", on the first n digits; computed once."""
    return _score(str(row), who, n, queries)


def _with_draws(attack: Any) -> libraries.Attack:
    return lambda model, x, y: attack(model, x, y, Draws.of(0, torch.arange(len(x))))


def robust(x_adv: Tensor, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
    """[N] bool: where x_adv is no example that the network errs on, within ball and box."""
    flat = x_adv.flatten(1)
    valid = (ball.distance(x_adv, x) <= ball.eps + SLACK) & (flat.amin(1) >= 0) & (flat.amax(1) <= 1)
    return ~(valid & (relu_network()(x_adv).argmax(1) != y))
