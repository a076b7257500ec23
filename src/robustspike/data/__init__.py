"""Labelled images in [0, 1]: scikit-learn's digits, CIFAR, .npz files and image folders; augmentations."""

from robustspike.data.augment import AUGMENTATIONS, augment, random_crop, random_flip
from robustspike.data.dataset import DataError, DataSet, Split, class_split
from robustspike.data.sources import DATA, load

__all__ = [
    "AUGMENTATIONS", "DATA", "DataError", "DataSet", "Split", "augment", "class_split", "load", "random_crop",
    "random_flip",
]  # fmt: skip
