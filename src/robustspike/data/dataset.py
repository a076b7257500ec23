"""What a data set is: three splits of labelled images in [0, 1], the names of the classes, and the channel statistics."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustspike.data.stratify import others, stratified


class DataError(ValueError):
    """Data that cannot be used; the message says what was expected, what was found and what to do."""


def _image_fault(images: Tensor) -> str | None:
    if not isinstance(images, Tensor):
        return (
            f"expected images as a torch.Tensor, got {type(images).__name__}; use torch.from_numpy or torch.as_tensor"
        )
    if images.dtype != torch.float32:
        hint = "images.float() / 255" if images.dtype == torch.uint8 else "images.float()"
        return f"expected float32 images in [0, 1], got {images.dtype}; use {hint}"
    if images.ndim < 2:
        return f"expected images of shape [N, C, H, W] or [N, ...], got {list(images.shape)}; add the missing axes"
    if not images.numel():
        return None
    low, high = (bound.item() for bound in images.aminmax())
    if math.isnan(low):
        return f"expected images in [0, 1], got {int(images.isnan().sum())} NaN values; remove or repair these images"
    if low < 0 or high > 1:
        hint = "divide by 255?" if low >= 0 else "undo the normalisation: it belongs in the model"
        return f"expected images in [0, 1], got values from {low:.4g} to {high:.4g}; {hint}"
    return None


def _label_fault(labels: Tensor, images: Tensor) -> str | None:
    if not isinstance(labels, Tensor):
        return f"expected labels as a torch.Tensor, got {type(labels).__name__}; use torch.as_tensor"
    if labels.dtype != torch.int64 or labels.ndim != 1:
        return (
            f"expected int64 labels of shape [N], got {labels.dtype} of shape {list(labels.shape)}; "
            "give one class number per image"
        )
    if len(labels) != len(images):
        return f"expected one label per image, got {len(images)} images and {len(labels)} labels; check the pairing"
    if labels.device != images.device:
        return f"expected images and labels on one device, got {images.device} and {labels.device}; move one of them"
    if len(labels) and labels.min() < 0:
        return f"expected labels from 0, got {int(labels.min())}; number the classes 0, 1, 2, …"
    return None


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images.

    Args:
        images: [N, C, H, W] float32 in [0, 1]; any other trailing shape, such as [N, T, C, H, W], is accepted.
        labels: [N] int64, class numbers from 0.
        ids: [N] int64, each sample's number in its source, which random draws belong to; None: 0 … N − 1.

    Raises:
        DataError: a wrong type, shape or range.

    Example:
        >>> split = Split(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 0, 1]))
        >>> len(split), len(split.subset(2)), split.subset(torch.tensor([1, 3])).labels.tolist()
        (4, 2, [1, 1])
    """

    images: Tensor
    labels: Tensor
    ids: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        fault = _image_fault(self.images) or _label_fault(self.labels, self.images)
        if fault:
            raise DataError(f"Split: {fault}.")
        if self.ids is None:
            object.__setattr__(self, "ids", torch.arange(len(self.labels), device=self.labels.device))
        if self.ids.shape != self.labels.shape or self.ids.dtype != torch.int64:
            raise DataError(f"Split: expected ids [{len(self)}] int64, got {list(self.ids.shape)} {self.ids.dtype}.")

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Split:
        """The same split on a device."""
        return Split(self.images.to(device), self.labels.to(device), self.ids.to(device))

    def subset(self, which: Tensor | int) -> Split:
        """Some of the samples: the first n, or those of an index or mask tensor, in its order."""
        if isinstance(which, int):
            if not 0 <= which <= len(self):
                raise DataError(f"Split.subset: expected 0 to {len(self)} samples, got {which}; ask for fewer.")
            return Split(self.images[:which], self.labels[:which], self.ids[:which])
        try:
            which = which.to(self.labels.device)
            return Split(self.images[which], self.labels[which], self.ids[which])
        except IndexError as error:
            raise DataError(
                f"Split.subset: expected a mask [{len(self)}] or integer indices below {len(self)}, "
                f"got {which.dtype} of shape {list(which.shape)}; PyTorch says: {error}."
            ) from error

    def fingerprint(self) -> str:
        """16 hexadecimal digits that identify shape, images, labels and ids, on any device."""
        digest = hashlib.sha256(str(tuple(self.images.shape)).encode())
        for tensor in (self.images, self.labels, self.ids):
            digest.update(tensor.detach().cpu().contiguous().numpy().data)
        return digest.hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class DataSet:
    """Three splits of one data set.

    Args:
        name: for reports.
        train: what a model is fitted to.
        validation: held out from the training data, for choosing checkpoints and settings.
        test: what figures are reported on.
        class_names: one per class; labels index it.
        mean: [C] of the training images, for the model's normalisation.
        std: [C] of the training images, above 0.

    Raises:
        DataError: an empty split, splits of different image shapes, a label without a name, unfit statistics.

    Example:
        >>> split = Split(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 0, 1]))
        >>> data = DataSet("toy", split, split, split, ("cat", "dog"), mean=(0.5,) * 3, std=(0.25,) * 3)
        >>> data.num_classes, data.channels, data.image_size
        (2, 3, (8, 8))
    """

    name: str
    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for role in ("train", "validation", "test"):
            fault = self._split_fault(getattr(self, role))
            if fault:
                raise DataError(f"Data set {self.name!r}: the {role} split {fault}.")
        if not len(self.mean) == len(self.std) == self.channels:
            raise DataError(
                f"Data set {self.name!r}: expected mean and std with one value for each of {self.channels} channels, "
                f"got {len(self.mean)} and {len(self.std)}; pass tuples of {self.channels}."
            )
        if not min(self.std) > 0:
            raise DataError(
                f"Data set {self.name!r}: expected a std above 0 for every channel, got {self.std}; "
                "a channel is constant over the training images: drop it."
            )

    def _split_fault(self, split: Split) -> str | None:
        if not len(split):
            return "is empty; give it at least one image"
        shape, expected = list(split.images.shape[1:]), list(self.train.images.shape[1:])
        if len(shape) < 3:
            return f"has images of shape {shape}, expected [C, H, W] or [T, C, H, W]; add the missing axes"
        if shape != expected:
            return f"has images of shape {shape}, expected {expected} as in train; resize one of them"
        if split.labels.max() >= self.num_classes:
            top = int(split.labels.max())
            return f"has label {top}, expected 0 to {self.num_classes - 1}; name all {top + 1} classes in class_names"
        return None

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def channels(self) -> int:
        """How many channels an image has."""
        return self.train.images.shape[-3]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of an image in pixels."""
        height, width = self.train.images.shape[-2:]
        return height, width

    def to(self, device: torch.device | str) -> DataSet:
        """The same data set with all splits on a device."""
        return replace(
            self, train=self.train.to(device), validation=self.validation.to(device), test=self.test.to(device)
        )


def hold_out(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the kept and of the held-out samples, stratified by class.

    Example:
        >>> kept, held = hold_out(torch.tensor([0, 0, 1, 1]), share=0.5, seed=0)
        >>> len(kept), len(held), set(kept.tolist()) & set(held.tolist())
        (2, 2, set())
    """
    count = round(share * len(labels)) if 0 < share < 1 else 0
    if not 0 < count < len(labels):
        raise DataError(
            f"Holding out a validation split: expected a share between 0 and 1 that leaves an image on both sides, "
            f"got {share:g} of {len(labels)} images; pass a share such as 0.1, or more images."
        )
    held = stratified(labels, count, seed, "validation")
    return others(held, len(labels)), held


def class_split(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Holds out a share of a split, stratified by class; the same samples for the same labels and seed everywhere.

    Args:
        split: the training data.
        share: what is held out, above 0 and below 1, rounded to whole images.
        seed: any integer.

    Returns:
        What is left, and what is held out, both in their old order.

    Raises:
        DataError: a share that leaves one side empty.

    Example:
        >>> split = Split(torch.rand(20, 1, 8, 8), torch.arange(20) % 2)
        >>> train, validation = class_split(split, share=0.2, seed=0)
        >>> len(train), validation.labels.bincount().tolist()
        (16, [2, 2])
    """
    kept, held = hold_out(split.labels, share, seed)
    return split.subset(kept), split.subset(held)
