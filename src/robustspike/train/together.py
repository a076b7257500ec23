"""Several processes that train one network: the same weights everywhere, gradients added up, BatchNorm over all samples."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robustspike.processes import Processes


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes; so is its gradient, as the loss is the sum of all processes' losses."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = x.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _Sum.apply(grads[0].contiguous(), ctx.group), None


@contextlib.contextmanager
def synchronised(model: nn.Module, processes: Processes) -> Iterator[None]:
    """Within the block BatchNorm in training mode takes mean and variance over the samples of all processes.

    Differentiable, also twice. All processes must make the same calls. Evaluation mode, and layers with a forward pass of
    their own, stay as they are; types and state_dict do so always. Within one process nothing changes.

    Source: Ioffe and Szegedy 2015, over the whole batch; what ``torch.nn.SyncBatchNorm`` does on GPUs.
    """
    layers: list[Any] = []
    if processes.world > 1:
        layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and _is_plain(m)]
    try:
        for layer in layers:
            layer.forward = functools.partial(_normalise, layer, processes.group)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _is_plain(layer: nn.Module) -> bool:
    return type(layer).forward is _BatchNorm.forward and "forward" not in vars(layer)


def _normalise(layer: Any, group: Any, x: Tensor) -> Tensor:
    if not layer.training:
        return type(layer).forward(layer, x)
    layer._check_input_dim(x)
    z = x.to(torch.promote_types(x.dtype, torch.float32))
    rest = [d for d in range(z.dim()) if d != 1]
    shape = (1, -1, *[1] * (z.dim() - 2))
    sums = _Sum.apply(torch.cat([z.sum(rest), z.new_tensor([z.numel() // z.shape[1]])]), group)
    count = sums[-1].detach()
    mean = sums[:-1] / count
    centred = z - mean.reshape(shape)
    variance = _Sum.apply(centred.square().sum(rest), group) / count
    if layer.track_running_stats:
        _update(layer, mean.detach(), variance.detach() * count / (count - 1))
    z = centred * torch.rsqrt(variance + layer.eps).reshape(shape)
    if layer.affine:
        z = z * layer.weight.reshape(shape) + layer.bias.reshape(shape)
    return z.to(x.dtype)


@torch.no_grad()
def _update(layer: Any, mean: Tensor, variance: Tensor) -> None:
    """Running statistics as BatchNorm keeps them."""
    layer.num_batches_tracked.add_(1)
    share = 1.0 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
    for running, new in ((layer.running_mean, mean), (layer.running_var, variance)):
        running.mul_(1 - share).add_(new.to(running.dtype), alpha=share)


@torch.no_grad()
def add_up(tensors: Iterable[Tensor], processes: Processes) -> None:
    """Replace tensors by their sums over all processes, those of one type at once."""
    if processes.world == 1:
        return
    by_kind: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for t in tensors:
        by_kind.setdefault((t.dtype, t.device), []).append(t)
    for alike in by_kind.values():
        flat = torch.cat([t.reshape(-1) for t in alike])
        dist.all_reduce(flat, group=processes.group)
        for t, total in zip(alike, flat.split([t.numel() for t in alike]), strict=True):
            t.copy_(total.view(t.shape))


@torch.no_grad()
def as_in_first(model: nn.Module, processes: Processes) -> None:
    """Give every process the parameters and buffers of process 0."""
    if processes.world == 1:
        return
    for t in (*model.parameters(), *model.buffers()):
        whole = t.detach().contiguous()
        dist.broadcast(whole.view(-1).view(torch.uint8), src=0, group=processes.group)  # gloo knows few types
        t.copy_(whole)
