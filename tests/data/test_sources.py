import pytest

from robustspike.data import DATA, DataError, load


def test_names():
    assert set(DATA) == {"digits", "cifar10", "cifar100"}


@pytest.mark.parametrize(
    ("typed", "near"), [("digit", "digits"), ("CIFAR10", "cifar10"), ("cifar-100", "cifar100"), ("Digits", "digits")]
)
def test_unknown_name_suggests_near_ones(typed, near):
    with pytest.raises(
        ValueError, match=f"Unknown data '{typed}': .* path of an .npz file, or a folder .* mean .*{near}"
    ):
        load(typed)


def test_unknown_name_far_from_all():
    with pytest.raises(
        DataError, match="expected one of digits, cifar10, cifar100, .*; check the spelling or the path"
    ):
        load("/nowhere/at/all")


def test_limits_by_name():
    data = load("digits", train_limit=100, test_limit=50, validation_share=0.2, seed=3)
    assert (len(data.train), len(data.validation), len(data.test)) == (80, 20, 50)
    assert data.test.labels.bincount().tolist() == [5] * 10
    with pytest.raises(DataError, match="train_limit: expected 1 to 1258, .* got 1259"):
        load("digits", train_limit=1259)


@pytest.mark.parametrize("source", ["digits", "some.npz"])
def test_image_size_is_for_folders(source):
    with pytest.raises(DataError, match=f"image_size: expected it with a folder of images, got it with '{source}'"):
        load(source, image_size=32)


def test_a_name_wins_over_a_folder_and_a_path_over_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert load("digits").name == "digits"
    with pytest.raises(DataError, match="expected one folder of images per class"):
        load("./digits")
