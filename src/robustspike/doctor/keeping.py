"""A patient leaves as it came: tensors, attributes, state, modes and random numbers."""

from __future__ import annotations

import contextlib
import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from robustspike.doubts.subject import same

Restore = Callable[[], Any]


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Whatever happens within the block, the model and all random numbers are afterwards as they were.

    Tensors are put back bit for bit, also those that modules keep in attributes, dictionaries, lists and tuples; attributes,
    modes, hooks and classes as well; and the generators of PyTorch, NumPy and Python.

    Raises:
        ValueError: for a model with lazy layers that have no shape yet.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> with untouched(norm):
        ...     _ = norm(torch.rand(4, 2))
        >>> norm.running_mean.tolist()
        [0.0, 0.0]
    """
    if any(is_lazy(p) for p in model.parameters()):
        raise ValueError(f"{type(model).__name__} has lazy layers without a shape: call it once with an image first")
    kept: dict[int, Restore] = {}
    restore = [keep(vars(module), kept) for module in model.modules()]
    classes = [(module, type(module)) for module in model.modules()]
    numbers, python = np.random.get_state(), random.getstate()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        np.random.set_state(numbers)
        random.setstate(python)
        for module, kind in classes:
            if type(module) is not kind:
                module.__class__ = kind
        for put_back in restore:
            put_back()


def keep(value: Any, kept: dict[int, Restore]) -> Restore:
    """A function that puts this value back as it is now and returns it; ``kept`` holds those of what was met before."""
    if id(value) not in kept:
        kept[id(value)] = lambda: value  # for what contains itself, and for what cannot change
        if isinstance(value, Tensor):
            kept[id(value)] = _keep_tensor(value)
        elif isinstance(value, dict):
            pairs = [(key, keep(each, kept)) for key, each in value.items()]
            kept[id(value)] = lambda: _refill(value, value.update, [(key, part()) for key, part in pairs])
        elif isinstance(value, (list, deque)):
            parts = [keep(each, kept) for each in value]
            kept[id(value)] = lambda: _refill(value, value.extend, [part() for part in parts])
        elif isinstance(value, set):
            members = list(value)
            kept[id(value)] = lambda: _refill(value, value.update, members)
        elif isinstance(value, tuple):
            parts = [keep(each, kept) for each in value]
            kept[id(value)] = lambda: ([part() for part in parts], value)[1]
    return kept[id(value)]


def _refill(value: Any, fill: Callable[[list[Any]], object], contents: list[Any]) -> Any:
    value.clear()
    fill(contents)
    return value


def _keep_tensor(tensor: Tensor) -> Restore:
    content, wanted = tensor.detach().clone(), tensor.requires_grad
    gradient = tensor.grad if tensor.is_leaf else None

    def put_back() -> Tensor:
        if tensor.shape != content.shape or tensor.dtype != content.dtype:
            tensor.data = content.clone()
        elif not same(tensor.detach(), content):
            tensor.data.copy_(content)
        if tensor.is_leaf:
            tensor.requires_grad_(wanted)
            tensor.grad = gradient
        return tensor

    return put_back
