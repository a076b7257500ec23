"""Which samples are shown, and samples as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def one_of_each(labels: Tensor, count: int) -> Tensor:
    """The places of ``count`` samples, ascending: the first of each class, then the first of those left.

    Example:
        >>> one_of_each(torch.tensor([3, 3, 1, 3]), 3).tolist()
        [0, 1, 2]
    """
    seen: set[int] = set()
    first: list[int] = []
    later: list[int] = []
    for place, label in enumerate(labels.tolist()):
        (later if label in seen else first).append(place)
        seen.add(label)
    return torch.tensor(sorted((first + later)[:count]), dtype=torch.int64)


def as_picture(values: Tensor) -> NDArray[Any]:
    """One sample's numbers as [C, H, W] in float64: frames [T, C, H, W] as their mean over T, rows [D] as [1, 1, D].

    Example:
        >>> as_picture(torch.tensor([[[[0.0, 2.0]]], [[[1.0, 4.0]]]])).tolist()
        [[[0.5, 3.0]]]
    """
    values = values.detach().double()
    if values.dim() > 3:
        values = values.flatten(0, -4).mean(0)
    while values.dim() < 3:
        values = values[None]
    return values.cpu().numpy()


def names_of(class_names: Sequence[str] | None, classes: int) -> tuple[str, ...]:
    """The names of a model's classes; their numbers where there are no names.

    Raises:
        ValueError: for another number of names.

    Example:
        >>> names_of(None, 3)
        ('0', '1', '2')
    """
    if class_names is None:
        return tuple(map(str, range(classes)))
    if len(class_names) != classes:
        raise ValueError(
            f"class_names: expected {classes} names, one for each class of the model, got {len(class_names)}"
        )
    return tuple(class_names)


def check_count(pictures: int, audit: str) -> None:
    """Refuse to show fewer than one picture.

    Raises:
        ValueError: naming the audit.
    """
    if pictures < 1:
        raise ValueError(f"audit {audit!r}: pictures must be ≥ 1, got {pictures}")
