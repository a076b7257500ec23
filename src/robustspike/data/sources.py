"""All data by name or path."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

from robustspike.data.arrays import arrays
from robustspike.data.cifar import cifar10, cifar100
from robustspike.data.dataset import DataError, DataSet
from robustspike.data.digits import digits
from robustspike.data.folders import folders
from robustspike.data.selection import Selection

DATA: dict[str, Callable[..., DataSet]] = {"digits": digits, "cifar10": cifar10, "cifar100": cifar100}
"""Data by name; each entry is called with a selection and the folder for downloads, both optional."""


def load(
    source: str | Path,
    *,
    train_limit: int | None = None,
    test_limit: int | None = None,
    validation_share: float = 0.1,
    seed: int = 0,
    image_size: int | tuple[int, int] | None = None,
    root: str | Path | None = None,
) -> DataSet:
    """Loads data by name, from an .npz file, or from a folder of images.

    Args:
        source: a name in DATA (which wins over a folder of that name: write "./digits" for that), a path that ends in
            .npz, or a folder with one folder per class, in `train` and `test` or not.
        train_limit: at most so many images for training and validation together, stratified by class.
        test_limit: so many test images, stratified by class.
        validation_share: of the training images, above 0 and below 1.
        seed: decides which images the limits and the validation split take.
        image_size: for folders only: pixels, or (height, width), to which the images are resized.
        root: for CIFAR only: where the archive is kept (default: $ROBUSTSPIKE_DATA, else the user's cache folder).

    Returns:
        Train, validation and test split on the CPU, images in [0, 1].

    Raises:
        DataError: an unknown source, or data that cannot be used.

    Example:
        >>> data = load("digits", train_limit=500, test_limit=100)
        >>> len(data.train), len(data.validation), len(data.test)
        (450, 50, 100)
    """
    selection = Selection(train_limit, test_limit, validation_share, seed)
    path = Path(source).expanduser()
    named = str(source) in DATA
    if image_size is not None and (named or not path.is_dir()):
        raise DataError(f"image_size: expected it with a folder of images, got it with {str(source)!r}; leave it out.")
    if named:
        return DATA[str(source)](selection, root=None if root is None else Path(root).expanduser())
    if path.suffix.lower() == ".npz":
        return arrays(path, selection)
    if path.is_dir():
        return folders(path, selection, image_size)
    near = difflib.get_close_matches(str(source).lower(), DATA, n=3, cutoff=0.5)
    raise DataError(
        f"Unknown data {str(source)!r}: expected one of {', '.join(DATA)}, the path of an .npz file, or a folder of "
        f"images{'; did you mean ' + ' or '.join(near) if near else '; check the spelling or the path'}."
    )
