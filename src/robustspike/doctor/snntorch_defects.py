"""What is known to go wrong in releases of snnTorch; each is run on a few numbers."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from robustspike.doctor.checks import Verdict, sentence
from robustspike.doctor.encoded import cutting, image


def _slopes(function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Potentials u − θ from −6 to 6 and the derivative of the spike there, [25] each."""
    u = torch.linspace(-6, 6, 25, requires_grad=True)
    return u.detach(), torch.autograd.grad(function(u).sum(), u)[0]


def sigmoid() -> Verdict:
    """exp(25·|u|) overflows in float32."""
    from snntorch import surrogate

    u, slopes = _slopes(surrogate.sigmoid())
    nan = ~slopes.isfinite()
    if not nan.any():
        return Verdict(True, f"the slope of surrogate.sigmoid() is finite at {len(u)} potentials from −6 to 6")
    return Verdict(
        False, f"the slope of surrogate.sigmoid() is NaN at {int(nan.sum())} of {len(u)} potentials from −6 to 6, the "
        f"highest of them {float(u[nan].max()):.3g}",
    )  # fmt: skip


def triangular() -> Verdict:
    """A derivative that is negative, and as large far away from the threshold as near it."""
    from snntorch import surrogate

    u, slopes = _slopes(surrogate.triangular())
    negative = int((slopes < 0).sum())
    spread = bool(slopes[0].abs() >= slopes[len(u) // 2 - 1].abs())
    far = "as large at −6 as at the threshold" if spread else "smaller at −6 than at the threshold"
    said = f"the slope of surrogate.triangular() is negative at {negative} of {len(u)} potentials and {far}"
    return Verdict(not negative and not spread, said)


def leaky_operator() -> Verdict:
    """It calls another operator's function."""
    from snntorch import surrogate

    try:
        _, slopes = _slopes(surrogate.LSO())
    except TypeError as error:
        return Verdict(False, f"surrogate.LSO() raises {sentence(error)}")
    return Verdict(bool(slopes.isfinite().all()), "surrogate.LSO() runs")


def fires_by(name: str) -> Callable[[nn.Module], bool]:
    """Whether a module fires by this function of snntorch.surrogate, which are closures made by a function of that name."""

    def affects(module: nn.Module) -> bool:
        made = getattr(module, "spike_grad", None)
        origin = getattr(made, "__module__", "") or ""
        return origin.startswith("snntorch") and getattr(made, "__qualname__", "").split(".")[0] == name

    return affects


def rate_coding() -> Verdict:
    """torch.bernoulli has a gradient, which is 0."""
    from snntorch import spikegen

    x = image()
    spikes = spikegen.rate(x, num_steps=8)
    gradient = torch.autograd.grad(spikes.sum(), x)[0] if spikes.requires_grad else None
    if gradient is None:
        return Verdict(False, "spikegen.rate cuts the graph")
    zero = int((gradient == 0).sum())
    return Verdict(zero < x.numel(), f"the gradient through spikegen.rate is exactly 0 at {zero} of {x.numel()} pixels")


def encoders() -> Verdict:
    """Spikes that do not depend on the image by any path that autograd knows."""
    from snntorch import spikegen

    return cutting(
        {
            "spikegen.latency": spikegen.latency(image(), num_steps=8),
            "spikegen.delta": spikegen.delta(image(), threshold=0.1),
        }
    )


@contextlib.contextmanager
def _among_themselves() -> Iterator[None]:
    """Within the block the framework's list of all neurons is another one: no network of others is reset."""
    from snntorch import SpikingNeuron

    everybody = SpikingNeuron.instances
    SpikingNeuron.instances = []
    try:
        yield
    finally:
        SpikingNeuron.instances = everybody


def _charged(net: Any) -> Any:
    """The network after one step, which leaves potentials in its neurons."""
    net(torch.full((1, 2), 0.4))
    return net


def _charge(net: Any) -> float:
    """The largest potential left in a network."""
    return max(float(m.mem.detach().abs().max()) for m in net.modules() if isinstance(getattr(m, "mem", None), Tensor))


def _leaky() -> Any:
    import snntorch

    return nn.Sequential(snntorch.Leaky(beta=0.9, init_hidden=True))


def nested() -> Verdict:
    """Neurons that are not the network's immediate children."""
    from snntorch import utils

    with _among_themselves():
        net = _charged(nn.Sequential(_leaky()))
        utils.reset(net)
        left = _charge(net)
    return Verdict(
        left == 0, f"after utils.reset a neuron within a block of the network keeps a potential of {left:.2g}"
    )


def copies() -> Verdict:
    """Copies are not entered into the list of neurons."""
    from snntorch import utils

    with _among_themselves():
        net = _charged(copy.deepcopy(_leaky()))
        utils.reset(net)
        left = _charge(net)
    return Verdict(left == 0, f"after utils.reset a copied network keeps a potential of {left:.2g}")


def foreign() -> Verdict:
    """Neurons of the same class in another network."""
    from snntorch import utils

    with _among_themselves():
        net, other = _leaky(), _charged(_leaky())
        before = _charge(other)
        utils.reset(net)
        after = _charge(other)
    return Verdict(
        before == after, f"utils.reset of one network takes another's potential from {before:.2g} to {after:.2g}"
    )
