"""Charge, fire and reset over all time steps, by the fastest kernel that the device and the surrogate allow."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import torch
from torch import Tensor

from robustspike.kernels import fused, loop, native
from robustspike.kernels.loop import Neuron
from robustspike.surrogates import Surrogate

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


def pick(currents: Tensor, surrogate: Surrogate | None) -> str:
    """The kernel for these currents: the compiled one where it applies, else the fused one in PyTorch operations.

    A surrogate of None stands for any: the slopes are given, or none is needed.
    """
    covered = native.covers(currents, surrogate)
    if _forced.get() == "native" and not covered:
        raise ValueError(f"the compiled kernel does not take {currents.dtype} on {currents.device} with {surrogate}")
    return _forced.get() or ("native" if covered else "eager")


def fire(currents: Tensor, neuron: Neuron, slopes: Tensor | None = None) -> Tensor:
    """Spikes [T, N, ...] (0 or 1, of the currents' type) from currents [T, N, ...].

    Slopes ∂s[t]/∂u[t] [T, N, ...] in any memory layout are used as constants in place of the surrogate's.

    Raises:
        ValueError: for slopes of another shape or device than the currents.
    """
    if slopes is not None:
        _check_slopes(slopes, currents)
        slopes = slopes.detach().to(loop.potential_type(currents))
    name = pick(currents, neuron.surrogate if slopes is None else None)
    if name == "loop":
        return loop.fire(currents, neuron, slopes)
    return fused.fire(currents, neuron, slopes, native.Native() if name == "native" else fused.Eager())


def potentials(currents: Tensor, neuron: Neuron) -> Tensor:
    """Membrane potentials u [T, N, ...] just before firing; float32, or float64 for float64 currents.

    Differentiable through charge and, with the neuron's surrogate, through the resets.
    """
    compute = native.potentials if pick(currents, None) == "native" else loop.potentials
    if torch.is_grad_enabled() and currents.requires_grad:
        return fused.potentials(currents, neuron, compute)
    return compute(currents.detach(), neuron)


def _check_slopes(slopes: Tensor, currents: Tensor) -> None:
    if slopes.shape != currents.shape:
        raise ValueError(
            f"slopes must have the shape of the currents, {list(currents.shape)}, got {list(slopes.shape)}; "
            "give one per time step, sample and neuron (expand those that are shared)"
        )
    if slopes.device != currents.device:
        raise ValueError(f"slopes must be on the currents' device, {currents.device}, got {slopes.device}; move them")
