"""The spiking neuron: currents [T, N, ...] in, spikes [T, N, ...] out, no state between calls."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from robustspike import kernels
from robustspike.surrogates import Surrogate, Triangle


class SpikingLayer(Protocol):
    """The contract between a spiking layer and the gradient estimators; an adapter fulfils it for other frameworks.

    While ``gradient_rule`` is set, ``forward(currents)`` must return ``gradient_rule(self, currents)``. Leak and threshold
    may be tensors that broadcast with one step of the currents.
    """

    gradient_rule: Callable[[Any, Tensor], Tensor] | None

    @property
    def leak(self) -> Any: ...
    @property
    def threshold(self) -> Any: ...

    def drive(self, currents: Tensor) -> Tensor:
        """What reaches the membrane, I[t] in u[t] = λ·v[t−1] + I[t]: the currents, or a synapse's answer to them."""
        ...

    def fire(
        self,
        currents: Tensor,
        surrogate: Surrogate | None = None,
        slopes: Tensor | None = None,
        detach_reset: bool | None = None,
    ) -> Tensor:
        """Exact spikes, differentiated through time with the surrogate (None: the one trained with).

        Or with ``slopes`` ∂s[t]/∂u[t] [T, N, ...] as constants, float32 (float64 for float64 currents), in any memory
        layout; a ValueError refuses both at once, and slopes of another shape than the currents. ``detach_reset``: whether
        the gradient ignores the reset (None: as in training).
        """
        ...

    def potentials(self, currents: Tensor) -> Tensor:
        """Membrane potentials u [T, N, ...] before firing, differentiable with the surrogate trained with."""
        ...

    def slope(self, potentials: Tensor) -> Tensor:
        """∂s/∂u at these potentials, of any shape, by the surrogate trained with."""
        ...


class LIF(nn.Module):
    """Leaky integrate-and-fire neurons.

    charge u[t] = λ·v[t−1] + I[t] with v[0] = 0; fire s[t] = 1 if u[t] ≥ θ else 0; reset v[t] = u[t]·(1 − s[t]) (hard) or
    v[t] = u[t] − θ·s[t] (soft).

    Args:
        leak: λ in [0, 1]; 1 is the IF neuron of the papers' experiments.
        threshold: θ > 0, in units of the currents.
        reset: "hard" or "soft".
        detach_reset: whether the gradient ignores the reset (Luu 2025) or passes through it (Ding 2022, Liu 2024).
        surrogate: the derivative of the spike used in training.

    Shape:
        currents [T, N, ...] to spikes [T, N, ...] of the same floating type; potentials are float32 (float64 for float64).

    Raises:
        ValueError: for a leak outside [0, 1], a threshold ≤ 0, or another reset.

    Example:
        >>> neuron = LIF()
        >>> neuron(torch.tensor([0.6, 0.6, 0.6]).reshape(3, 1)).flatten().tolist()
        [0.0, 1.0, 0.0]

    Source: Ding 2022, eqs. 1-3; Liu 2024, eqs. 1-3.
    """

    over_time = True  # takes [T, N, ...]

    def __init__(
        self,
        leak: float = 1.0,
        threshold: float = 1.0,
        reset: str = "hard",
        detach_reset: bool = False,
        surrogate: Surrogate | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= leak <= 1:
            raise ValueError(f"leak must lie in [0, 1] (1: no leak), got {leak}")
        if not 0 < threshold < float("inf"):
            raise ValueError(f"threshold must be positive and finite, got {threshold}")
        if reset not in ("hard", "soft"):
            raise ValueError(f'reset must be "hard" or "soft", got {reset!r}')
        self.leak, self.threshold, self.reset, self.detach_reset = leak, threshold, reset, detach_reset
        self.surrogate: Surrogate = surrogate or Triangle()
        self.gradient_rule: Callable[[Any, Tensor], Tensor] | None = None

    def forward(self, currents: Tensor) -> Tensor:
        return self.fire(currents) if self.gradient_rule is None else self.gradient_rule(self, currents)

    def fire(
        self,
        currents: Tensor,
        surrogate: Surrogate | None = None,
        slopes: Tensor | None = None,
        detach_reset: bool | None = None,
    ) -> Tensor:
        """Spikes [T, N, ...], differentiable through charge, fire and reset with ``surrogate`` (None: the layer's own).

        Args:
            currents: [T, N, ...].
            surrogate: the derivative of the spike as a function of u − θ.
            slopes: the derivative ∂s[t]/∂u[t] of every single spike instead, [T, N, ...] in any memory layout, float32
                (float64 for float64 currents); held constant, also where the gradient is differentiated again.
            detach_reset: whether this gradient ignores the reset; None: as the layer's own does.

        Raises:
            ValueError: if both surrogate and slopes are given, or the slopes have not the shape of the currents.

        Example:
            >>> neuron, currents = LIF(), torch.tensor([[0.6], [0.6]], requires_grad=True)
            >>> neuron.fire(currents, slopes=torch.tensor([[0.0], [0.25]])).sum().backward()
            >>> currents.grad.tolist()
            [[0.25], [0.25]]
        """
        if surrogate is not None and slopes is not None:
            raise ValueError(
                f"fire takes a surrogate or slopes, got both: {surrogate} and slopes {list(slopes.shape)}; leave one out"
            )
        return kernels.fire(currents, self._constants(surrogate, detach_reset), slopes)

    def drive(self, currents: Tensor) -> Tensor:
        """The currents themselves: nothing lies between them and the membrane."""
        return currents

    def potentials(self, currents: Tensor) -> Tensor:
        """Membrane potentials u [T, N, ...] just before firing, differentiable once."""
        return kernels.potentials(currents, self._constants())

    def slope(self, potentials: Tensor) -> Tensor:
        """∂s/∂u of the layer's own surrogate at potentials u, elementwise."""
        return self.surrogate.slope(potentials - self.threshold)

    def _constants(self, surrogate: Surrogate | None = None, detach_reset: bool | None = None) -> kernels.Neuron:
        detach = self.detach_reset if detach_reset is None else detach_reset
        return kernels.Neuron(surrogate or self.surrogate, self.leak, self.threshold, self.reset == "hard", detach)

    def extra_repr(self) -> str:
        return (
            f"leak={self.leak}, threshold={self.threshold}, reset={self.reset!r}, "
            f"detach_reset={self.detach_reset}, surrogate={self.surrogate}"
        )


class DLIF(nn.Module):
    """LIF neurons whose input current is weighted by a learned factor of each time step.

    charge u[t] = λ·v[t−1] + p[t]·I[t]; fire and reset as :class:`LIF`. The weighted currents p[t]·I[t] go to ``neuron``,
    which is the spiking layer that gradient estimators see. A single step, as a network passed once without time has it,
    stands for all: it is weighted by the mean of p.

    Args:
        time_steps: T, the length of p; p[t] = 1 at first, where the neurons are LIF neurons.
        neuron: the :class:`LIF` behind the weights; None: one with its defaults.

    Shape:
        currents [T, N, ...] or [1, N, ...] to spikes of the same shape and floating type.

    Raises:
        ValueError: for fewer than one step; at call time for currents of another number of steps.

    Example:
        >>> neuron = DLIF(time_steps=3)
        >>> _ = neuron.p.data.copy_(torch.tensor([1.0, 0.5, 2.0]))
        >>> neuron(torch.tensor([0.6, 0.6, 0.6]).reshape(3, 1)).flatten().tolist()
        [0.0, 0.0, 1.0]

    Source: Ding et al. 2024, "Robust Stable Spiking Neural Networks", where λ = 0.99, θ = 1 and T = 8.
    """

    over_time = True  # takes [T, N, ...]

    def __init__(self, time_steps: int, neuron: LIF | None = None) -> None:
        super().__init__()
        if time_steps < 1:
            raise ValueError(f"time_steps must be ≥ 1, got {time_steps}")
        self.p = nn.Parameter(torch.ones(time_steps))
        self.neuron = LIF() if neuron is None else neuron

    def forward(self, currents: Tensor) -> Tensor:
        steps = len(currents)
        if steps not in (1, len(self.p)):
            raise ValueError(
                f"DLIF has weights for {len(self.p)} time steps, got currents {list(currents.shape)} of {steps}; "
                "make the network with time_steps of its input"
            )
        p = self.p if steps == len(self.p) else self.p.mean(0, keepdim=True)
        weighted = p.reshape(-1, *[1] * (currents.dim() - 1)) * currents
        spikes: Tensor = self.neuron(weighted.to(currents.dtype))
        return spikes

    def extra_repr(self) -> str:
        return f"time_steps={len(self.p)}"


def spiking_layers(model: nn.Module) -> dict[str, Any]:
    """What of a model fulfils :class:`SpikingLayer`, by its path, each once: modules, or what an adapted network lists."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        if hasattr(module, "gradient_rule"):
            found[name] = module
        for path, layer in getattr(module, "adapted_layers", {}).items():
            found[f"{name}.{path}" if name else path] = layer
    return found


class _Repeat(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, time_steps: int) -> Tensor:
        return x.unsqueeze(0).expand(time_steps, *x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        if torch.is_grad_enabled():
            return grads[0].sum(0), None
        return torch.sum(grads[0], 0, out=torch.empty_like(grads[0][0])), None  # plain sum(0) would lose channels-last


def repeat(x: Tensor, time_steps: int) -> Tensor:
    """x [N, ...] at every time step, [T, N, ...], without a copy: the time axis has stride 0.

    Example:
        >>> repeat(torch.rand(2, 3), time_steps=8).shape
        torch.Size([8, 2, 3])
    """
    return _Repeat.apply(x, time_steps)


def at_every_step(layer: Callable[[Tensor], Tensor], x_seq: Tensor) -> Tensor:
    """A layer without time applied to each step of [T, N, ...]; once only where all steps are the same memory."""
    time_steps = x_seq.shape[0]
    if time_steps > 1 and x_seq.stride(0) == 0:
        return repeat(layer(x_seq[0]), time_steps)
    return layer(x_seq.flatten(0, 1)).unflatten(0, (time_steps, -1))


def _chain(layers: list[nn.Module]) -> Callable[[Tensor], Tensor]:
    return lambda x: reduce(lambda value, layer: layer(value), layers, x)


class OverTime(nn.Sequential):
    """A chain over [T, N, ...]: layers that know time get the whole sequence, runs of others are applied to each step.

    Example:
        >>> OverTime(nn.Linear(3, 5), LIF())(repeat(torch.rand(2, 3), 8)).shape
        torch.Size([8, 2, 5])
    """

    over_time = True

    def forward(self, x_seq: Tensor) -> Tensor:
        for knows_time, layers in groupby(self, lambda layer: getattr(layer, "over_time", False)):
            if knows_time:
                for layer in layers:
                    x_seq = layer(x_seq)
            else:
                x_seq = at_every_step(_chain(list(layers)), x_seq)
        return x_seq
