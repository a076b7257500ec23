"""PyTorch's own generators, for all that is not drawn from the streams of the samples."""

from __future__ import annotations

import torch


def seed(number: int, device: torch.device) -> None:
    """Seed PyTorch's generators of the CPU and of this device.

    ``torch.manual_seed`` seeds those of all devices, also of the ones that this run has no part in, and takes a hundred
    times as long.
    """
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(number)


def generators(device: torch.device) -> list[torch.device]:
    """The devices, but the CPU, whose generators :func:`seed` touches, for ``torch.random.fork_rng``."""
    return [device] if device.type == "cuda" else []
