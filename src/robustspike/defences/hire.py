"""HIRE-SNN: noise crafted from one period of the simulation for the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from robustspike.defences.objective import Batch
from robustspike.draws import sampling
from robustspike.encoders import Frames, presenting
from robustspike.neurons import DLIF


@dataclass(frozen=True)
class CraftedNoise:
    """Mean over periods n = 1 … N of CE(logits after n periods); the image of each period carries noise from the one before.

    T steps are split into N equal periods. Period n sees x_n = clip(x + δ_n, 0, 1), δ_1 = 0 and δ_{n+1} = clip(δ_n + ε·sign
    ∇_{x_n} CE_n, −ε, ε): the noise costs no forward pass of its own.

    Args:
        eps: ε ≥ 0, in pixel units.
        periods: N ≥ 1; at call time it must divide T.

    Raises:
        ValueError: for ε < 0 or N < 1; at call time for a model without an encoder, for event frames or DLIF
            neurons, or for T that N does not divide.

    Source: Kundu et al. 2021 (HIRE-SNN). Their training code is not public. Differs from the paper: one step of the weights
    for the mean of the periods' losses where theirs steps after each period; each period's loss is computed from the first
    time step on, with gradient, where theirs carries the potentials over; threshold and leak are not trained.

    Example:
        >>> from robustspike.defences import CraftedNoise
        >>> CraftedNoise(eps=0.03).periods
        2
    """

    differentiates_input: ClassVar[bool] = False
    reads_layers: ClassVar[bool] = False
    eps: float = 8 / 255
    periods: int = 2

    def __post_init__(self) -> None:
        if not self.eps >= 0:
            raise ValueError(f"eps must be ≥ 0, in pixel units, got {self.eps}")
        if self.periods < 1:
            raise ValueError(f"periods must be ≥ 1, got {self.periods}")

    def __call__(self, batch: Batch) -> Tensor:
        model, x, steps = batch.model, batch.point.x.detach(), self._steps(batch)
        encoder = model.encoder
        noise, codes, losses = torch.zeros_like(x), [], []
        for n in range(self.periods):
            image = (x + noise).clamp(0, 1).requires_grad_(n + 1 < self.periods)
            with sampling(batch.point.draws):
                code: Tensor = encoder(image)  # type: ignore[operator]
            codes.append(code[n * steps : (n + 1) * steps])
            seen = codes[0] if n == 0 else torch.cat([*(c.detach() for c in codes[:-1]), codes[-1]])
            with presenting(model, (n + 1) * steps):
                logits = batch.point.forward(seen.transpose(0, 1))
            losses.append(F.cross_entropy(logits, batch.y))
            if n + 1 < self.periods:
                (gradient,) = torch.autograd.grad(losses[-1], image, retain_graph=True)
                noise = (noise + self.eps * gradient.sign()).clamp(-self.eps, self.eps)
        return torch.stack(losses).mean()

    def _steps(self, batch: Batch) -> int:
        """Time steps in one period."""
        encoder = getattr(batch.model, "encoder", None)
        if encoder is None:
            raise ValueError(
                "noise for each period needs a model with a module `encoder` from x [N, ...] to [T, N, ...], as "
                f"robustspike's networks have; got {type(batch.model).__name__}; use another objective"
            )
        if isinstance(encoder, Frames) and self.periods > 1:
            raise ValueError(
                "event frames differ from step to step, so noise crafted on those of one period is none for the next; "
                "use another objective, or 1 period"
            )
        if self.periods > 1 and any(isinstance(m, DLIF) for m in batch.model.modules()):
            raise ValueError(
                "DLIF neurons take all their time steps at once, but noise is crafted on the first periods alone; use lif "
                "neurons, another objective, or 1 period"
            )
        total = int(encoder.time_steps)
        if total % self.periods:
            raise ValueError(f"{self.periods} periods must divide the {total} time steps; choose another number")
        return total // self.periods
