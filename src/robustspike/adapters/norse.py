"""Norse 1.1: cells and layers with parameters ``p`` that name a method; state goes in and comes out of every call."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import linear

from robustspike.adapters.framework import Framework, Membrane, SpikeFunction, filtered

_INTEGRATION = {"tau_mem_inv", "tau_syn_inv", "v_leak", "v_th", "v_reset", "method", "alpha", "reset_method"}
_lock = threading.RLock()


def _firing_part(p: Any) -> Any:
    """The parameters that name the method: p itself, or the part of p that does; None where nothing fires."""
    if not hasattr(p, "_fields"):
        return None
    return next((part for part in (p, *p) if hasattr(part, "_fields") and hasattr(part, "method")), None)


def _is_neuron(module: nn.Module) -> bool:
    return _firing_part(getattr(module, "p", None)) is not None


def _covers_time(neuron: nn.Module) -> bool:
    return hasattr(neuron, "record_states")


def _own_function(neuron: Any) -> SpikeFunction:
    part = _firing_part(neuron.p)
    threshold = vars(sys.modules["norse.torch.functional.threshold"])["threshold"]
    return lambda d: threshold(d, part.method, part.alpha)


@contextlib.contextmanager
def _firing(neuron: Any, function: SpikeFunction) -> Iterator[None]:
    """Every module of Norse has its own name for the one function that fires: all of them are another for a moment."""
    original = vars(sys.modules["norse.torch.functional.threshold"])["threshold"]
    with _lock:
        homes = [
            vars(module)
            for name, module in list(sys.modules.items())
            if name.startswith("norse.torch.functional") and vars(module).get("threshold") is original
        ]
        try:
            for home in homes:
                home["threshold"] = lambda d, method, alpha: function(d)
            yield
        finally:
            for home in homes:
                home["threshold"] = original


def _membrane(neuron: Any) -> Membrane:
    """v ← v + dt/τ_mem·(v_leak − v + i) with i = x or i ← (1 − dt/τ_syn)·i + x; no τ_mem: v ← v + x."""
    p, part = neuron.p, _firing_part(neuron.p)
    rest, dt = getattr(part, "v_leak", 0.0), neuron.dt
    weights = getattr(neuron, "input_weights", None)
    gain = dt * part.tau_mem_inv if hasattr(part, "tau_mem_inv") else 1.0
    synapse = 1 - dt * part.tau_syn_inv if hasattr(part, "tau_syn_inv") else None

    def drive(x: Tensor) -> Tensor:
        x = x if weights is None else linear(x, weights)
        return gain * (x if synapse is None else filtered(x, synapse))

    plain = p is part and set(p._fields) <= _INTEGRATION
    leak = 1 - gain if hasattr(part, "tau_mem_inv") else 1.0
    return Membrane(leak if plain else None, part.v_th - rest, drive)


NORSE = Framework(
    name="norse",
    is_neuron=_is_neuron,
    is_stateful=lambda module: False,
    covers_time=_covers_time,
    reset=lambda module: None,
    spike_function=_own_function,
    firing=_firing,
    membrane=_membrane,
    strict=True,
    passes_state=True,
)
