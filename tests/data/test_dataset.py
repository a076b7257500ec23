import pytest
import torch

from robustspike.data import DataError, DataSet, Split, class_split

IMAGES = torch.rand(6, 3, 4, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
SPLIT = Split(IMAGES, LABELS)


def data_set(**changes):
    fields = {"name": "toy", "train": SPLIT, "validation": SPLIT, "test": SPLIT, "class_names": ("a", "b", "c")}
    return DataSet(**{**fields, "mean": (0.5,) * 3, "std": (0.2,) * 3, **changes})


def nan_image():
    images = IMAGES.clone()
    images[2, 1, 0, 0] = float("nan")
    return images


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES.numpy(), LABELS, "expected images as a torch.Tensor, got ndarray; use torch.from_numpy"),
        (IMAGES.double(), LABELS, r"expected float32 images in \[0, 1\], got torch.float64; use images.float\(\)"),
        ((IMAGES * 255).byte(), LABELS, r"got torch.uint8; use images.float\(\) / 255"),
        (IMAGES[:, 0, 0, 0], LABELS, r"expected images of shape \[N, C, H, W\] or \[N, ...\], got \[6\]"),
        (nan_image(), LABELS, "got 1 NaN values"),
        (IMAGES.clamp(min=0.5) * 255, LABELS, r"got values from 127.5 to 2\d\d.*divide by 255\?"),
        (IMAGES - 0.5, LABELS, r"got values from -0.*undo the normalisation"),
        (IMAGES / 0, LABELS, "got values from inf to inf"),
        (IMAGES, [0] * 6, "expected labels as a torch.Tensor, got list"),
        (IMAGES, LABELS.int(), r"expected int64 labels of shape \[N\], got torch.int32 of shape \[6\]"),
        (IMAGES, LABELS[:, None], r"got torch.int64 of shape \[6, 1\]"),
        (IMAGES, LABELS[:4], "expected one label per image, got 6 images and 4 labels"),
        (IMAGES, LABELS.to("meta"), "on one device, got cpu and meta"),
        (IMAGES, LABELS - 1, "expected labels from 0, got -1"),
    ],
)
def test_split_refuses(images, labels, message):
    with pytest.raises(DataError, match=message) as caught:
        Split(images, labels)
    assert str(caught.value).startswith("Split: expected")
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize("shape", [(6, 7), (6, 1, 2, 2), (6, 4, 2, 3, 3), (0, 3, 2, 2)])
def test_split_takes_any_trailing_shape(shape):
    assert len(Split(torch.ones(shape), torch.zeros(shape[0], dtype=torch.int64))) == shape[0]


def test_subset():
    assert torch.equal(SPLIT.subset(2).images, IMAGES[:2])
    assert len(SPLIT.subset(0)) == 0
    picked = SPLIT.subset(torch.tensor([5, 0, 0]))
    assert torch.equal(picked.images, IMAGES[[5, 0, 0]])
    assert picked.labels.tolist() == [2, 0, 0]
    assert SPLIT.subset(LABELS == 1).labels.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (7, "expected 0 to 6 samples, got 7"),
        (-1, "expected 0 to 6 samples, got -1"),
        (torch.tensor([6]), r"expected a mask \[6\] or integer indices below 6, got torch.int64 of shape \[1\]"),
        (torch.tensor([True, False]), r"expected a mask \[6\] .* got torch.bool of shape \[2\]"),
        (torch.tensor([0.5]), "got torch.float32"),
    ],
)
def test_subset_refuses(which, message):
    with pytest.raises(DataError, match=message):
        SPLIT.subset(which)


def test_fingerprint_sees_images_labels_and_shape_but_not_layout():
    mark = SPLIT.fingerprint()
    assert len(mark) == 16
    assert int(mark, 16) >= 0
    assert mark == Split(IMAGES.to(memory_format=torch.channels_last), LABELS.clone()).fingerprint()
    changed = IMAGES.clone()
    changed[0, 0, 0, 0] = 1.0
    others = [Split(changed, LABELS), Split(IMAGES, LABELS.flip(0)), Split(IMAGES.reshape(6, 3, 5, 4), LABELS)]
    assert len({mark, *(other.fingerprint() for other in others)}) == 4


def test_to_moves_every_split():
    moved = data_set().to("cpu")
    assert torch.equal(moved.test.images, IMAGES)
    assert moved.name == "toy"
    assert moved.std == (0.2,) * 3


def test_properties():
    data = data_set()
    assert (data.num_classes, data.channels, data.image_size) == (3, 3, (4, 5))
    frames = Split(torch.rand(2, 8, 2, 4, 5), torch.tensor([0, 1]))
    data = data_set(train=frames, validation=frames, test=frames, mean=(0.5,) * 2, std=(0.2,) * 2)
    assert (data.channels, data.image_size) == (2, (4, 5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": SPLIT.subset(0)}, "'toy': the train split is empty"),
        ({"validation": SPLIT.subset(0)}, "'toy': the validation split is empty"),
        ({"test": SPLIT.subset(0)}, "'toy': the test split is empty"),
        ({"class_names": ("a", "b")}, "the train split has label 2, expected 0 to 1; name all 3 classes"),
        ({"test": Split(IMAGES[..., :4], LABELS)}, r"the test split .* \[3, 4, 4\], expected \[3, 4, 5\] as in train"),
        (
            {"train": Split(IMAGES.flatten(1), LABELS)},
            r"the train split has images of shape \[60\], expected \[C, H, W\]",
        ),
        ({"mean": (0.5,)}, "one value for each of 3 channels, got 1 and 3"),
        ({"std": (0.2, 0.0, 0.2)}, "expected a std above 0 for every channel"),
    ],
)
def test_data_set_refuses(changes, message):
    with pytest.raises(DataError, match=message):
        data_set(**changes)


def test_class_split_is_disjoint_complete_stratified_and_repeats():
    labels = torch.arange(200) % 4
    split = Split(torch.arange(200.0).div(200).reshape(200, 1, 1, 1), labels)
    train, validation = class_split(split, 0.1, seed=5)
    assert validation.labels.bincount().tolist() == [5] * 4
    assert torch.equal(torch.cat([train.images, validation.images]).flatten().sort().values, split.images.flatten())
    assert class_split(split, 0.1, seed=5)[1].fingerprint() == validation.fingerprint()
    assert class_split(split, 0.1, seed=6)[1].fingerprint() != validation.fingerprint()


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, 0.01, 0.99, float("nan")])
def test_class_split_refuses_a_share_that_leaves_a_side_empty(share):
    with pytest.raises(
        DataError, match="expected a share between 0 and 1 that leaves an image on both sides, got .* of 6"
    ):
        class_split(SPLIT, share, seed=0)
