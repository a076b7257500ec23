"""Any images in one .npz file of plain arrays."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib.npyio import NpzFile

from robustspike.data.dataset import DataError, DataSet
from robustspike.data.selection import EVERYTHING, Pool, Selection, assemble

_REQUIRED = ("train_images", "train_labels", "test_images", "test_labels")


def arrays(path: Path, selection: Selection = EVERYTHING) -> DataSet:
    """Reads `train_images`, `train_labels`, `test_images`, `test_labels` and, if there, `class_names` from an .npz file.

    Args:
        path: the file. Images are [N, H, W, C], uint8 in 0 … 255 or floating in [0, 1]; labels are [N] integers from 0;
            names are [classes] strings (default "0", "1", …). Pickled arrays are not read.
        selection: limits, validation share and seed.

    Returns:
        The data set, named as the file, with mean and std measured on its training split.

    Raises:
        DataError: a file that is missing or broken, lacks an array, or holds unfit ones.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "toy.npz"
        >>> images, labels = np.random.default_rng(0).random((20, 8, 8, 3)), np.arange(20) % 2
        >>> np.savez(file, train_images=images, train_labels=labels, test_images=images, test_labels=labels)
        >>> data = arrays(file)
        >>> data.name, data.class_names, tuple(data.train.images.shape)
        ('toy', ('0', '1'), (18, 3, 8, 8))
    """
    found = _read(path)
    pools = [
        Pool.of_arrays(
            _images(found[f"{role}_images"], f"{path}, {role}_images"),
            _labels(found[f"{role}_labels"], len(found[f"{role}_images"]), f"{path}, {role}_labels"),
        )
        for role in ("train", "test")
    ]
    return assemble(path.stem, pools[0], pools[1], _class_names(found, path), selection)


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise DataError(f"{path}: expected an .npz file, got no such file; check the path.")
    try:
        with path.open("rb") as stream, _opened(stream) as file:
            missing = [key for key in _REQUIRED if key not in file.files]
            if missing:
                raise DataError(
                    f"{path}: expected the arrays {', '.join(_REQUIRED)}, got {', '.join(file.files) or 'none'}; "
                    f"add {', '.join(missing)}."
                )
            return {key: file[key] for key in (*_REQUIRED, "class_names") if key in file.files}
    except DataError:
        raise
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path}: expected an .npz file of plain arrays, got one that cannot be read ({str(error).rstrip('.')}); "
            "copy or write it again with numpy.savez and without object arrays."
        ) from error


def _opened(stream: BinaryIO) -> NpzFile:
    file = np.load(stream, allow_pickle=False)
    if not isinstance(file, NpzFile):
        raise TypeError("it holds one array without a name")
    return file


def _images(images: np.ndarray, where: str) -> np.ndarray:
    if images.ndim != 4:
        hint = "add the channel axis with images[..., None]" if images.ndim == 3 else "reshape them"
        raise DataError(f"{where}: expected images [N, H, W, C], got shape {list(images.shape)}; {hint}.")
    if images.shape[1] in (1, 3) and images.shape[3] > 4:
        raise DataError(
            f"{where}: expected images [N, H, W, C], got shape {list(images.shape)}, which looks like [N, C, H, W]; "
            "use images.transpose(0, 2, 3, 1)."
        )
    if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
        raise DataError(
            f"{where}: expected uint8 in 0 to 255 or floating values in [0, 1], got {images.dtype}; convert them."
        )
    return images


def _labels(labels: np.ndarray, n: int, where: str) -> np.ndarray:
    if labels.shape != (n,) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{where}: expected integers of shape [{n}], one per image, "
            f"got {labels.dtype} of shape {list(labels.shape)}; give one class number per image."
        )
    if n and labels.min() < 0:
        raise DataError(f"{where}: expected labels from 0, got {labels.min()}; number the classes 0, 1, 2, ….")
    return labels


def _class_names(found: dict[str, np.ndarray], path: Path) -> tuple[str, ...]:
    if "class_names" not in found:
        used = np.concatenate([found["train_labels"], found["test_labels"]])
        return tuple(str(number) for number in range(int(used.max()) + 1 if len(used) else 0))
    names = found["class_names"]
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise DataError(
            f"{path}, class_names: expected strings of shape [classes], "
            f"got {names.dtype} of shape {list(names.shape)}; give one string per class."
        )
    return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist())
