"""Terms of training objectives, each the equation of its paper."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from robustspike.defences.objective import Batch


@dataclass(frozen=True)
class CrossEntropy:
    """Mean cross-entropy of the logits."""

    differentiates_input: bool = False

    def __call__(self, batch: Batch) -> Tensor:
        return F.cross_entropy(batch.logits, batch.y)


def strongest_rival(logits: Tensor, y: Tensor) -> Tensor:
    """ỹ = argmax_{j≠y} z_j, [N]."""
    return logits.detach().scatter(1, y[:, None], -torch.inf).argmax(1)


def true_class_probability(logits: Tensor, y: Tensor, rival: Tensor | None) -> Tensor:
    """f_y(x) [N]: the softmax's value for y over {z_y, z_rival}, or over all classes where ``rival`` is None."""
    z_y = logits.gather(1, y[:, None]).squeeze(1)
    if rival is not None:
        return torch.sigmoid(z_y - logits.gather(1, rival[:, None]).squeeze(1))
    return torch.exp(z_y - logits.logsumexp(1))


@dataclass(frozen=True)
class GradientSparsity:
    """SR: mean |f_y(x + h·d) − f_y(x)| / h with d = sign(∇_x f_y(x)) held constant, which tends to ‖∇_x f_y‖₁ as h → 0.

    The rival class of the two-class form is chosen at x and kept for the second point. Both points are evaluated in the
    mode the model is in, and the second is not clipped to [0, 1].

    Args:
        h: the step of the finite difference, in pixel units.
        classes: "two" (Liu 2024, eq. 9) or "all" (Liu 2023, eq. 9).
        penalty: "abs" (the papers) or "square" (their released code squares the quotient).

    Raises:
        ValueError: for another form or penalty, or h ≤ 0.

    Source: Liu 2024, eqs. 9 and 15-17. Differs from the authors' code: theirs takes the raw logit z_y for f_y, a
    direction of unit ℓ2 norm, and half the squared quotient.
    """

    h: float = 0.01
    classes: str = "two"
    penalty: str = "abs"
    differentiates_input: bool = True

    def __post_init__(self) -> None:
        if self.classes not in ("two", "all"):
            raise ValueError(f'classes must be "two" or "all", got {self.classes!r}')
        if self.penalty not in ("abs", "square"):
            raise ValueError(f'penalty must be "abs" or "square", got {self.penalty!r}')
        if not self.h > 0:
            raise ValueError(f"h must be positive, in pixel units, got {self.h}")

    def __call__(self, batch: Batch) -> Tensor:
        rival = strongest_rival(batch.logits, batch.y) if self.classes == "two" else None
        f_here = true_class_probability(batch.logits, batch.y, rival)
        (gradient,) = torch.autograd.grad(f_here.sum(), batch.x, retain_graph=True)
        there = batch.x.detach() + self.h * gradient.sign()
        f_there = true_class_probability(batch.forward(there), batch.y, rival)
        quotient = (f_there - f_here) / self.h
        return quotient.abs().mean() if self.penalty == "abs" else quotient.square().mean()
