"""A training objective: weighted terms at the points an attack moves the batch to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn

from robustspike.draws import Draws, sampling
from robustspike.gradients import is_stochastic

Perturb = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass
class Batch:
    """One batch as the terms see it: x [N, ...] (already perturbed), y [N], logits computed once.

    ``x`` requires gradient if some term differentiates with respect to it.
    """

    model: nn.Module
    x: Tensor
    y: Tensor

    @cached_property
    def _draws(self) -> Draws | None:
        return Draws.fresh(len(self.x), self.x.device) if is_stochastic(self.model) else None

    def forward(self, x: Tensor) -> Tensor:
        """Logits at other points of the same samples, float32 or wider; a stochastic model draws the same numbers."""
        with sampling(self._draws):
            logits: Tensor = self.model(x)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    @cached_property
    def logits(self) -> Tensor:
        return self.forward(self.x)


class Term(Protocol):
    """A mean loss over the batch; ``differentiates_input`` says whether it needs the gradient of x."""

    @property
    def differentiates_input(self) -> bool: ...
    def __call__(self, batch: Batch) -> Tensor: ...


@dataclass(frozen=True)
class Objective:
    """loss = Σ weight · term, all terms at x_adv = ``perturb``(model, x, y), or at x.

    Call it in any training loop: ``objective(model, x, y).backward()``. The model's mode is the caller's (training, as a
    rule); an attack used as ``perturb`` itself switches to evaluation mode and back.

    Args:
        name: as printed in tables.
        terms: pairs of weight and :class:`Term`; a weight of 0 is not computed.
        perturb: (model, x, y) to x_adv, such as a :class:`robustspike.PGD`; None trains on x.
        weight_decay: the weight decay published with the objective, for trainers that are given none.

    Example:
        >>> model, x, y = digits_cnn(time_steps=2), torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])
        >>> vanilla()(model, x, y).backward()
    """

    name: str
    terms: tuple[tuple[float, Term], ...]
    perturb: Perturb | None = None
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        if not any(weight != 0 for weight, _ in self.terms):
            raise ValueError(f"objective {self.name!r} needs at least one term with a weight other than 0")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The scalar loss of a batch x [N, ...] in [0, 1] with labels y [N] int64."""
        if self.perturb is not None:
            x = self.perturb(model, x, y)
        active = [(weight, term) for weight, term in self.terms if weight != 0]
        point = x.detach()
        if any(term.differentiates_input for _, term in active):
            point = point.clone().requires_grad_()
        batch = Batch(model, point, y)
        losses = [term(batch) if weight == 1 else weight * term(batch) for weight, term in active]
        total = losses[0]
        for loss in losses[1:]:
            total = total + loss
        return total
