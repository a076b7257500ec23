"""Accuracies on held-out images, for choosing a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustspike.data import Split
from robustspike.data.stratify import stratified
from robustspike.defences import Perturb
from robustspike.draws import Draws, sampling
from robustspike.gradients import errs, frozen
from robustspike.processes import Processes
from robustspike.train.seeding import generators, seed


def clean_accuracy(model: nn.Module, data: Split, batch_size: int = 256) -> float:
    """The share of images classified correctly in evaluation mode; a stochastic model gets the same draws every time.

    Example:
        >>> data = load("digits", test_limit=50).test
        >>> 0 <= clean_accuracy(digits_cnn(time_steps=2), data) <= 1
        True
    """
    return _clean(model, data, batch_size) / len(data)


def robust_accuracy(model: nn.Module, data: Split, attack: Perturb, batch_size: int = 64) -> float:
    """The share of images classified correctly both as they are and as x_adv = attack(model, x, y), in evaluation mode.

    The attack and a stochastic model get the same draws for a sample every time.

    Example:
        >>> data, model = load("digits", test_limit=50).test, digits_cnn(time_steps=2)
        >>> robust_accuracy(model, data, fgsm(Linf(0.1))) <= clean_accuracy(model, data)
        True
    """
    return _robust(model, data, attack, batch_size) / len(data)


@dataclass(frozen=True)
class Validation:
    """What an epoch is judged by.

    Args:
        data: held-out images on the model's device; None: no judgement.
        attack: (model, x, y) to x_adv; None: clean images only.
        limit: so many of the images are attacked, every class with its share; None: all.
    """

    data: Split | None
    attack: Perturb | None = None
    limit: int | None = None

    def accuracies(self, model: nn.Module, processes: Processes, batch_size: int) -> tuple[float | None, float | None]:
        """Clean and robust validation accuracy, None where there is nothing to judge by; each process does its share.

        ``batch_size``: images attacked at a time.
        """
        if self.data is None:
            return None, None
        clean = _of_all(_clean(model, _share(self.data, processes)), processes) / len(self.data)
        if self.attack is None:
            return clean, None
        data = self.data
        if self.limit is not None and self.limit < len(data):
            data = data.subset(stratified(data.labels, self.limit, 0, "validation attack"))
        robust = _of_all(_robust(model, _share(data, processes), self.attack, batch_size), processes)
        return clean, robust / len(data)


def _of_all(count: int, processes: Processes) -> int:
    return sum(processes.gather(count))


def better(new: tuple[float | None, float | None], old: tuple[float | None, float | None]) -> bool:
    """Whether (clean, robust) is the better pair: by robust accuracy, then by clean accuracy.

    Example:
        >>> from robustspike.train.validation import better
        >>> better((0.7, 0.5), (0.9, 0.4)), better((0.9, 0.4), (0.9, 0.4)), better((0.9, None), (0.8, None))
        (True, False, True)
    """
    return _key(new) > _key(old)


def _key(accuracies: tuple[float | None, float | None]) -> tuple[float, float]:
    clean, robust = accuracies
    return (-1.0 if robust is None else robust), (-1.0 if clean is None else clean)


def _share(data: Split, processes: Processes) -> Split:
    return data.subset(torch.arange(processes.rank, len(data), processes.world)) if processes.world > 1 else data


def _clean(model: nn.Module, data: Split, batch_size: int = 256) -> int:
    return _count(data, batch_size, lambda x, y, draws: _right(model, x, y, draws))


def _robust(model: nn.Module, data: Split, attack: Perturb, batch_size: int) -> int:
    return _count(data, batch_size, lambda x, y, draws: _withstands(model, attack, x, y, draws))


def _count(data: Split, batch_size: int, right: Callable[[Tensor, Tensor, Draws], Tensor]) -> int:
    """On how many samples ``right(x, y, draws)`` [N] holds; PyTorch's generators start alike each time."""
    total, device = 0, data.images.device
    with torch.random.fork_rng(devices=generators(device)):
        seed(0, device)
        for which in torch.arange(len(data), device=device).split(batch_size) if len(data) else ():
            draws = Draws.of(0, data.ids[which]).fork("validation")
            total += int(right(data.images[which], data.labels[which], draws).sum())
    return total


def _right(model: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
    with frozen(model), torch.no_grad(), sampling(draws):
        return ~errs(model(x), y)


def _withstands(model: nn.Module, attack: Perturb, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
    withstands = _right(model, x, y, draws)
    which = withstands.nonzero().flatten()
    if len(which):
        x, y, draws = x[which], y[which], draws[which]
        with frozen(model), sampling(draws.fork("attack")):
            x_adv = attack(model, x, y)
        withstands[which] = _right(model, x_adv.detach(), y, draws.fork("attacked"))
    return withstands
