"""f_y(x), the probability of the true class against its strongest rival, and its gradient."""

from __future__ import annotations

from torch import Tensor

from robustspike.defences.terms import strongest_rival, true_class_probability
from robustspike.gradients import BPTT, Estimator


def f_y(logits: Tensor, y: Tensor) -> Tensor:
    """softmax over {z_y, z_ỹ} at y, ỹ = argmax_{j≠y} z_j, [N].

    Source: Liu 2024, eq. 9.
    """
    return true_class_probability(logits, y, strongest_rival(logits, y))


def usual(estimator: Estimator | None) -> Estimator:
    """The estimator, or the model's own gradient where none is given."""
    return BPTT() if estimator is None else estimator
