"""Surrogate derivatives: what stands in for the derivative of the Heaviside step, as functions of d = u − θ.

Every surrogate is a frozen dataclass with one method, ``slope(d)``, that returns ds/du elementwise. SPEC of the
formulas: Ding 2022 eq. A33 (triangle), Liu 2024 eq. 33-35, Luu 2025 eq. 4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class Surrogate(Protocol):
    """Anything with ``slope(d: Tensor) -> Tensor``, elementwise and differentiable by autograd."""

    def slope(self, d: Tensor) -> Tensor: ...


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a positive number, got {value!r}")


@dataclass(frozen=True)
class Triangle:
    """max(0, γ − |d|) / γ², half-width γ = ``width`` in units of the membrane potential.

    Source: Ding 2022, eq. A33 (γ = 1 in all their experiments). Liu 2024 eq. 33 prints another form; A33 is what
    their code computes.

    Example:
        >>> Triangle(1.0).slope(torch.tensor([-2.0, -0.5, 0.0])).tolist()
        [0.0, 0.5, 1.0]
    """

    width: float = 1.0

    def __post_init__(self) -> None:
        _positive(width=self.width)

    def slope(self, d: Tensor) -> Tensor:
        return (self.width - d.abs()).clamp(min=0) / self.width**2


@dataclass(frozen=True)
class Sigmoid:
    """γ·σ(γd)·(1 − σ(γd)), γ = ``sharpness``. Source: Liu 2024, App. E (eq. 34 prints σ itself: a misprint).

    Example:
        >>> Sigmoid(4.0).slope(torch.tensor([0.0])).tolist()
        [1.0]
    """

    sharpness: float = 4.0

    def __post_init__(self) -> None:
        _positive(sharpness=self.sharpness)

    def slope(self, d: Tensor) -> Tensor:
        return self.sharpness * torch.sigmoid(self.sharpness * d) * torch.sigmoid(-self.sharpness * d)


@dataclass(frozen=True)
class ArcTan:
    """(α/2) / (1 + (π/2·α·d)²), α = ``sharpness``. Source: Liu 2024 eq. 35 with 2, Luu 2025 eq. 4.

    Example:
        >>> ArcTan(2.0).slope(torch.tensor([0.0])).tolist()
        [1.0]
    """

    sharpness: float = 2.0

    def __post_init__(self) -> None:
        _positive(sharpness=self.sharpness)

    def slope(self, d: Tensor) -> Tensor:
        return (self.sharpness / 2) / (1 + (math.pi / 2 * self.sharpness * d) ** 2)


@dataclass(frozen=True)
class Rectangle:
    """1/w where |d| < w/2, else 0; w = ``width``.

    Example:
        >>> Rectangle(2.0).slope(torch.tensor([-1.0, 0.9])).tolist()
        [0.0, 0.5]
    """

    width: float = 1.0

    def __post_init__(self) -> None:
        _positive(width=self.width)

    def slope(self, d: Tensor) -> Tensor:
        return (d.abs() < self.width / 2).to(d.dtype) / self.width


@dataclass(frozen=True)
class Exponential:
    """a·exp(−b·|d|), a = ``height``, b = ``sharpness`` (defaults: Özdenizci and Legenstein 2024, EXP-D).

    Example:
        >>> Exponential(0.3, 1.0).slope(torch.tensor([0.0], dtype=torch.float64)).tolist()
        [0.3]
    """

    height: float = 0.3
    sharpness: float = 1.0

    def __post_init__(self) -> None:
        _positive(height=self.height, sharpness=self.sharpness)

    def slope(self, d: Tensor) -> Tensor:
        return self.height * torch.exp(-self.sharpness * d.abs())


@dataclass(frozen=True)
class Gaussian:
    """The density of N(0, σ²) at d, σ = ``sigma``.

    Example:
        >>> round(Gaussian(1.0).slope(torch.tensor([0.0])).item(), 4)
        0.3989
    """

    sigma: float = 0.5

    def __post_init__(self) -> None:
        _positive(sigma=self.sigma)

    def slope(self, d: Tensor) -> Tensor:
        return torch.exp(-0.5 * (d / self.sigma) ** 2) / (self.sigma * math.sqrt(2 * math.pi))


@dataclass(frozen=True)
class StraightThrough:
    """1 everywhere.

    Example:
        >>> StraightThrough().slope(torch.tensor([-5.0, 5.0])).tolist()
        [1.0, 1.0]
    """

    def slope(self, d: Tensor) -> Tensor:
        return torch.ones_like(d)


SURROGATES: dict[str, type] = {
    "triangle": Triangle,
    "sigmoid": Sigmoid,
    "arctan": ArcTan,
    "rectangle": Rectangle,
    "exponential": Exponential,
    "gaussian": Gaussian,
    "straight-through": StraightThrough,
}


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, d: Tensor, surrogate: Surrogate) -> Tensor:
        ctx.save_for_backward(d)
        ctx.surrogate = surrogate
        return (d >= 0).to(d.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (d,) = ctx.saved_tensors
        return grads[0] * ctx.surrogate.slope(d), None


class _WithSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:
        (slope,) = ctx.saved_tensors
        return None, grads[0] * slope.to(grads[0].dtype), None


def spike(d: Tensor, surrogate: Surrogate) -> Tensor:
    """1 where d ≥ 0, else 0; its derivative is ``surrogate.slope(d)``, which may itself be differentiated.

    Example:
        >>> d = torch.tensor([-0.5, 0.5], requires_grad=True)
        >>> spike(d, Triangle()).sum().backward()
        >>> d.grad.tolist()
        [0.5, 0.5]
    """
    return _Spike.apply(d, surrogate)


def with_slope(value: Tensor, x: Tensor, slope: Tensor) -> Tensor:
    """The value of ``value``, bit for bit, with derivative ``slope`` with respect to ``x`` (same shape as value).

    Example:
        >>> x = torch.tensor([0.3], requires_grad=True)
        >>> with_slope(x.detach().round(), x, torch.ones(1)).sum().backward()
        >>> x.grad.tolist()
        [1.0]
    """
    return _WithSlope.apply(value.detach(), x, slope.detach())
