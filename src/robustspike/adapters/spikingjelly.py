"""SpikingJelly 2.0 and 0.0.0.0.14: nodes with a ``surrogate_function``, state in ``_memories``, step modes s and m."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from robustspike.adapters.framework import Framework, Membrane, SpikeFunction, replaced


def _is_neuron(module: nn.Module) -> bool:
    return getattr(module, "surrogate_function", None) is not None


def _is_stateful(module: nn.Module) -> bool:
    return isinstance(getattr(module, "_memories", None), dict)


def _covers_time(neuron: nn.Module) -> bool:
    return getattr(neuron, "step_mode", "m") == "m"


def _reset(module: Any) -> None:
    if _is_stateful(module):
        memories = module._memories
        for name, value in memories.items():
            if isinstance(value, Tensor):
                memories[name] = value.detach().clone()  # some releases reset in place
        module.reset()


@contextlib.contextmanager
def _firing(neuron: Any, function: SpikeFunction) -> Iterator[None]:
    """A function of our own is honoured only on the plain path: fused and CuPy kernels have surrogates built in."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(replaced(neuron, "surrogate_function", function))
        if "backend" in vars(neuron):
            stack.enter_context(replaced(neuron, "backend", "torch"))
        yield


def _membrane(neuron: Any) -> Membrane:
    """v ← v + (x − (v − v_rest))/τ with ``decay_input``, v ← v − (v − v_rest)/τ + x without; no τ: v ← v + x."""
    rest = getattr(neuron, "v_reset", 0.0) or 0.0
    threshold = getattr(neuron, "v_threshold", None)
    if threshold is None:
        return Membrane(None, 1.0, lambda x: x)
    if isinstance(getattr(neuron, "w", None), Tensor) and neuron.w.dim() == 0:
        rate = neuron.w.detach().sigmoid()
    elif "tau" in vars(neuron):
        rate = 1.0 / neuron.tau
    else:
        rate = 0.0
    gain = rate if getattr(neuron, "decay_input", False) else 1.0
    return Membrane(1.0 - rate, threshold - rest, lambda x: x * gain)


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
    detached=lambda neuron: replaced(neuron, "detach_reset", True),
)
