"""Before a network is used: how it is to be called, what cuts its gradient, and whether it answers as it did."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from robustspike.adapters.framework import AdaptError, preserved
from robustspike.adapters.layer import AdaptedLayer, tensors_in
from robustspike.adapters.layout import find_layout
from robustspike.draws import Draws, sampling
from robustspike.encoders import Direct
from robustspike.gradients import Rule, frozen
from robustspike.surrogates import Triangle

if TYPE_CHECKING:
    from robustspike.adapters.adapting import Adapted


def prepare(net: Adapted, images: Tensor) -> None:
    """Find out how the network is called, and check it on these images [N, ...]; the network and all random streams stay.

    Raises:
        AdaptError: saying what is wrong and what to do.
    """
    if len(images) == 0:
        raise AdaptError("a network is checked on its first images, got none; call it with one image at least")
    few = images[:2].detach()
    rules = [(layer, layer.gradient_rule) for layer in net.adapted_layers.values()]
    collapsed, devices = net.time_collapsed, [few.device] if few.device.type == "cuda" else []
    try:
        for layer, _ in rules:
            layer.gradient_rule = None
        net.time_collapsed = False
        with frozen(net), torch.random.fork_rng(devices=devices):
            find_layout(net, few)
            _complete(net)
            net.straight_through = _cutting(net, few)
            _answers_as_before(net, few)
            _carries_estimators(net, few)
            _has_a_gradient(net, few)
    finally:
        net.time_collapsed = collapsed
        for layer, rule in rules:
            layer._rule = rule  # a rule that the layer cannot carry is refused by the forward pass
    net.prepared = True


def _complete(net: Adapted) -> None:
    if net.takes == "images":
        if net.encoder is not None:
            raise AdaptError(
                f"the network loops over time itself and has no place for {type(net.encoder).__name__}; leave it out, "
                "or let the network take one step or a sequence [T, N, ...]"
            )
    elif net.encoder is None:
        assert net.time_steps is not None
        net.encoder = Direct(net.time_steps)


@contextlib.contextmanager
def _seeded(seed: int, few: Tensor) -> Iterator[None]:
    """Every random number of a block, ours and PyTorch's, from a seed."""
    torch.manual_seed(seed)
    with sampling(Draws.of(seed, torch.arange(len(few), device=few.device))):
        yield


def _cutting(net: Adapted, few: Tensor) -> tuple[str, ...]:
    """Paths of the modules that are no neurons, whose input carries a gradient and whose output does not: encoders."""
    paths = {module: path for path, module in net.model.named_modules()}
    neurons = {layer.neuron for layer in net.adapted_layers.values()}
    found: list[nn.Module] = []

    def look(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        carried = [t for t in tensors_in(args) if t.requires_grad]
        given = [t for t in tensors_in(out) if t.is_floating_point()]
        inside = any(other in found for other in module.modules() if other is not module)
        if module in neurons or inside or module not in paths or not carried or not given:
            return
        same = carried[0].shape in (given[0].shape, given[0].shape[1:])
        if same and not any(t.requires_grad for t in given):
            found.append(module)

    handle = nn.modules.module.register_module_forward_hook(look)  # type: ignore[arg-type]
    try:
        with torch.enable_grad(), _seeded(0, few):
            net.run(few.clone().requires_grad_())
    finally:
        handle.remove()
    return tuple(paths[module] for module in dict.fromkeys(found))


def _answers_as_before(net: Adapted, few: Tensor) -> None:
    """Two calls agree under one seed, and with the network called as its owner would, from fresh state."""
    answers = []
    with torch.no_grad():
        for _ in range(2):
            with _seeded(0, few):
                answers.append(net.run(few))
        stateful = [m for m in net.model.modules() if any(f.is_neuron(m) or f.is_stateful(m) for f in net.frameworks)]
        with preserved(stateful), _seeded(0, few):
            net.refresh()
            original = net.answer(few)
    if not _equal(answers[0], answers[1]):
        raise AdaptError(
            f"two calls with the same images and the same seed differ by up to {_gap(*answers):.3g} in the logits: the "
            "network keeps state outside its neurons, or computes in no fixed order; reset that state in its forward"
        )
    if not _equal(answers[0], original):
        raise AdaptError(
            f"the adapted network's logits differ from the original's by up to {_gap(answers[0], original):.3g}; "
            "this is a fault of the adapter: please report the network's neurons"
        )


def _equal(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.nan_to_num(), other.nan_to_num())


def _gap(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


class _Compared:
    """An estimator for one pass: runs each neuron again with a surrogate of ours, and notes where its spikes differ."""

    def __call__(self, layer: AdaptedLayer, currents: Tensor) -> Tensor:
        own = layer.replay(currents).spikes
        try:
            again = layer.fire(currents, Triangle())
        except (RuntimeError, ValueError, TypeError, KeyError) as error:
            layer.fault = f"it does not run with another surrogate ({type(error).__name__}: {error})"
            return own
        if again.shape != own.shape or not torch.equal(own, again):
            layer.fault = "its output is not the spike of one potential that is compared with one threshold"
            return own
        layer.knows_drive = layer.drive(currents).shape == own.shape
        layer.knows_leak = layer.knows_drive and _leaks(layer, currents)
        return own


def _leaks(layer: AdaptedLayer, currents: Tensor) -> bool:
    """Whether potentials far below the threshold follow u[t] = λ·u[t−1] + I[t]."""
    leak, threshold, drive = layer.membrane
    if leak is None:
        return False
    weak = torch.rand(5, *currents.shape[1:], dtype=currents.dtype, device=currents.device)
    into = drive(weak)
    weak = weak * (0.05 * threshold / into.abs().amax().clamp(min=1e-12))
    u, expected, v = layer.potentials(weak), [], torch.zeros_like(into[0])
    for current in drive(weak):
        v = leak * v + current
        expected.append(v)
    return torch.allclose(
        u, torch.stack(expected), rtol=1e-3, atol=1e-4 * float(torch.as_tensor(threshold).abs().max())
    )


def _carries_estimators(net: Adapted, few: Tensor) -> None:
    """Note the fault of every layer whose spikes another surrogate would change."""
    for layer in net.adapted_layers.values():
        layer.fault, layer.knows_drive, layer.knows_leak = None, True, True
        layer.gradient_rule = Rule(_Compared())
    try:
        with torch.no_grad(), _seeded(0, few):
            net.run(few)
    finally:
        for layer in net.adapted_layers.values():
            layer.gradient_rule = None


def _has_a_gradient(net: Adapted, few: Tensor) -> None:
    with torch.enable_grad(), _seeded(0, few):
        x = few.clone().requires_grad_()
        logits = net.run(x)
        found = torch.autograd.grad(logits.sum(), x, allow_unused=True)[0] if logits.requires_grad else None
    if found is None:
        raise AdaptError(
            "no gradient reaches the images: a function in the network's forward cuts it, such as an encoder that "
            "is no module or a detach(); take it out and give encoder= to adapt, or every attack through gradients is blind"
        )
