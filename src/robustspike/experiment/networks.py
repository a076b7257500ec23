"""A network of the user's own: made by a file, with weights from another, ready to be attacked."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from robustspike.adapters import Adapted, adapt
from robustspike.checkpoints import load_weights
from robustspike.experiment.user_code import HOW, blamed, made_by, parse_target
from robustspike.gradients import device_of, frozen
from robustspike.neurons import spiking_layers
from robustspike.state_files import fits, named_for, read_state_dict

# What a layer is told apart by, and what to do about images that have another number of it: of linear ones and others.
WIDTHS = {
    True: ("features", "let the images have the size that it was made for (--image-size resizes those of a folder)"),
    False: ("channels", "images of a folder have 3, those of an .npz file their own"),
}


def own_network(
    target: str, weights: str | Path | None = None, time_steps: int | None = None, images: Tensor | None = None
) -> nn.Module:
    """The network that a file of the user's makes, in evaluation mode, under every estimator that its neurons can carry.

    Args:
        target: ``path/to/my_net.py:make_model``: a function without arguments, a class, or a network. The file is executed,
            as a module of its own that can import what lies beside it.
        weights: of the network as it was trained, see :func:`robustspike.state_files.read_state_dict`; nothing in it is
            executed. None: those that the file gives it.
        time_steps: T of a network that takes one step per call, or a sequence.
        images: [N, ...] in [0, 1] to try it on; None: it is not tried.

    Raises:
        ValueError: in one sentence, for a file, name or weights that are missing or unfit, for whatever the file's own code
            raises (with file and line), and for images that the network cannot take.

    Example:
        >>> code = "from torch import nn\\ndef make(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))"
        >>> _ = (tmp_path / "my_net.py").write_text(code)
        >>> own_network(f"{tmp_path}/my_net.py:make", images=torch.rand(2, 1, 8, 8))(torch.rand(3, 1, 8, 8)).shape
        torch.Size([3, 10])
    """
    made = made_by(target)
    if weights is not None:
        _load(made, Path(weights))
    model = _adapted(made, target, time_steps).eval()
    if images is not None:
        check_images(model, images, target)
    return model


def _load(made: nn.Module, weights: Path) -> None:
    """Load weights strictly; into the user's model inside where that was adapted already."""
    tensors = read_state_dict(weights)
    model = made.model if is_adapted(made) and not fits(made, tensors) else made
    load_weights(model, named_for(model, tensors, weights), weights)


def is_adapted(model: nn.Module) -> TypeGuard[Any]:
    """Whether it is what :func:`robustspike.adapters.adapt` returns, the user's network being its ``model``."""
    return isinstance(model, Adapted)


def _adapted(made: nn.Module, target: str, time_steps: int | None) -> nn.Module:
    if not is_adapted(made) and not spiking_layers(made):
        with _about(target):
            adapted = adapt(made, time_steps=time_steps)
        if adapted is not made or time_steps is None:
            return adapted
        raise ValueError(f"{target} has no spiking layers and no time steps, got {time_steps}; leave --time-steps out")
    if time_steps not in (None, getattr(made, "time_steps", None)):
        raise ValueError(f"{target} knows its time steps itself, got {time_steps}; leave --time-steps out")
    return made


@contextlib.contextmanager
def _about(target: str) -> Iterator[None]:
    """Say in a sentence which network it is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{target}: {error}") from error


def check_images(model: nn.Module, images: Tensor, target: str) -> None:
    """Call a network once and refuse images that it cannot take, and answers that are no logits.

    Raises:
        ValueError: naming the layer, what it expects, and what it got.
    """
    images = images.to(device_of(model))
    size = list(images.shape[1:])
    try:
        with frozen(model), torch.no_grad():
            logits = model(images)
    except Exception as error:
        if misfit := _misfit(model, images):
            raise ValueError(f"{target} does not take images {size}: {misfit}") from error
        if isinstance(error, ValueError):
            raise ValueError(f"{target}: {error}") from error
        where = blamed(error, parse_target(target)[0])
        raise ValueError(f"{target} cannot be called with images {size}: {where}; {HOW}") from error
    if not isinstance(logits, Tensor) or logits.shape[:1] != images.shape[:1] or logits.dim() != 2:
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"{target}: expected logits [{len(images)}, classes] for {len(images)} images, got {got}")


def _misfit(model: nn.Module, images: Tensor) -> str:
    """The first layer that is called with another width than it takes, in words; "" where there is none."""
    found: list[str] = []

    def checking(path: str) -> Callable[[Any, tuple[Any, ...]], None]:
        def check(layer: Any, args: tuple[Any, ...]) -> None:
            linear = isinstance(layer, nn.Linear)
            expected, axis = (layer.in_features, -1) if linear else (layer.in_channels, -1 - len(layer.kernel_size))
            shape = args[0].shape if args and isinstance(args[0], Tensor) else ()
            if len(shape) >= -axis and shape[axis] != expected:
                what, hint = WIDTHS[linear]
                named = f"{path} ({type(layer).__name__})" if path else type(layer).__name__
                found.append(f"layer {named} expects {expected} {what} and got {shape[axis]}; {hint}")

        return check

    inner = model.model if is_adapted(model) else model
    with frozen(model), torch.no_grad(), _hooked(inner, checking), contextlib.suppress(Exception):
        model(images)
    return found[0] if found else ""


@contextlib.contextmanager
def _hooked(model: nn.Module, hook: Callable[[str], Any]) -> Iterator[None]:
    """Within the block every linear and convolutional layer calls its hook before it is called."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
