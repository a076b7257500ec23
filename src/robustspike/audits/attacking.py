"""The attack that audits make where none is given, and how it is named."""

from __future__ import annotations

from typing import Any

from torch import nn

from robustspike.attacks import PGD, WorstOf
from robustspike.attacks.suites import LIU_ENSEMBLE, describe
from robustspike.balls import Linf
from robustspike.gradients import BPTT
from robustspike.neurons import spiking_layers


def usual_attack(model: nn.Module, eps: float | str, steps: int = 10) -> Any:
    """PGD under the four estimators of Liu 2024, the worst for every sample; BPTT alone without spiking layers.

    Example:
        >>> from robustspike.audits.attacking import named, usual_attack
        >>> named(usual_attack(digits_cnn(time_steps=2), "8/255"))
        'PGD-10 (worst of BPTT triangle 1, BPTT sigmoid 4, BPTT arctan 2, RGA), L∞ ε = 0.03137'
    """
    estimators = LIU_ENSEMBLE if spiking_layers(model) else (BPTT(),)
    members = tuple(PGD(Linf(eps), steps, estimator=one, early_stop=True) for one in estimators)
    return WorstOf(members) if len(members) > 1 else members[0]


def named(attack: Any) -> str:
    """An attack with its estimators and its ball, in words."""
    members = [describe(one) for one in getattr(attack, "members", (attack,))]
    names = list(dict.fromkeys(name for name, _ in members))
    seen = ", ".join(dict.fromkeys(estimator for _, estimator in members if estimator != "–"))
    through = f" (worst of {seen})" if len(members) > 1 else f" under {seen}" if seen else ""
    ball = getattr(attack, "ball", None)
    norm = {"Linf": "L∞", "L2": "L2"}.get(getattr(ball, "norm", ""), "")
    return f"{', '.join(names)}{through}" + (f", {norm} ε = {ball.eps:.4g}" if ball is not None else "")
