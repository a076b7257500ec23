import numpy as np
import torch
from sklearn.datasets import load_digits

from robustspike.data import load


def rows(split):
    return [image.numpy().tobytes() for image in split.images]


def test_every_digit_is_in_exactly_one_split():
    data = load("digits")
    assert (len(data.train), len(data.validation), len(data.test)) == (1132, 126, 539)
    assert data.image_size == (8, 8)
    assert data.channels == 1
    assert data.class_names == tuple("0123456789")
    whole = [image.astype(np.float32).tobytes() for image in load_digits().images / 16]
    assert sorted(rows(data.train) + rows(data.validation) + rows(data.test)) == sorted(whole)


def test_labels_go_with_their_images():
    embedded = load_digits()
    label_of = {
        (i / 16).astype(np.float32).tobytes(): int(t) for i, t in zip(embedded.images, embedded.target, strict=True)
    }
    test = load("digits").test
    assert [label_of[row] for row in rows(test)] == test.labels.tolist()


def test_stratified():
    data = load("digits")
    per_class = torch.from_numpy(load_digits().target).bincount()
    assert ((data.test.labels.bincount() - per_class * 0.3).abs() < 1).all()
    assert ((data.validation.labels.bincount() - data.validation.labels.bincount().float().mean()).abs() < 2).all()


def test_the_test_split_is_fixed_and_validation_follows_the_seed():
    first, other = load("digits", seed=0), load("digits", seed=1)
    assert first.test.fingerprint() == other.test.fingerprint() == "e3caac61a32671d9"
    assert first.validation.fingerprint() != other.validation.fingerprint()
    assert load("digits").train.fingerprint() == first.train.fingerprint()


def test_statistics():
    data = load("digits")
    assert data.mean == (round(data.train.images.double().mean().item(), 4),)
    assert 0.2 < data.std[0] < 0.5
