"""snnTorch 1.0 and 0.9: neurons with a ``spike_grad``, state in buffers or in the caller's hands, one step per call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from robustspike.adapters.framework import Framework, Membrane, filtered, replaced


def _is_neuron(module: nn.Module) -> bool:
    """StateLeaky with ``output=False`` is a filter over time that never fires."""
    fires = callable(getattr(module, "spike_grad", None))
    return fires and (not _covers_time(module) or getattr(module, "output", True))


def _is_stateful(module: nn.Module) -> bool:
    return callable(getattr(module, "reset_mem", None))


def _covers_time(neuron: nn.Module) -> bool:
    return not _is_stateful(neuron)


def _reset(module: Any) -> None:
    if _is_stateful(module):
        module.reset_mem()


def _membrane(neuron: Any) -> Membrane:
    """mem ← β·mem + I with I = x, or I ← α·I + x; Lapicque's circuit; the RNN, the filter, the gates of others."""
    threshold = neuron.threshold.detach()
    if hasattr(neuron, "rnn"):
        return Membrane(None, threshold, lambda x: _into_rnn(neuron.rnn, x))
    if hasattr(neuron, "linear"):
        return Membrane(None, threshold, neuron.linear)
    if not isinstance(getattr(neuron, "beta", None), Tensor):
        return Membrane(None, threshold, None)
    beta, alpha = (_decay(neuron, name) for name in ("beta", "alpha"))
    if hasattr(neuron, "syn_exc"):
        return Membrane(None, threshold, lambda x: _through_alpha(x, alpha, beta))
    if hasattr(neuron, "R") and hasattr(neuron, "C"):
        share = neuron.time_step / (neuron.R * neuron.C)
        return Membrane(1 - share, threshold, lambda x: x * (neuron.time_step / neuron.C))
    synapse = (lambda x: filtered(x, alpha)) if hasattr(neuron, "syn") else lambda x: x
    if hasattr(neuron, "recurrent"):  # its spikes' way back to itself is left out, but for the bias
        return Membrane(None, threshold, lambda x: synapse(x + neuron.recurrent(torch.zeros_like(x[0]))))
    # Without a reset, or firing by the change of its potential.
    unlike = _covers_time(neuron) or hasattr(neuron, "delta_threshold")
    return Membrane(None if unlike else beta, threshold, synapse)


def _decay(neuron: Any, name: str) -> Any:
    value = getattr(neuron, name, None)
    return value.detach().clamp(0, 1) if isinstance(value, Tensor) else None


def _through_alpha(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """The difference of two synapses; for a single step, which stands for all, what it tends to: its own answer is 0."""
    scale = alpha.log() / (beta.log() - alpha.log()) + 1
    if len(x) == 1:
        return x * torch.where(alpha < 1, scale * (1 / (1 - alpha) - 1 / (1 - beta)), 1.0)
    return scale * (filtered(x, alpha) - filtered(x, beta))


def _into_rnn(rnn: Any, x: Tensor) -> Tensor:
    bias = rnn.bias_ih_l0 + rnn.bias_hh_l0 if rnn.bias else None
    return linear(x, rnn.weight_ih_l0, bias)


SNNTORCH = Framework(
    name="snntorch",
    is_neuron=_is_neuron,
    is_stateful=_is_stateful,
    covers_time=_covers_time,
    reset=_reset,
    spike_function=lambda neuron: neuron.spike_grad,
    firing=lambda neuron, function: replaced(neuron, "spike_grad", function),
    membrane=_membrane,
    strict=True,
    returns_state=True,
    detaches=lambda neuron: bool(getattr(neuron, "reset_delay", True)),
    factor=lambda neuron: getattr(neuron, "graded_spikes_factor", None),
)
