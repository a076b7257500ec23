"""Terms on membrane potentials: how far an attack moves them, and how many lie where the surrogate is not zero."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustspike.defences.objective import Batch


def perturbation_dynamics(difference: Tensor, leak: float) -> Tensor:
    """ε[t] = λ·ε[t − 1] + (I_adv[t] − I[t]), ε[0] = 0: how far potentials move apart as long as neither neuron fires.

    Args:
        difference: I_adv − I, currents [T, N, ...].
        leak: λ of the neurons.

    Example:
        >>> from robustspike.defences import perturbation_dynamics
        >>> perturbation_dynamics(torch.tensor([[1.0], [0.0], [0.5]]), leak=0.5).flatten().tolist()
        [1.0, 0.5, 0.75]
    """
    steps, error = [], torch.zeros_like(difference[0])
    for step in difference:
        error = leak * error + step
        steps.append(error)
    return torch.stack(steps)


@dataclass(frozen=True)
class PotentialPerturbation:
    """MPPD: how far an attack moves the membrane potentials of the last spiking layer, mean |ε| or mean ε².

    ε is :func:`perturbation_dynamics` of the currents at x_adv and at x; the mean is over time, samples and neurons. The
    currents at x are held constant, as in the released code.

    Args:
        penalty: "abs", the total variation in ℓ1 (MPPD-TV-ℓ1), or "square" (the mean square of DLIF's training).

    Raises:
        ValueError: for another penalty.

    Source: Ding et al. 2024 (dynamics and mean square); MPPD-TV 2026 (the absolute value). Differs from the authors' code:
    the currents of DLIF neurons are those after the factor p[t], as the recursion of the potentials has them.

    Example:
        >>> from robustspike.defences import PotentialPerturbation
        >>> PotentialPerturbation().penalty
        'abs'
    """

    differentiates_input: ClassVar[bool] = False
    reads_layers: ClassVar[bool] = True
    penalty: str = "abs"

    def __post_init__(self) -> None:
        if self.penalty not in ("abs", "square"):
            raise ValueError(f'penalty must be "abs" or "square", got {self.penalty!r}')

    def __call__(self, batch: Batch) -> Tensor:
        (layer, clean), (_, moved) = batch.clean.layers[-1], batch.point.layers[-1]
        error = perturbation_dynamics(_wide(moved) - _wide(clean).detach(), layer.leak)
        return error.abs().mean() if self.penalty == "abs" else error.square().mean()


def _wide(currents: Tensor) -> Tensor:
    return currents.to(torch.promote_types(currents.dtype, torch.float32))


def _normal_cdf(z: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(z / math.sqrt(2)))


@dataclass(frozen=True)
class SurrogateMass:
    """MPD-SGR: Ω = Φ((θ + γ − μ)/σ) − Φ((θ − γ − μ)/σ), the share of potentials where the surrogate is not zero.

    That is the mass between θ − γ and θ + γ of a normal distribution with the potentials' own mean μ and standard deviation
    σ; for each channel and time step over samples and places, averaged over these and over the layers.

    Args:
        width: γ > 0, half the width of the surrogate, in units of the potential.

    Raises:
        ValueError: for γ ≤ 0.

    Source: MPD-SGR 2026.

    Example:
        >>> from robustspike.defences import SurrogateMass
        >>> SurrogateMass(width=0.5).reads_layers
        True
    """

    differentiates_input: ClassVar[bool] = False
    reads_layers: ClassVar[bool] = True
    width: float = 1.0

    def __post_init__(self) -> None:
        if not self.width > 0:
            raise ValueError(f"width must be positive, in units of the potential, got {self.width}")

    def __call__(self, batch: Batch) -> Tensor:
        masses = []
        for (layer, _), u in zip(batch.point.layers, batch.point.potentials, strict=True):
            over = [k for k in range(u.dim()) if k not in (0, 2)]
            mean, deviation = u.mean(over), (u.var(over, correction=0) + 1e-8).sqrt()
            above = _normal_cdf((layer.threshold + self.width - mean) / deviation)
            masses.append((above - _normal_cdf((layer.threshold - self.width - mean) / deviation)).mean())
        return torch.stack(masses).mean()


@dataclass(frozen=True)
class ThresholdGuard:
    """TGO: Σ over layers of mean max(0, δ − |u − θ|): potentials pay for being nearer to the threshold than δ.

    Args:
        margin: δ > 0, in units of the potential.

    Raises:
        ValueError: for δ ≤ 0.

    Source: TGO 2026.

    Example:
        >>> from robustspike.defences import ThresholdGuard
        >>> ThresholdGuard(margin=0.2).reads_layers
        True
    """

    differentiates_input: ClassVar[bool] = False
    reads_layers: ClassVar[bool] = True
    margin: float = 0.5

    def __post_init__(self) -> None:
        if not self.margin > 0:
            raise ValueError(f"margin must be positive, in units of the potential, got {self.margin}")

    def __call__(self, batch: Batch) -> Tensor:
        near = [
            (self.margin - (u - layer.threshold).abs()).clamp(min=0).mean()
            for (layer, _), u in zip(batch.point.layers, batch.point.potentials, strict=True)
        ]
        return torch.stack(near).sum()
