"""How a network is to be called: with images, with one step, or with a sequence [T, N, ...]."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from robustspike.adapters.framework import AdaptError, preserved, replaced
from robustspike.adapters.readout import logits_of

if TYPE_CHECKING:
    from robustspike.adapters.adapting import Adapted

TAKES = ("images", "step", "sequence")
_SAMPLES, _STEPS = 5, 3  # of trial calls: unlike each other, and unlike the channels of images


def find_layout(net: Adapted, images: Tensor) -> None:
    """Set ``takes`` and ``time_steps`` of the network, where they are not said, by trial calls.

    Raises:
        AdaptError: if no way to call it works, or it takes another number of steps than was said.
    """
    one = images[0, 0] if _is_frames(net) else images[0]
    x = one.expand(_SAMPLES, *one.shape)
    if not net.frameworks:
        net.takes = "images"
        return
    attempts: dict[str, Callable[[], Calls]] = {
        "images": lambda: _calls(net, x),
        "sequence": lambda: _calls(net, x.expand(_steps(net), *x.shape)),
    }
    wrong = {}
    for way, call in attempts.items():
        if net.takes not in (None, way) and not (net.takes == "step" and way == "images"):
            continue
        try:
            calls = call()
            found = calls.way(way)
        except (RuntimeError, ValueError, IndexError, TypeError, AssertionError, AttributeError) as error:
            wrong[way] = f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else 'no message'}"
            continue
        if net.takes in (None, found):
            net.takes = found
            _set_time_steps(net, calls)
            return
        wrong[way] = f"it takes {found} then"
    raise AdaptError(
        "found no way to call the network: " + "; ".join(f"with {way}, {why}" for way, why in wrong.items())
        + f". Images are {list(images.shape[1:])}; say takes= ({', '.join(TAKES)}) and readout=, or check the images' shape"
    )  # fmt: skip


def _is_frames(net: Adapted) -> bool:
    return type(net.encoder).__name__ == "Frames"


def _steps(net: Adapted) -> int:
    return net.time_steps or _STEPS


def _set_time_steps(net: Adapted, calls: Calls) -> None:
    if net.takes != "images":
        if net.time_steps is None:
            what = "one step" if net.takes == "step" else "a sequence [T, N, ...]"
            raise AdaptError(f"the network takes {what} per call: say time_steps=, how many steps it is to be given")
        return
    if net.time_steps not in (None, calls.time_steps):
        raise AdaptError(
            f"the network loops over {calls.time_steps} time steps itself, got time_steps={net.time_steps}; leave it "
            "out, or change the network"
        )
    net.time_steps = calls.time_steps


class Calls:
    """What the neurons were called with in one trial, in order: (layer's path, whether with all steps, shape)."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bool, torch.Size]] = []
        self.logits: Tensor | None = None
        self.fault: Exception | None = None

    @property
    def time_steps(self) -> int:
        path, whole, shape = self.seen[0]
        return shape[0] if whole else sum(each == path for each, _, _ in self.seen)

    def way(self, way: str) -> str:
        """What the network takes, by a trial with images or a sequence.

        Raises:
            ValueError: if the trial was none of its ways.
        """
        if not self.seen:
            raise ValueError("no neuron was called")
        for path, whole, shape in self.seen:
            axis = 1 if whole else 0
            if len(shape) <= axis or shape[axis] != _SAMPLES:
                raise ValueError(f"the neuron at {path} got {list(shape)}, without an axis of {_SAMPLES} samples")
        stepwise = {path for path, whole, _ in self.seen if not whole}
        if way == "images" and stepwise and self.time_steps == 1:
            return "step"
        if self.fault is not None:
            raise self.fault
        return way


def _calls(net: Adapted, x: Tensor) -> Calls:
    """Call the network as it is and watch its neurons."""
    calls = Calls()
    modules = [m for m in net.model.modules() if any(f.is_neuron(m) or f.is_stateful(m) for f in net.frameworks)]
    with preserved(modules), contextlib.ExitStack() as stack, torch.no_grad():
        net.refresh()
        for layer in net.adapted_layers.values():
            original = layer.neuron.forward

            def watch(*args: Any, _layer: Any = layer, _original: Any = original, **kwargs: Any) -> Any:
                calls.seen.append((_layer.path, _layer.covers_time, args[0].shape))
                return _original(*args, **kwargs)

            stack.enter_context(replaced(layer.neuron, "forward", watch))
        out = net.model(x)
        try:
            calls.logits = logits_of(out, net.readout, _SAMPLES)
        except AdaptError as error:
            calls.fault = error
    return calls
