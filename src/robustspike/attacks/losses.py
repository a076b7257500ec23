"""What attacks ascend: losses per sample of logits [N, K] and labels [N], large where the model errs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustspike.gradients import cross_entropy, divergence

__all__ = ["LOSSES", "FromClean", "cross_entropy", "dlr", "margin", "targeted_dlr", "targeted_margin"]


def _of(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None]).squeeze(1)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """max_{j≠y} z_j − z_y, [N]: positive where the model errs.

    Source: Carlini and Wagner 2017, f₆ with κ = 0 and without its clipping.

    Example:
        >>> margin(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0])).tolist()
        [-1.0]
    """
    rival = logits.scatter(1, y[:, None], -float("inf")).amax(1)
    return rival - _of(logits, y)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio, −(z_y − max_{j≠y} z_j) / (z_π1 − z_π3), π sorting the logits downwards, [N].

    Raises:
        ValueError: for fewer than three classes.

    Source: Croce and Hein 2020, eq. 6.

    Example:
        >>> dlr(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0])).tolist()
        [-0.5]
    """
    _need(logits, 3, "dlr")
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # 1e-12 is 0 in float16
    top = logits.sort(1, descending=True).values
    return margin(logits, y) / (top[:, 0] - top[:, 2] + 1e-12)


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """−(z_y − z_t) / (z_π1 − (z_π3 + z_π4)/2), [N].

    Raises:
        ValueError: for fewer than four classes.

    Source: Croce and Hein 2020, eq. 7.

    Example:
        >>> targeted_dlr(torch.tensor([[4.0, 1.0, 2.0, 0.0]]), torch.tensor([0]), torch.tensor([2])).round(decimals=3)
        tensor([-0.5710])
    """
    _need(logits, 4, "targeted dlr")
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    top = logits.sort(1, descending=True).values
    return targeted_margin(logits, y, target) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


def targeted_margin(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """z_t − z_y, [N].

    Example:
        >>> targeted_margin(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]), torch.tensor([2])).tolist()
        [-1.0]
    """
    return _of(logits, target) - _of(logits, y)


@dataclass(frozen=True)
class FromClean:
    """KL(p(x) ‖ p(x_adv)), how far the answer is from the one to the clean image, whatever the label, [N].

    Its gradient is 0 at x itself: an attack on it needs a random start. PGD gives it the clean logits as third argument.

    Source: Zhang et al. 2019 (TRADES), the inner maximisation.

    Example:
        >>> from robustspike.attacks.losses import FromClean
        >>> clean = torch.log(torch.tensor([[0.5, 0.5]]))
        >>> FromClean()(torch.log(torch.tensor([[0.75, 0.25]])), torch.tensor([0]), clean)
        tensor([0.1438])
    """

    compares: ClassVar[bool] = True

    def __call__(self, logits: Tensor, y: Tensor, clean: Tensor) -> Tensor:
        return divergence(clean, logits)


def _need(logits: Tensor, classes: int, name: str) -> None:
    if logits.shape[1] < classes:
        raise ValueError(
            f"the {name} loss needs at least {classes} classes, got {logits.shape[1]}; use the margin loss (--loss margin)"
        )


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ce": cross_entropy, "dlr": dlr, "margin": margin}
