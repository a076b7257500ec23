"""Labelled images in [0, 1]: scikit-learn's digits, CIFAR, .npz files and image folders; cropping and flipping."""

from robustspike.data.augment import augment, random_crop, random_flip
from robustspike.data.dataset import DataError, DataSet, Split, class_split
from robustspike.data.sources import DATA, load

__all__ = ["DATA", "DataError", "DataSet", "Split", "augment", "class_split", "load", "random_crop", "random_flip"]
