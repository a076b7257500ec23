"""Where the membrane potentials lie, and how much of a surrogate they meet."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from robustspike.doubts.probed import Reach
from robustspike.doubts.subject import Subject
from robustspike.gradients import estimating
from robustspike.neurons import spiking_layers

LIVE = 0.01  # of the slope at the threshold: below, a path through the neuron counts for nothing beside others


class _Looking:
    """An estimator that leaves all as it is and notes the reach of each layer it meets."""

    exact: ClassVar[bool] = True
    without_time: ClassVar[bool] = False

    def __init__(self) -> None:
        self.seen: dict[int, Reach] = {}

    def __call__(self, layer: Any, currents: Tensor) -> Tensor:
        u = layer.potentials(currents.detach())
        distance = ((u - layer.threshold) / layer.threshold).abs()
        slope, peak = layer.slope(u).abs(), layer.slope(torch.zeros_like(u[:1]) + layer.threshold).abs()
        live = (slope > 0) & (slope >= LIVE * peak.nan_to_num(0.0))
        self.seen[id(layer)] = Reach(
            float(live.float().mean()), float((distance <= 1).float().mean()), float(distance.median())
        )
        spikes: Tensor = layer.fire(currents)
        return spikes


def reach(subject: Subject) -> dict[str, Reach]:
    """For each spiking layer at the clean images: which share of its potentials the own surrogate sees, which is near θ.

    ``live``: slope of at least :data:`LIVE` of that at the threshold; ``near``: at most θ away from it.
    """
    looking = _Looking()
    with estimating(subject.model, looking):
        subject.logits(subject.x)
    names = {id(layer): name for name, layer in spiking_layers(subject.model).items()}
    return {names[key]: value for key, value in looking.seen.items()}
