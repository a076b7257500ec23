"""snnTorch 1.0 and 0.9: neurons with a ``spike_grad``, state in buffers or in the caller's hands, one step per call."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import linear

from robustspike.adapters.framework import Framework, Membrane, filtered, replaced


def _is_neuron(module: nn.Module) -> bool:
    return callable(getattr(module, "spike_grad", None))


def _covers_time(neuron: nn.Module) -> bool:
    return not callable(getattr(neuron, "reset_mem", None))


def _reset(module: Any) -> None:
    if callable(getattr(module, "reset_mem", None)):
        module.reset_mem()


def _membrane(neuron: Any) -> Membrane:
    """mem ← β·mem + syn with syn = x, or syn ← α·syn + x; Lapicque's circuit; the RNN of a neuron over time."""
    threshold = neuron.threshold.detach()
    if hasattr(neuron, "rnn"):
        weights, bias = neuron.rnn.weight_ih_l0, getattr(neuron.rnn, "bias_ih_l0", None)
        return Membrane(None, threshold, lambda x: linear(x, weights, bias))
    beta = neuron.beta.detach().clamp(0, 1) if isinstance(getattr(neuron, "beta", None), Tensor) else None
    if hasattr(neuron, "syn_exc"):
        alpha = neuron.alpha.detach().clamp(0, 1)
        scale = alpha.log() / (neuron.beta.detach().log() - alpha.log()) + 1
        return Membrane(None, threshold, lambda x: scale * (filtered(x, alpha) - filtered(x, neuron.beta.detach())))
    if hasattr(neuron, "R") and hasattr(neuron, "C"):
        share = neuron.time_step / (neuron.R * neuron.C)
        return Membrane(1 - share, threshold, lambda x: x * (neuron.time_step / neuron.C))
    if hasattr(neuron, "syn") and isinstance(getattr(neuron, "alpha", None), Tensor):
        return Membrane(beta, threshold, lambda x: filtered(x, neuron.alpha.detach().clamp(0, 1)))
    return Membrane(beta, threshold, lambda x: x)


SNNTORCH = Framework(
    name="snntorch",
    is_neuron=_is_neuron,
    is_stateful=lambda module: callable(getattr(module, "reset_mem", None)),
    covers_time=_covers_time,
    reset=_reset,
    spike_function=lambda neuron: neuron.spike_grad,
    firing=lambda neuron, function: replaced(neuron, "spike_grad", function),
    membrane=_membrane,
    strict=True,
    detaches=lambda neuron: True,
)
