"""Any images in folders, one folder per class."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustspike.data.dataset import DataError, DataSet
from robustspike.data.selection import EVERYTHING, Pool, Selection, assemble
from robustspike.data.stratify import others, stratified

_TEST_SHARE = 0.2
_TEST_SEED = 0
_MANY_FILES = 2000


def folders(path: Path, selection: Selection = EVERYTHING, image_size: int | tuple[int, int] | None = None) -> DataSet:
    """Reads PATH/{train,test}/<class>/*.png (or .jpg, …); in a PATH/<class>/*.png, a fifth of each class is the test.

    Where PATH has no `train` and `test`, the split is stratified and depends only on the files, never on the seed.
    Images are read as RGB, and only those that are selected; classes are numbered in alphabetical order.

    Args:
        path: the folder.
        selection: limits, validation share and seed.
        image_size: pixels, one number for a square or (height, width), to which every image is resized without keeping
            its proportions; None to take them as they are, all of one size.

    Returns:
        The data set, named as the folder, images [N, 3, H, W], with mean and std measured on its training split.

    Raises:
        DataError: no images, unreadable images, images of different sizes, different classes in train and test.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("cat", "dog"):
        ...     (root / name).mkdir()
        ...     for shade in range(10):
        ...         Image.new("RGB", (8, 8), (shade * 20,) * 3).save(root / name / f"{shade}.png")
        >>> data = folders(root)
        >>> data.class_names, len(data.train), len(data.validation), len(data.test)
        (('cat', 'dog'), 14, 2, 4)
    """
    if (path / "train").is_dir() and (path / "test").is_dir():
        train, test = _tree(path / "train"), _tree(path / "test")
        _same_classes(train, test, path)
        size = _target_size(train, image_size)
        pools = _pool(train, size, image_size is not None), _pool(test, size, image_size is not None)
    elif (path / "train").is_dir() or (path / "test").is_dir():
        there, absent = ("train", "test") if (path / "train").is_dir() else ("test", "train")
        raise DataError(
            f"{path}: expected both train and test or only folders of classes, got {there} without {absent}; "
            f"add {path / absent}, or pass {path / there} to have it split."
        )
    else:
        train = _tree(path)
        pool = _pool(train, _target_size(train, image_size), image_size is not None)
        pools = _divided(pool, path)
    return assemble(path.resolve().name, *pools, tuple(train.classes), selection)


def _tree(path: Path) -> Any:
    from torchvision.datasets import ImageFolder

    try:
        return ImageFolder(str(path))
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: expected one folder of images per class, got none or an empty one ({str(error).splitlines()[0]}); "
            f"put the images into {path}/<class>/."
        ) from error


def _same_classes(train: Any, test: Any, path: Path) -> None:
    odd = sorted(set(train.classes) ^ set(test.classes))
    if odd:
        raise DataError(
            f"{path}: expected the same classes in train and test, got {', '.join(odd)} in only one of them; "
            "add or remove these folders."
        )


def _divided(pool: Pool, path: Path) -> tuple[Pool, Pool]:
    n = len(pool.labels)
    count = round(_TEST_SHARE * n)
    if count == 0:
        raise DataError(f"{path}: expected at least 3 images to split into train and test, got {n}; add images.")
    test = stratified(pool.labels, count, _TEST_SEED, "folder test")
    return pool.part(others(test, n)), pool.part(test)


def _read_image(load: Callable[[str], Any], file: str) -> Tensor:
    from torchvision.transforms.v2.functional import pil_to_tensor

    try:
        image: Tensor = pil_to_tensor(load(file))
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(
            f"{file}: expected an image, got a file that cannot be read ({str(error).rstrip('.')}); "
            "replace or remove it."
        ) from error
    return image


def _target_size(tree: Any, image_size: int | tuple[int, int] | None) -> tuple[int, int]:
    """The size asked for, else that of the first file."""
    if image_size is None:
        _, height, width = _read_image(tree.loader, tree.samples[0][0]).shape
        return height, width
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if min(height, width) < 1:
        raise DataError(f"image_size: expected pixels, 1 or more, got {image_size}; pass a number such as 32.")
    return height, width


def _pool(tree: Any, size: tuple[int, int], resizing: bool) -> Pool:
    from torchvision.transforms.v2.functional import resize

    def read(which: Tensor) -> Tensor:
        images = torch.empty((len(which), 3, *size), dtype=torch.uint8)
        for row, index in enumerate(_shown(which.tolist(), f"Reading {tree.root}")):
            file = tree.samples[index][0]
            image = _read_image(tree.loader, file)
            if image.shape[1:] != size and not resizing:
                raise DataError(
                    f"{file}: expected {size[0]} × {size[1]} pixels as in the first training image, got {image.shape[1]} × "
                    f"{image.shape[2]}; resize the images, or pass image_size= to have it done."
                )
            images[row] = resize(image, list(size), antialias=True) if resizing else image
        return images

    return Pool(torch.tensor(tree.targets), read)


def _shown(indices: list[int], description: str) -> Iterable[int]:
    """The same indices, with a progress bar on stderr where there are many."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import track

    return track(indices, escape(description), console=Console(stderr=True), disable=len(indices) <= _MANY_FILES)
