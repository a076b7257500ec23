"""The model as one run of an attack sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from robustspike.attacks.attempt import Attempt, best_of, calls_for
from robustspike.draws import Draws, sampling
from robustspike.gradients import Estimator, Memory, errs, estimating, frozen, look


class View:
    """Logits, losses and input gradients of the samples that are still attacked, through one estimator, each booked.

    Where the estimator does not keep the model's logits (CBA), these cost a forward pass of their own.

    Holds what the estimator remembers between its gradient evaluations: one view for each run of an attack's loop.

    Args:
        attempt: where costs are booked; its rows are the samples.
        y: [N] labels.
        estimator, loss, samples: as in :class:`robustspike.PGD`.
        draws: [N] streams.
        target: [N, ...], classes or clean logits; where given, ``loss`` is called with it as third argument.
    """

    def __init__(
        self, model: nn.Module, attempt: Attempt, y: Tensor, draws: Draws, *, estimator: Estimator,
        loss: Callable[..., Tensor], samples: int = 1, target: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.model, self.attempt, self.y, self.draws, self.target = model, attempt, y, draws, target
        self.estimator, self.loss, self.samples = estimator, loss, samples
        self.left = torch.arange(len(y), device=y.device)
        self.fooled = torch.zeros(len(y), dtype=torch.bool, device=y.device)
        self.memory = Memory()

    def __call__(self, x: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """The model's own logits [M, K] and losses [M], and the gradient (0 for NaN), at x [M, ...], the samples left.

        Draws are those of step number ``step``.
        """
        with torch.no_grad(), frozen(self.model), estimating(self.model, self.estimator, self.memory):
            logits, losses, gradient = look(
                self.model, x, self.y, self._loss, self.samples, self.draws.fork(1 + step), self.memory
            )
        self.attempt.count(self.left, gradient, self.samples)
        if not getattr(self.estimator, "exact", False):
            logits, losses = self.losses(x, step)
        return logits, losses, gradient.nan_to_num(0.0)

    def _loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return self.loss(logits, y) if self.target is None else self.loss(logits, y, self.target)

    def losses(self, x: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Logits [M, K] and losses [M] without gradient, of the model itself."""
        seen = []
        with torch.no_grad(), frozen(self.model):
            for k in range(self.samples):
                with sampling(self.draws.fork(1 + step).fork(k)):
                    logits = self.model(x)
                seen.append((logits, self._loss(logits, self.y)))
        self.attempt.queries[self.left] += self.samples
        logits, losses = (torch.stack(each).mean(0) for each in zip(*seen, strict=True))
        return logits, losses

    def standing(self, logits: Tensor, x: Tensor) -> Tensor:
        """[M] bool: which samples the model gets right; the others are ``fooled``, and x their adversarial examples."""
        wrong = errs(logits, self.y)
        self.attempt.x_adv[self.left[wrong]] = x[wrong]
        self.fooled[self.left[wrong]] = True
        return ~wrong

    def keep(self, which: Tensor) -> None:
        """Go on with these of the samples left, [M] bool."""
        if which.all():
            return
        self.left, self.y, self.draws = self.left[which], self.y[which], self.draws[which]
        self.target = None if self.target is None else self.target[which]
        self.memory.keep(which)


def may_stop(early_stop: bool, model: nn.Module, x: Tensor) -> bool:
    """Whether a sample is done with once its logits err: if wanted, and these are the model's only answer."""
    return early_stop and calls_for(model, x) == 1


def others(logits: Tensor, y: Tensor) -> Tensor:
    """The classes other than y, likeliest first, [N, K − 1]."""
    order = logits.scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True, stable=True)
    return order[order != y[:, None]].reshape(len(y), -1)


def rivals(model: nn.Module, x: Tensor, y: Tensor, draws: Draws, count: int) -> Tensor:
    """The ``count`` classes other than y that the model finds likeliest at x, likeliest first, [N, ≤ count]."""
    return others(answers(model, x, draws).nan_to_num(-torch.inf), y)[:, :count]


def answers(model: nn.Module, x: Tensor, draws: Draws) -> Tensor:
    """The model's logits [N, K] for the images as they are, without gradient."""
    with torch.no_grad(), frozen(model), sampling(draws.fork("rivals")):
        logits: Tensor = model(x)
    return logits


def climb_towards_each(self: Any, model: nn.Module, x: Tensor, y: Tensor, draws: Draws | None = None) -> Attempt:
    """x_adv and costs, see :class:`robustspike.attacks.Attempt`: the best of ``self.restarts`` climbs.

    With ``self.targets`` it is the best of as many towards each of so many likeliest other classes. ``self._climb(model, x,
    y, draws, stop, target)`` gets the samples that no earlier one broke, and their target classes (None: untargeted).
    """
    draws = Draws.fresh(len(x), x.device) if draws is None else draws
    stop = may_stop(self.early_stop, model, x)
    order = rivals(model, x, y, draws, self.targets) if self.targets and len(x) else None
    count = 1 if order is None else order.shape[1]

    def climb(k: int, which: Tensor, draws: Draws) -> Attempt:
        target = None if order is None else order[which, k % count]
        attempt: Attempt = self._climb(model, x[which], y[which], draws, stop, target)
        return attempt

    attempt = best_of(model, x, y, draws, self.restarts * count, climb)
    attempt.queries += order is not None
    return attempt
