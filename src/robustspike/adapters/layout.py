"""How a network is to be called: with images, with one step, or with a sequence [T, N, ...]."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from robustspike.adapters.framework import AdaptError, preserved, replaced
from robustspike.adapters.layer import tensors_in
from robustspike.adapters.readout import logits_of
from robustspike.encoders import Frames

if TYPE_CHECKING:
    from robustspike.adapters.adapting import Adapted

TAKES = ("images", "step", "sequence")
_SAMPLES, _STEPS = (5, 7), 3  # of trial calls: no other axis is as long as both


def find_layout(net: Adapted, images: Tensor) -> None:
    """Set ``takes`` and ``time_steps`` of the network, where they are not said, by trial calls.

    Raises:
        AdaptError: if no way to call it works, or it takes another number of steps than was said.
    """
    one = images[0, 0] if isinstance(net.encoder, Frames) else images[0]
    if not net.frameworks:
        net.takes = "images"
        return
    wrong = {}
    for way in ("images", "sequence"):
        if net.takes not in (None, way) and not (net.takes == "step" and way == "images"):
            continue
        try:
            for samples in _SAMPLES:
                calls = _calls(net, one, way, samples)
                found = calls.way(way)
            if net.takes == "step" and calls.stepwise:  # one neuron may be called several times in a step
                found = "step"
        except (RuntimeError, ValueError, IndexError, TypeError, AssertionError, AttributeError) as error:
            wrong[way] = f"{type(error).__name__}: {str(error).splitlines()[0][:300] if str(error) else 'no message'}"
            continue
        if net.takes in (None, found):
            if net.takes is None and found == "step":
                _check_memory(net, calls)
            net.takes = found
            _set_time_steps(net, calls)
            return
        wrong[way] = f"it takes {found} then"
    raise AdaptError(
        "found no way to call the network: " + "; ".join(f"with {way}, {why}" for way, why in wrong.items())
        + f". Images are {list(images.shape[1:])}; say takes= ({', '.join(TAKES)}) and readout=, check the images' shape, "
        "or reset state that it keeps"
    )  # fmt: skip


def _check_memory(net: Adapted, calls: Calls) -> None:
    if net.time_steps != 1 and all(framework.passes_state for framework in net.frameworks) and not calls.passes_state:
        raise AdaptError(
            "the network takes one step per call but does not take and return its neurons' state, which keep none, so that "
            "every step would begin anew; let it take the state and return (output, state), or loop over time in its forward"
        )


def _steps(net: Adapted) -> int:
    return net.time_steps or _STEPS


def _set_time_steps(net: Adapted, calls: Calls) -> None:
    if net.takes != "images":
        if net.time_steps is None:
            what = "one step" if net.takes == "step" else "a sequence [T, N, ...]"
            raise AdaptError(f"the network takes {what} per call: say time_steps=, how many steps it is to be given")
        return
    if net.encoder is not None:
        raise AdaptError(
            f"the network loops over time itself and has no place for {type(net.encoder).__name__}; leave it out, or let "
            "the network take one step or a sequence [T, N, ...]"
        )
    if net.time_steps not in (None, calls.time_steps):
        raise AdaptError(
            f"the network loops over {calls.time_steps} time steps itself, got time_steps={net.time_steps}; leave it "
            'out, or change the network; if one neuron of it serves in several places, say takes="step"'
        )
    net.time_steps = calls.time_steps


class Calls:
    """What the neurons were called with in one trial, in order: (layer's path, whether with all steps, shape)."""

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.seen: list[tuple[str, bool, torch.Size]] = []
        self.begun: Counter[str] = Counter()  # calls of neurons that are passed their state and got none
        self.logits: Tensor | None = None
        self.passes_state = False  # whether what it returned goes into the next step
        self.fault: Exception | None = None

    @property
    def time_steps(self) -> int:
        _, whole, shape = self.seen[0]
        counts = Counter(path for path, _, _ in self.seen)
        return shape[0] if whole else min(n // max(1, self.begun[path]) for path, n in counts.items())

    @property
    def stepwise(self) -> bool:
        """Whether a neuron takes one step per call."""
        return any(not whole for _, whole, _ in self.seen)

    def way(self, way: str) -> str:
        """What the network takes, by a trial with images or a sequence.

        Raises:
            ValueError: if the trial was none of its ways.
        """
        if not self.seen:
            raise ValueError("no neuron was called")
        for path, whole, shape in self.seen:
            axis = 1 if whole else 0
            if len(shape) <= axis or shape[axis] != self.samples:
                raise ValueError(f"the neuron at {path} got {list(shape)}, without an axis of {self.samples} samples")
        if way == "images" and self.stepwise and self.time_steps == 1:
            return "step"
        if self.fault is not None:
            raise self.fault
        return way


def _calls(net: Adapted, one: Tensor, way: str, samples: int) -> Calls:
    """Call the network as it is with so many of one image and watch its neurons."""
    x = torch.stack([one] * samples)
    x = x if way == "images" else torch.stack([x] * _steps(net))
    calls = Calls(samples)
    with torch.no_grad(), preserved(list(net.model.modules())), net.afresh(), contextlib.ExitStack() as stack:
        for layer in net.adapted_layers.values():
            original = layer.neuron.forward

            def watch(*args: Any, _layer: Any = layer, _original: Any = original, **kwargs: Any) -> Any:
                calls.seen.append((_layer.path, _layer.covers_time, args[0].shape))
                given = next(tensors_in((args[1:], kwargs)), None)
                calls.begun[_layer.path] += given is None and _layer.framework.passes_state
                return _original(*args, **kwargs)

            stack.enter_context(replaced(layer.neuron, "forward", watch))
        out = net.model(x)
        calls.passes_state = net.passes_state(out)
        try:
            calls.logits = logits_of(out, net.readout, samples)
        except AdaptError as error:
            calls.fault = error
    return calls
