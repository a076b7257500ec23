"""The small attacks and gradients that the checks are judged by; each is run once and used by several."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from robustspike.attacks import PGD, Attack, Suite, UniformNoise, WorstOf, fgsm
from robustspike.attacks.attempt import Attempt, adversarial_examples, best_of
from robustspike.attacks.square import Square
from robustspike.balls import Ball
from robustspike.doubts.probed import Missing, Probe, Run
from robustspike.doubts.subject import Subject, measured
from robustspike.draws import Draws
from robustspike.gradients import ASSG, BPTR, BPTT, CBA, HART, RGA, Estimator, input_gradient
from robustspike.neurons import spiking_layers
from robustspike.surrogates import ArcTan, Triangle

ESTIMATORS: dict[str, Estimator] = {
    "own": BPTT(), "BPTR": BPTR(), "RGA": RGA(), "CBA": CBA(), "HART": HART(), "ASSG": ASSG()
}  # fmt: skip
WIDTHS: dict[str, Estimator] = {f"triangle {w:g}": BPTT(Triangle(w)) for w in (0.25, 0.5, 1.0, 2.0, 3.0)}
COMPARED: dict[str, Estimator] = {"own": BPTT(), "arctan 2": BPTT(ArcTan(2.0))} | {
    name: ESTIMATORS[name] for name in ("RGA", "BPTR", "HART", "ASSG")
}
SIZES = ("ε/2", "ε", "2ε", "large", "unbounded")
STEPS = (5, 10, 20, 40)
TRIES = 100  # of noise, half in the ball and half on its corners
QUERIES = 200  # of the black-box attack
EOT = 5  # draws whose gradients are averaged

PLAN = tuple(
    dict.fromkeys([
        *(Probe("FGSM", name) for name in ESTIMATORS),
        *(Probe("PGD-10", name, size) for name in ESTIMATORS for size in ("ε", "2ε", "unbounded")),
        *(Probe("PGD-10", "own", size) for size in SIZES),
        *(Probe(f"PGD-{steps}") for steps in STEPS),
        *(Probe("PGD-10", name) for name in WIDTHS),
        Probe("PGD-10 EOT"), Probe("noise"), Probe("black-box"),
    ])
)  # fmt: skip


@dataclass(frozen=True)
class RandomSigns:
    """x + ε·(±1) at random (L2: that direction at length ε), projected on the ball; the best of several tries.

    Example:
        >>> RandomSigns(Linf(0.1))(nn.Linear(2, 2), torch.full((1, 2), 0.5), torch.tensor([0])).shape
        torch.Size([1, 2])
    """

    kind: ClassVar[str] = "noise"
    name: ClassVar[str] = "random signs"
    ball: Ball
    tries: int = 1

    __call__ = adversarial_examples

    def run(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws | None = None) -> Attempt:
        """x_adv and costs, see :class:`robustspike.attacks.Attempt`."""

        def signs(k: int, which: Tensor, draws: Draws) -> Attempt:
            attempt = Attempt.begin(x[which])
            sign = 1 - 2 * draws.integers(2, x.shape[1:]).to(x.dtype)
            attempt.x_adv = self.ball.project(self.ball.ascend(x[which], sign, self.ball.eps), x[which])
            return attempt

        return best_of(model, x, y, Draws.fresh(len(x), x.device) if draws is None else draws, self.tries, signs)


def sizes(ball: Ball, entries: int) -> dict[str, float]:
    """The radius for each of :data:`SIZES`, for samples of so many entries; "unbounded" reaches every image.

    "large" is eight times ε, and 64/255 at least on an L∞ ball: what 64/255 is to the usual 8/255.
    """
    unbounded = entries**0.5 if ball.norm == "L2" else 1.0
    large = 8 * ball.eps if ball.norm == "L2" else max(8 * ball.eps, 64 / 255)
    radii = (ball.eps / 2, ball.eps, 2 * ball.eps, large, unbounded)
    return {name: min(radius, unbounded) for name, radius in zip(SIZES, radii, strict=True)}


def attack_of(probe: Probe, ball: Ball, stochastic: bool) -> Attack:
    """The attack that a probe runs on a ball of its size."""
    if probe.attack == "noise":
        tries = TRIES // 2 if not stochastic else TRIES // 10  # each of a stochastic model's costs ten calls
        return WorstOf((UniformNoise(ball, tries), RandomSigns(ball, tries)))
    if probe.attack == "black-box":
        return Square(ball, QUERIES)
    estimator = (ESTIMATORS | WIDTHS)[probe.estimator]
    if probe.attack == "FGSM":
        return fgsm(ball, estimator, early_stop=True)
    name, _, eot = probe.attack.partition(" ")
    steps, draws = int(name.removeprefix("PGD-")), EOT if eot else 1
    return PGD(ball, steps, estimator=estimator, samples=draws, early_stop=True)


def runs(subject: Subject) -> tuple[dict[Probe, Run | Missing], int]:
    """Every probe of :data:`PLAN`, all from the same random starts, equal ones once; and the gradient evaluations spent."""
    radii = sizes(subject.ball, subject.x[0].numel())
    known: dict[Any, Run | Missing] = {}

    def run(probe: Probe) -> Run | Missing:
        if probe.estimator != "own" and not subject.spiking:
            return _no_neurons(subject.model)
        if probe.attack == "PGD-10 EOT" and not subject.stochastic:
            return Missing("the model is deterministic", failed=False)
        attack: Any = attack_of(probe, subject.ball.with_eps(radii[probe.size]), subject.stochastic)
        if hasattr(attack, "estimator"):
            attack = dataclasses.replace(attack, estimator=_named(attack.estimator, subject.model))
        if attack not in known:
            known[attack] = measured(lambda: _run(attack, subject))
        return known[attack]

    found = {probe: run(probe) for probe in PLAN}
    return found, sum(run.gradients for run in known.values() if isinstance(run, Run))


def _run(attack: Attack, subject: Subject) -> Run:
    attempt = attack.run(subject.model, subject.x, subject.y, subject.draws.fork("start"))
    return Run(subject.errs_on(attempt.x_adv).cpu(), int(attempt.gradients.sum()))


def _named(estimator: Any, model: nn.Module) -> Any:
    """``BPTT()`` for an estimator that goes through the surrogate that all the layers have anyway; others as they are."""
    surrogate = getattr(estimator, "surrogate", None)
    layers = spiking_layers(model).values()
    if surrogate is None or any(getattr(layer, "surrogate", None) != surrogate for layer in layers):
        return estimator
    return BPTT()


def estimators_of(suite: Suite, model: nn.Module) -> tuple[str, ...]:
    """The probed estimators that attacks of the suite use: BPTT by its surrogate, others whatever their settings."""
    used = [_named(getattr(attack, "estimator", None), model) for attack in _members(suite.attacks)]
    kinds = {type(estimator) for estimator in used} - {BPTT}
    return tuple(name for name, each in (ESTIMATORS | WIDTHS).items() if each in used or type(each) in kinds)


def _members(attacks: Iterable[Any]) -> Iterator[Any]:
    for attack in attacks:
        yield attack
        yield from _members(getattr(attack, "members", ()))


def _no_neurons(model: nn.Module) -> Missing:
    return Missing(f"no spiking layer in {type(model).__name__}", failed=False)


def gradients(subject: Subject) -> tuple[dict[str, Tensor | Missing], int]:
    """∇_x of the cross-entropy at the clean points by estimator, [n, D] float64; and how many were evaluated."""

    def gradient(estimator: Estimator) -> Callable[[], Tensor]:
        draws = subject.draws.fork("clean")
        return lambda: (
            input_gradient(subject.model, subject.x, subject.y, estimator, draws=draws).flatten(1).double().cpu()
        )

    wanted = COMPARED if subject.spiking else {"own": BPTT()}
    found = {name: measured(gradient(estimator)) for name, estimator in wanted.items()}
    absent = {name: _no_neurons(subject.model) for name in COMPARED if name not in wanted}
    return found | absent, len(wanted) * len(subject.x)


def moved_by_noise(subject: Subject) -> Tensor:
    """Whether random signs at ε or at the large size change the logits, [n] bool."""
    radii = sizes(subject.ball, subject.x[0].numel())
    before, streams = subject.logits(subject.x), subject.draws.fork("signs")
    moved = torch.zeros(len(subject.x), dtype=torch.bool)
    for size in ("ε", "large"):
        signs = RandomSigns(subject.ball.with_eps(radii[size]))
        noisy = signs.run(subject.model, subject.x, subject.y, streams).x_adv
        moved |= (subject.logits(noisy) != before).any(1).cpu()
    return moved
