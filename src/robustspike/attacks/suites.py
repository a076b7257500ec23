"""Published evaluations: a named, ordered set of attacks on one ball."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from robustspike.attacks.attempt import Attack
from robustspike.attacks.pgd import PGD, fgsm, rfgsm
from robustspike.balls import Ball, Linf
from robustspike.gradients import BPTT, RGA, Estimator
from robustspike.surrogates import SURROGATES, ArcTan, Sigmoid, Surrogate, Triangle


@dataclass(frozen=True)
class Suite:
    """Attacks to be run in this order; a sample is robust only if all fail.

    Attributes:
        name: as printed beside every figure.
        ball: the threat model that they share.
        attacks: the members.

    Example:
        >>> Suite("one step", Linf(0.1), (fgsm(Linf(0.1)),)).name
        'one step'
    """

    name: str
    ball: Ball
    attacks: tuple[Attack, ...]


LIU_ENSEMBLE: tuple[Estimator, ...] = (BPTT(Triangle(1.0)), BPTT(Sigmoid(4.0)), BPTT(ArcTan(2.0)), RGA())


def liu2024(eps: float | str = "8/255", steps: Sequence[int] = (10,), early_stop: bool = True) -> Suite:
    """FGSM, R-FGSM and PGD, each under {triangle 1, sigmoid 4, arctan 2, RGA}, on an L∞ ball.

    PGD's step is 0.01 at ε = 8/255, as in the papers, and in proportion to ε elsewhere.

    Args:
        eps: in pixel units, 0.03 or "8/255".
        steps: one PGD for each number of steps (the paper's tables: 10, 30, 50).
        early_stop: spend nothing more on a sample once it is broken; up to rounding this only lowers the robust accuracy.

    Source: Liu 2024, section 5.1 and appendix E. Differs from the authors' code: gradients are averaged over draws where
    a model is stochastic (theirs keeps the last draw).

    Example:
        >>> len(liu2024("8/255").attacks)
        12
    """
    ball = Linf(eps)
    members: list[Attack] = [
        kind(ball, e, early_stop=early_stop)
        for kind in (fgsm, rfgsm)
        for e in LIU_ENSEMBLE  # type: ignore[operator]
    ]
    step_size = ball.eps * 0.01 / (8 / 255) or None
    members += [
        PGD(ball, n, step_size, estimator=e, early_stop=early_stop, label=f"PGD-{n}")
        for n in steps
        for e in LIU_ENSEMBLE
    ]
    return Suite("liu2024", ball, tuple(members))


SUITES: dict[str, Callable[..., Suite]] = {"liu2024": liu2024}


def describe(attack: Any) -> tuple[str, str]:
    """(attack, estimator) as printed in tables, such as ("PGD-10", "BPTT triangle 1").

    Example:
        >>> describe(fgsm(Linf(0.1), BPTT(Sigmoid(4.0)))), describe(fgsm(Linf(0.1), RGA()))
        (('FGSM', 'BPTT sigmoid 4'), ('FGSM', 'RGA'))
    """
    estimator: Any = getattr(attack, "estimator", None)
    kind: Any = type(estimator)
    if estimator is None:
        return attack.name, "–"
    if isinstance(estimator, BPTT):
        return (
            attack.name,
            "BPTT own surrogate" if estimator.surrogate is None else f"BPTT {_short(estimator.surrogate)}",
        )
    usual = hasattr(kind, "__dataclass_fields__") and estimator == kind()
    return attack.name, kind.__name__ if usual else str(estimator)


def _short(surrogate: Surrogate) -> str:
    """Name and numbers of a surrogate, "triangle 1"; another's representation as it is."""
    names = {kind: name for name, kind in SURROGATES.items()}
    if type(surrogate) not in names:
        return str(surrogate)
    return " ".join([names[type(surrogate)], *(f"{value:g}" for value in vars(surrogate).values())])
