"""What an attack is, and what one run of it leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from robustspike.draws import Draws


@dataclass
class Attempt:
    """The adversarial examples of one run and what they cost, per sample.

    Attributes:
        x_adv: [N, ...] in [0, 1].
        gradients: [N] int64, gradient evaluations spent on the sample.
        zero, nan: [N] int64, how many of them were exactly zero everywhere, or held a NaN.
        restart: [N] int64, the restart that x_adv comes from.
    """

    x_adv: Tensor
    gradients: Tensor
    zero: Tensor
    nan: Tensor
    restart: Tensor

    @classmethod
    def begin(cls, x: Tensor) -> Attempt:
        """Nothing tried yet: x itself, all counts 0."""
        none = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return cls(x.clone(), none, none.clone(), none.clone(), none.clone())

    def count(self, which: Tensor, gradient: Tensor, evaluations: int) -> None:
        """Book ``evaluations`` gradient evaluations, with this mean gradient, to the samples ``which``."""
        flat = gradient.flatten(1)
        self.gradients[which] += evaluations
        self.zero[which] += evaluations * (flat == 0).all(1)
        self.nan[which] += evaluations * flat.isnan().any(1)

    def adopt(self, other: Attempt, which: Tensor) -> None:
        """Add the costs of a later run on the samples ``which`` and take over its adversarial examples."""
        for name in ("gradients", "zero", "nan"):
            getattr(self, name)[which] += getattr(other, name)
        self.x_adv[which], self.restart[which] = other.x_adv, other.restart


class Attack(Protocol):
    """Moves images so that a model errs.

    ``attack(model, x, y)`` returns x_adv [N, ...]; ``run`` also returns what it cost. The model is only read: it is
    attacked in evaluation mode and comes back as it was.
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


def misclassified(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Whether the model errs, [N] bool, without gradient and in the mode it is in."""
    with torch.no_grad():
        return model(x).argmax(1) != y
