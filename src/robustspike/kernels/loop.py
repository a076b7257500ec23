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
        v = torch.zeros_like(currents[0], dtype=potential_type(currents))
        charged = []
        for current in currents.to(v.dtype):
            u = leak * v + current
            s = (u >= threshold).to(u.dtype)
            v = u * (1 - s) if hard_reset else u - threshold * s
            charged.append(u)
        return torch.stack(charged)
