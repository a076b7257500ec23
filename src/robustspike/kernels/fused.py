"""One autograd Function for all T steps: the recursion and its adjoint written out, potentials recomputed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from robustspike.kernels import loop
from robustspike.surrogates import Surrogate


@dataclass(frozen=True)
class Neuron:
    """The constants of one spiking layer, as the kernels take them."""

    surrogate: Surrogate
    leak: float
    threshold: float
    hard_reset: bool
    detach_reset: bool


class Kernel(Protocol):
    """A forward pass without gradient and its adjoint."""

    def forward(self, currents: Tensor, neuron: Neuron) -> Tensor: ...
    def backward(self, grad: Tensor, currents: Tensor, neuron: Neuron) -> Tensor: ...


class Eager:
    """The recursion in PyTorch operations, on any device."""

    def forward(self, currents: Tensor, neuron: Neuron) -> Tensor:
        u = loop.potentials(currents, neuron.leak, neuron.threshold, neuron.hard_reset)
        return (u >= neuron.threshold).to(currents.dtype)

    def backward(self, grad: Tensor, currents: Tensor, neuron: Neuron) -> Tensor:
        u = loop.potentials(currents, neuron.leak, neuron.threshold, neuron.hard_reset)
        out = torch.empty_like(u, dtype=grad.dtype)
        grad_v: Tensor | None = None
        for t in range(len(u) - 1, -1, -1):
            slope = neuron.surrogate.slope(u[t] - neuron.threshold)
            if grad_v is None:
                grad_u = slope * grad[t]
            else:
                grad_u = grad_v.mul_(_reset_derivative(u[t], slope, neuron)).addcmul_(slope, grad[t].to(slope.dtype))
            out[t] = grad_u
            grad_v = grad_u.mul_(neuron.leak)
        return out


def _reset_derivative(u: Tensor, slope: Tensor, neuron: Neuron) -> Tensor:
    """∂v[t]/∂u[t] of one step."""
    if neuron.hard_reset:
        below = (u < neuron.threshold).to(u.dtype)
        return below if neuron.detach_reset else below.addcmul_(u, slope, value=-1)
    return torch.ones_like(u) if neuron.detach_reset else 1 - neuron.threshold * slope


class _Fire(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, currents: Tensor, neuron: Neuron, kernel: Kernel) -> Tensor:
        ctx.save_for_backward(currents)
        ctx.neuron, ctx.kernel = neuron, kernel
        return kernel.forward(currents, neuron)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (currents,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: the adjoint itself has to be differentiable
            return _differentiable_adjoint(currents, grads[0], ctx.neuron), None, None
        return ctx.kernel.backward(grads[0], currents, ctx.neuron), None, None


def _differentiable_adjoint(currents: Tensor, grad: Tensor, neuron: Neuron) -> Tensor:
    again = currents if currents.requires_grad else currents.detach().requires_grad_()
    spikes = loop.fire(again, neuron.surrogate, neuron.leak, neuron.threshold, neuron.hard_reset, neuron.detach_reset)
    return torch.autograd.grad(spikes, again, grad, create_graph=True)[0]


def fire(currents: Tensor, neuron: Neuron, kernel: Kernel) -> Tensor:
    """Spikes [T, N, ...] by one kernel; equal to :func:`robustspike.kernels.loop.fire`, also when differentiated twice."""
    return _Fire.apply(currents, neuron, kernel)
