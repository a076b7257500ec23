"""Auto-PGD: projected gradient ascent with momentum that chooses its step size itself."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from robustspike.attacks.attempt import Attempt, adversarial_examples, check_counts, repeats
from robustspike.attacks.binding import bind
from robustspike.attacks.losses import targeted_dlr, targeted_margin
from robustspike.attacks.view import View, climb_towards_each
from robustspike.balls import Ball
from robustspike.draws import Draws
from robustspike.gradients import BPTT, Estimator, Loss, cross_entropy

MOMENTUM, PROGRESS = 0.75, 0.75  # α and ρ of the paper


def checkpoints(steps: int) -> list[int]:
    """The iterations w_j = ⌈p_j·steps⌉ at which the step size may halve.

    p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j − p_{j−1} − 0.03, 0.06), up to 1.

    Source: Croce and Hein 2020, section 3.2. Differs from the authors' code, whose whole-numbered gaps make other
    schedules below 100 steps (at 10 steps every iteration from the second on).

    Example:
        >>> checkpoints(100)
        [22, 41, 57, 70, 80, 87, 93, 99]
    """
    percent = [0, 22]
    while percent[-1] + max(percent[-1] - percent[-2] - 3, 6) <= 100:
        percent.append(percent[-1] + max(percent[-1] - percent[-2] - 3, 6))
    return sorted({-(-p * steps // 100) for p in percent[1:]})


@dataclass
class _Climb:
    """Where each sample's climb stands; all [M] or [M, ...]."""

    x: Tensor
    here: Tensor
    before: Tensor
    gradient: Tensor
    loss: Tensor
    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    step_size: Tensor
    rises: Tensor
    best_at_check: Tensor
    halved_at_check: Tensor

    @classmethod
    def begin(cls, x: Tensor, start: Tensor, step_size: float) -> _Climb:
        low, none = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device), torch.zeros_like(x)
        flags = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        sizes = torch.full_like(low, step_size)
        return cls(
            x, start, start, none, low, start.clone(), none.clone(), low.clone(), sizes, torch.zeros_like(low),
            low.clone(), flags,
        )  # fmt: skip

    def keep(self, which: Tensor) -> None:
        if not which.all():
            for f in dataclasses.fields(self):
                setattr(self, f.name, getattr(self, f.name)[which])

    def note(self, loss: Tensor, gradient: Tensor) -> None:
        """What was seen at ``here``; a loss that is no number is the highest of all: the model has no answer there."""
        loss = loss.to(self.loss.dtype).nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
        self.rises += (loss > self.loss) & self.loss.isfinite()
        better = loss > self.best_loss
        self.best[better], self.best_gradient[better] = self.here[better], gradient[better]
        self.best_loss = torch.maximum(loss, self.best_loss)
        self.loss, self.gradient = loss, gradient

    def move(self, ball: Ball, step: int) -> None:
        """One step with momentum (none in the first)."""
        target = ball.project(ball.ascend(self.here, self.gradient, self._shaped(self.step_size)), self.x)
        if step > 0:
            drift = MOMENTUM * (target - self.here) + (1 - MOMENTUM) * (self.here - self.before)
            target = ball.project(self.here + drift, self.x)
        self.before, self.here = self.here, target

    def check(self, length: int) -> None:
        """Halve the step, and go back to the best point, where the last ``length`` steps brought too little."""
        slow = self.rises < PROGRESS * length
        stuck = ~self.halved_at_check & (self.best_loss <= self.best_at_check)
        halve = slow | stuck
        self.step_size = torch.where(halve, self.step_size / 2, self.step_size)
        wide = self._shaped(halve)
        self.here = torch.where(wide, self.best, self.here)
        self.gradient = torch.where(wide, self.best_gradient, self.gradient)
        self.loss = torch.where(halve, self.best_loss, self.loss)
        self.halved_at_check, self.best_at_check = halve, self.best_loss.clone()
        self.rises = torch.zeros_like(self.rises)

    def _shaped(self, values: Tensor) -> Any:
        return values.reshape(-1, *[1] * (self.x.dim() - 1))


@dataclass(frozen=True)
class APGD:
    """Auto-PGD: momentum 0.75, steps that start at 2ε and halve where progress stalls, each time back at the best point.

    Args:
        ball: the threat model.
        steps: gradient evaluations per start.
        loss: of (logits, y) to [N]; :func:`robustspike.attacks.losses.dlr` is the paper's second loss.
        targets: 0: untargeted. Else so many runs, each towards one of the likeliest other classes, with the targeted DLR
            loss in place of ``loss`` (z_t − z_y where there are fewer than four classes).
        restarts: repetitions from new random starts, for the samples that are not broken yet.
        estimator, samples, early_stop: as in :class:`robustspike.PGD`; without ``early_stop`` the newest misclassified
            iterate is kept, the one of the highest loss if there is none.

    Raises:
        ValueError: for fewer than one step, restart or draw, or a negative number of targets.

    Source: Croce and Hein 2020, algorithm 1. Differs from the authors' code: the paper's checkpoints (see
    :func:`checkpoints`); condition 1 with < as in the paper; the last iterate costs a forward pass, not a gradient.

    Example:
        >>> x, y = torch.full((1, 2), 0.5), torch.tensor([0])
        >>> model = nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
        >>> APGD(Linf(0.1), steps=10)(model, x, y).round(decimals=4).tolist()
        [[0.4000000059604645, 0.6000000238418579]]
    """

    kind: ClassVar[str] = "white-box"
    ball: Ball
    steps: int = 100
    loss: Loss = cross_entropy
    targets: int = 0
    restarts: int = 1
    estimator: Estimator = field(default_factory=BPTT)
    samples: int = 1
    early_stop: bool = False
    label: str | None = None

    def __post_init__(self) -> None:
        check_counts(self, "steps", "restarts", "samples")
        if self.targets < 0:
            raise ValueError(f"targets must be ≥ 0 (0: untargeted), got {self.targets}")

    @property
    def name(self) -> str:
        if self.label is not None:
            return self.label
        loss = getattr(self.loss, "__name__", type(self.loss).__name__)
        what = {"cross_entropy": "CE"}.get(loss, loss.upper()) if self.targets == 0 else f"T{self.targets}"
        return f"APGD-{what}-{self.steps}{repeats(self)}"

    __call__ = adversarial_examples
    bind = bind
    run = climb_towards_each

    def _climb(
        self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws, stop: bool, target: Tensor | None
    ) -> Attempt:
        attempt = Attempt.begin(x)
        climb = _Climb.begin(x, self.ball.sample_rim(x, draws), 2 * self.ball.eps)
        view = View(
            model, attempt, y, draws, estimator=self.estimator, samples=self.samples, target=target,
            loss=self.loss if target is None else toward,
        )  # fmt: skip
        checks = checkpoints(self.steps)
        for step in range(self.steps):
            logits, loss, gradient = view(climb.here, step)
            climb.note(loss, gradient)
            standing = view.standing(logits, climb.here)
            if stop:
                climb.keep(standing)
                view.keep(standing)
                if len(view.left) == 0:
                    return attempt
            if step in checks:
                climb.check(step - max([0, *(w for w in checks if w < step)]))
            climb.move(self.ball, step)
        if stop:
            attempt.x_adv[view.left] = climb.here
            return attempt
        logits, loss = view.losses(climb.here, self.steps)
        climb.note(loss, climb.gradient)
        view.standing(logits, climb.here)
        attempt.x_adv[~view.fooled] = climb.best[~view.fooled]
        return attempt


def toward(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The targeted DLR loss, or z_t − z_y where there are too few classes for it."""
    return (targeted_dlr if logits.shape[1] >= 4 else targeted_margin)(logits, y, target)
