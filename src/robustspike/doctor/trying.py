"""How a network wants to be called, found by calling it; and images of a size that it takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from robustspike.adapters import TAKES
from robustspike.doctor.calling import Way, answer, read, repeated, reseed, spiking, start_anew
from robustspike.doctor.checks import sentence
from robustspike.doctor.keeping import untouched
from robustspike.gradients import recording

USUAL_STEPS = 8
OTHER_STEPS = (4, 5, 6, 10, 16, 20, 25, 1, 2, 3, 12, 15, 32, 50, 100)  # tried where the usual number is refused
SIZES = (28, 32, 8, 16, 24, 34, 48, 64, 96, 128, 224, 299)  # of square images


def found_way(
    model: nn.Module, images: Tensor, time_steps: int | None, takes: str | None = None, readout: str = "spikes"
) -> Way:
    """How a network is called, found by trial calls of three images, of two, and of one.

    A network of which each neuron is called once, with no time axis and with a state of its own, computes one step per call.
    One whose neurons meet the samples where they expect time steps is given sequences, as is one, of neurons that nothing is
    known of, in which samples change the answers of those after them, but not of those before.

    Args:
        takes: "images", "sequence" or "step"; None: found.
        readout: "spikes" or "membrane".

    Raises:
        ValueError: if it can be called in no way.
    """
    three = images[torch.arange(3) % len(images)]
    steps = USUAL_STEPS if time_steps is None else time_steps
    if takes is not None:
        if takes not in TAKES:
            raise ValueError(f"takes must be one of {', '.join(TAKES)}; got {takes!r}")
        found = _tried(model, Way(takes, steps, readout=readout), three)
        if isinstance(found, str):
            raise ValueError(f"takes={takes!r} does not fit {type(model).__name__}: {found}")
        return found
    plain = _tried(model, Way("images", steps, readout=readout), three)
    if isinstance(plain, Way) and one_step_per_call(model, three):
        return dataclasses.replace(plain, takes="step")
    if isinstance(plain, Way) and not _takes_samples_for_steps(model, plain, three):
        return plain
    refused = ""
    for length in [steps] if isinstance(plain, Way) else dict.fromkeys((steps, *OTHER_STEPS)):
        timed = _tried(model, Way("sequence", length, readout=readout), three)
        if isinstance(timed, Way):
            return timed
        refused = refused or timed
    if isinstance(plain, Way):
        return plain
    raise ValueError(f"with images [N, …]: {plain}; with sequences [T, N, …], T = {steps}: {refused}")


def _tried(model: nn.Module, way: Way, three: Tensor) -> Way | str:
    """The way, where calls of three and of two images show which dimension is that of samples; else what went wrong."""
    try:
        shapes = [_call(model, lambda x: _once(model, way, x), x).shape for x in (three, three[:2])]
    except Exception as error:
        return sentence(error)
    if len(shapes[0]) not in (2, 3):
        return f"expected logits [N, K] or [T, N, K], got {list(shapes[0])}"
    for batch in range(2):
        if (shapes[0][batch], shapes[1][batch]) == (3, 2) and batch <= len(shapes[0]) - 2:
            return dataclasses.replace(way, batch=batch)
    return f"expected logits [N, K] or [T, N, K], got {list(shapes[0])} for 3 images and {list(shapes[1])} for 2"


def _once(model: nn.Module, way: Way, x: Tensor) -> Tensor:
    """What one call gives, time axis and all."""
    return read(model(repeated(x, way.time_steps) if way.takes == "sequence" else x), way.readout)


def _call(model: nn.Module, call: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """What a call from fresh state in eval mode gives; the network is then as it was."""
    with untouched(model), torch.no_grad():
        model.eval()
        for module in model.modules():
            start_anew(module)
        reseed(0)
        return call(x.clone()).clone()


def _takes_samples_for_steps(model: nn.Module, way: Way, three: Tensor) -> bool:
    """Whether neurons take the samples of a batch for time steps."""
    kinds = spiking(model)
    if kinds:
        shapes = [
            {
                shape[0]
                for path, calls in _calls(model, x).items()
                for shape, _ in calls
                if kinds[path][1].covers_time(kinds[path][0])
            }
            for x in (three, three[:2])
        ]
        return shapes == [{3}, {2}]
    together = _call(model, lambda x: answer(model, way, x), three)
    try:
        first, last = (_call(model, lambda x: answer(model, way, x), x) for x in (three[:1], three[2:]))
    except Exception:
        return False
    return bool(apart(last, together[2:]).any()) and not bool(apart(first, together[:1]).any())


def apart(a: Tensor, b: Tensor) -> Tensor:
    """Which samples' logits differ beyond rounding, by more than 1e-4 of the largest logit, [n] bool."""
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    scale = b.nan_to_num(posinf=0.0, neginf=0.0).abs().max().clamp(min=1e-12)
    distance = ((a - b).abs() / scale).nan_to_num(nan=torch.inf)
    return torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, distance).flatten(1).amax(1) > 1e-4


def neuron_calls(model: nn.Module, call: Callable[[], Any]) -> dict[str, list[tuple[tuple[int, ...], bool]]]:
    """For each spiking module, by path: the shape of what it was given in each call, and whether state came with it."""
    calls: dict[str, list[tuple[tuple[int, ...], bool]]] = {path: [] for path in spiking(model)}

    def noting(path: str) -> Callable[..., None]:
        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if args and isinstance(args[0], Tensor):
                given = [value for value in (*args[1:], *kwargs.values()) if value is not None]
                calls[path].append((tuple(args[0].shape), bool(given)))

        return note

    hooks = [
        module.register_forward_pre_hook(noting(path), with_kwargs=True) for path, (module, _) in spiking(model).items()
    ]
    try:
        call()
    finally:
        for hook in hooks:
            hook.remove()
    return {path: found for path, found in calls.items() if found}


def _calls(model: nn.Module, images: Tensor) -> dict[str, list[tuple[tuple[int, ...], bool]]]:
    return neuron_calls(model, lambda: _call(model, lambda x: read(model(x), "spikes"), images))


def one_step_per_call(model: nn.Module, images: Tensor) -> bool:
    """Whether a call of the network calls each neuron once, without a time axis and without state from outside."""
    kinds, calls = spiking(model), _calls(model, images)
    return bool(calls) and all(
        len(found) == 1 and not found[0][1] and not kinds[path][1].covers_time(kinds[path][0])
        for path, found in calls.items()
    )


def steps_taken(model: nn.Module, way: Way, images: Tensor) -> int | None:
    """T as the neurons meet it in the answer to images; None where there is no spiking layer of a known framework."""
    kinds = spiking(model)
    if not kinds:
        with recording(model) as notes:
            _call(model, lambda x: answer(model, way, x), images)
        return max((len(currents) for _, currents in notes), default=None)
    calls = neuron_calls(model, lambda: _call(model, lambda x: answer(model, way, x), images))
    lengths = [
        found[0][0][0] if kinds[path][1].covers_time(kinds[path][0]) else len(found) for path, found in calls.items()
    ]
    return max(lengths, default=None)


def guessed_images(
    model: nn.Module, n: int, shape: tuple[int, ...] | None, seed: int, wanted: Callable[[Tensor], Way]
) -> tuple[Tensor, Way]:
    """Random images [n, ...] in [0, 1] of this shape, or of one that the network takes, and how it takes them.

    Args:
        wanted: finds how images are taken, or raises a ValueError.

    Raises:
        ValueError: if it takes none of those tried.
    """
    refused = []
    for size in [shape] if shape is not None else _shapes(model):
        images = like(model, torch.rand((n, *size), generator=torch.Generator().manual_seed(seed)))
        try:
            return images, wanted(images)
        except ValueError as error:
            refused.append(f"{list(size)}: {error}")
    if shape is not None:
        raise ValueError(f"{type(model).__name__} cannot be called with images {refused[0]}")
    tried = (
        f"tried {len(refused)} shapes, such as {refused[0]}" if refused else "no convolution or linear layer to tell it"
    )
    raise ValueError(f"no image that {type(model).__name__} takes was found ({tried}); give images, or their shape")


def _shapes(model: nn.Module) -> Iterator[tuple[int, ...]]:
    """Shapes of an image that the first convolution or linear layer allows."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            sizes = (32, *SIZES) if module.in_channels == 3 else SIZES
            yield from ((module.in_channels, size, size) for size in dict.fromkeys(sizes))
            return
        if isinstance(module, nn.Conv1d):
            yield from ((module.in_channels, size * size) for size in SIZES)
            return
        if isinstance(module, nn.Linear):
            yield (module.in_features,)
            return


def like(model: nn.Module, images: Tensor) -> Tensor:
    """Images on the device and of the floating type of the network's weights."""
    weights = next((p for p in model.parameters() if p.is_floating_point()), None)
    return images if weights is None else images.to(weights.device, weights.dtype)
