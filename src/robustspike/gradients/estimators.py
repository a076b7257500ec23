"""Gradient estimators without memory: how an attack sees through the neurons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from robustspike.neurons import SpikingLayer
from robustspike.surrogates import Surrogate, Triangle, with_slope


class Estimator(Protocol):
    """A rule that turns a layer's currents [T, N, ...] into its spikes with a chosen derivative.

    ``exact`` says whether the logits stay those of the spiking network, bit for bit; ``without_time`` whether the network
    is passed once, without a time axis.
    """

    exact: ClassVar[bool]
    without_time: ClassVar[bool]

    def __call__(self, layer: SpikingLayer, currents: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class BPTT:
    """Back-propagation through time with a surrogate derivative; None: the surrogate that the model was trained with.

    Source: Ding 2022, section 4; Liu 2024, section 3.

    Example:
        >>> BPTT(ArcTan(2.0))
        BPTT(surrogate=ArcTan(sharpness=2.0))
    """

    exact: ClassVar[bool] = True
    without_time: ClassVar[bool] = False
    surrogate: Surrogate | None = None

    def __call__(self, layer: SpikingLayer, currents: Tensor) -> Tensor:
        return layer.fire(currents, self.surrogate)


@dataclass(frozen=True)
class BPTR:
    """Back-propagation through rate: ∂s[t]/∂I[t] := 1 where the neuron fired at least once in the window, else 0.

    No temporal path. Source: Ding 2022, section 4.

    Beware: some released code calls RGA "bptr".

    Example:
        >>> neuron, currents = LIF(), torch.tensor([[0.6, 0.1], [0.6, 0.1]], requires_grad=True)
        >>> BPTR()(neuron, currents).sum().backward()
        >>> currents.grad.tolist()
        [[1.0, 0.0], [1.0, 0.0]]
    """

    exact: ClassVar[bool] = True
    without_time: ClassVar[bool] = False

    def __call__(self, layer: SpikingLayer, currents: Tensor) -> Tensor:
        with torch.no_grad():
            spikes = layer.fire(currents)
            fired = spikes.amax(0) > 0
        return with_slope(spikes, layer.drive(currents), fired.to(spikes.dtype).expand_as(spikes))


@dataclass(frozen=True)
class RGA:
    """Rate gradient approximation, a function of the mean input x̄ = mean_t I[t]/θ only.

    ∂s[t]/∂I[t] := γ for 0 ≤ x̄ ≤ 1 − λ, plus (1 − γ + γλ)/(λ + 1) for 1 − λ ≤ x̄ ≤ 2, else 0; the same for every t.

    Args:
        gamma: γ, the slope below the firing rate's knee.

    Source: Bu et al. 2023; used by Liu 2024, appendix E.

    Example:
        >>> RGA().slope(torch.tensor([-0.1, 0.25, 1.0, 2.5]), leak=0.5).tolist()
        [0.0, 0.20000000298023224, 0.6000000238418579, 0.0]
    """

    exact: ClassVar[bool] = True
    without_time: ClassVar[bool] = False
    gamma: float = 0.2

    def slope(self, mean_input: Tensor, leak: float | Tensor) -> Tensor:
        """The derivative at mean inputs x̄, elementwise."""
        below = (mean_input >= 0) & (mean_input <= 1 - leak)
        above = (mean_input >= 1 - leak) & (mean_input <= 2)
        rising = (1 - self.gamma + self.gamma * leak) / (leak + 1)
        return self.gamma * below.to(mean_input.dtype) + rising * above.to(mean_input.dtype)

    def __call__(self, layer: SpikingLayer, currents: Tensor) -> Tensor:
        drive = layer.drive(currents)
        with torch.no_grad():
            spikes = layer.fire(currents)
            slope = self.slope(drive.mean(0) / layer.threshold, layer.leak)
        return with_slope(spikes, drive, slope.expand_as(spikes))


@dataclass(frozen=True)
class CBA:
    """Conversion-based approximation: the same weights as a ReLU network, one pass without a time axis.

    The logits are those of the ReLU network, not of the spiking one. Source: Ding 2022, section 4.

    Example:
        >>> CBA()(LIF(), torch.tensor([[-1.0, 0.5]])).tolist()
        [[0.0, 0.5]]
    """

    exact: ClassVar[bool] = False
    without_time: ClassVar[bool] = True

    def __call__(self, layer: SpikingLayer, currents: Tensor) -> Tensor:
        return F.relu(layer.drive(currents))


class _MeanOverTime(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, currents: Tensor) -> Tensor:
        return currents.view_as(currents)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0].mean(0, keepdim=True).expand_as(grads[0])


@dataclass(frozen=True)
class HART:
    """Hybrid of rate and time: each step's own slope, no path between steps, then the mean of the gradient over time.

    ∂L/∂I[t] := mean_t' ( ∂L/∂s[t'] · triangle_γ(u[t'] − θ) ), the same for every t.

    Args:
        width: γ of the triangle; narrow counts spikes in time, wide their rate. The authors choose it for each model
            among 0.10, 0.15, …, 2.45 by attacking with each.

    Source: Hao et al. 2024. Differs from the authors' code: γ is not chosen on the test set.

    Example:
        >>> neuron, currents = LIF(), torch.tensor([[0.5], [0.0]], requires_grad=True)
        >>> HART()(neuron, currents)[0].sum().backward()
        >>> currents.grad.tolist()
        [[0.25], [0.25]]
    """

    exact: ClassVar[bool] = True
    without_time: ClassVar[bool] = False
    acausal: ClassVar[bool] = True  # currents of later steps answer for spikes of earlier ones
    width: float = 1.0

    def __call__(self, layer: SpikingLayer, currents: Tensor) -> Tensor:
        with torch.no_grad():
            d = layer.potentials(currents) - layer.threshold
            spikes = (d >= 0).to(currents.dtype)
            slope = Triangle(self.width).slope(d)
        return with_slope(spikes, _MeanOverTime.apply(layer.drive(currents)), slope)
