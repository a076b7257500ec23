"""What is known to go wrong in releases of SpikingJelly; each is run on a few numbers."""

from __future__ import annotations

import os
import re
from typing import Any

import torch
from torch import nn

from robustspike.doctor.checks import NotApplicableError, Verdict, sentence
from robustspike.doctor.encoded import cutting, image


def _neuron() -> Any:
    from spikingjelly.activation_based import neuron

    return neuron


def gradient_in_eval() -> Verdict:
    """Releases before 2.0 compute in eval mode by functions without a surrogate."""
    from spikingjelly.activation_based import surrogate

    lost = []
    for kind in ("IFNode", "LIFNode"):
        for mode in ("s", "m"):
            own = surrogate.ATan()  # the default is everybody's, and eval() reaches it
            node = getattr(_neuron(), kind)(step_mode=mode, surrogate_function=own).eval()
            x = torch.full((3, 1, 2), 0.7, requires_grad=True)
            spikes = node(x if mode == "m" else x[0])
            gradient = torch.autograd.grad(spikes.sum(), x, allow_unused=True)[0] if spikes.requires_grad else None
            if gradient is None or not gradient.any():
                lost.append(f'{kind}(step_mode="{mode}")')
    if lost:
        return Verdict(False, f"in eval mode no gradient passes through {', '.join(lost)}")
    return Verdict(True, "a gradient passes through IFNode and LIFNode in eval mode, step modes s and m")


def loses_gradient_in_eval(module: nn.Module) -> bool:
    """Whether a module is one of the nodes that lose it."""
    return isinstance(module, (_neuron().IFNode, _neuron().LIFNode))


def forced_kernels() -> Verdict:
    """A forced implementation refuses surrogates that are not built into it."""
    wanted = r"SJ_\w+_CUDA_IMPLEMENTATION"
    forced = {name: value for name, value in os.environ.items() if re.fullmatch(wanted, name) and value != "auto"}
    if not forced:
        return Verdict(True, "no SJ_…_CUDA_IMPLEMENTATION is set to anything but auto")
    said = ", ".join(f"{name}={value}" for name, value in sorted(forced.items()))
    if not torch.cuda.is_available():
        raise NotApplicableError(f"{said} is set; it would matter on a GPU only, and there is none")
    refusal = _refusal(torch.device("cuda"))
    return Verdict(
        not refusal, f"{said}; a LIFNode with another surrogate {f'raises {refusal}' if refusal else 'works'}"
    )


def _refusal(device: torch.device) -> str:
    """What the nodes say to a surrogate of another module; "" where they take it."""
    from spikingjelly.activation_based import surrogate

    class Other(surrogate.ATan):  # type: ignore[misc]
        """The same function under another name, which no compiled kernel knows."""

    for kind in ("IFNode", "LIFNode", "ParametricLIFNode"):
        try:
            node = getattr(_neuron(), kind)(step_mode="m", surrogate_function=Other()).to(device)
            node(torch.full((2, 1, 2), 0.7, device=device, requires_grad=True)).sum().backward()
        except RuntimeError as error:
            return sentence(error)
    return ""


def replaced_neurons() -> Verdict:
    """reset_net remembers the modules of its first call for as long as they live."""
    from spikingjelly.activation_based import functional

    net = nn.Sequential(_neuron().IFNode())
    functional.reset_net(net)
    original = net[0]  # kept alive, as by one who wants to put it back
    net[0] = _neuron().IFNode()
    net(torch.full((1, 2), 0.4))
    functional.reset_net(net)
    left = torch.as_tensor(net[0].v).abs().max().item()
    del original
    return Verdict(
        left == 0, f"a neuron exchanged after the first reset_net keeps a potential of {left:.2g} after the next"
    )


def shared_surrogate() -> Verdict:
    """The default argument of a class is one object for all of its neurons."""
    shared = [
        kind
        for kind in ("IFNode", "LIFNode")
        if getattr(_neuron(), kind)().surrogate_function is getattr(_neuron(), kind)().surrogate_function
    ]
    if shared:
        return Verdict(
            False, f"any two new neurons of {' or of '.join(shared)} have one and the same surrogate_function"
        )
    return Verdict(True, "two new neurons have a surrogate_function each")


def encoders() -> Verdict:
    """Spikes that do not depend on the image by any path that autograd knows."""
    from spikingjelly.activation_based import encoding

    made = {
        "PoissonEncoder": encoding.PoissonEncoder(),
        "LatencyEncoder": encoding.LatencyEncoder(4),
        "WeightedPhaseEncoder": encoding.WeightedPhaseEncoder(4),
    }
    return cutting({name: encoder(image()) for name, encoder in made.items()})


def cuts_the_graph(module: nn.Module) -> bool:
    """Whether a module is one of those encoders."""
    from spikingjelly.activation_based import encoding

    return isinstance(module, (encoding.PoissonEncoder, encoding.LatencyEncoder, encoding.WeightedPhaseEncoder))
