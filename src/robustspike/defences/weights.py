"""Weights of terms that change over training, as functions of the share of it that is done."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

Weight = float | Callable[[float], float]


@dataclass(frozen=True)
class Linear:
    """From ``start`` to ``end`` in a straight line over the training.

    Example:
        >>> from robustspike.defences import Linear
        >>> Linear(0.0, 6.0)(0.5)
        3.0
    """

    start: float
    end: float

    def __call__(self, progress: float) -> float:
        return self.start + (self.end - self.start) * progress


@dataclass(frozen=True)
class CosineRamp:
    """peak · (1 − cos(π · progress)) / 2: from 0, slowly, to ``peak`` at the end of the training.

    Source: TGO (2026) ramps the weight of its threshold guarding loss so.

    Example:
        >>> from robustspike.defences import CosineRamp
        >>> CosineRamp(0.4)(0.0), CosineRamp(0.4)(0.5), CosineRamp(0.4)(1.0)
        (0.0, 0.2, 0.4)
    """

    peak: float

    def __call__(self, progress: float) -> float:
        return self.peak * 0.5 * (1 - round(math.cos(math.pi * progress), 12))


def weight_at(weight: Weight, progress: float) -> float:
    """The number that a weight is at this share of the training.

    Raises:
        ValueError: for a share outside [0, 1].
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"progress must lie in [0, 1], the share of the training that is done, got {progress}")
    return weight(progress) if callable(weight) else weight


def check_weight(weight: Weight) -> Weight:
    """The weight itself.

    Raises:
        ValueError: if it is negative or no number, now or at either end of the training.
    """
    ends = (weight(0.0), weight(1.0)) if callable(weight) else (weight,)
    if not all(0 <= value < math.inf for value in ends):
        raise ValueError(f"weight must be ≥ 0 and finite, got {weight}")
    return weight if callable(weight) else float(weight)
