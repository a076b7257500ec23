"""Charge, fire and reset over all time steps, by the fastest kernel that the device and the surrogate allow."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

from torch import Tensor

from robustspike.kernels import fused, loop, native
from robustspike.kernels.fused import Neuron
from robustspike.kernels.loop import potentials

__all__ = ["KERNELS", "Neuron", "fire", "kernel", "pick", "potentials"]

KERNELS = ("loop", "eager", "native")

_forced: contextvars.ContextVar[str | None] = contextvars.ContextVar("robustspike_kernel", default=None)


@contextlib.contextmanager
def kernel(name: str) -> Iterator[None]:
    """Within the block every neuron uses this kernel: "loop" (plain autograd), "eager" or "native".

    Raises:
        ValueError: for another name.
    """
    if name not in KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(KERNELS)}; got {name!r}")
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def pick(currents: Tensor, neuron: Neuron) -> str:
    """The kernel for these currents: the compiled one where it applies, else the fused one in PyTorch operations."""
    covered = native.covers(currents, neuron.surrogate)
    if _forced.get() == "native" and not covered:
        raise ValueError(
            f"the compiled kernel does not take {currents.dtype} on {currents.device} with {neuron.surrogate}"
        )
    return _forced.get() or ("native" if covered else "eager")


def fire(currents: Tensor, neuron: Neuron) -> Tensor:
    """Spikes [T, N, ...] (0 or 1, of the currents' type) from currents [T, N, ...]."""
    name = pick(currents, neuron)
    if name == "loop":
        return loop.fire(
            currents, neuron.surrogate, neuron.leak, neuron.threshold, neuron.hard_reset, neuron.detach_reset
        )
    return fused.fire(currents, neuron, native.Native() if name == "native" else fused.Eager())
