"""Which neurons a network reads the potential of, as an attribute of theirs, where others see only spikes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from robustspike.adapters.framework import replaced
from robustspike.adapters.layer import AdaptedLayer, mapped
from robustspike.adapters.stepping import Unrolled

if TYPE_CHECKING:
    from robustspike.adapters.adapting import Adapted


def leave_readouts(net: Adapted, few: Tensor) -> None:
    """Take neurons that are read by their potential alone off the list: what they do has a gradient of its own.

    A neuron that is read by both its potential and its spikes keeps BPTT, the only estimator that follows a potential.
    """
    for layer, fires in _read(net, few).items():
        if fires:
            layer.fault, layer.takes_surrogates = "the network reads its potential besides its spikes", True
        else:
            net.readouts[layer.path] = net.adapted_layers.pop(layer.path)


def _read(net: Adapted, few: Tensor) -> dict[AdaptedLayer, bool]:
    """The layers whose state the network reads past what their calls return; each with whether that is used too."""
    layers = list(net.adapted_layers.values())
    probes = {layer: torch.zeros((), dtype=few.dtype, device=few.device, requires_grad=True) for layer in layers}
    given: list[Tensor] = []
    cuts: dict[AdaptedLayer, list[Tensor]] = {layer: [] for layer in layers}
    with net.patched(Unrolled()), contextlib.ExitStack() as stack:
        for layer in layers:
            probed = _probed(layer.neuron.forward, probes[layer], given, cuts[layer])
            stack.enter_context(replaced(layer.neuron, "forward", probed))
        given.append(net.answer(few))
    seen = [value for value in given if value.requires_grad]
    if not seen:
        return {}
    total = torch.stack([value.sum() for value in seen]).sum()
    found = torch.autograd.grad(total, list(probes.values()), retain_graph=True, allow_unused=True)
    read = [layer for layer, gradient in zip(layers, found, strict=True) if gradient is not None]
    return {layer: _depends(total, cuts[layer]) for layer in read}


def _depends(total: Tensor, cuts: list[Tensor]) -> bool:
    return any(g is not None for g in torch.autograd.grad(total, cuts, retain_graph=True, allow_unused=True))


def _probed(forward: Callable[..., Any], probe: Tensor, given: list[Tensor], cuts: list[Tensor]) -> Callable[..., Any]:
    """A neuron's forward with 0 added to its currents; what it returns is cut from the graph, its state is not."""

    def cut(value: Tensor) -> Tensor:
        leaf = value.detach().clone().requires_grad_(value.is_floating_point())
        if leaf.requires_grad:
            cuts.append(leaf)
        return leaf.clone()  # which the network may change in place

    def stand_in(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        given.append(x)
        return mapped(forward(x + probe.to(x.dtype), *args, **kwargs), cut)

    return stand_in
