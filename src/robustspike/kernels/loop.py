"""The plain loop under autograd: the definition that every other kernel is checked against."""

from __future__ import annotations

import torch
from torch import Tensor

from robustspike.surrogates import Surrogate, spike


def potential_type(currents: Tensor) -> torch.dtype:
    """Membrane potentials are float64 for float64 currents and float32 for every other type."""
    return torch.float64 if currents.dtype == torch.float64 else torch.float32


def fire(
    currents: Tensor, surrogate: Surrogate, leak: float, threshold: float, hard_reset: bool, detach_reset: bool
) -> Tensor:
    """Spikes [T, N, ...] from currents [T, N, ...]; charge, fire and reset as in the project's definition of the neuron."""
    v = torch.zeros_like(currents[0], dtype=potential_type(currents))
    spikes = []
    for current in currents.to(v.dtype):
        u = leak * v + current
        s = spike(u - threshold, surrogate)
        r = s.detach() if detach_reset else s
        v = u * (1 - r) if hard_reset else u - threshold * r
        spikes.append(s.to(currents.dtype))
    return torch.stack(spikes)


def potentials(currents: Tensor, leak: float, threshold: float, hard_reset: bool) -> Tensor:
    """The membrane potentials u [T, N, ...] just before firing, without gradient."""
    with torch.no_grad():
        u = torch.empty_like(currents, dtype=potential_type(currents))
        u[0] = currents[0]
        for t in range(1, len(u)):
            s = (u[t - 1] >= threshold).to(u.dtype)
            v = u[t - 1] * (1 - s) if hard_reset else u[t - 1] - threshold * s
            torch.mul(v, leak, out=u[t])
            u[t] += currents[t]
        return u
