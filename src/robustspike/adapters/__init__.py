"""Networks of SpikingJelly, snnTorch and Norse as they are: attacked and trained through every estimator."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robustspike.adapters.adapting import Adapted
from robustspike.adapters.framework import AdaptError, Framework
from robustspike.adapters.layer import AdaptedLayer
from robustspike.adapters.layout import TAKES
from robustspike.adapters.norse import NORSE
from robustspike.adapters.parity import prepare
from robustspike.adapters.readout import READOUTS, Readout
from robustspike.adapters.snntorch import SNNTORCH
from robustspike.adapters.spikingjelly import SPIKINGJELLY
from robustspike.adapters.state_dicts import load_spikingjelly, neuron_settings
from robustspike.encoders import ENCODERS
from robustspike.neurons import spiking_layers

__all__ = [
    "FRAMEWORKS",
    "READOUTS",
    "TAKES",
    "AdaptError",
    "Adapted",
    "AdaptedLayer",
    "Framework",
    "adapt",
    "check_adapted",
    "load_spikingjelly",
    "neuron_settings",
]

FRAMEWORKS: dict[str, Framework] = {
    "spikingjelly": SPIKINGJELLY,
    "snntorch": SNNTORCH,
    "norse": NORSE,
}


def adapt(
    model: nn.Module,
    time_steps: int | None = None,
    *,
    images: Tensor | None = None,
    takes: str | None = None,
    encoder: str | nn.Module | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    readout: str | Readout = "spikes",
) -> nn.Module:
    """A network of another framework as one of ours: images [N, ...] in [0, 1] to logits [N, K].

    Estimators, attacks, evaluations, audits and training work on the result as on our own networks. State is fresh in every
    forward pass. The network itself is changed only while one lasts; with its own gradient, ``BPTT()``, everything computed
    is the framework's. A network of ours, and one without spiking neurons and without ``mean``, come back as they are.

    Args:
        model: built with SpikingJelly (2.0, 0.0.0.0.14), snnTorch (1.0, 0.9) or Norse (1.1), or in plain PyTorch.
        time_steps: T; needed where the network does not loop over time itself.
        images: a few real ones [N, ...] in [0, 1], to find out at once how the network is called and whether it answers as
            before; None: its first images serve for that.
        takes: what one call of the network takes: "images" (it loops over time itself), "step" (one time step [N, ...],
            state kept by the neurons or, in Norse, passed on) or "sequence" [T, N, ...]; None: found by trial calls.
        encoder: what gives an image its time axis: a name in ENCODERS, or such a module; None: the same image at each step.
            Encoders within the network stay; those that cut the gradient are passed straight through.
        mean, std: one number for each channel, subtracted and divided before the network.
        readout: "spikes", the first tensor that the network returns, or "membrane", the last; averaged over time where they
            have a time axis. Or a function of what it returns (of all steps, stacked) to [N, K] or [T, N, K].

    Raises:
        AdaptError: for a network that cannot be called, keeps state of its own, or lets no gradient through. That a layer
            cannot carry an estimator is said where one is used.

    Example:
        >>> from spikingjelly.activation_based import layer, neuron, functional
        >>> net = nn.Sequential(layer.Flatten(), layer.Linear(64, 10), neuron.LIFNode())
        >>> functional.set_step_mode(net, "m")
        >>> model = adapt(net, time_steps=4, images=torch.rand(2, 1, 8, 8))
        >>> input_gradient(model, torch.rand(2, 1, 8, 8), torch.tensor([0, 1]), estimator=BPTR()).shape
        torch.Size([2, 1, 8, 8])
    """
    _check(model, images, time_steps, takes, encoder, mean, std, readout)
    options = {"mean": mean, "encoder": encoder, "takes": takes, "readout": None if readout == "spikes" else readout}
    said = [name for name, value in options.items() if value is not None]
    if spiking_layers(model):
        if said:
            raise AdaptError(f"{said[0]} is for networks of other frameworks, got a network of robustspike")
        return model
    imported = [framework for name, framework in FRAMEWORKS.items() if name in sys.modules]
    frameworks = [known for known in imported if any(known.is_neuron(m) for m in model.modules())]
    if not frameworks and encoder is not None:
        raise AdaptError("an encoder is for networks over time steps, got one with no spiking neurons that are known")
    if not frameworks and mean is None and isinstance(readout, str):
        return model
    made = ENCODERS[encoder](time_steps) if isinstance(encoder, str) and time_steps else encoder
    assert not isinstance(made, str)
    net = Adapted(model, frameworks, time_steps, takes, made, mean, std, readout)
    net.training = model.training
    if images is not None:
        prepare(net, images)
    return net


def check_adapted(model: nn.Module) -> None:
    """Refuse neurons of another framework that are not behind :func:`adapt`: state would leak, time be taken for samples.

    Raises:
        AdaptError: naming the first one.
    """
    inside = {m for part in model.modules() if isinstance(part, Adapted) for m in part.model.modules()}
    for name, known in FRAMEWORKS.items():
        for path, module in model.named_modules() if name in sys.modules else ():
            if module not in inside and known.is_neuron(module):
                raise AdaptError(
                    f"{type(model).__name__} has neurons of {name} (at {path or 'the top'}), whose state would pass from "
                    "one call to the next: give rs.adapt(model, time_steps=…) in its place"
                )


def _check(
    model: Any, images: Any, time_steps: int | None, takes: str | None, encoder: str | nn.Module | None,
    mean: Sequence[float] | None, std: Sequence[float] | None, readout: str | Readout,
) -> None:  # fmt: skip
    if not isinstance(model, nn.Module):
        what = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise AdaptError(f"adapt takes a network, a torch.nn.Module, got {what}")
    if hasattr(model, "_orig_mod") or isinstance(model, torch.jit.ScriptModule):
        raise AdaptError(f"{type(model).__name__} is compiled; adapt the network that it was made of, before compiling")
    if images is not None and not isinstance(images, Tensor):
        raise AdaptError(f"images must be a tensor [N, ...] in [0, 1], got a {type(images).__name__}")
    if time_steps is not None and (not isinstance(time_steps, int) or time_steps < 1):
        raise AdaptError(f"time_steps must be a whole number ≥ 1, got {time_steps!r}")
    if std is not None and not all(value > 0 for value in std):
        raise AdaptError(f"std must be positive, got {list(std)}")
    for name, value, known in (("takes", takes, TAKES), ("encoder", encoder, ENCODERS), ("readout", readout, READOUTS)):
        if isinstance(value, str) and value not in known:
            raise AdaptError(f"{name} must be one of {', '.join(known)}; got {value!r}")
    if isinstance(encoder, str) and time_steps is None:
        raise AdaptError(f"the encoder {encoder!r} has to know how many steps to make: say time_steps=")
    if (mean is None) != (std is None):
        raise AdaptError("give both mean and std, one number for each channel, or neither")
