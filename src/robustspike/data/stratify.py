"""Choosing samples so that every class keeps its share."""

from __future__ import annotations

import torch
from torch import Tensor

from robustspike.draws import Draws


def _quotas(per_class: Tensor, count: int) -> Tensor:
    """How many to take of each class: proportional, with the largest remainders rounded up; they sum to count."""
    total = int(per_class.sum())
    quotas = per_class * count // total
    remainders = per_class * count % total
    rounded_up = remainders.argsort(descending=True, stable=True)[: count - int(quotas.sum())]
    quotas[rounded_up] += 1
    return quotas


def stratified(labels: Tensor, count: int, seed: int, purpose: str) -> Tensor:
    """Indices of `count` samples that keep the classes' proportions, in ascending order.

    The choice is a hash of (seed, purpose, number of the sample): it is the same on every machine and in every version
    of PyTorch.

    Args:
        labels: [N] integers, not negative.
        count: how many to take, 1 … N.
        seed: any integer.
        purpose: names the choice, so that choices for different purposes are independent.

    Returns:
        [count] int64 indices on the CPU.

    Example:
        >>> labels = torch.tensor([0, 0, 0, 0, 1, 1])
        >>> labels[stratified(labels, 3, seed=0, purpose="demo")].tolist()
        [0, 0, 1]
    """
    labels = labels.cpu()
    assert 1 <= count <= len(labels), f"{count} of {len(labels)} samples"
    per_class = torch.bincount(labels)
    by_chance = Draws.of(seed, torch.arange(len(labels))).fork(purpose).bits(()).argsort(stable=True)
    by_class = by_chance[labels[by_chance].argsort(stable=True)]
    first_of_class = per_class.cumsum(0) - per_class
    place_in_class = torch.arange(len(labels)) - first_of_class[labels[by_class]]
    return by_class[place_in_class < _quotas(per_class, count)[labels[by_class]]].sort().values


def others(chosen: Tensor, n: int) -> Tensor:
    """The indices 0 … n − 1 that were not chosen, in ascending order.

    Example:
        >>> others(torch.tensor([1, 3]), 5).tolist()
        [0, 2, 4]
    """
    left = torch.ones(n, dtype=torch.bool)
    left[chosen] = False
    return left.nonzero().squeeze(1)
