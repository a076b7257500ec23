"""Norse 1.1: cells and layers with parameters ``p`` that name a method; state goes in and comes out of every call."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import linear

from robustspike.adapters.framework import Framework, Membrane, SpikeFunction, filtered

_INTEGRATION = {"tau_mem_inv", "tau_syn_inv", "v_leak", "v_th", "v_reset", "method", "alpha", "reset_method"}
_HOME = "norse.torch.functional.threshold"
_lock = threading.Lock()
_replaced: list[dict[str, Any]] = []  # namespaces whose ``threshold`` is _fire at present
_blocks = 0  # in force, of all threads
_thread = threading.local()  # .function: what fires in this thread, where a block is in force


def _firing_part(p: Any) -> Any:
    """The parameters that name the method: p itself, or the part of p that does; None where nothing fires."""
    if not hasattr(p, "_fields"):
        return None
    return next((part for part in (p, *p) if hasattr(part, "_fields") and hasattr(part, "method")), None)


def _is_neuron(module: nn.Module) -> bool:
    """Norse's encoders have such parameters too, but take no state; a network may keep those that it made neurons with."""
    if _firing_part(getattr(module, "p", None)) is None or len(inspect.signature(type(module).forward).parameters) < 3:
        return False
    return not any(_firing_part(getattr(m, "p", None)) for m in module.modules() if m is not module)


def _covers_time(neuron: nn.Module) -> bool:
    return hasattr(neuron, "record_states")


def _threshold() -> Callable[..., Tensor]:
    """Norse's one function that fires: of (u − θ, method, alpha)."""
    function: Callable[..., Tensor] = vars(sys.modules[_HOME])["threshold"]
    return function


def _own_function(neuron: Any) -> SpikeFunction:
    part = _firing_part(neuron.p)
    return lambda d: _threshold()(d, part.method, part.alpha)


def _fire(x: Tensor, method: str, alpha: Any) -> Tensor:
    """Stands in for Norse's function: another in threads that said so, itself in all others."""
    function: SpikeFunction | None = getattr(_thread, "function", None)
    return _threshold()(x, method, alpha) if function is None else function(x)


@functools.lru_cache(1)
def _norse(modules: int) -> list[dict[str, Any]]:
    """Namespaces of Norse's modules with neurons; looked for again when so many modules are loaded."""
    names = [name for name in list(sys.modules) if name.startswith("norse.torch.functional.") and name != _HOME]
    return [vars(sys.modules[name]) for name in names]


@contextlib.contextmanager
def _firing(neuron: Any, function: SpikeFunction) -> Iterator[None]:
    """Every module has its own name for the one function that fires; within the block it is another, in this thread."""
    global _blocks
    before, own = getattr(_thread, "function", None), _threshold()
    users = [sys.modules.get(each.__module__) for each in (type(neuron), getattr(neuron, "activation", None)) if each]
    with _lock:
        _blocks += 1
        for home in (*_norse(len(sys.modules)), *(vars(module) for module in users if module)):
            if home.get("threshold") is own:
                home["threshold"] = _fire
                _replaced.append(home)
    _thread.function = function
    try:
        yield
    finally:
        _thread.function = before
        with _lock:
            _blocks -= 1
            while not _blocks and _replaced:
                _replaced.pop()["threshold"] = own


def _refusal(neuron: Any) -> str | None:
    if _firing_part(neuron.p).method != "adjoint":
        return None
    return 'has method="adjoint", which Norse 1.1 itself cannot run (it has no such threshold); use method="super"'


def _detaches(neuron: Any) -> bool:
    """Whether a step detaches the spikes that reset, as those of recurrent LIF and LSNN cells do."""
    step = getattr(neuron, "activation", None)
    names, home = getattr(getattr(step, "__code__", None), "co_names", ()), getattr(step, "__globals__", {})
    called = [getattr(home.get(name), "__code__", None) for name in names]
    return "detach" in names or any("detach" in code.co_names for code in called if code)


def _membrane(neuron: Any) -> Membrane:
    """v ← v + dt/τ_mem·(v_leak − v + i) with i = x or i ← (1 − dt/τ_syn)·i + x; no τ_mem: v ← v + x.

    Currents of conductances, and of an LSNN, which reach the membrane a step later, are not known.
    """
    p, part, dt = neuron.p, _firing_part(neuron.p), getattr(neuron, "dt", 0.001)
    threshold = _constant(getattr(part, "v_th", getattr(part, "v_thresh", 1.0)))
    rest = _constant(getattr(part, "v_leak", getattr(part, "v_reset", 0.0)))
    rate = getattr(part, "tau_mem_inv", getattr(part, "tau_inv", None))
    gain = 1.0 if rate is None else _constant(dt * rate)
    synapse = 1 - _constant(dt * part.tau_syn_inv) if hasattr(part, "tau_syn_inv") else None
    weights = getattr(neuron, "input_weights", None)

    def drive(x: Tensor) -> Tensor:
        x = x if weights is None else linear(x, weights)
        return gain * (x if synapse is None else filtered(x, synapse))

    plain = p is part and set(p._fields) <= _INTEGRATION
    known = not hasattr(part, "tau_adapt_inv") and not hasattr(part, "e_rev_E")
    leak = (1.0 if rate is None else 1 - gain) if plain else None
    return Membrane(leak, threshold - rest, drive if known else None)


def _constant(value: Any) -> Any:
    """A number; of values that differ between neurons, a tensor without gradient."""
    return value if not isinstance(value, Tensor) else value.item() if value.dim() == 0 else value.detach()


NORSE = Framework(
    name="norse",
    is_neuron=_is_neuron,
    is_stateful=lambda module: hasattr(module, "accumulator"),
    covers_time=_covers_time,
    reset=lambda module: None,
    spike_function=_own_function,
    firing=_firing,
    membrane=_membrane,
    strict=True,
    passes_state=True,
    returns_state=True,
    detaches=_detaches,
    refusal=_refusal,
)
