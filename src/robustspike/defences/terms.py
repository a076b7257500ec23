"""Terms of one point: cross-entropy, and how fast an output of the network changes with the pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from robustspike.defences.objective import Batch


@dataclass(frozen=True)
class CrossEntropy:
    """Mean cross-entropy of the logits with targets (1 − a)·one-hot + a/K, a = ``label_smoothing``.

    Example:
        >>> from robustspike.defences import CrossEntropy
        >>> CrossEntropy().label_smoothing
        0.0
    """

    differentiates_input: ClassVar[bool] = False
    reads_layers: ClassVar[bool] = False
    label_smoothing: float = 0.0

    def __call__(self, batch: Batch) -> Tensor:
        return F.cross_entropy(batch.point.logits, batch.y, label_smoothing=self.label_smoothing)


def strongest_rival(logits: Tensor, y: Tensor) -> Tensor:
    """ỹ = argmax_{j≠y} z_j, [N]."""
    return logits.detach().scatter(1, y[:, None], -torch.inf).argmax(1)


def true_class_probability(logits: Tensor, y: Tensor, rival: Tensor | None) -> Tensor:
    """f_y(x) [N]: the softmax's value for y over {z_y, z_rival}, or over all classes where ``rival`` is None."""
    z_y = logits.gather(1, y[:, None]).squeeze(1)
    if rival is not None:
        return torch.sigmoid(z_y - logits.gather(1, rival[:, None]).squeeze(1))
    return torch.exp(z_y - logits.logsumexp(1))


def change_of(batch: Batch, quantity: Callable[[Tensor], Tensor], form: str, h: float, norm: str = "l1") -> Tensor:
    """How fast a quantity [N] of the logits changes at ``batch.point.x`` in the direction d in which it grows fastest, [N].

    d = sign(g) for the ℓ1 norm of g = ∇_x q, or g/‖g‖₂ for the ℓ2 norm; held constant. ``form`` "difference" is the quotient
    (q(x + h·d) − q(x))/h, "exact" the norm ‖g‖ itself, differentiated a second time. Both points are evaluated in the mode
    that the model is in, and the second is not clipped to [0, 1].

    Raises:
        ValueError: if the logits do not depend on the pixels.
    """
    here, x = quantity(batch.point.logits), batch.point.x
    exact = form == "exact"
    (gradient,) = torch.autograd.grad(here.sum(), x, retain_graph=True, create_graph=exact, allow_unused=True)
    if gradient is None:
        raise ValueError(
            "the logits do not depend on the pixels by any path that autograd knows, so they have no gradient to hold down; "
            "use an encoder that can be differentiated, or another objective"
        )
    flat = gradient.flatten(1).to(torch.promote_types(gradient.dtype, torch.float32))
    if exact:
        return flat.abs().sum(1) if norm == "l1" else (flat.square().sum(1) + 1e-24).sqrt()
    direction = flat.sign() if norm == "l1" else _unit(flat)
    there = x.detach() + h * direction.reshape(x.shape).to(x.dtype)
    return (quantity(batch.point.forward(there)) - here) / h


def _unit(v: Tensor) -> Tensor:
    """v / ‖v‖₂ of each row, however short; 0 where it is 0."""
    return F.normalize(v / v.abs().amax(1, keepdim=True).clamp(min=torch.finfo(v.dtype).tiny), dim=1)


def _check(h: float, **choices: tuple[str, tuple[str, str]]) -> None:
    for name, (value, (one, other)) in choices.items():
        if value not in (one, other):
            raise ValueError(f'{name} must be "{one}" or "{other}", got {value!r}')
    if not h > 0:
        raise ValueError(f"h must be positive, in pixel units, got {h}")


@dataclass(frozen=True)
class GradientSparsity:
    """SR: mean |f_y(x + h·d) − f_y(x)| / h with d = sign(∇_x f_y(x)) held constant, which tends to ‖∇_x f_y‖₁ as h → 0.

    The rival class of the two-class form is chosen at x and kept for the second point. Both points are evaluated in the
    mode the model is in, and the second is not clipped to [0, 1]. Dropout draws a mask for each of the points,
    whose difference would be divided by h: leave it out of the network.

    Args:
        h: the step of the finite difference, in pixel units; not used by the exact form.
        classes: "two" (Liu 2024, eq. 9) or "all" (Liu 2023, eq. 9).
        penalty: "abs" (the papers) or "square" (their released code squares the quotient).
        form: "difference" (the paper), or "exact": ‖∇_x f_y‖₁ by back-propagation through the gradient. Liu 2024 finds
            that spiking networks do not train with it; small ones on digits do.

    Raises:
        ValueError: for another value of these, or h ≤ 0.

    Source: Liu 2024, eqs. 9 and 15-17. Differs from the authors' code: theirs takes the raw logit z_y for f_y, a
    direction of unit ℓ2 norm, and half the squared quotient.

    Example:
        >>> from robustspike.defences import GradientSparsity
        >>> GradientSparsity(classes="all").penalty
        'abs'
    """

    differentiates_input: ClassVar[bool] = True
    reads_layers: ClassVar[bool] = False
    h: float = 0.01
    classes: str = "two"
    penalty: str = "abs"
    form: str = "difference"

    def __post_init__(self) -> None:
        _check(
            self.h,
            classes=(self.classes, ("two", "all")),
            penalty=(self.penalty, ("abs", "square")),
            form=(self.form, ("difference", "exact")),
        )

    def __call__(self, batch: Batch) -> Tensor:
        rival = strongest_rival(batch.point.logits, batch.y) if self.classes == "two" else None
        quotient = change_of(batch, lambda logits: true_class_probability(logits, batch.y, rival), self.form, self.h)
        return quotient.abs().mean() if self.penalty == "abs" else quotient.square().mean()


@dataclass(frozen=True)
class GradientRegularization:
    """GR: mean ((CE(x + h·d) − CE(x)) / h)², which tends to ‖∇_x CE‖² as h → 0.

    Args:
        h: the step of the finite difference, in pixel units (ℓ2: of the whole image); not used by the exact form.
        form: "difference" or "exact", as in :class:`GradientSparsity`.
        norm: "l1", the dual of an L∞ attack, with d = sign(∇_x CE); or "l2" with d = ∇_x CE / ‖∇_x CE‖₂.

    Raises:
        ValueError: for another value of these, or h ≤ 0.

    Source: Finlay and Oberman 2021, sections 3 and 4; Liu 2024, eq. 15 (ℓ1).

    Example:
        >>> from robustspike.defences import GradientRegularization
        >>> GradientRegularization(norm="l2").form
        'difference'
    """

    differentiates_input: ClassVar[bool] = True
    reads_layers: ClassVar[bool] = False
    h: float = 0.01
    form: str = "difference"
    norm: str = "l1"

    def __post_init__(self) -> None:
        _check(self.h, form=(self.form, ("difference", "exact")), norm=(self.norm, ("l1", "l2")))

    def __call__(self, batch: Batch) -> Tensor:
        def losses(logits: Tensor) -> Tensor:
            return F.cross_entropy(logits, batch.y, reduction="none")

        return change_of(batch, losses, self.form, self.h, self.norm).square().mean()
