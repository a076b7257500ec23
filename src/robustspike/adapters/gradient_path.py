"""What lies on the gradient's way from the logits to the images: encoders that cut it, functions that have none."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from robustspike.adapters.framework import AdaptError, is_zero, replaced, seeded
from robustspike.adapters.layer import AdaptedLayer, tensors_in
from robustspike.gradients import BPTT, Rule
from robustspike.surrogates import Triangle

if TYPE_CHECKING:
    from robustspike.adapters.adapting import Adapted


def pass_straight_through(net: Adapted, few: Tensor) -> None:
    """Note the modules without neurons whose input carries a gradient and whose output does not: encoders."""
    paths = {module: path for path, module in net.model.named_modules()}
    neurons = {layer.neuron for layer in net.adapted_layers.values()}
    found: list[nn.Module] = []

    def look(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        carried = [t for t in tensors_in(args) if t.requires_grad]
        given = [t for t in tensors_in(out) if t.is_floating_point()]
        inside = any(other in found for other in module.modules() if other is not module)
        spiking = not neurons.isdisjoint(module.modules())
        if spiking or inside or module not in paths or not carried or not given:
            return
        if carried[0].shape in (given[0].shape, given[0].shape[1:]) and _cuts(carried[0], given[0]):
            found.append(module)

    handle = nn.modules.module.register_module_forward_hook(look)  # type: ignore[arg-type]
    try:
        with torch.enable_grad(), seeded(0, few):
            net.run(few.clone().requires_grad_())
    finally:
        handle.remove()
    net.straight_through = tuple(paths[module] for module in dict.fromkeys(found))


def _cuts(x: Tensor, out: Tensor) -> bool:
    """Whether no gradient passes: there is none, or spikes are out and it is 0, as that of torch.bernoulli."""
    if not out.requires_grad:
        return True
    spikes = bool(out.any()) and bool(((out == 0) | (out == 1)).all())
    return spikes and is_zero(
        torch.autograd.grad(out, x, torch.rand_like(out), retain_graph=True, allow_unused=True)[0]
    )


def has_a_gradient(net: Adapted, few: Tensor) -> None:
    """Refuse a network whose gradient ends, or is 0, on its way from the logits or from the currents to the images.

    Neurons may be silent or have no surrogate of their own.
    """
    x = few.clone().requires_grad_()
    logits, currents = _seen(net, x, None)
    if not logits.requires_grad:
        logits, currents = _seen(net, x, BPTT(Triangle()))
    if (
        not logits.requires_grad
        or torch.autograd.grad(logits.sum(), x, retain_graph=True, allow_unused=True)[0] is None
    ):
        blind = [f"{layer}: {layer.fault}" for layer in net.adapted_layers.values() if layer.fault]
        if blind:
            raise AdaptError(f"no gradient reaches the images, because of {blind[0]}; put another neuron there")
        raise AdaptError(
            "no gradient reaches the images: a function in the network's forward cuts it, such as an encoder that "
            "is no module or a detach(); take it out and give encoder= to adapt, or every attack through gradients is blind"
        )
    if not _is_blind(x, currents):
        return
    other = (1 - few).requires_grad_()
    others = _seen(net, other, None)[1]
    if _is_blind(other, others) and not all(map(torch.equal, currents, others)):
        raise AdaptError(
            "the gradient that reaches the images is 0 throughout, although the neurons' currents depend on them: a "
            "function in the network's forward has none, such as snntorch.spikegen.rate, torch.bernoulli or a rounding; "
            "take it out and give encoder= to adapt, or every attack through gradients is blind"
        )


def _seen(net: Adapted, x: Tensor, estimator: BPTT | None) -> tuple[Tensor, list[Tensor]]:
    """Logits and the currents of every neuron, with their graphs."""
    notes: list[tuple[Any, Tensor]] = []
    try:
        for layer in net.adapted_layers.values():
            layer.gradient_rule = Rule(None if layer.fault else estimator, notes=(notes,))
        with torch.enable_grad(), seeded(0, x):
            logits = net.run(x)
    finally:
        for layer in net.adapted_layers.values():
            layer.gradient_rule = None
    return logits, [currents for _, currents in notes]


def _is_blind(x: Tensor, currents: list[Tensor]) -> bool:
    """Whether no neuron's currents have a gradient to the images but 0."""
    reaching = [each for each in currents if each.requires_grad]
    weights = list(map(torch.rand_like, reaching))
    return not reaching or is_zero(torch.autograd.grad(reaching, x, weights, retain_graph=True, allow_unused=True)[0])


def computes_once(net: Adapted, few: Tensor) -> None:
    """Note neurons that are called again by the backward pass, when the network is as it was."""
    x = few.clone().requires_grad_()
    with seeded(0, few), contextlib.ExitStack() as stack:
        logits = net.run(x)
        for layer in net.adapted_layers.values():

            def watch(*args: Any, _layer: AdaptedLayer = layer, _own: Any = layer.neuron.forward, **kwargs: Any) -> Any:
                _layer.fault = "the backward pass computes it again (torch.utils.checkpoint), without estimators"
                _layer.takes_surrogates = False
                return _own(*args, **kwargs)

            stack.enter_context(replaced(layer.neuron, "forward", watch))
        if logits.requires_grad:
            torch.autograd.grad(logits.sum(), x, allow_unused=True)
