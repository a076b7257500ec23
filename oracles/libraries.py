"""The other libraries' attacks behind one signature: attack(model, x, y) returns x_adv."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import foolbox
import torch
import torchattacks
from art.estimators.classification import PyTorchClassifier
from foolbox.attacks.fast_minimum_norm import best_other_classes
from foolbox.criteria import Misclassification
from pyautoattack import AutoAttack
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from robustspike.balls import Ball

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


def of_torchattacks(kind: Any, ball: Ball, **options: Any) -> Attack:
    """A torchattacks class; ``norm`` is passed where the class knows several."""
    return lambda model, x, y: kind(model, eps=ball.eps, **options)(x, y)


def of_autoattack(kind: Any, ball: Ball, **options: Any) -> Attack:
    """One of the classes that AutoAttack is made of."""
    settings = {"norm": ball.norm, "eps": ball.eps, "seed": 0, "device": "cpu"}
    return lambda model, x, y: kind(model, **settings, **options).perturb(x, y)


def of_foolbox(attack: Any, ball: Ball) -> Attack:
    """An attack of foolbox, one with a fixed ε or one that minimises the distance."""
    fixed = isinstance(attack, foolbox.attacks.base.FixedEpsilonAttack)
    options = {"epsilon": ball.eps} if fixed else {}

    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        seen = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        return attack.run(seen, x, Misclassification(y), **options)

    return run


def of_art(kind: Any, ball: Ball, **options: Any) -> Attack:
    """A class of ART, which knows arrays of float32 only."""
    norm = {"Linf": float("inf"), "L2": 2}[ball.norm]

    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        attack = kind(art_classifier(model, x, clip_values=(0, 1)), norm=norm, eps=ball.eps, **options)
        return torch.from_numpy(attack.generate(x.numpy(), y.numpy()))

    return run


def art_classifier(model: nn.Module, x: Tensor, **options: Any) -> Any:
    """A model of images like x, of ten classes, in ART's terms."""
    return PyTorchClassifier(
        model, loss=nn.CrossEntropyLoss(), input_shape=tuple(x.shape[1:]), nb_classes=10, device_type="cpu", **options
    )


def fast_gradient(ball: Ball) -> dict[str, Attack]:
    """One step of size ε from x."""
    kinds = {"Linf": foolbox.attacks.LinfFastGradientAttack, "L2": foolbox.attacks.L2FastGradientAttack}
    found = {"foolbox": of_foolbox(kinds[ball.norm](), ball)}
    if ball.norm == "Linf":
        found["torchattacks"] = of_torchattacks(torchattacks.FGSM, ball)
    return found


def pgd(ball: Ball, steps: int, step_size: float, random_start: bool) -> dict[str, Attack]:
    """PGD on the cross-entropy.

    torchattacks' guard against a zero gradient is made so small that it changes no other. Its random start in L2 has a
    radius uniform in [0, ε], nearer to x than a uniform point of the ball; it is left out there.
    """
    fool = {"Linf": foolbox.attacks.LinfPGD, "L2": foolbox.attacks.L2PGD}[ball.norm]
    same: dict[str, Any] = {"steps": steps, "random_start": random_start}
    found = {"foolbox": of_foolbox(fool(abs_stepsize=step_size, **same), ball)}
    if ball.norm == "Linf":
        found["torchattacks"] = of_torchattacks(torchattacks.PGD, ball, alpha=step_size, **same)
    elif not random_start:
        same["eps_for_division"] = 1e-30
        found["torchattacks"] = of_torchattacks(torchattacks.PGDL2, ball, alpha=step_size, **same)
    return found


def margin_pgd(ball: Ball, steps: int, step_size: float, random_start: bool) -> dict[str, Attack]:
    """foolbox's PGD on the margin max_{j≠y} z_j − z_y; the other libraries have none."""
    kind: Any = {"Linf": foolbox.attacks.LinfPGD, "L2": foolbox.attacks.L2PGD}[ball.norm]

    class MarginPGD(kind):  # type: ignore[misc]
        def get_loss_fn(self, model: Any, labels: Any) -> Callable[[Any], Any]:
            def loss(x: Any) -> Any:
                logits, rows = model(x), range(len(x))
                return (logits[rows, best_other_classes(logits, labels)] - logits[rows, labels]).sum()

            return loss

    return {"foolbox": of_foolbox(MarginPGD(abs_stepsize=step_size, steps=steps, random_start=random_start), ball)}


def apgd(ball: Ball, loss: str) -> dict[str, Attack]:
    """Auto-PGD, 100 steps, one start, on "ce" or "dlr"."""
    return {
        "torchattacks": of_torchattacks(torchattacks.APGD, ball, norm=ball.norm, steps=100, loss=loss),
        "autoattack": of_autoattack(APGDAttack, ball, n_iter=100, loss=loss),
    }


def apgd_t(ball: Ball) -> dict[str, Attack]:
    """Auto-PGD on the targeted DLR loss, 9 targets, 100 steps each."""
    return {
        "torchattacks": of_torchattacks(torchattacks.APGDT, ball, norm=ball.norm, steps=100),
        "autoattack": of_autoattack(APGDAttack_targeted, ball, n_iter=100),
    }


def fab_t(ball: Ball) -> dict[str, Attack]:
    """FAB, 9 targets, 100 steps each; of foolbox its kin, DeepFool."""
    deepfool = {"Linf": foolbox.attacks.LinfDeepFoolAttack, "L2": foolbox.attacks.L2DeepFoolAttack}[ball.norm]
    return {
        "torchattacks": of_torchattacks(torchattacks.FAB, ball, norm=ball.norm, steps=100, multi_targeted=True),
        "autoattack": of_autoattack(FABAttack_PT, ball, n_iter=100, targeted=True),
        "foolbox": of_foolbox(deepfool(steps=100), ball),
    }


def square(ball: Ball, queries: int) -> dict[str, Attack]:
    """The square attack with the schedule stretched to the number of queries; the start is one more."""
    return {
        "torchattacks": of_torchattacks(torchattacks.Square, ball, norm=ball.norm, n_queries=queries - 1),
        "autoattack": of_autoattack(SquareAttack, ball, n_queries=queries - 1),
    }


def standard(ball: Ball, queries: int) -> dict[str, Attack]:
    """The authors' standard evaluation, with so many queries.

    torchattacks' AutoAttack is left out: it leaves Auto-PGD and FAB at 10 steps, and its members are compared one by one.
    """

    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        attack = AutoAttack(model, norm=ball.norm, eps=ball.eps, seed=0, device="cpu")
        attack.square.n_queries = queries - 1
        return attack.run_standard_evaluation(x, y, batch_size=len(x))[0]

    return {"autoattack": run}
