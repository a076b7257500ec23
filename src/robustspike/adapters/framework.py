"""What an adapter has to know of a framework, and what is done to its modules for as long as a block lasts."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robustspike.draws import Draws, sampling


class AdaptError(ValueError):
    """A network that cannot be adapted, or a layer that cannot carry an estimator; the message says what to do.

    Example:
        >>> try:
        ...     adapt(nn.Linear(2, 2), time_steps=0)
        ... except AdaptError as error:
        ...     print(error)
        time_steps must be a whole number ≥ 1, got 0
    """


class Membrane(NamedTuple):
    """u[t] = leak·v[t−1] + I[t] with I = drive(x), all relative to the potential at rest.

    ``leak`` is None where the neuron is no leaky integrate-and-fire neuron, ``drive`` where no one current is its input.
    """

    leak: float | Tensor | None
    threshold: float | Tensor
    drive: Callable[[Tensor], Tensor] | None


SpikeFunction = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Framework:
    """How one framework represents neurons and state; modules are told by what they have, not by their classes.

    Args:
        name: as its package is called.
        is_neuron: whether a module spikes.
        is_stateful: whether a module that does not spike keeps state from one call to the next.
        covers_time: whether a call of a neuron takes a whole sequence [T, N, ...], not one step.
        reset: gives a module, without its children, the state of the start.
        spike_function: a neuron's own, of u − θ.
        firing: within the block a neuron fires by another function of u − θ.
        membrane: a neuron's constants.
        strict: whether a neuron spikes where u > θ, not where u ≥ θ.
        passes_state: whether state goes into a call and comes out of it, as its last argument and result.
        returns_state: whether state comes out of a call beside the spikes.
        detaches: whether a neuron's resets never carry a gradient.
        factor: what a neuron's spikes are multiplied by on their way out; None: nothing.
        refusal: why a neuron cannot be used at all; None: it can.
    """

    name: str
    is_neuron: Callable[[nn.Module], bool]
    is_stateful: Callable[[nn.Module], bool]
    covers_time: Callable[[nn.Module], bool]
    reset: Callable[[nn.Module], None]
    spike_function: Callable[[Any], SpikeFunction]
    firing: Callable[[Any, SpikeFunction], AbstractContextManager[None]]
    membrane: Callable[[Any], Membrane]
    strict: bool
    passes_state: bool = False
    returns_state: bool = False
    detaches: Callable[[nn.Module], bool] = lambda neuron: False
    factor: Callable[[Any], Tensor | None] = lambda neuron: None
    refusal: Callable[[Any], str | None] = lambda neuron: None

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are the one record of this name."""
        return _known, (self.name,)


def _known(name: str) -> Framework:
    record: Framework = importlib.import_module("robustspike.adapters").FRAMEWORKS[name]
    return record


def filtered(x_seq: Tensor, decay: float | Tensor) -> Tensor:
    """i[t] = decay·i[t−1] + x[t] with i[0] = 0, [T, N, ...]: the current of a synapse that decays."""
    current, currents = torch.zeros_like(x_seq[0]), []
    for x in x_seq:
        current = decay * current + x
        currents.append(current)
    return torch.stack(currents)


@contextlib.contextmanager
def preserved(modules: Iterable[nn.Module]) -> Iterator[None]:
    """After the block these modules have the attributes of before, state included; their children are left alone."""
    before = [
        (
            module,
            [(name, value, value.copy() if isinstance(value, dict) else None) for name, value in vars(module).items()],
        )
        for module in modules
    ]
    try:
        yield
    finally:
        for module, attributes in before:
            own = vars(module)
            own.clear()
            for name, value, contents in attributes:
                if contents is not None:
                    value.clear()
                    value.update(contents)
                own[name] = value


@contextlib.contextmanager
def replaced(module: nn.Module, name: str, value: Any) -> Iterator[None]:
    """Within the block the module has this attribute; functions may stand in for a child that is called."""
    children: dict[str, Any] = module._modules
    owner = children if name in children else vars(module)
    if owner is children and not isinstance(value, nn.Module):
        value = Called(value)
    missing = object()
    before = owner.get(name, missing)
    owner[name] = value
    try:
        yield
    finally:
        if before is missing:
            del owner[name]
        else:
            owner[name] = before


class Called(nn.Module):
    """A function in the place of a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.forward = function


@contextlib.contextmanager
def seeded(seed: int, few: Tensor) -> Iterator[None]:
    """Every random number of a block, ours and PyTorch's, from a seed."""
    torch.manual_seed(seed)
    with sampling(Draws.of(seed, torch.arange(len(few), device=few.device))):
        yield


def is_zero(gradient: Tensor | None) -> bool:
    """Whether there is no gradient, or none but 0."""
    return gradient is None or not bool(gradient.any())
