"""The sets an attack may move in: an ε-ball around x, cut with the pixel box [0, 1]."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from robustspike.draws import Draws


class Ball(Protocol):
    """What attacks need to know about a threat model; x is [N, ...] in [0, 1], eps in the same pixel units."""

    @property
    def eps(self) -> float: ...
    @property
    def norm(self) -> str: ...
    def with_eps(self, eps: float | str) -> Ball: ...
    def project(self, x_adv: Tensor, x: Tensor) -> Tensor: ...
    def ascend(self, x: Tensor, gradient: Tensor, step_size: float) -> Tensor: ...
    def sample(self, x: Tensor, draws: Draws) -> Tensor: ...
    def sample_rim(self, x: Tensor, draws: Draws) -> Tensor: ...
    def distance(self, x_adv: Tensor, x: Tensor) -> Tensor: ...


def parse_eps(eps: float | str) -> float:
    """A number from 0.03 or "8/255".

    Raises:
        ValueError: if it is not a finite number ≥ 0.

    Example:
        >>> parse_eps("51/255")
        0.2
    """
    try:
        numerator, *denominator = eps.split("/", 1) if isinstance(eps, str) else [eps]
        value = float(numerator) / float(denominator[0] if denominator else 1)
    except (ValueError, ZeroDivisionError, TypeError):
        raise ValueError(f'eps must be a number or a fraction like "8/255", got {eps!r}') from None
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"eps must be a finite number ≥ 0, got {eps!r}")
    return value


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.dim() - 1))


@dataclass(frozen=True)
class Linf:
    """{x' : max|x' − x| ≤ ε} ∩ [0, 1]; ``eps`` as a float or a fraction like "8/255", in pixel units of [0, 1].

    Raises:
        ValueError: eps negative, not finite, or over 1 (a value like 8 means 8/255).

    Example:
        >>> Linf("8/255").project(torch.tensor([[0.9, 0.5]]), torch.tensor([[0.5, 0.5]])).round(decimals=4).tolist()
        [[0.5314000248908997, 0.5]]
    """

    eps: float

    def __init__(self, eps: float | str) -> None:
        value = parse_eps(eps)
        if value > 1:
            raise ValueError(f'eps={eps} is larger than the pixel range [0, 1]; did you mean "{value:g}/255"?')
        object.__setattr__(self, "eps", value)

    @property
    def norm(self) -> str:
        return "Linf"

    def with_eps(self, eps: float | str) -> Linf:
        """The same norm with another radius."""
        return Linf(eps)

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """The nearest point of the set, [N, ...]."""
        return torch.minimum(torch.maximum(x_adv, x - self.eps), x + self.eps).clamp(0, 1)

    def ascend(self, x: Tensor, gradient: Tensor, step_size: float) -> Tensor:
        """x + step_size · sign(gradient): the steepest ascent of the norm; not projected."""
        return x + step_size * gradient.sign()

    def sample(self, x: Tensor, draws: Draws) -> Tensor:
        """A uniform point of the set around each x."""
        return self.project(x + self.eps * (2 * draws.uniform(x.shape[1:], x.dtype) - 1), x)

    def sample_rim(self, x: Tensor, draws: Draws) -> Tensor:
        """A uniform direction followed until its largest entry meets the ball's face; then clipped to the box."""
        direction = 2 * draws.uniform(x.shape[1:], x.dtype) - 1
        return self.project(x + self.eps * direction / _per_sample(direction.flatten(1).abs().amax(1), x), x)

    def distance(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """max|x_adv − x| per sample, in float64, [N]."""
        return (x_adv.double() - x.double()).abs().flatten(1).amax(1)


@dataclass(frozen=True)
class L2:
    """{x' : ‖x' − x‖₂ ≤ ε} ∩ [0, 1], the norm taken over all entries of a sample (0.5 is usual for CIFAR-10).

    Example:
        >>> L2(0.5).project(torch.tensor([[0.5, 1.0]]), torch.tensor([[0.5, 0.0]])).tolist()
        [[0.5, 0.5]]
    """

    eps: float

    def __init__(self, eps: float | str) -> None:
        object.__setattr__(self, "eps", parse_eps(eps))

    @property
    def norm(self) -> str:
        return "L2"

    def with_eps(self, eps: float | str) -> L2:
        """The same norm with another radius."""
        return L2(eps)

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Pulled towards x onto the sphere where outside, then clipped to the box (which only shortens it)."""
        delta = x_adv - x
        length = _per_sample(delta.flatten(1).norm(dim=1), delta)
        scale = torch.where(length > self.eps, self.eps / length.clamp(min=1e-12), torch.ones_like(length))
        return (x + delta * scale).clamp(0, 1)

    def ascend(self, x: Tensor, gradient: Tensor, step_size: float) -> Tensor:
        """x + step_size · gradient / ‖gradient‖₂ per sample (x itself where the gradient is zero)."""
        largest = _per_sample(gradient.flatten(1).abs().amax(1), gradient)
        direction = gradient / torch.where(largest > 0, largest, torch.ones_like(largest))
        length = _per_sample(direction.flatten(1).norm(dim=1), direction)
        return x + step_size * direction / torch.where(length > 0, length, torch.ones_like(length))

    def sample(self, x: Tensor, draws: Draws) -> Tensor:
        """A uniform point of the ball (before clipping to the box) around each x."""
        direction = self._direction(x, draws)
        radius = draws.fork("radius").uniform((), x.dtype) ** (1 / x[0].numel())
        return self.project(x + self.eps * direction * _per_sample(radius, x), x)

    def sample_rim(self, x: Tensor, draws: Draws) -> Tensor:
        """A uniform point of the sphere around each x; then clipped to the box."""
        return self.project(x + self.eps * self._direction(x, draws), x)

    def _direction(self, x: Tensor, draws: Draws) -> Tensor:
        direction = draws.fork("direction").normal(x.shape[1:], x.dtype)
        return direction / _per_sample(direction.flatten(1).norm(dim=1), direction)

    def distance(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """‖x_adv − x‖₂ per sample, in float64, [N]."""
        return (x_adv.double() - x.double()).flatten(1).norm(dim=1)


BALLS: dict[str, type[Linf] | type[L2]] = {"Linf": Linf, "L2": L2}
