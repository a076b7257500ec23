"""Spike trains: what each layer of a network sends, and what its layers get when all of them send what they are told."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustspike.draws import Draws, sampling
from robustspike.encoders import ENCODERS, Poisson
from robustspike.gradients import estimating, frozen
from robustspike.neurons import spiking_layers

ENCODED, UNCODED = "encoded image", "image"


@dataclass(frozen=True)
class Train:
    """One call of a spiking layer: the currents [T, N, ...] that it got and the spikes [T, N, ...] that it sent."""

    path: str
    layer: Any
    currents: Tensor
    spikes: Tensor


@dataclass(frozen=True)
class Trains:
    """What a network sends on its way: the encoded image [T, N, ...] (one without time [1, N, ...]), then layer by layer."""

    encoded: Tensor
    layers: tuple[Train, ...]

    @property
    def time_steps(self) -> int:
        """T of the spikes."""
        return len(self.layers[0].spikes)


def check_spiking(model: nn.Module, audit: str) -> None:
    """Refuse a network without spiking layers.

    Raises:
        ValueError: saying what the audit needs.
    """
    if not spiking_layers(model):
        raise ValueError(
            f"audit {audit!r} is of spikes: expected a network with spiking layers, got none in {type(model).__name__}"
        )


def encoder_of(model: nn.Module) -> nn.Module | None:
    """The encoder of a network, the first one if it has several.

    Example:
        >>> from robustspike.audits.trains import encoder_of
        >>> encoder_of(digits_cnn(time_steps=2))
        Direct(time_steps=2)
    """
    return next((m for m in model.modules() if isinstance(m, tuple(ENCODERS.values()))), None)


def sends_spikes(encoder: nn.Module | None) -> bool:
    """Whether an encoder's output is 0 or 1 at every step, for every image."""
    return isinstance(encoder, Poisson)


@contextlib.contextmanager
def encoding(model: nn.Module, reply: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within the block the encoder's output, where there is one, is replaced by what ``reply`` makes of it."""
    encoder = encoder_of(model)
    if encoder is None:
        yield
        return
    handle = encoder.register_forward_hook(lambda _, args, out: reply(out))
    try:
        yield
    finally:
        handle.remove()


def trains(model: nn.Module, x: Tensor, draws: Draws | None) -> Trains:
    """What the network sends for images x [N, ...], in evaluation mode, without gradient.

    Example:
        >>> from robustspike.audits.trains import trains
        >>> [tuple(each.spikes.shape) for each in trains(digits_cnn(time_steps=2), torch.rand(3, 1, 8, 8), None).layers]
        [(2, 3, 32, 8, 8), (2, 3, 64, 8, 8), (2, 3, 64, 4, 4)]
    """
    encoded, noted = [x[None]], []

    def code(out: Tensor) -> Tensor:
        encoded[0] = out
        return out

    def rule(layer: Any, currents: Tensor) -> Tensor:
        spikes: Tensor = layer.fire(currents)
        noted.append((layer, currents, spikes))
        return spikes

    with frozen(model), torch.no_grad(), sampling(draws), estimating(model, rule), encoding(model, code):  # type: ignore[arg-type]
        model(x)
    paths = call_names(model, [layer for layer, _, _ in noted])
    return Trains(encoded[0], tuple(Train(path, *note) for path, note in zip(paths, noted, strict=True)))


def call_names(model: nn.Module, layers: Sequence[Any]) -> list[str]:
    """The paths of spiking layers in the order of their calls, the second call of one marked."""
    paths, calls, names = {id(layer): path for path, layer in spiking_layers(model).items()}, Counter[str](), []
    for layer in layers:
        path = paths[id(layer)]
        calls[path] += 1
        names.append(path if calls[path] == 1 else f"{path}, call {calls[path]}")
    return names


def currents_of(model: nn.Module, x: Tensor, sent: Sequence[Tensor]) -> list[Tensor]:
    """The currents [T, N, ...] of each call of a spiking layer when the encoder and these calls send ``sent``, in order.

    Where the network has no encoder of ours, ``sent[0]`` [1, N, ...] is its input.
    """
    noted: list[Tensor] = []

    def rule(layer: Any, currents: Tensor) -> Tensor:
        noted.append(currents)
        return sent[len(noted)]

    with estimating(model, rule), encoding(model, lambda out: sent[0]):  # type: ignore[arg-type]
        model(sent[0][0] if encoder_of(model) is None else x)
    return noted
