"""From labelled images that may not be read yet to a data set: limits, validation split, statistics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robustspike.data.dataset import DataError, DataSet, Split, hold_out
from robustspike.data.stratify import stratified


@dataclass(frozen=True, eq=False)
class Pool:
    """Labelled images to choose from, read only when chosen.

    Args:
        labels: [N] int64.
        ids: [N] int64, numbers in the source; None: 0 … N − 1.
        read: given [M] indices, returns the images [M, C, H, W], uint8 or floating.

    Example:
        >>> pool = Pool.of_arrays(np.full((2, 8, 8, 3), 255, dtype=np.uint8), np.array([0, 1]))
        >>> split = pool.take(torch.tensor([1]), "here")
        >>> split.images.shape, split.images.max().item(), split.labels.tolist()
        (torch.Size([1, 3, 8, 8]), 1.0, [1])
    """

    labels: Tensor
    read: Callable[[Tensor], Tensor]
    ids: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.ids is None:
            object.__setattr__(self, "ids", torch.arange(len(self.labels)))

    @classmethod
    def of_arrays(cls, images: np.ndarray, labels: np.ndarray) -> Pool:
        """Images [N, H, W, C], uint8 in 0 … 255 or floating in [0, 1], and integer labels [N]."""

        def read(which: Tensor) -> Tensor:
            chosen = images[which.numpy()]
            return torch.from_numpy(chosen if chosen.dtype == np.uint8 else chosen.astype(np.float32)).movedim(-1, 1)

        return cls(torch.from_numpy(labels.astype(np.int64)), read)

    def part(self, which: Tensor) -> Pool:
        """The pool of some of the samples, [M] indices."""
        return Pool(self.labels[which], lambda inner: self.read(which[inner]), self.ids[which])

    def take(self, which: Tensor, where: str) -> Split:
        """Reads the images of some samples, [M] indices, scaled to float32 in [0, 1]; errors begin with `where`."""
        images = self.read(which)
        scale = 255 if images.dtype == torch.uint8 else 1
        images = images.to(torch.float32, memory_format=torch.contiguous_format, copy=True).div_(scale)
        try:
            return Split(images, self.labels[which], self.ids[which])
        except DataError as error:
            raise DataError(f"{where}: {error}") from error


@dataclass(frozen=True)
class Selection:
    """Which samples of a source to use.

    Args:
        train_limit: at most so many for training and validation together; None for all.
        test_limit: so many for the test; None for all.
        validation_share: of the training data, above 0 and below 1.
        seed: decides every choice of training and validation samples; test samples never depend on it.

    Example:
        >>> chosen = Selection(train_limit=10).choose(torch.arange(40) % 2, torch.arange(8) % 2)
        >>> [len(indices) for indices in chosen]
        [9, 1, 8]
    """

    train_limit: int | None = None
    test_limit: int | None = None
    validation_share: float = 0.1
    seed: int = 0

    def choose(self, train_labels: Tensor, test_labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Indices for train and validation (into the training labels) and for test (into the test labels)."""
        train = self._limited(train_labels, self.train_limit, "train_limit")
        kept, held = hold_out(train_labels[train], self.validation_share, self.seed)
        return train[kept], train[held], self._limited(test_labels, self.test_limit, "test_limit", seed=0)

    def _limited(self, labels: Tensor, limit: int | None, option: str, seed: int | None = None) -> Tensor:
        if limit is None:
            return torch.arange(len(labels))
        if not 1 <= limit <= len(labels):
            raise DataError(
                f"{option}: expected 1 to {len(labels)}, the number of images there are, got {limit}; "
                "ask for fewer, or leave it out to use all."
            )
        return stratified(labels, limit, self.seed if seed is None else seed, option)


EVERYTHING = Selection()
"""All images, a tenth of the training images held out for validation."""


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of images [N, C, H, W], rounded to 4 decimals.

    Example:
        >>> channel_statistics(torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1))
        ((0.5,), (0.5,))
    """
    std, mean = torch.std_mean(images, dim=(0, 2, 3), correction=0)
    return tuple(round(m, 4) for m in mean.tolist()), tuple(round(s, 4) for s in std.tolist())


def assemble(
    name: str,
    train: Pool,
    test: Pool,
    class_names: tuple[str, ...],
    selection: Selection,
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
) -> DataSet:
    """The data set of the selected samples; mean and std are measured on its training split unless given.

    Args:
        name: for reports and errors.
        train: the published training data, from which the validation split is held out.
        test: the published test data.
        class_names: one per class.
        selection: limits, validation share and seed.
        statistics: published mean and std, [C] each.

    Raises:
        DataError: unfit images, labels or limits.

    Example:
        >>> pool = Pool.of_arrays(np.random.default_rng(0).random((20, 8, 8, 1)), np.arange(20) % 2)
        >>> data = assemble("toy", pool, pool, ("even", "odd"), Selection(test_limit=4))
        >>> len(data.train), len(data.validation), len(data.test)
        (18, 2, 4)
    """
    chosen_train, chosen_validation, chosen_test = selection.choose(train.labels, test.labels)
    train_split = train.take(chosen_train, f"Training images of {name!r}")
    mean, std = statistics or channel_statistics(train_split.images)
    return DataSet(
        name=name,
        train=train_split,
        validation=train.take(chosen_validation, f"Training images of {name!r}"),
        test=test.take(chosen_test, f"Test images of {name!r}"),
        class_names=class_names,
        mean=mean,
        std=std,
    )
