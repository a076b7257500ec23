"""What an attack is, and what one run of it leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from robustspike.draws import Draws, sampling
from robustspike.gradients import errs, frozen, is_stochastic


@dataclass
class Attempt:
    """The adversarial examples of one run and what they cost, per sample.

    Attributes:
        x_adv: [N, ...] in [0, 1].
        gradients: [N] int64, gradient evaluations (forward and backward) spent on the sample.
        queries: [N] int64, forward passes without gradient spent on it.
        zero, nan: [N] int64, how many of them were exactly zero everywhere, or held a NaN.
        restart: [N] int64, the restart that x_adv comes from.
    """

    x_adv: Tensor
    gradients: Tensor
    queries: Tensor
    zero: Tensor
    nan: Tensor
    restart: Tensor

    @classmethod
    def begin(cls, x: Tensor) -> Attempt:
        """Nothing tried yet: x itself, all counts 0."""
        none = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return cls(x.clone(), *(none.clone() for _ in range(5)))

    def count(self, which: Tensor, gradient: Tensor, evaluations: int) -> None:
        """Book ``evaluations`` gradient evaluations, with this mean gradient, to the samples ``which``."""
        flat = gradient.flatten(1)
        self.gradients[which] += evaluations
        self.zero[which] += evaluations * (flat == 0).all(1)
        self.nan[which] += evaluations * flat.isnan().any(1)

    def adopt(self, other: Attempt, which: Tensor, better: Tensor) -> None:
        """Add the costs of a run on the samples ``which`` [M] and take over its examples where ``better`` [M]."""
        for name in ("gradients", "queries", "zero", "nan"):
            getattr(self, name)[which] += getattr(other, name)
        self.x_adv[which[better]] = other.x_adv[better]
        self.restart[which[better]] = other.restart[better]


class Attack(Protocol):
    """Moves images so that a model errs.

    ``attack(model, x, y)`` returns x_adv [N, ...]; ``run`` also returns what it cost. The model is only read: it is
    attacked in evaluation mode and comes back as it was.

    Two more attributes are read where an attack has them: ``kind``, one of "one-step", "white-box", "black-box" and "noise"
    (white-box where missing), and ``caveat``, a sentence on why its figure is not one of robustness.
    """

    @property
    def name(self) -> str: ...
    def run(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws | None = None) -> Attempt: ...
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws | None = None) -> Tensor: ...


def adversarial_examples(self: Any, model: nn.Module, x: Tensor, y: Tensor, draws: Draws | None = None) -> Tensor:
    """x_adv [N, ...] for images x [N, ...] in [0, 1] with labels y [N] int64; ``draws``: the samples' random streams.

    Raises:
        ValueError: for images outside [0, 1], or x and y of different lengths.
    """
    if len(x) != len(y):
        raise ValueError(f"x and y must have one label for each image, got {len(x)} images and {len(y)} labels")
    if len(x) and not (x.min() >= 0 and x.max() <= 1):
        raise ValueError(
            f"images must lie in [0, 1], got values in [{x.min():.3g}, {x.max():.3g}]; put normalisation inside the model "
            "and divide 8-bit images by 255"
        )
    return self.run(model, x, y, draws).x_adv


def check_counts(attack: Any, *names: str) -> None:
    """Refuse an attack of fewer than one of these.

    Raises:
        ValueError: naming the first.
    """
    for name in names:
        if getattr(attack, name) < 1:
            raise ValueError(f"{name} must be ≥ 1, got {getattr(attack, name)}")


def repeats(attack: Any) -> str:
    """The end of an attack's name: its restarts and draws where they are more than one."""
    counted = ((attack.restarts, "restarts"), (attack.samples, "draws"))
    return "".join(f", {count} {what}" for count, what in counted if count > 1)


def shared_ball(attacks: Iterable[Any], whose: str) -> Any:
    """The one ball of several attacks, None where none has a ball.

    Raises:
        ValueError: if they have more than one; ``whose`` says whose they are.
    """
    balls = {ball for attack in attacks if (ball := getattr(attack, "ball", None)) is not None}
    if len(balls) > 1:
        raise ValueError(f"{whose} must share one ball, got {', '.join(map(str, balls))}")
    return balls.pop() if balls else None


def error_rate(model: nn.Module, x: Tensor, y: Tensor, draws: Draws, calls: int) -> Tensor:
    """The share of ``calls`` calls, each with draws of its own, in which the model errs, [N] in [0, 1]."""
    wrong = torch.zeros(len(x), device=x.device)
    with frozen(model), torch.no_grad():
        for k in range(calls):
            with sampling(draws.fork(k)):
                wrong += errs(model(x), y)
    return wrong / calls


def calls_for(model: nn.Module, x: Tensor) -> int:
    """How many calls it takes to judge an example: one, or ten for a stochastic model."""
    return 10 if is_stochastic(model, x[:2]) else 1


def best_of(
    model: nn.Module, x: Tensor, y: Tensor, draws: Draws, tries: int, run: Callable[[int, Tensor, Draws], Attempt]
) -> Attempt:
    """Of several tries on each sample, the example that the model errs on most often; costs are summed.

    Try k of ``run(k, which, draws of which)`` gets the samples ``which`` [M] that no earlier try made the model err on in
    every call; the attempt's ``restart`` says which try an example comes from.
    """
    if tries == 1:
        return run(0, torch.arange(len(x), device=x.device), draws.fork(0))
    attempt = Attempt.begin(x)
    calls, best = calls_for(model, x), torch.full((len(x),), -1.0, device=x.device)
    for k in range(tries):
        which = (best < 1).nonzero().flatten()
        if len(which) == 0:
            break
        one = run(k, which, draws[which].fork(k))
        if calls == 1 and k + 1 == tries:
            rate = best[which]  # nothing left to choose from
        else:
            rate = error_rate(model, one.x_adv, y[which], draws[which].fork("check").fork(k), calls)
            one.queries += calls
        better = rate >= best[which]
        best[which] = torch.maximum(rate, best[which])
        one.restart.fill_(k)
        attempt.adopt(one, which, better)
    return attempt
