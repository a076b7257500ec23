import numpy as np
import pytest
from PIL import Image

from robustspike.data import DataError, folders, load

CLASSES = ("cat", "dog")


def pixels(number, size=(6, 5)):
    return np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)


def tree(root, n=10, classes=CLASSES):
    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(pixels(100 * c + i)).save(root / name / f"{i:03d}.png")
    return root


def both(root):
    tree(root / "train"), tree(root / "test", n=4)
    return root


def test_train_and_test(tmp_path):
    data = load(both(tmp_path / "pets"))
    assert (data.name, data.class_names, data.image_size) == ("pets", CLASSES, (6, 5))
    assert (len(data.train), len(data.validation), len(data.test)) == (18, 2, 8)
    expected = np.stack([pixels(100 * c + i) for c in range(2) for i in range(4)]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(data.test.images.numpy(), expected.astype(np.float32) / 255)
    assert data.test.labels.tolist() == [0] * 4 + [1] * 4


def test_one_tree_is_split_by_class_and_without_the_seed(tmp_path):
    first, other = (load(tree_once, seed=seed) for tree_once in [tree(tmp_path / "pets")] for seed in (0, 1))
    assert first.test.labels.tolist() == [0, 0, 1, 1]
    assert first.test.fingerprint() == other.test.fingerprint()
    images = [i.numpy().tobytes() for part in (first.train, first.validation, first.test) for i in part.images]
    assert len(images) == len(set(images)) == 20


def test_limits(tmp_path):
    data = load(both(tmp_path), train_limit=10, test_limit=2)
    assert (len(data.train), len(data.validation), len(data.test)) == (9, 1, 2)


def test_grey_and_transparent_images_become_rgb(tmp_path):
    tree(tmp_path)
    Image.new("L", (5, 6), 51).save(tmp_path / "cat" / "000.png")
    Image.new("RGBA", (5, 6), (51, 51, 51, 0)).save(tmp_path / "cat" / "001.png")
    assert load(tmp_path).channels == 3


def test_differing_sizes_name_the_first_odd_file_and_the_way_out(tmp_path):
    both(tmp_path)
    odd = tmp_path / "test" / "dog" / "001.png"
    Image.new("RGB", (7, 9)).save(odd)
    Image.new("RGB", (8, 8)).save(tmp_path / "test" / "dog" / "002.png")
    with pytest.raises(
        DataError, match="expected 6 × 5 pixels as in the first training image, got 9 × 7.*image_size="
    ) as caught:
        load(tmp_path)
    assert str(caught.value).startswith(str(odd))


@pytest.mark.parametrize(("asked", "size"), [(4, (4, 4)), ((3, 8), (3, 8))])
def test_resizing(tmp_path, asked, size):
    both(tmp_path)
    Image.new("RGB", (20, 10), (51, 102, 255)).save(tmp_path / "test" / "cat" / "000.png")
    data = load(tmp_path, image_size=asked)
    assert data.image_size == size
    assert data.test.images[0].amax((1, 2)).tolist() == data.test.images[0].amin((1, 2)).tolist()
    np.testing.assert_allclose(data.test.images[0, :, 0, 0], [0.2, 0.4, 1.0])


def test_image_size_below_one(tmp_path):
    with pytest.raises(DataError, match="image_size: expected pixels, 1 or more, got 0"):
        load(both(tmp_path), image_size=0)


def test_unreadable_image(tmp_path):
    (both(tmp_path) / "test" / "cat" / "002.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match="002.png: expected an image, got a file that cannot be read"):
        load(tmp_path)


def test_truncated_image(tmp_path):
    path = both(tmp_path) / "test" / "cat" / "002.png"
    path.write_bytes(path.read_bytes()[:80])
    with pytest.raises(DataError, match="002.png: expected an image, got a file that cannot be read"):
        load(tmp_path)


def test_no_classes_and_empty_classes(tmp_path):
    with pytest.raises(DataError, match="expected one folder of images per class, got none or an empty one.*<class>/"):
        load(tmp_path)
    (tree(tmp_path) / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        load(tmp_path)


def test_other_classes_in_test(tmp_path):
    tree(tmp_path / "train"), tree(tmp_path / "test", classes=("cat", "fox"))
    with pytest.raises(
        DataError, match="expected the same classes in train and test, got dog, fox in only one of them"
    ):
        load(tmp_path)


def test_train_without_test(tmp_path):
    tree(tmp_path / "train")
    with pytest.raises(DataError, match="got train without test; add .*test, or pass .*train to have it split"):
        load(tmp_path)


def test_too_few_images_to_split(tmp_path):
    with pytest.raises(DataError, match="expected at least 3 images to split into train and test, got 2"):
        load(tree(tmp_path, n=1))


def test_progress_is_shown_for_many_files_only(tmp_path, monkeypatch, capsys):
    load(tree(tmp_path))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(folders, "_MANY_FILES", 5)
    load(tmp_path)
    captured = capsys.readouterr()
    assert "Reading" in captured.err
    assert captured.out == ""
