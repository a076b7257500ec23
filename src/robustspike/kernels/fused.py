"""One autograd Function for all T steps: the recursion and its adjoint written out, potentials recomputed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from robustspike.kernels import loop
from robustspike.kernels.loop import Neuron


class Kernel(Protocol):
    """A forward pass without gradient and its adjoint; slopes [T, N, ...] take the place of the surrogate's."""

    def forward(self, currents: Tensor, neuron: Neuron) -> Tensor: ...
    def backward(self, grad: Tensor, currents: Tensor, neuron: Neuron, slopes: Tensor | None) -> Tensor: ...


class Eager:
    """The recursion in PyTorch operations, on any device."""

    def forward(self, currents: Tensor, neuron: Neuron) -> Tensor:
        return (loop.potentials(currents, neuron) >= neuron.threshold).to(currents.dtype)

    def backward(self, grad: Tensor, currents: Tensor, neuron: Neuron, slopes: Tensor | None) -> Tensor:
        u = loop.potentials(currents, neuron)
        out = torch.empty_like(u, dtype=grad.dtype)
        grad_v: Tensor | None = None
        for t in range(len(u) - 1, -1, -1):
            slope = neuron.surrogate.slope(u[t] - neuron.threshold) if slopes is None else slopes[t]
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
    def forward(ctx: Any, currents: Tensor, slopes: Tensor | None, neuron: Neuron, kernel: Kernel) -> Tensor:
        ctx.save_for_backward(currents, slopes)
        ctx.neuron, ctx.kernel = neuron, kernel
        return kernel.forward(currents, neuron)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        currents, slopes = ctx.saved_tensors
        # create_graph=True: the adjoint itself has to be differentiable
        adjoint = _differentiable_adjoint if torch.is_grad_enabled() else ctx.kernel.backward
        return adjoint(grads[0], currents, ctx.neuron, slopes), None, None, None


def _differentiable_adjoint(grad: Tensor, currents: Tensor, neuron: Neuron, slopes: Tensor | None) -> Tensor:
    again = currents if currents.requires_grad else currents.detach().requires_grad_()
    return torch.autograd.grad(loop.fire(again, neuron, slopes), again, grad, create_graph=True)[0]


def fire(currents: Tensor, neuron: Neuron, slopes: Tensor | None, kernel: Kernel) -> Tensor:
    """Spikes [T, N, ...] by one kernel; equal to :func:`robustspike.kernels.loop.fire`, also when differentiated twice."""
    return _Fire.apply(currents, slopes, neuron, kernel)


class _Potentials(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, currents: Tensor, neuron: Neuron, compute: Callable[[Tensor, Neuron], Tensor]) -> Tensor:
        ctx.save_for_backward(currents)
        ctx.neuron, ctx.compute = neuron, compute
        return compute(currents, neuron)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (currents,) = ctx.saved_tensors
        neuron, u = ctx.neuron, ctx.compute(currents, ctx.neuron)
        out = torch.empty_like(u, dtype=currents.dtype)
        grad_v: Tensor | None = None
        for t in range(len(u) - 1, -1, -1):
            grad_u = grads[0][t]
            if grad_v is not None:
                slope = neuron.surrogate.slope(u[t] - neuron.threshold)
                grad_u = grad_u + grad_v * _reset_derivative(u[t], slope, neuron)
            out[t] = grad_u
            grad_v = neuron.leak * grad_u
        return out, None, None


def potentials(currents: Tensor, neuron: Neuron, compute: Callable[[Tensor, Neuron], Tensor]) -> Tensor:
    """What ``compute`` makes of the currents, with the recursion's adjoint; differentiable once."""
    return _Potentials.apply(currents, neuron, compute)
