"""Stable adaptive PGD: steps scaled per pixel by the gradients' recent size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustspike.attacks.apgd import checkpoints
from robustspike.attacks.attempt import Attempt, adversarial_examples, check_counts, repeats
from robustspike.attacks.binding import bind
from robustspike.attacks.losses import targeted_margin
from robustspike.attacks.view import View, climb_towards_each
from robustspike.balls import Ball
from robustspike.draws import Draws
from robustspike.gradients import BPTT, Estimator, Loss, cross_entropy


def _mean(values: Tensor) -> Tensor:
    """Per sample, [M, 1, ...]."""
    return values.flatten(1).mean(1).reshape(-1, *[1] * (values.dim() - 1))


def accumulate(m: Tensor, v: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """m ← 0.5·m + g/mean|g| and v ← 0.8·v + g²/mean(g²), means per sample; a gradient of zero adds nothing."""
    largest = gradient.abs().flatten(1).amax(1).reshape(-1, *[1] * (gradient.dim() - 1))
    g = gradient / torch.where(largest > 0, largest, torch.ones_like(largest))  # so that squares do not underflow
    size, power = _mean(g.abs()), _mean(g.square())
    one = torch.ones_like(size)
    m = 0.5 * m + g / torch.where(size > 0, size, one)
    v = 0.8 * v + g.square() / torch.where(power > 0, power, one)
    return m, v


def step_of(m: Tensor, v: Tensor, gradient: Tensor, eta: float) -> Tensor:
    """clip(m/√v·η, −η, η); 0 where v is 0 and for a sample whose gradient is zero everywhere."""
    step = torch.where(v > 0, m / v.sqrt().clamp(min=1e-12), torch.zeros_like(m)).clamp(-1, 1) * eta
    moved = (gradient != 0).flatten(1).any(1).reshape(-1, *[1] * (gradient.dim() - 1))
    return step * moved


@dataclass(frozen=True)
class SAPGD:
    """SA-PGD: m = 0.5·m + g/mean|g|, v = 0.8·v + g²/mean(g²), step = clip(m/√v·η, −η, η), η halved at APGD's checkpoints.

    η starts at ε, m and v at 0, x on the ball's face; all statistics per sample. With :class:`robustspike.ASSG` this is the
    strongest published white-box attack on spiking networks. On an L2 ball the step's direction m/√v is followed for a
    length η.

    Args:
        ball: the threat model.
        steps: gradient evaluations per start.
        targets: 0: untargeted. Else so many runs, each ascending z_t − z_y for one of the likeliest other classes t.
        restarts, estimator, loss, samples, early_stop: as in :class:`robustspike.PGD`; without ``early_stop`` the newest
            misclassified iterate is kept (the last one if there is none).

    Raises:
        ValueError: for fewer than one step, restart or draw, or a negative number of targets.

    Source: Wang et al. 2026, algorithm 2. Differs from the authors' code: a zero gradient leaves the sample where it is
    (theirs divides 0 by 0); the checkpoints are those of the APGD paper (see :func:`robustspike.attacks.apgd.checkpoints`);
    L2 and targets are ours.

    Example:
        >>> x, y = torch.full((1, 2), 0.5), torch.tensor([0])
        >>> model = nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
        >>> SAPGD(Linf(0.1), steps=10)(model, x, y).round(decimals=4).tolist()
        [[0.4000000059604645, 0.6000000238418579]]
    """

    kind: ClassVar[str] = "white-box"
    ball: Ball
    steps: int = 100
    targets: int = 0
    restarts: int = 1
    estimator: Estimator = field(default_factory=BPTT)
    loss: Loss = cross_entropy
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
        what = f"T{self.targets}-" if self.targets else ""
        other = f", {loss} loss" if self.loss is not cross_entropy and not self.targets else ""
        return f"SA-PGD-{what}{self.steps}{other}{repeats(self)}"

    __call__ = adversarial_examples
    bind = bind
    run = climb_towards_each

    def _climb(
        self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws, stop: bool, target: Tensor | None
    ) -> Attempt:
        attempt, here = Attempt.begin(x), self.ball.sample_rim(x, draws)
        m, v, eta, halve = torch.zeros_like(x), torch.zeros_like(x), self.ball.eps, checkpoints(self.steps)
        view = View(
            model, attempt, y, draws, estimator=self.estimator, samples=self.samples, target=target,
            loss=self.loss if target is None else targeted_margin,
        )  # fmt: skip
        for step in range(self.steps):
            logits, _, gradient = view(here, step)
            standing = view.standing(logits, here)
            if stop:
                view.keep(standing)
                x, here, m, v, gradient = (values[standing] for values in (x, here, m, v, gradient))
                if len(here) == 0:
                    return attempt
            m, v = accumulate(m, v, gradient)
            here = self._move(here, x, step_of(m, v, gradient, eta), eta)
            eta = eta / 2 if step + 1 in halve else eta
        if stop:
            attempt.x_adv[view.left] = here
            return attempt
        view.standing(view.losses(here, self.steps)[0], here)
        attempt.x_adv[~view.fooled] = here[~view.fooled]
        return attempt

    def _move(self, here: Tensor, x: Tensor, step: Tensor, eta: float) -> Tensor:
        moved = here + step if self.ball.norm == "Linf" else self.ball.ascend(here, step, eta)
        return self.ball.project(moved, x)
