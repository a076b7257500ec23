"""The samples of an audit, batch by batch, each with its own random streams."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustspike.data import Split
from robustspike.draws import Draws
from robustspike.gradients import device_of

# Hears how much of an audit is done, from 0 to 1; may raise to end it.
Watch = Callable[[float], None]


@dataclass(frozen=True)
class Batch:
    """Samples on the model's device.

    Attributes:
        x: [n, ...] in [0, 1], float64 for a float64 model.
        y: [n] int64.
        draws: [n] the samples' own streams.
        ids: [n] the samples' numbers.
    """

    x: Tensor
    y: Tensor
    draws: Draws
    ids: Tensor


def batches(
    model: nn.Module, data: Split, purpose: str, seed: int, batch_size: int, watch: Watch | None = None
) -> Iterator[Batch]:
    """The split in its order; ``purpose`` names the streams, so that audits draw independently of each other.

    Raises:
        ValueError: for an empty split or a batch size below 1.
    """
    if len(data) == 0:
        raise ValueError(f"audit {purpose!r}: expected at least one sample, got an empty split")
    if batch_size < 1:
        raise ValueError(f"audit {purpose!r}: batch_size must be ≥ 1, got {batch_size}")
    device, double = device_of(model), any(p.dtype == torch.float64 for p in model.parameters())
    for start in range(0, len(data), batch_size):
        part = data.subset(torch.arange(start, min(start + batch_size, len(data))))
        ids = part.ids.to(device)
        x = part.images.to(device, torch.float64 if double else part.images.dtype)
        yield Batch(x, part.labels.to(device), Draws.of(seed, ids).fork(purpose), ids)
        if watch is not None:
            watch(min(start + batch_size, len(data)) / len(data))


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.started = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started
