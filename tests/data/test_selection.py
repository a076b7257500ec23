import numpy as np
import pytest
import torch

from robustspike.data import DataError
from robustspike.data.selection import Pool, Selection, assemble, channel_statistics

TRAIN, TEST = torch.arange(100) % 4, torch.arange(40) % 4


def test_limit_counts_train_and_validation_together():
    train, validation, test = Selection(train_limit=40, test_limit=8).choose(TRAIN, TEST)
    assert (len(train), len(validation), len(test)) == (36, 4, 8)
    assert not set(train.tolist()) & set(validation.tolist())
    for labels in (TRAIN[train], TRAIN[validation], TEST[test]):
        assert len(labels.bincount().unique()) == 1


def test_seed_decides_all_but_the_test_samples():
    first, again, other = (Selection(40, 8, seed=seed).choose(TRAIN, TEST) for seed in (0, 0, 1))
    assert all(map(torch.equal, first, again))
    assert [torch.equal(a, b) for a, b in zip(first, other, strict=True)] == [False, False, True]


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection(train_limit=101), "train_limit: expected 1 to 100, the number of images there are, got 101"),
        (Selection(test_limit=41), "test_limit: expected 1 to 40, the number of images there are, got 41"),
        (Selection(test_limit=0), "test_limit: expected 1 to 40, .* got 0"),
        (Selection(validation_share=1.0), "expected a share between 0 and 1"),
        (Selection(train_limit=4), "got 0.1 of 4 images"),
    ],
)
def test_refuses(selection, message):
    with pytest.raises(DataError, match=message):
        selection.choose(TRAIN, TEST)


def test_statistics_agree_with_numpy():
    images = torch.rand(50, 3, 6, 6) ** torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1)
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, images.double().numpy().mean((0, 2, 3)), atol=5.1e-5)
    np.testing.assert_allclose(std, images.double().numpy().std((0, 2, 3)), atol=5.1e-5)


def test_pool_reads_nhwc_scales_and_composes():
    images = np.random.default_rng(0).integers(0, 256, (10, 2, 3, 3), dtype=np.uint8)
    pool = Pool.of_arrays(images, np.arange(10, dtype=np.uint8)).part(torch.tensor([7, 2, 5]))
    split = pool.take(torch.tensor([2, 0]), "here")
    assert split.labels.tolist() == [5, 7]
    assert split.images.is_contiguous()
    np.testing.assert_array_equal(split.images.numpy(), images[[5, 7]].transpose(0, 3, 1, 2).astype(np.float32) / 255)


def test_only_selected_images_are_read():
    read = []

    def reader(which):
        read.extend(which.tolist())
        return torch.rand(len(which), 1, 4, 4)

    assemble("toy", Pool(TRAIN, reader), Pool(TEST, reader), tuple("abcd"), Selection(20, 8))
    assert len(read) == 28


def test_errors_say_which_images():
    good = Pool.of_arrays(np.random.default_rng(0).random((20, 4, 4, 1)), np.arange(20) % 2)
    bad = Pool.of_arrays(np.full((20, 4, 4, 1), 255.0), np.arange(20) % 2)
    with pytest.raises(DataError, match=r"Test images of 'toy': Split: .* divide by 255\?"):
        assemble("toy", good, bad, ("a", "b"), Selection())
