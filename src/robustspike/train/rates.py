"""Learning rates."""

from __future__ import annotations

import math


def learning_rate_factor(
    schedule: str, step: int, steps_per_epoch: int, epochs: int, warmup_epochs: float = 0
) -> float:
    """The learning rate at a step, relative to its peak.

    Args:
        schedule: "cosine" (½(1 + cos(π·epoch/epochs)), one value per epoch), "one-cycle" (over steps: from 1/25 to 1 in the
            first 30 %, then to 0, both as half cosines) or "constant" (1).
        step: 0 … epochs · steps_per_epoch.
        steps_per_epoch, epochs: of the whole run.
        warmup_epochs: multiplied by min(1, (step + 1)/(warmup_epochs · steps_per_epoch)).

    Example:
        >>> [round(learning_rate_factor("cosine", epoch * 10, 10, 2), 3) for epoch in range(3)]
        [1.0, 0.5, 0.0]
        >>> [learning_rate_factor("constant", step, 4, 2, warmup_epochs=0.5) for step in range(3)]
        [0.5, 1.0, 1.0]
    """
    warm_steps = warmup_epochs * steps_per_epoch
    warmth = min(1.0, (step + 1) / warm_steps) if warm_steps > 0 else 1.0
    return warmth * _unwarmed(schedule, step, steps_per_epoch, epochs)


def _unwarmed(schedule: str, step: int, steps_per_epoch: int, epochs: int) -> float:
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (step // steps_per_epoch) / epochs))
    if schedule == "one-cycle":
        progress, peak = step / (steps_per_epoch * epochs), 0.3
        if progress < peak:
            return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * progress / peak))
        return 0.5 * (1 + math.cos(math.pi * (progress - peak) / (1 - peak)))
    return 1.0
