import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from robustspike.data import DATA, DataError, load
from robustspike.data.cifar import default_root


class Published:
    """What torchvision's CIFAR classes offer."""

    classes = "cat", "dog"

    def __init__(self, root, train, download):
        assert download
        assert isinstance(root, str)
        n = 40 if train else 20
        self.data = np.random.default_rng(int(train)).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
        self.targets = [i % 2 for i in range(n)]


@pytest.mark.parametrize(
    ("name", "attribute", "mean"),
    [("cifar10", "CIFAR10", (0.4914, 0.4822, 0.4465)), ("cifar100", "CIFAR100", (0.5071, 0.4867, 0.4408))],
)
def test_success(monkeypatch, tmp_path, name, attribute, mean):
    monkeypatch.setattr(torchvision.datasets, attribute, Published)
    data = load(name, root=tmp_path)
    assert (data.name, data.class_names, data.mean) == (name, ("cat", "dog"), mean)
    assert (len(data.train), len(data.validation), len(data.test)) == (36, 4, 20)
    expected = Published("", False, True).data.transpose(0, 3, 1, 2).astype(np.float32) / 255
    assert torch.equal(data.test.images, torch.from_numpy(expected))


@pytest.mark.parametrize(
    "error",
    [urllib.error.URLError("no route to host"), RuntimeError("File not found or corrupted."), EOFError("short")],
)
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_failure_says_what_to_do(monkeypatch, tmp_path, name, error):
    def refuse(**arguments):
        raise error

    monkeypatch.setattr(torchvision.datasets, name.upper(), refuse)
    with pytest.raises(DataError) as caught:
        DATA[name](root=tmp_path)
    archive = {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}[name]
    for part in (f"{name}: expected {archive} in {tmp_path}", type(error).__name__, f"put the archive into {tmp_path}"):
        assert part in str(caught.value)
    assert str(caught.value).endswith("or pass an .npz file with --data.")


def test_default_root(monkeypatch, tmp_path):
    monkeypatch.setenv("ROBUSTSPIKE_DATA", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv("ROBUSTSPIKE_DATA")
    assert default_root() == Path(default_root())
    assert "robustspike" in str(default_root())
