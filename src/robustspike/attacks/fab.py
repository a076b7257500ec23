"""The fast adaptive boundary attack: the nearest point beyond the linearised decision boundary, again and again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustspike.attacks.attempt import Attempt, adversarial_examples, best_of, check_counts, repeats
from robustspike.attacks.binding import bind
from robustspike.attacks.losses import margin, targeted_margin
from robustspike.attacks.view import View, may_stop, others
from robustspike.balls import Ball
from robustspike.draws import Draws
from robustspike.gradients import BPTT, Estimator, errs


@dataclass(frozen=True)
class FAB:
    """Looks for the adversarial example nearest to x, once for each of the likeliest other classes.

    With f = z_t − z_y for a target t, linearised at x_i, and P the projection on the part in [0, 1] of the hyperplane where
    it vanishes (:func:`project_linf`, :func:`project_l2`)::

        δ = P(x_i) − x_i,  δ₀ = P(x) − x,  α = min(‖δ‖ / (‖δ‖ + ‖δ₀‖), alpha_max)
        x_{i+1} = clip((1 − α)·(x_i + η·δ) + α·(x + η·δ₀))
        where the model errs at x_{i+1}:  keep it if it is the nearest so far,  x_{i+1} ← x + β·(x_{i+1} − x)

    x_adv is the nearest example found if it lies in the ball, else its projection on the ball (that of the last iterate
    where none was found). An error is any class but y. A gradient of zero leaves the sample where it is. Examples lie just
    beyond the boundary, where a stochastic model errs about every second time: there PGD or APGD is the stronger attack.

    Args:
        ball: an L∞ or L2 ball, whose norm is minimised.
        steps: number of linearisations for each target and restart; each costs a gradient and a query.
        targets: so many other classes, by falling logit at x; all where there are fewer.
        restarts: the first begins at x, each later one at a random point of half the ball.
        estimator: how the gradient passes through the neurons.
        alpha_max: the greatest share of the step from x itself, in [0, 1].
        eta: η ≥ 1, how far the step goes, 1 being the hyperplane.
        beta: β in [0, 1), how much of the way from x is kept after an error.
        samples: logits and gradients are the mean over so many fresh draws of a stochastic model.
        early_stop: spend nothing more on a sample once an adversarial example in the ball is found. Ignored where the
            logits seen are not the model's own (CBA) or one lucky draw could end the attack (a stochastic model).

    Raises:
        ValueError: for another ball, fewer than one step, target, restart or draw, or a factor out of its range.

    Example:
        >>> x, y = torch.full((1, 2), 0.5), torch.tensor([0])
        >>> model = nn.Linear(2, 2)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
        >>> _ = model.bias.data.copy_(torch.tensor([0.1, 0.0]))
        >>> [round(pixel, 4) for pixel in FAB(Linf(0.1), steps=1)(model, x, y)[0].tolist()]
        [0.4475, 0.5525]

    Source: Croce and Hein 2020 (Minimally distorted adversarial examples with a fast adaptive boundary attack),
    algorithm 1; targets and settings of AutoAttack (Croce and Hein 2020). Differs from the paper: no final search on the
    segment to x, as in AutoAttack; ε for the paper's min(ε, distance found) in later restarts, which only get samples
    without an example in the ball. Differs from the authors' code: those starts lie in half the ball, not on its sphere.
    """

    kind: ClassVar[str] = "white-box"
    ball: Ball
    steps: int = 100
    targets: int = 9
    restarts: int = 1
    estimator: Estimator = field(default_factory=BPTT)
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    samples: int = 1
    early_stop: bool = True
    label: str | None = None

    def __post_init__(self) -> None:
        check_counts(self, "steps", "targets", "restarts", "samples")
        if not (0 <= self.alpha_max <= 1 and 1 <= self.eta < math.inf and 0 <= self.beta < 1):
            raise ValueError(
                "alpha_max must lie in [0, 1], eta be finite and ≥ 1, beta lie in [0, 1), "
                f"got {self.alpha_max}, {self.eta} and {self.beta}"
            )
        if self.ball.norm not in _PROJECTIONS:
            raise ValueError(f"FAB measures distance in an L∞ or L2 ball, got {self.ball}")

    @property
    def name(self) -> str:
        if self.label is not None:
            return self.label
        targets = f", {self.targets} targets" if self.targets != 9 else ""
        return f"FAB-T-{self.steps}{targets}{repeats(self)}"

    __call__ = adversarial_examples
    bind = bind

    def run(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws | None = None) -> Attempt:
        """x_adv and costs, see :class:`robustspike.attacks.Attempt`; ``restart`` counts targets and their restarts."""
        draws = Draws.fresh(len(x), x.device) if draws is None else draws
        attempt = Attempt.begin(x)
        if x.numel() == 0 or self.ball.eps == 0:
            return attempt
        view = View(model, attempt, y, draws.fork("clean"), estimator=BPTT(), loss=margin, samples=self.samples)
        logits, _ = view.losses(x, 0)
        rivals = others(logits, y)
        stop = may_stop(self.early_stop, model, x)
        if stop:
            view.keep(view.standing(logits, x))
        left = view.left
        if len(left) == 0:
            return attempt

        def search(k: int, which: Tensor, draws: Draws) -> Attempt:
            target, restart = divmod(k, self.restarts)
            which = left[which]
            start = self.ball.with_eps(self.ball.eps / 2).sample(x[which], draws.fork("start")) if restart else x[which]
            return self._search(model, start, x[which], y[which], rivals[which, target], draws, stop)

        tries = min(self.targets, rivals.shape[1]) * self.restarts
        found = best_of(model, x[left], y[left], draws[left], tries, search)
        attempt.adopt(found, left, torch.ones_like(left, dtype=torch.bool))
        return attempt

    def _search(
        self, model: nn.Module, here: Tensor, x: Tensor, y: Tensor, target: Tensor, draws: Draws, stop: bool
    ) -> Attempt:
        attempt, nearest = Attempt.begin(x), torch.full((len(x),), math.inf, dtype=torch.float64, device=x.device)
        view = View(
            model,
            attempt,
            y,
            draws,
            estimator=self.estimator,
            loss=targeted_margin,
            samples=self.samples,
            target=target,
        )
        found = here
        for step in range(self.steps):
            _, gap, gradient = view(here, 2 * step)
            here = self._step(here, x, gap, gradient)
            logits, _ = view.losses(here, 2 * step + 1)
            wrong, distance = errs(logits, view.y), self.ball.distance(here, x)
            closer = wrong & (distance < nearest)
            nearest = torch.where(closer, distance, nearest)
            found = torch.where(_each(closer | nearest.isinf(), x), here, found)
            here = torch.where(_each(wrong, x), x + self.beta * (here - x), here)
            left = ~(nearest <= self.ball.eps) if stop else torch.ones_like(wrong)
            if not left.all():
                attempt.x_adv[view.left[~left]] = found[~left]
                view.keep(left)
                here, x, found, nearest = here[left], x[left], found[left], nearest[left]
                if len(x) == 0:
                    return attempt
        attempt.x_adv[view.left] = torch.where(_each(nearest <= self.ball.eps, x), found, self.ball.project(found, x))
        return attempt

    def _step(self, here: Tensor, x: Tensor, gap: Tensor, gradient: Tensor) -> Tensor:
        """x_{i+1} before the step back, from f [M] and its gradient at x_i, both scaled by the largest slope."""
        flat, origin, w = (t.flatten(1).double() for t in (here, x, gradient))
        largest = _largest(w)
        w, f = w / largest, gap.double().nan_to_num() / largest.squeeze(1)
        b = (w * flat).sum(1) - f
        project = _PROJECTIONS[self.ball.norm]
        near, near_origin = project(flat, w, b), project(origin, w, b)
        length, length_origin = self.ball.distance(near, flat), self.ball.distance(near_origin, origin)
        both = length + length_origin
        alpha = torch.where(both > 0, length / both, 0.0).clamp(max=self.alpha_max)[:, None]
        step, step_origin = flat + self.eta * (near - flat), origin + self.eta * (near_origin - origin)
        return ((1 - alpha) * step + alpha * step_origin).clamp(0, 1).to(x.dtype).reshape(x.shape)


def project_linf(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """The point of {z in [0, 1]^F : w·z = b} nearest to x in L∞, where every entry goes as far as the others or its bound.

    Where the hyperplane misses the box: the corner nearest to it, entries with w = 0 as they are. x itself for w = 0.

    Args:
        x: [M, F] in [0, 1].
        w, b: [M, F] and [M], of any scale.

    Returns:
        [M, F] in float64.

    Source: Croce and Hein 2020 (FAB), section 2.2. z = x + s·min(λ, room), λ the level at which w·z reaches b.

    Example:
        >>> project_linf(torch.tensor([[0.5, 0.9]]), torch.tensor([[1.0, 1.0]]), torch.tensor([1.7])).round(decimals=4)
        tensor([[0.7000, 1.0000]], dtype=torch.float64)
    """
    return _project(x, w, b, lambda w: (w != 0).double())


def project_l2(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """The point of {z in [0, 1]^F : w·z = b} nearest to x in L2; arguments and other cases as in :func:`project_linf`.

    Source: Croce and Hein 2020 (FAB), section 2.2. z = x + s·min(λ·|w|, room).

    Example:
        >>> project_l2(torch.tensor([[0.5, 0.5]]), torch.tensor([[3.0, 4.0]]), torch.tensor([6.0])).round(decimals=4)
        tensor([[0.8000, 0.9000]], dtype=torch.float64)
    """
    return _project(x, w, b, torch.abs)


_PROJECTIONS = {"Linf": project_linf, "L2": project_l2}


def _project(x: Tensor, w: Tensor, b: Tensor, rates: Callable[[Tensor], Tensor]) -> Tensor:
    """x + s·min(λ·rate, room) with s the signs that bring w·x nearer to b and room the way to the box's bounds."""
    x, w, b = x.double(), w.double(), b.double()
    largest = _largest(w)
    w, b = w / largest, b / largest.squeeze(1)
    lack = b - (w * x).sum(1)
    sign = w.sign() * lack.sign()[:, None]
    room = torch.where(sign > 0, 1 - x, x)
    return (x + sign * _filled(w.abs(), rates(w), room, lack.abs()[:, None])).clamp(0, 1)


def _filled(weight: Tensor, rate: Tensor, room: Tensor, lack: Tensor) -> Tensor:
    """min(λ·rate, room) [M, F] with the λ ≥ 0 that solves Σ weight·min(λ·rate, room) = lack [M, 1]; room if none does.

    Between the levels room/rate at which one entry after the other is full, the sum is linear in λ.
    """
    full, order = torch.where(rate > 0, room / rate, 0.0).sort(1)
    gain, slope = (weight * room).gather(1, order), (weight * rate).gather(1, order)
    before = gain.cumsum(1) - gain
    rising = slope.flip(1).cumsum(1).flip(1)
    short = (before + full * rising < lack).sum(1, keepdim=True)  # how many are full at λ
    at = short.clamp(max=weight.shape[1] - 1)
    level = (lack - before.gather(1, at)) / rising.gather(1, at).clamp(min=torch.finfo(torch.float64).tiny)
    return torch.where(short < weight.shape[1], torch.minimum(level * rate, room), room)


def _largest(w: Tensor) -> Tensor:
    """max|w| of each sample, 1 where it is 0, [M, 1]."""
    largest = w.abs().amax(1, keepdim=True)
    return torch.where(largest > 0, largest, 1.0)


def _each(which: Tensor, like: Tensor) -> Tensor:
    return which.reshape(-1, *[1] * (like.dim() - 1))
