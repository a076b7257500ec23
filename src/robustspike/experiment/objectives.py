"""Training objectives from the fields of a record."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from robustspike.attacks import APGD, LOSSES, PGD, FromClean, fgsm, rfgsm
from robustspike.balls import Linf
from robustspike.defences import DEFENCES, CosineRamp, Linear, Mixed, Objective, Perturb
from robustspike.experiment.names import chosen, parse_defence, parse_estimators, taken_by
from robustspike.experiment.recipes import OPTIONS
from robustspike.gradients import Estimator

if TYPE_CHECKING:
    from robustspike.experiment.record import Experiment

TRAIN_ATTACKS = ("fgsm", "rfgsm", "pgd", "apgd", "none")
TRAIN_LOSSES = {**LOSSES, "kl": FromClean()}


def check_attack(defence: str, attack: str | None, loss: str | None) -> None:
    """Refuse a defence without the attack that it cannot do without, and a loss that the attack cannot ascend.

    Raises:
        ValueError: naming what there is.
    """
    chosen("loss", loss or "ce", TRAIN_LOSSES)
    if loss == "kl" and attack not in ("pgd", "rfgsm"):
        raise ValueError(f"train_loss kl needs --train-attack pgd or rfgsm, which start beside the image, got {attack}")
    for name, _ in parse_defence(defence):
        needed = name in DEFENCES and "attack" in taken_by(name)
        if needed and attack in (None, "none") and taken_by(name)["attack"].default is inspect.Parameter.empty:
            raise ValueError(f"defence {name} needs an attack; choose --train-attack {', '.join(TRAIN_ATTACKS[:-1])}")


def training_attack(experiment: Experiment) -> Perturb | None:
    """The attack in training, through one estimator or one of several chosen at random; None where there is none."""
    kind = experiment.train_attack
    if kind in (None, "none"):
        return None
    loss = TRAIN_LOSSES[experiment.train_loss or "ce"]
    ball, steps = Linf(experiment.train_eps), experiment.train_steps

    def through(estimator: Estimator) -> Perturb:
        options: dict[str, Any] = {"estimator": estimator, "loss": loss}
        if kind == "pgd":
            return PGD(ball, steps, experiment.train_step_size, **options)
        if kind == "apgd":
            return APGD(ball, steps, **options)
        return {"fgsm": fgsm, "rfgsm": rfgsm}[str(kind)](ball, **options)

    attacks = tuple(through(estimator) for estimator in parse_estimators(experiment.train_estimators or "bptt"))
    return attacks[0] if len(attacks) == 1 else Mixed(attacks, experiment.train_choice or "batch")


def make_objective(experiment: Experiment) -> Objective:
    """The training objective, given those of the experiment's settings that it takes; a sum is the sum of its objectives.

    Example:
        >>> from robustspike.experiment import Experiment
        >>> make_objective(Experiment.of(defence="at+sr:0.002")).name
        'AT + SR'
    """
    options: dict[str, Any] = {parameter: getattr(experiment, name) for name, parameter in OPTIONS.items()}
    options |= {"attack": training_attack(experiment), "eps": Linf(experiment.train_eps).eps}
    made = []
    for name, own in parse_defence(experiment.defence):
        weight = experiment.weight if own is None else own
        given = options | {"weight": _scheduled(weight, experiment.weight_schedule)}
        takes = taken_by(name)
        made.append(
            DEFENCES[name](**{key: value for key, value in given.items() if key in takes and value is not None})
        )
    total = made[0]
    for objective in made[1:]:
        total = total + objective
    return total.smoothed(experiment.label_smoothing) if experiment.label_smoothing else total


def _scheduled(weight: float | None, schedule: str | None) -> Any:
    if weight is None or schedule in (None, "constant"):
        return weight
    return Linear(0.0, weight) if schedule == "linear" else CosineRamp(weight)
