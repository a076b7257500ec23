"""Handwritten digits, 8 × 8 pixels, that come with scikit-learn: nothing to download."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from robustspike.data.dataset import DataSet
from robustspike.data.selection import EVERYTHING, Pool, Selection, assemble
from robustspike.data.stratify import others, stratified

_TEST_SHARE = 0.3
_TEST_SEED = 0


def digits(selection: Selection = EVERYTHING, root: Path | None = None) -> DataSet:
    """The 1797 digits of the UCI test set, in a fixed split: 539 for the test, 1258 for training and validation.

    Args:
        selection: limits, validation share and seed; the test images do not depend on the seed.
        root: unused; every entry of DATA is called alike.

    Returns:
        Images [N, 1, 8, 8], the original 17 grey levels divided by 16.

    Raises:
        DataError: limits that cannot be met.

    Example:
        >>> data = digits()
        >>> len(data.train), len(data.validation), len(data.test), data.num_classes
        (1132, 126, 539, 10)
    """
    from sklearn.datasets import load_digits

    embedded = load_digits()
    pool = Pool.of_arrays(embedded.images[..., None] / 16, np.asarray(embedded.target))
    n = len(pool.labels)
    test = stratified(pool.labels, round(_TEST_SHARE * n), _TEST_SEED, "digits test")
    names = tuple(str(digit) for digit in embedded.target_names)
    return assemble("digits", pool.part(others(test, n)), pool.part(test), names, selection)
