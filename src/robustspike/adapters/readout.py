"""From what a network returned to logits [N, K]."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from robustspike.adapters.framework import AdaptError
from robustspike.adapters.layer import tensors_in

Readout = Callable[[Any], Tensor | None]


def _potentials(value: Any) -> Iterator[Tensor]:
    """What states [of Norse] call v, in nested tuples and lists, in order."""
    if isinstance(getattr(value, "v", None), Tensor):
        yield value.v
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _potentials(each)


# Which of the tensors that a network returned: snnTorch's come as (spikes, …, membrane), Norse's as (spikes, states).
READOUTS: dict[str, Readout] = {
    "spikes": lambda out: next(tensors_in(out), None),
    "membrane": lambda out: next(reversed([*tensors_in(out), *_potentials(out)]), None),
}


def logits_of(out: Any, readout: str | Readout, samples: int) -> Tensor:
    """Logits [N, K]: what the readout takes of ``out``, averaged over time where it still has a time axis.

    Raises:
        AdaptError: if that is neither [N, K] nor [T, N, K].
    """
    found = (READOUTS[readout] if isinstance(readout, str) else readout)(out)
    if isinstance(found, Tensor) and found.dim() == 3 and found.shape[1] == samples:
        return found.mean(0)
    if isinstance(found, Tensor) and found.dim() == 2 and found.shape[0] == samples:
        return found
    what = f"a tensor {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(out).__name__}"
    raise AdaptError(
        f"the readout must give logits [N, K] or [T, N, K] for N = {samples} images, got {what}; give readout= a function "
        "of what the network returns, such as lambda out: out[1].amax(0)"
    )


def stacked(steps: Sequence[Any]) -> Any:
    """What the calls of a network returned at every step, tensors stacked over time [T, ...]."""
    first = steps[0]
    if isinstance(first, Tensor):
        return torch.stack(list(steps))
    if isinstance(first, tuple | list):
        made = [stacked(each) for each in zip(*steps, strict=True)]
        return type(first)(*made) if hasattr(first, "_fields") else tuple(made)
    return first
