"""The plain loop under autograd: the definition that every other kernel is checked against."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustspike.surrogates import Surrogate, spike, with_slope


@dataclass(frozen=True)
class Neuron:
    """The constants of one spiking layer, as the kernels take them."""

    surrogate: Surrogate
    leak: float
    threshold: float
    hard_reset: bool
    detach_reset: bool


def potential_type(currents: Tensor) -> torch.dtype:
    """Membrane potentials are float64 for float64 currents and float32 for every other type."""
    return torch.float64 if currents.dtype == torch.float64 else torch.float32


def empty_steps(currents: Tensor, dtype: torch.dtype) -> Tensor:
    """An empty [T, N, ...]: steps that follow each other without gaps, each with the currents' order of dimensions."""
    step = torch.empty_like(currents[0], device="meta")
    strides = (step.numel(), *step.stride())
    return torch.empty_strided(currents.shape, strides, dtype=dtype, device=currents.device)


def _reset(u: Tensor, s: Tensor, neuron: Neuron) -> Tensor:
    """What is left of the potentials u after the spikes s."""
    return u * (1 - s) if neuron.hard_reset else u - neuron.threshold * s


def fire(currents: Tensor, neuron: Neuron, slopes: Tensor | None = None) -> Tensor:
    """Spikes [T, N, ...] from currents [T, N, ...]; charge, fire and reset as in the project's definition of the neuron.

    Slopes [T, N, ...] are constants in place of the surrogate's derivative.
    """
    v = torch.zeros_like(currents[0], dtype=potential_type(currents))
    spikes = []
    for t, current in enumerate(currents.to(v.dtype)):
        u = neuron.leak * v + current
        d = u - neuron.threshold
        s = spike(d, neuron.surrogate) if slopes is None else with_slope((d >= 0).to(d.dtype), d, slopes[t])
        v = _reset(u, s.detach() if neuron.detach_reset else s, neuron)
        spikes.append(s)
    return torch.stack(spikes).to(currents.dtype)


def potentials(currents: Tensor, neuron: Neuron) -> Tensor:
    """The membrane potentials u [T, N, ...] just before firing, without gradient."""
    with torch.no_grad():
        u = empty_steps(currents, potential_type(currents))
        torch.add(currents[0], 0, out=u[0])  # v[0] = 0: a current of −0 makes a potential of +0
        for t in range(1, len(u)):
            s = (u[t - 1] >= neuron.threshold).to(u.dtype)
            torch.mul(_reset(u[t - 1], s, neuron), neuron.leak, out=u[t])
            u[t] += currents[t]
        return u
