import numpy as np
import pytest
import torch

from robustspike.data import DataError, load


def contents(**changes):
    random = np.random.default_rng(0)
    whole = {
        "train_images": random.integers(0, 256, (40, 6, 5, 3), dtype=np.uint8),
        "train_labels": np.arange(40) % 4,
        "test_images": random.integers(0, 256, (12, 6, 5, 3), dtype=np.uint8),
        "test_labels": np.arange(12) % 4,
        "class_names": np.array(["cat", "dog", "ship", "automobile"]),
    }
    return {key: value for key, value in {**whole, **changes}.items() if value is not None}


def saved(tmp_path, **changes):
    path = tmp_path / "toy.npz"
    np.savez(path, **contents(**changes))
    return path


def test_round_trip(tmp_path):
    data, arrays = load(saved(tmp_path)), contents()
    assert (data.name, data.class_names, data.image_size) == ("toy", ("cat", "dog", "ship", "automobile"), (6, 5))
    assert torch.equal((data.test.images * 255).round().byte().movedim(1, -1), torch.from_numpy(arrays["test_images"]))
    assert data.test.labels.tolist() == arrays["test_labels"].tolist()
    both = torch.cat([data.train.images, data.validation.images])
    np.testing.assert_allclose(both.sum().item(), arrays["train_images"].sum() / 255, rtol=1e-6)
    assert data.mean == tuple(round(m, 4) for m in data.train.images.mean((0, 2, 3)).tolist())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_floats_in_the_unit_interval(tmp_path, dtype):
    images = np.random.default_rng(1).random((12, 6, 5, 3)).astype(dtype)
    data = load(str(saved(tmp_path, test_images=images)))
    np.testing.assert_array_equal(data.test.images.numpy(), images.astype(np.float32).transpose(0, 3, 1, 2))


def test_small_unsigned_labels_and_names_by_number(tmp_path):
    path = saved(tmp_path, class_names=None, test_labels=(np.arange(12) % 4).astype(np.uint8))
    assert load(path).class_names == ("0", "1", "2", "3")


def test_bytes_as_names(tmp_path):
    assert load(saved(tmp_path, class_names=np.array([b"a", b"b", b"c", b"d"]))).class_names == ("a", "b", "c", "d")


IMAGES = contents()["test_images"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"test_images": None, "test_labels": None, "x": np.zeros(1)},
            "test_labels, got train_images, train_labels, class_names, x; add test_images, test_labels",
        ),
        ({"test_images": IMAGES[..., 0]}, r"test_images: .* got shape \[12, 6, 5\]; add the channel axis"),
        (
            {"test_images": IMAGES.transpose(0, 3, 1, 2)},
            r"looks like \[N, C, H, W\]; use images.transpose\(0, 2, 3, 1\)",
        ),
        ({"test_images": IMAGES.astype(np.int32)}, "expected uint8 in 0 to 255 or floating .* got int32"),
        ({"test_images": IMAGES.astype(float)}, r"Test images of 'toy': .* to 255; divide by 255\?"),
        ({"test_images": IMAGES[:, :3] / 255}, r"the test split has images of shape \[3, 3, 5\], expected \[3, 6, 5\]"),
        ({"test_labels": np.arange(11)}, r"test_labels: expected integers of shape \[12\].* got int64 of shape \[11\]"),
        ({"test_labels": np.zeros((12, 1), int)}, r"got int64 of shape \[12, 1\]"),
        ({"test_labels": np.zeros(12)}, "got float64 of shape"),
        ({"test_labels": np.arange(12) - 1}, "expected labels from 0, got -1"),
        ({"test_labels": np.arange(12)}, "the test split has label 11, expected 0 to 3"),
        ({"class_names": np.arange(4)}, r"class_names: expected strings of shape \[classes\], got int64"),
        ({"class_names": np.array(["a", None])}, "cannot be read .*Object arrays.* without object arrays"),
        ({"test_images": IMAGES[:0], "test_labels": np.zeros(0, int)}, "the test split is empty"),
    ],
)
def test_refuses(tmp_path, changes, message):
    with pytest.raises(DataError, match=message) as caught:
        load(saved(tmp_path, **changes))
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"none.npz: expected an .npz file, got no such file; check the path"):
        load(tmp_path / "none.npz")


@pytest.mark.parametrize("kept", [0, 1, 10, 100, 5000, -1])
def test_truncated_file(tmp_path, kept):
    path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match="expected an .npz file of plain arrays, got one that cannot be read"):
        load(path)


@pytest.mark.parametrize("content", [b"not a zip at all", b"\x93NUMPY", b"PK\x03\x04"])
def test_another_kind_of_file(tmp_path, content):
    path = tmp_path / "odd.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="got one that cannot be read"):
        load(path)


def test_a_bare_array_under_the_wrong_name(tmp_path):
    np.save(tmp_path / "one.npy", IMAGES)
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(DataError, match="it holds one array without a name"):
        load(tmp_path / "one.npz")


def test_a_damaged_member(tmp_path):
    path = saved(tmp_path)
    content = bytearray(path.read_bytes())
    content[1000] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="got one that cannot be read"):
        load(path)
