"""robustspike doctor: what is printed, what is decided, what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from tests.cli.commands import refused
from tests.doctor import sick

from robustspike.cli import doctoring
from robustspike.doctor import INSTALLATION, KNOWN, NETWORK, Diagnosis, diagnosing, doctor
from robustspike.doctor.checks import Check, Verdict


@pytest.fixture
def nets(tmp_path):
    """A file with networks."""
    shutil.copy(sick.__file__, tmp_path / "nets.py")
    return tmp_path / "nets.py"


@pytest.fixture
def alone(monkeypatch):
    """The network alone is examined."""
    monkeypatch.setattr(diagnosing, "known_defects", tuple)
    monkeypatch.setattr(diagnosing, "INSTALLATION", {})


def test_without_a_network(cli):
    code, out, err = cli("doctor")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0].startswith("python 3.")
    for name in (*INSTALLATION, *KNOWN):
        assert sum(line.startswith(tuple(f"  {mark} {name}: " for mark in "✓✗–")) for line in lines) == 1, name
    failed = [line for line in lines if line.startswith("  ✗")]
    assert all("See docs/doctor.md#" in line for line in failed)
    assert lines[-1] == (
        f"0 of {len(INSTALLATION)} checks of the installation failed; {len(failed)} known defects to keep away from; "
        "no network was examined."
    )


def test_a_broken_installation_decides_without_a_network(cli, alone, monkeypatch, nets):
    broken = {"arrays": Check("Install it anew.", lambda: Verdict(False, "does not add up"))}
    monkeypatch.setattr(diagnosing, "INSTALLATION", broken)
    code, out, _ = cli("doctor")
    assert code == 1
    assert "  ✗ arrays: does not add up. Install it anew. See docs/doctor.md#arrays." in out
    assert cli("doctor", f"{nets}:Net")[0] == 0  # a network is judged by its own checks


def test_a_healthy_network(cli, alone, nets):
    code, out, err = cli("doctor", f"{nets}:Net", "--shape", "1x4x4")
    assert (code, err) == (0, "")
    assert "✗" not in out
    assert "Network: Net, images [N, …]" in out
    assert (
        "Tried on 16 images [1, 4, 4] of random numbers in [0, 1], seed 0. 0 of 11 checks of the network failed" in out
    )


def test_a_sick_network(cli, alone, nets):
    code, out, _ = cli("doctor", f"{nets}:BlindWithNorm", "--seed", 3)
    assert code == 1
    failed = {line.split(": ")[0] for line in out.splitlines() if line.startswith("  ✗")}
    assert failed == {"  ✗ gradient in eval", "  ✗ BatchNorm drift"}
    assert NETWORK["gradient in eval"].remedy in out
    assert "of random numbers in [0, 1], seed 3. 2 of " in out


def test_json_is_the_record(cli, alone, nets):
    code, out, _ = cli("doctor", f"{nets}:Leaking", "--json")
    found = Diagnosis.model_validate_json(out)
    assert code == 1
    assert found.failed == ("state leak",)
    assert set(json.loads(out)["network"][0]) == {"check", "passed", "evidence", "remedy", "page"}


def test_what_a_defect_of_the_framework_does_to_a_network(cli, tmp_path, monkeypatch):
    pytest.importorskip("snntorch", reason="snnTorch is not installed; `pip install -e .[dev]` does")
    monkeypatch.setattr(diagnosing, "INSTALLATION", {})
    (tmp_path / "net.py").write_text(
        "import snntorch, torch\n"
        "from snntorch import surrogate\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, spike_grad=surrogate.sigmoid()):\n"
        "        super().__init__()\n"
        "        self.fc = torch.nn.Linear(16, 3)\n"
        "        self.lif = snntorch.Leaky(beta=0.9, threshold=0.1, spike_grad=spike_grad)\n"
        "    def forward(self, x):\n"
        "        mem, total = self.lif.reset_mem(), 0\n"
        "        for _ in range(4):\n"
        "            spk, mem = self.lif(self.fc(x.flatten(1)), mem)\n"
        "            total = total + spk\n"
        "        return total\n"
        "def other():\n"
        "    return Net(surrogate.atan())\n"
    )
    code, out, _ = cli("doctor", f"{tmp_path}/net.py:Net", "--time-steps", 4)
    assert code == 1
    assert "Known defects that the network carries\n  ✗ snnTorch's sigmoid: the slope" in out
    assert "✗ known defects: snnTorch's sigmoid (at lif). rs.adapt(model) repairs it." in out
    code, out, _ = cli("doctor", f"{tmp_path}/net.py:other")
    assert code == 0
    assert "snnTorch's sigmoid" not in out


def test_weights_are_loaded(cli, alone, nets, tmp_path):
    model = sick.Net()
    with torch.no_grad():
        model.last.weight.zero_()
        model.last.bias.zero_()
    torch.save(model.state_dict(), tmp_path / "silent.pt")
    code, out, _ = cli("doctor", f"{nets}:Net", "--weights", tmp_path / "silent.pt")
    assert code == 1
    assert "✗ answers: logits [N, 3]: finite for 16 of 16 samples, all equal for 16" in out
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "other.pt")
    refused(cli("doctor", f"{nets}:Net", "--weights", tmp_path / "other.pt"), "other.pt")


def test_real_images_with_labels(cli, alone, nets, tmp_path, monkeypatch):
    images = np.random.default_rng(0).random((60, 4, 4, 1), dtype=np.float32)
    labels = np.arange(60) % 3
    arrays = {"train_images": images, "train_labels": labels, "test_images": images[:30], "test_labels": labels[:30]}
    np.savez(tmp_path / "few.npz", **arrays)
    seen = {}

    def noting(model, images, labels, **told):
        seen.update(images=images, labels=labels)
        return doctor(model, images, labels, **told)

    monkeypatch.setattr(doctoring, "doctor", noting)
    code, out, err = cli("doctor", f"{nets}:Net", "--data", tmp_path / "few.npz", "--samples", 15)
    assert code == 0, err
    every_other = torch.tensor([round(29 * k / 14) for k in range(15)])
    assert seen["labels"].tolist() == (every_other % 3).tolist()
    assert torch.equal(seen["images"][:, 0], torch.tensor(images[every_other, :, :, 0]))
    assert "Tried on 15 images [1, 4, 4] given." in out
    assert "of 15 are classified correctly" in out


@pytest.mark.parametrize(
    ("flags", "texts"),
    [
        (["--shape", "1x4x4"], ["flags for a network need one"]),
        (["--time-steps", 4], ["flags for a network need one"]),
        (["NETS:Nothing"], ["no 'Nothing' in nets.py"]),
        (["NETS:Net", "--shape", "4,4"], ["--shape: expected whole numbers", "4,4"]),
        (["NETS:Net", "--shape", "0x4"], ["--shape: expected whole numbers"]),
        (["NETS:Net", "--shape", "5"], ["cannot be called with images [5]"]),
        (["NETS:Net", "--takes", "movies"], ["takes must be one of images, step, sequence"]),
        (["NETS:Net", "--data", "nowhere"], ["Unknown data 'nowhere'"]),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(flags, texts, cli, alone, nets):
    refused(cli("doctor", *(str(flag).replace("NETS", str(nets)) for flag in flags)), *texts)
