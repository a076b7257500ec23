"""Before a network is used: how it is to be called, what cuts its gradient, and whether it answers as it did."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from robustspike.adapters.framework import AdaptError, preserved, replaced
from robustspike.adapters.layer import AdaptedLayer, Start, tensors_in
from robustspike.adapters.layout import find_layout
from robustspike.adapters.reading import leave_readouts
from robustspike.draws import Draws, sampling
from robustspike.gradients import BPTT, Rule, frozen
from robustspike.surrogates import Triangle, with_slope

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
        with torch.inference_mode(False), torch.enable_grad(), frozen(net), torch.random.fork_rng(devices=devices):
            for check in _CHECKS:
                with preserved(list(net.model.modules())), _seeded(0, few):  # also of what modules keep
                    check(net, few)
    finally:
        net.time_collapsed = collapsed
        for layer, rule in rules:
            layer._rule = rule  # a rule that the layer cannot carry is refused by the forward pass
    net.prepared = True


@contextlib.contextmanager
def _seeded(seed: int, few: Tensor) -> Iterator[None]:
    """Every random number of a block, ours and PyTorch's, from a seed."""
    torch.manual_seed(seed)
    with sampling(Draws.of(seed, torch.arange(len(few), device=few.device))):
        yield


def _pass_straight_through(net: Adapted, few: Tensor) -> None:
    net.straight_through = _cutting(net, few)


def _cutting(net: Adapted, few: Tensor) -> tuple[str, ...]:
    """Paths of the modules without neurons whose input carries a gradient and whose output does not: encoders."""
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
        with torch.enable_grad(), _seeded(0, few):
            net.run(few.clone().requires_grad_())
    finally:
        handle.remove()
    return tuple(paths[module] for module in dict.fromkeys(found))


def _cuts(x: Tensor, out: Tensor) -> bool:
    """Whether no gradient passes: there is none, or spikes are out and it is 0, as that of torch.bernoulli."""
    if not out.requires_grad:
        return True
    spikes = bool(out.any()) and bool(((out == 0) | (out == 1)).all())
    return spikes and _is_zero(
        torch.autograd.grad(out, x, torch.rand_like(out), retain_graph=True, allow_unused=True)[0]
    )


def _is_zero(gradient: Tensor | None) -> bool:
    return gradient is None or not bool(gradient.any())


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
    """An estimator for one pass: runs each neuron again, on its currents and on strong ones, and notes what it is."""

    exact = True

    def __call__(self, layer: AdaptedLayer, currents: Tensor) -> Tensor:
        own = layer.replay(currents).spikes
        try:
            _see_in_eval(layer, currents, own)
            strong = 4 * torch.as_tensor(layer.threshold).abs().max() * torch.randn_like(currents)
            for each in (currents, currents + strong):
                layer.fault = layer.fault or _fault(layer, each)
        except _FAULTS as error:
            layer.fault = f"it does not run with another surrogate ({type(error).__name__}: {error})"
            layer.takes_surrogates = False
        if layer.fault is None and layer.fires:
            drives, leaks = _integrates(layer, currents)
            layer.knows_drive, layer.knows_leak = layer.knows_drive and drives, layer.knows_leak and leaks
        return own


_FAULTS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)


def _see_in_eval(layer: AdaptedLayer, currents: Tensor, own: Tensor) -> None:
    """Some neurons use their surrogate only in training mode: they are to run in it, if that changes nothing else."""
    with torch.enable_grad():
        x, derivative = currents.detach().requires_grad_(), layer.with_surrogate(Triangle())
        plain, watched = layer.replay(x).spikes, layer.replay(x, derivative)
        if watched.seen and plain.requires_grad:
            return
        layer.blind_in_eval = True
        try:
            trained, again = layer.replay(x).spikes, layer.replay(x, derivative)
            better = (trained.requires_grad and not plain.requires_grad) or (bool(again.seen) and not watched.seen)
            layer.blind_in_eval = better and torch.equal(trained, own)
        except _FAULTS:
            layer.blind_in_eval = False
            raise
    if not (layer.blind_in_eval or plain.requires_grad or again.spikes.requires_grad):
        layer.fault, layer.takes_surrogates = "in evaluation mode it lets no gradient through", False


def _fault(layer: AdaptedLayer, currents: Tensor) -> str | None:
    """What keeps the neuron from carrying estimators, by its spikes with another surrogate."""
    own, watched = layer.replay(currents).spikes, layer.replay(currents, layer.with_surrogate(Triangle()))
    spiking = bool(own.any()) and bool(((own == 0) | (own == 1)).all())
    layer.fires = bool(watched.seen) or spiking
    if not watched.seen:
        layer.takes_surrogates = not spiking
        return "it fires by a function of its own" if spiking else None
    if watched.spikes.shape != own.shape or not torch.equal(watched.spikes, own):
        layer.takes_surrogates = False
        return "it does not do the same with another surrogate"
    if _escapes(layer, currents):
        layer.takes_surrogates = False
        return "its gradient does not come from its spike function"
    once = None in watched.seen or len(watched.seen) == len(own)  # in every step
    if once and ((own == 0) | ((own == 1) & (watched.again(lambda d, t: layer.spikes(d)) == 1))).all():
        return None
    return "its output is not the spike of one potential that is compared with one threshold"


def _escapes(layer: AdaptedLayer, currents: Tensor) -> bool:
    """Whether a gradient passes where the derivative of every spike is 0."""
    with torch.enable_grad():
        x = currents.detach().requires_grad_()
        spikes = layer.replay(x, lambda d, t: with_slope(layer.spikes(d), d, torch.zeros_like(d))).spikes
        return spikes.requires_grad and not _is_zero(torch.autograd.grad(spikes.sum(), x, allow_unused=True)[0])


def _integrates(layer: AdaptedLayer, currents: Tensor) -> tuple[bool, bool]:
    """Whether potentials far below the threshold rise by the drive at first, and then follow u[t] = λ·u[t−1] + I[t]."""
    leak, threshold, drive = layer.membrane
    if drive is None:
        return False, False
    try:
        weak, size = torch.rand_like(currents), torch.as_tensor(threshold).detach().abs().clamp(min=1e-3)
        weak = weak * (0.05 * size / drive(weak).abs().amax().clamp(min=1e-12))
        with layer.starting(Start()):
            u, silent = layer.potentials(weak), layer.potentials(torch.zeros_like(weak))
        into, none = drive(weak), drive(torch.zeros_like(weak))
    except _FAULTS:
        return False, False
    near = 1e-4 * float(size.max())
    rise = u[0] - silent[0]
    drives = into.shape == u.shape and bool(
        ((rise == 0) | torch.isclose(rise, into[0] - none[0], rtol=1e-3, atol=near)).double().mean()
        > 0.5  # some rectify
    )
    if leak is None or not drives:
        return drives, False
    expected, v = [], torch.zeros_like(into[0])
    for current in into:
        v = leak * v + current
        expected.append(v)
    return True, torch.allclose(u, torch.stack(expected), rtol=1e-3, atol=near)


def _carries_estimators(net: Adapted, few: Tensor) -> None:
    """Note the fault of every layer whose spikes another surrogate would change."""
    for layer in net.adapted_layers.values():
        layer.fault, layer.takes_surrogates, layer.blind_in_eval = None, True, False
        layer.knows_drive, layer.knows_leak, layer.alters_state = True, True, False
        layer.gradient_rule = Rule(_Compared())
    try:
        with torch.no_grad(), _seeded(0, few), contextlib.suppress(AdaptError):  # said where an estimator is used
            net.run(few)
    finally:
        for layer in net.adapted_layers.values():
            layer.gradient_rule = None
    for path in [path for path, layer in net.adapted_layers.items() if not layer.fires]:
        net.readouts[path] = net.adapted_layers.pop(path)


def _has_a_gradient(net: Adapted, few: Tensor) -> None:
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


def _computes_once(net: Adapted, few: Tensor) -> None:
    """Note neurons that are called again by the backward pass, when the network is as it was."""
    x = few.clone().requires_grad_()
    with _seeded(0, few), contextlib.ExitStack() as stack:
        logits = net.run(x)
        for layer in net.adapted_layers.values():

            def watch(*args: Any, _layer: AdaptedLayer = layer, _own: Any = layer.neuron.forward, **kwargs: Any) -> Any:
                _layer.fault = "the backward pass computes it again (torch.utils.checkpoint), without estimators"
                _layer.takes_surrogates = False
                return _own(*args, **kwargs)

            stack.enter_context(replaced(layer.neuron, "forward", watch))
        if logits.requires_grad:
            torch.autograd.grad(logits.sum(), x, allow_unused=True)


def _seen(net: Adapted, x: Tensor, estimator: BPTT | None) -> tuple[Tensor, list[Tensor]]:
    """Logits and the currents of every neuron, with their graphs."""
    notes: list[tuple[Any, Tensor]] = []
    try:
        for layer in net.adapted_layers.values():
            layer.gradient_rule = Rule(None if layer.fault else estimator, notes=(notes,))
        with torch.enable_grad(), _seeded(0, x):
            logits = net.run(x)
    finally:
        for layer in net.adapted_layers.values():
            layer.gradient_rule = None
    return logits, [currents for _, currents in notes]


def _is_blind(x: Tensor, currents: list[Tensor]) -> bool:
    """Whether no neuron's currents have a gradient to the images but 0."""
    reaching = [each for each in currents if each.requires_grad]
    weights = list(map(torch.rand_like, reaching))
    return not reaching or _is_zero(torch.autograd.grad(reaching, x, weights, retain_graph=True, allow_unused=True)[0])


_CHECKS = (
    find_layout, _carries_estimators, _pass_straight_through, leave_readouts, _answers_as_before, _has_a_gradient,
    _computes_once,
)  # fmt: skip
