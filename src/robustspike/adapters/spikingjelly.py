"""SpikingJelly 2.0 and 0.0.0.0.14: nodes with a ``surrogate_function``, state in ``_memories``, step modes s and m."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import Tensor, nn

from robustspike.adapters.framework import Called, Framework, Membrane, SpikeFunction, filtered, preserved, replaced


def _is_neuron(module: nn.Module) -> bool:
    """SpikingJelly's recurrent cells fire too, but are handed their state h, and have no potential."""
    fires = getattr(module, "surrogate_function", None) is not None
    return fires and "h" not in inspect.signature(type(module).forward).parameters


def _is_stateful(module: nn.Module) -> bool:
    """What ``functional.reset_net`` resets."""
    return callable(getattr(module, "reset", None))


def _covers_time(neuron: nn.Module) -> bool:
    return getattr(neuron, "step_mode", "m") == "m"


def _reset(module: Any) -> None:
    if not _is_stateful(module):
        return
    memories = getattr(module, "_memories", {})
    for name, value in memories.items():
        if isinstance(value, Tensor):
            memories[name] = value.detach().clone()  # some releases reset in place
    module.reset()


class _Fires(Called):
    """A function of u − θ in the place of a surrogate, which some nodes ask whether it gives spikes."""

    spiking = True


@contextlib.contextmanager
def _firing(neuron: Any, function: SpikeFunction) -> Iterator[None]:
    """A function of our own is honoured only on the plain path: fused and CuPy kernels have surrogates built in."""
    with replaced(neuron, "surrogate_function", _Fires(function)), replaced(neuron, "_backend", "torch"):
        yield


def _membrane(neuron: Any) -> Membrane:
    """v ← v + (x − (v − v_rest))/τ with ``decay_input``, v ← v − (v − v_rest)/τ + x without; no τ: v ← v + x.

    QIF, EIF and Izhikevich's have a potential at rest ``v_rest``, and take x/τ; KLIF multiplies what it has by a learned k;
    CUBALIF has a synapse; the parallel neurons have no threshold of their own, and no state.
    """
    threshold = getattr(neuron, "v_threshold", None)
    if threshold is None:
        return Membrane(0.0, 1.0, partial(_weighted, neuron))
    threshold = threshold - (getattr(neuron, "v_reset", 0.0) or 0.0)
    if hasattr(neuron, "c_decay"):
        return Membrane(neuron.v_decay, threshold, lambda x: filtered(x, neuron.c_decay))
    rate, gain = _rate(neuron), 1.0
    if getattr(neuron, "decay_input", False) or hasattr(neuron, "v_rest"):
        gain = rate
    leak = 1.0 - rate
    if isinstance(getattr(neuron, "k", None), Tensor):
        gain = gain * neuron.k.detach()
        leak = leak if neuron.scale_reset else leak * neuron.k.detach()
    return Membrane(leak, threshold, lambda x: x * gain)


def _rate(neuron: Any) -> Any:
    """1/τ; 0 for a neuron without leak."""
    learned = vars(neuron)["_parameters"].get("w")
    if learned is not None:
        return learned.detach().sigmoid()
    return 1.0 / neuron.tau if "tau" in vars(neuron) else 0.0


def _weighted(neuron: Any, x_seq: Tensor) -> Tensor:
    """1 + W·x + b of a parallel neuron, which fires at W·x + b ≥ 0; one step that stands for all gets the mean over time."""
    steps = getattr(neuron, "T", len(x_seq))
    with (
        preserved([neuron]),
        replaced(neuron, "surrogate_function", _Fires(lambda potential: potential)),
        replaced(neuron, "_step_mode", "m"),
    ):
        _reset(neuron)
        u = 1.0 + type(neuron).forward(neuron, x_seq if len(x_seq) == steps else x_seq.expand(steps, *x_seq.shape[1:]))
    return u if len(x_seq) == steps else u.mean(0, keepdim=True)


SPIKINGJELLY = Framework(
    name="spikingjelly",
    is_neuron=_is_neuron,
    is_stateful=_is_stateful,
    covers_time=_covers_time,
    reset=_reset,
    spike_function=lambda neuron: neuron.surrogate_function,
    firing=_firing,
    membrane=_membrane,
    strict=False,
)
