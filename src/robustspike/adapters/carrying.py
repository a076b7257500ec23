"""Which estimators a neuron can carry: found by running it again, on real currents and on strong ones."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robustspike.adapters.framework import AdaptError, is_zero, seeded
from robustspike.adapters.layer import AdaptedLayer, Start
from robustspike.gradients import Rule
from robustspike.surrogates import Triangle, with_slope

if TYPE_CHECKING:
    from robustspike.adapters.adapting import Adapted


def carry_estimators(net: Adapted, few: Tensor) -> None:
    """Note the fault of every layer whose spikes another surrogate would change."""
    for layer in net.adapted_layers.values():
        layer.fault, layer.takes_surrogates, layer.blind_in_eval = None, True, False
        layer.knows_drive, layer.knows_leak, layer.alters_state = True, True, False
        layer.gradient_rule = Rule(_Compared())
    try:
        with torch.no_grad(), seeded(0, few), contextlib.suppress(AdaptError):  # said where an estimator is used
            net.run(few)
    finally:
        for layer in net.adapted_layers.values():
            layer.gradient_rule = None
    for path in [path for path, layer in net.adapted_layers.items() if not layer.fires]:
        net.readouts[path] = net.adapted_layers.pop(path)


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
        return spikes.requires_grad and not is_zero(torch.autograd.grad(spikes.sum(), x, allow_unused=True)[0])


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
    drives = into.shape == u.shape
    if drives:
        risen = (rise == 0) | torch.isclose(rise, into[0] - none[0], rtol=1e-3, atol=near)
        drives = bool(risen.double().mean() > 0.5)  # some rectify
    if leak is None or not drives:
        return drives, False
    expected, v = [], torch.zeros_like(into[0])
    for current in into:
        v = leak * v + current
        expected.append(v)
    return True, torch.allclose(u, torch.stack(expected), rtol=1e-3, atol=near)
