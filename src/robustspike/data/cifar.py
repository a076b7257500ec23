"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), downloaded once by torchvision."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from robustspike.data.dataset import DataError, DataSet
from robustspike.data.selection import EVERYTHING, Pool, Selection, assemble

_CIFAR10_STATISTICS = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_CIFAR100_STATISTICS = ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))


def default_root() -> Path:
    """Where downloaded data is kept: $ROBUSTSPIKE_DATA, else the user's cache folder.

    Example:
        >>> isinstance(default_root(), Path)
        True
    """
    named = os.environ.get("ROBUSTSPIKE_DATA")
    return Path(named) if named else Path(platformdirs.user_cache_dir("robustspike"))


def cifar10(selection: Selection = EVERYTHING, root: Path | None = None) -> DataSet:
    """CIFAR-10: 50,000 training and 10,000 test images [N, 3, 32, 32] in 10 classes.

    Args:
        selection: limits, validation share and seed.
        root: folder of the archive, downloaded if it is not there; None for :func:`default_root`.

    Returns:
        The data set, with the mean and std that the literature uses.

    Raises:
        DataError: no archive and no download; limits that cannot be met.

    Example:
        >>> data = cifar10(Selection(train_limit=5000))  # doctest: +SKIP
        >>> len(data.train), len(data.validation), len(data.test)  # doctest: +SKIP
        (4500, 500, 10000)
    """
    return _cifar("cifar10", "CIFAR10", "cifar-10-python.tar.gz", selection, root, _CIFAR10_STATISTICS)


def cifar100(selection: Selection = EVERYTHING, root: Path | None = None) -> DataSet:
    """CIFAR-100: 50,000 training and 10,000 test images [N, 3, 32, 32] in 100 classes; else as :func:`cifar10`.

    Example:
        >>> cifar100(Selection(train_limit=5000)).num_classes  # doctest: +SKIP
        100
    """
    return _cifar("cifar100", "CIFAR100", "cifar-100-python.tar.gz", selection, root, _CIFAR100_STATISTICS)


def _cifar(
    name: str,
    torchvision_name: str,
    archive: str,
    selection: Selection,
    root: Path | None,
    statistics: tuple[tuple[float, ...], tuple[float, ...]],
) -> DataSet:
    import torchvision

    root = default_root() if root is None else Path(root)
    published = getattr(torchvision.datasets, torchvision_name)
    try:
        train, test = (published(root=str(root), train=train, download=True) for train in (True, False))
    except (OSError, RuntimeError, EOFError, tarfile.TarError) as error:
        raise DataError(
            f"{name}: expected {archive} in {root} or a network to download it from, got {type(error).__name__} "
            f"({str(error).strip().rstrip('.')}); put the archive into {root}, or pass an .npz file with --data."
        ) from error
    return assemble(name, _pool(train), _pool(test), tuple(train.classes), selection, statistics)


def _pool(published: Any) -> Pool:
    return Pool.of_arrays(published.data, np.asarray(published.targets))
