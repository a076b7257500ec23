"""Gradient estimators that fit the surrogate to the membrane potentials they meet."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, ClassVar

import torch
from torch import Tensor

from robustspike.neurons import SpikingLayer
from robustspike.surrogates import ArcTan, Gaussian, Rectangle, Sigmoid, Surrogate, Triangle


@dataclass(frozen=True)
class PDSG:
    """Potential-dependent surrogate: g(u) = density of N(σ/2, σ²) at u − θ, σ the potentials' standard deviation so far.

    σ at step t is taken over steps ≤ t and over the places of a channel (over all features of a layer without places),
    for each sample by itself; 1 where it is 0.

    Source: Lun et al. 2025. Differs from the authors' code, whose σ also runs over the batch, so that there the result
    of one sample depends on the others.

    Example:
        >>> PDSG()
        PDSG()
    """

    exact: ClassVar[bool] = True
    without_time: ClassVar[bool] = False

    def sigma(self, potentials: Tensor) -> Tensor:
        """σ for potentials [T, N, F] or [T, N, C, ...], of a shape that broadcasts with them."""
        places = tuple(range(3, potentials.dim())) or (2,)
        count = torch.arange(1, len(potentials) + 1, device=potentials.device, dtype=potentials.dtype)
        count = count.reshape(-1, *[1] * (potentials.dim() - 1))
        mean = potentials.mean(places, keepdim=True).cumsum(0) / count
        square = potentials.square().mean(places, keepdim=True).cumsum(0) / count
        sigma = (square - mean.square()).clamp(min=0).sqrt()
        return torch.where(sigma > 1e-6, sigma, torch.ones_like(sigma))

    def __call__(self, layer: SpikingLayer, currents: Tensor) -> Tensor:
        with torch.no_grad():
            u = layer.potentials(currents)
            sigma = self.sigma(u)
            slopes = Gaussian(1.0).slope((u - layer.threshold) / sigma - 0.5) / sigma
        return layer.fire(currents, slopes=slopes)


class Memory:
    """What an estimator remembers from one gradient evaluation of an attack to the next.

    Held by the attack's loop for as long as it lasts; one set of tensors [T, N, ...] for each call of each layer.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int], tuple[Tensor, ...]] = {}
        self._calls: Counter[int] = Counter()
        self.learning = True

    def begin(self, learning: bool = True) -> None:
        """Before each forward pass; without ``learning``, what is remembered stays as it is."""
        self._calls.clear()
        self.learning = learning

    def place(self, layer: Any) -> tuple[int, int]:
        """Where this call of a layer keeps its tensors; a layer may be called several times in one forward pass."""
        self._calls[id(layer)] += 1
        return id(layer), self._calls[id(layer)]

    def recall(self, place: tuple[int, int]) -> tuple[Tensor, ...] | None:
        return self._kept.get(place)

    def store(self, place: tuple[int, int], *tensors: Tensor) -> None:
        if self.learning:
            self._kept[place] = tensors

    def keep(self, which: Tensor) -> None:
        """Go on with some of the samples: a mask or indices, [N]."""
        self._kept = {place: tuple(t[:, which] for t in kept) for place, kept in self._kept.items()}


# g(x; α) = α·unit(α·x), and ω(A) with G(ω) = A where G(x) = ∫ unit over [−x, x].
_UNITS: dict[str, tuple[Surrogate, Callable[[float], float]]] = {
    "arctan": (ArcTan(1.0), lambda share: 2 * math.tan(math.pi * share / 2) / math.pi),
    "rectangle": (Rectangle(2.0), lambda share: share),
    "triangle": (Triangle(1.0), lambda share: 1 - math.sqrt(1 - share)),
    "sigmoid": (Sigmoid(1.0), lambda share: 2 * math.atanh(share)),
    "gaussian": (Gaussian(1.0), lambda share: NormalDist().inv_cdf((1 + share) / 2)),
}


@dataclass(frozen=True)
class ASSG:
    """Adaptive sharpness: a surrogate α·g(α·(u − θ)) whose α follows each neuron, time step and sample over an attack.

    With d = |u − θ|, after every gradient evaluation of the attack::

        M ← β·M + (1 − β)·d              M starts at 1
        D ← β·D + (1 − β)·|d − M|        D starts at 0; with the M just updated
        α = ω(A) / (M + γ·D + 1e-4)

    A is the vanishing degree G aimed at: the share of the surrogate's mass that lies nearer to the threshold than the
    neuron does. ω(A) solves G(ω) = A for the surrogate of sharpness 1; for arctan ω = 2·tan(πA/2)/π. The gradient does not
    pass through the reset: near the threshold α is large, and products of it over time would drown the rest.

    Args:
        degree: A in (0, 1); 0.85 … 0.87 in the paper, whose ``a`` is A/2.
        shape: "arctan" (the paper), "rectangle", "triangle", "sigmoid" or "gaussian".
        decay: β.
        relax: γ.
        detach_reset: whether the gradient ignores the reset, as it does in the authors' networks; None: as the layer's own.

    Raises:
        ValueError: for another shape, or a degree or decay outside (0, 1) or [0, 1).

    Source: Wang et al. 2026, algorithm 1. Differs from the authors' code: A is a setting, not searched for on the test
    set; outside an attack each forward pass starts anew.

    Example:
        >>> round(ASSG(0.85).omega, 3)
        2.652
    """

    exact: ClassVar[bool] = True
    without_time: ClassVar[bool] = False
    remembers: ClassVar[bool] = True
    degree: float = 0.85
    shape: str = "arctan"
    decay: float = 0.9
    relax: float = 1.5
    detach_reset: bool | None = True

    def __post_init__(self) -> None:
        if self.shape not in _UNITS:
            raise ValueError(f"shape must be one of {', '.join(_UNITS)}; got {self.shape!r}")
        if not (0 < self.degree < 1 and 0 <= self.decay < 1):
            raise ValueError(f"degree must lie in (0, 1) and decay in [0, 1), got {self.degree} and {self.decay}")

    @property
    def omega(self) -> float:
        """ω(A)."""
        return _UNITS[self.shape][1](self.degree)

    def sharpness(self, distance: Tensor, kept: tuple[Tensor, ...] | None) -> tuple[Tensor, Tensor, Tensor]:
        """(α, M, D) after the distances |u − θ| [T, N, ...], from the kept (M, D), or from the start."""
        M, D = kept if kept is not None else (torch.ones_like(distance), torch.zeros_like(distance))
        M = torch.lerp(M, distance, 1 - self.decay)
        D = torch.lerp(D, (distance - M).abs_(), 1 - self.decay)
        return self._alpha(M, D), M, D

    def _alpha(self, M: Tensor, D: Tensor) -> Tensor:
        return torch.add(M, D, alpha=self.relax).add_(1e-4).reciprocal_().mul_(self.omega)

    def __call__(self, layer: SpikingLayer, currents: Tensor, memory: Memory | None = None) -> Tensor:
        with torch.no_grad():
            d = layer.potentials(currents).sub_(layer.threshold)
            memory = memory or Memory()
            place = memory.place(layer)
            kept = memory.recall(place)
            if kept is not None and not memory.learning:
                alpha = self._alpha(*kept)
            else:
                alpha, M, D = self.sharpness(d.abs(), kept)
                memory.store(place, M, D)
            slopes = _UNITS[self.shape][0].slope(d.mul_(alpha)).mul_(alpha)
        return layer.fire(currents, slopes=slopes, detach_reset=self.detach_reset)
