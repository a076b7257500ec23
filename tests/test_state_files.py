"""Weights that others saved: every usual form is read, nothing is ever executed, and each refusal is one sentence."""

import argparse
import contextlib
import os
import pickle
import shlex
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from robustspike.checkpoints import CheckpointError, write_tensors
from robustspike.state_files import load_file, read_state_dict

pytestmark = pytest.mark.usefixtures("one_thread")

OLD = {"_use_new_zipfile_serialization": False}


class Net(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3)
        self.norm = nn.BatchNorm2d(width)


def made(seed=0):
    torch.manual_seed(seed)
    net = Net()
    nn.init.normal_(net.norm.running_mean)
    return net


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def prefixed(prefix, tensors):
    return {f"{prefix}{name}": t for name, t in tensors.items()}


def one_sentence(caught):
    text = str(caught.value)
    assert "\n" not in text
    assert "\x1b" not in text
    return text


# --- what is read


@pytest.mark.parametrize(
    "nested",
    [
        lambda s: s,
        lambda s: {
            "state_dict": s,
            "epoch": 3,
            "optimizer": {"state": {0: {"momentum": torch.ones(2)}}, "param_groups": []},
        },
        lambda s: {"model": s, "best": 0.5},
        lambda s: {"model_state_dict": s, "loss": torch.tensor(0.5)},
        lambda s: {"net": dict(s), "acc": 93.0, "epoch": 1},
        lambda s: {"epoch": 1, "my_network": s},
        lambda s: {"state_dict": {"model": s}},
        lambda s: {"model": s, "model_ema": prefixed("x.", s)},
        lambda s: s | {"note": "tensors beside a text"},
        lambda s: OrderedDict((name, nn.Parameter(t) if t.is_floating_point() else t) for name, t in s.items()),
    ],
)
@pytest.mark.parametrize("options", [{}, OLD], ids=["zip", "old"])
def test_every_usual_nesting_is_unwrapped(tmp_path, nested, options):
    state = dict(made().state_dict())
    torch.save(nested(state), tmp_path / "w.pth", **options)
    found = read_state_dict(tmp_path / "w.pth")
    assert same(found, state)
    assert not any(t.requires_grad for t in found.values())


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin"])
def test_any_safetensors_file_is_read_whatever_its_ending(tmp_path, name):
    state = dict(made().state_dict())
    save_file(state, tmp_path / name)
    assert same(read_state_dict(tmp_path / name), state)
    write_tensors(tmp_path / name, state, {"epoch": 3})
    assert same(read_state_dict(tmp_path / name), state)


def test_a_file_without_check_sums_is_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(made().state_dict(), tmp_path / "w.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert same(read_state_dict(tmp_path / "w.pt"), made().state_dict())


# --- what fits


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.", "module.model."])
def test_names_may_all_begin_with_something(tmp_path, prefix):
    torch.save({"state_dict": prefixed(prefix, made(1).state_dict())}, tmp_path / "w.ckpt")
    net = made()
    load_file(net, tmp_path / "w.ckpt")
    assert same(net.state_dict(), made(1).state_dict())


def test_what_stands_beside_a_whole_network_is_ignored(tmp_path):
    state = prefixed("model.", made(1).state_dict()) | {"criterion.weight": torch.ones(3)}
    torch.save({"state_dict": state}, tmp_path / "lightning.ckpt")
    net = made()
    load_file(net, tmp_path / "lightning.ckpt")
    assert same(net.state_dict(), made(1).state_dict())


def test_without_a_prefix_nothing_may_stand_beside(tmp_path):
    torch.save(made(1).state_dict() | {"head.weight": torch.ones(3)}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"w.pt does not fit this network: head.weight is unexpected"):
        load_file(made(), tmp_path / "w.pt")


def test_of_two_networks_that_fit_none_is_guessed(tmp_path):
    two = prefixed("student.", made(1).state_dict()) | prefixed("teacher.", made(2).state_dict())
    torch.save(two, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"holds 2 networks that fit, under student\., teacher\."):
        load_file(made(), tmp_path / "w.pt")


def test_the_differences_are_said_without_the_prefix(tmp_path):
    state = prefixed("module.", Net(4).state_dict())
    del state["module.conv.bias"]
    torch.save(state, tmp_path / "w.pt")
    before = {name: t.clone() for name, t in made().state_dict().items()}
    net = made()
    with pytest.raises(CheckpointError) as caught:
        load_file(net, tmp_path / "w.pt")
    assert "conv.bias is missing; conv.weight is [4, 1, 3, 3] and should be [3, 1, 3, 3]" in one_sentence(caught)
    assert same(net.state_dict(), before)


def test_the_surrogates_alpha_of_old_files_is_left_out_unless_the_network_has_one(tmp_path):
    class Node(nn.Module):
        def __init__(self):
            super().__init__()
            self.surrogate_function = nn.Module()
            self.surrogate_function.alpha = nn.Parameter(torch.tensor(2.0))

    state = nn.Sequential(nn.Linear(2, 2)).state_dict() | {"1.surrogate_function.alpha": torch.tensor(3.0)}
    torch.save(state, tmp_path / "w.pt")
    plain, learned = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2), Node())
    load_file(plain, tmp_path / "w.pt")
    load_file(learned, tmp_path / "w.pt")
    assert torch.equal(plain[0].weight, state["0.weight"])
    assert learned[1].surrogate_function.alpha == 3
    torch.save(prefixed("module.", state), tmp_path / "w.pt")
    load_file(learned, tmp_path / "w.pt")
    assert learned[1].surrogate_function.alpha == 3


def test_what_the_neurons_of_snntorch_hold_is_loaded_with_the_weights(tmp_path):
    snn = pytest.importorskip("snntorch")
    trained, net = (nn.Sequential(nn.Linear(2, 2), snn.Leaky(beta=beta, threshold=2 * beta)) for beta in (0.5, 0.9))
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    load_file(net, tmp_path / "w.pt")
    assert (net[1].beta.item(), net[1].threshold.item()) == (0.5, 1.0)


def test_layers_that_do_not_know_their_width_yet_take_the_files(tmp_path):
    torch.save(nn.Linear(5, 2).state_dict(), tmp_path / "w.pt")
    lazy = nn.LazyLinear(2)
    load_file(lazy, tmp_path / "w.pt")
    assert lazy.weight.shape == (2, 5)


# --- what is refused, and never executed


class Bomb:
    """Unpickled, it writes a file."""

    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


class Module(Net):
    def __reduce__(self):
        return Bomb().__reduce__()


BOMBS = {
    "alone": lambda path: torch.save(Bomb(), path),
    "among tensors": lambda path: torch.save({"conv.weight": torch.ones(2), "x": Bomb()}, path),
    "beside the state dict": lambda path: torch.save({"state_dict": made().state_dict(), "args": Bomb()}, path),
    "as a network": lambda path: torch.save(Module(), path),
    "in an old file": lambda path: torch.save({"x": Bomb()}, path, **OLD),
    "a plain pickle": lambda path: path.write_bytes(pickle.dumps({"x": Bomb()})),
    "an old plain pickle": lambda path: path.write_bytes(pickle.dumps({"x": Bomb()}, protocol=2)),
    "protocol 0": lambda path: path.write_bytes(pickle.dumps(Bomb(), protocol=0)),
}


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
@pytest.mark.parametrize("save", BOMBS.values(), ids=BOMBS)
def test_nothing_is_executed(tmp_path, monkeypatch, save, ending):
    monkeypatch.chdir(tmp_path)
    path = Path(f"best.{ending}")
    save(path)
    with pytest.raises(CheckpointError) as caught:
        read_state_dict(path)
    assert not Path("exploded").exists()
    assert str(path) in one_sentence(caught)


def test_the_bombs_do_explode_where_pickles_are_trusted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    BOMBS["among tensors"](Path("best.pt"))
    torch.load("best.pt", weights_only=False)
    assert Path("exploded").exists()


def test_the_class_that_would_be_executed_is_named(tmp_path):
    torch.save(made(), tmp_path / "best.pt")
    with pytest.raises(CheckpointError) as caught:
        read_state_dict(tmp_path / "best.pt")
    text = one_sentence(caught)
    assert f"holds a pickled object of {Net.__module__}.Net, and loading it would execute code" in text


class Shell:
    """Unpickled, it runs a command, by a function of a module that PyTorch has blocked."""

    def __reduce__(self):
        return os.system, ("touch exploded",)


@pytest.mark.parametrize("options", [{}, OLD], ids=["zip", "old"])
@pytest.mark.parametrize("nested", [lambda bomb: bomb, lambda bomb: {"weight": bomb}], ids=["alone", "nested"])
def test_a_command_is_reported_as_code_and_not_as_damage(tmp_path, monkeypatch, options, nested):
    monkeypatch.chdir(tmp_path)
    torch.save(nested(Shell()), "best.pt", **options)
    with pytest.raises(CheckpointError) as caught:
        read_state_dict("best.pt")
    assert not Path("exploded").exists()
    text = one_sentence(caught)
    assert text == (
        f"best.pt calls {os.system.__module__}.system when it is loaded, which weights never do: delete it, do not load it"
    )
    with contextlib.suppress(AttributeError):  # of a number, which is what the command returns
        torch.load("best.pt", weights_only=False)
    assert Path("exploded").exists()  # it was alive


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda t: t.to(torch.int8), "is of int8 and should be of float32"),
        (lambda t: t.to_sparse(), "is sparse_coo and should be dense"),
        (lambda t: t * float("inf"), "has values that are not finite"),
    ],
)
def test_a_file_of_what_cannot_be_weights_changes_nothing(tmp_path, spoil, text):
    other = made(1).state_dict()
    torch.save(other | {"norm.weight": spoil(other["norm.weight"])}, tmp_path / "w.pt")
    net = made()
    with pytest.raises(CheckpointError) as caught:
        load_file(net, tmp_path / "w.pt")
    assert one_sentence(caught).endswith(f"w.pt does not fit this network: norm.weight {text}")
    assert same(net.state_dict(), made().state_dict())


def test_a_class_of_a_script_has_to_be_imported_to_convert(tmp_path, monkeypatch):
    monkeypatch.setattr(Net, "__module__", "__main__")
    monkeypatch.setattr("__main__.Net", Net, raising=False)
    torch.save(made(), tmp_path / "best.pt")
    with pytest.raises(CheckpointError, match=r"import torch; from your_script import Net; torch.save\("):
        read_state_dict(tmp_path / "best.pt")


CONVERTIBLE = {
    "a network": lambda state, path: torch.save(made(), path),
    "a network in an old file": lambda state, path: torch.save(made(), path, **OLD),
    "settings beside": lambda state, path: torch.save({"state_dict": state, "args": argparse.Namespace(lr=0.1)}, path),
    "settings in an old file": lambda state, path: torch.save(
        {"net": state, "args": argparse.Namespace()}, path, **OLD
    ),
    "numbers of NumPy": lambda state, path: torch.save({"model": state, "acc": np.float64(0.5)}, path),
    "among tensors": lambda state, path: torch.save(state | {"args": argparse.Namespace(lr=0.1)}, path),
    "a plain pickle": lambda state, path: path.write_bytes(pickle.dumps(state)),
}


@pytest.mark.parametrize("name", ["best.pt", "it's the best.pth", "runs/$HOME/best.ckpt"])
@pytest.mark.parametrize("save", CONVERTIBLE.values(), ids=CONVERTIBLE)
def test_the_command_converts(tmp_path, monkeypatch, save, name):
    monkeypatch.chdir(tmp_path)
    path, state = Path(name), dict(made().state_dict())
    path.parent.mkdir(parents=True, exist_ok=True)
    save(state, path)
    with pytest.raises(CheckpointError) as caught:
        read_state_dict(path)
    command = one_sentence(caught).split("`")[1]
    python, option, code = shlex.split(command)
    assert (python, option) == ("python", "-c")
    exec(code)
    assert same(read_state_dict(path.with_name(f"{path.stem}-weights.pt")), state)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning", "ignore:.*torch.jit.*:DeprecationWarning")
def test_a_program_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "best.pt")
    with pytest.raises(
        CheckpointError, match=r"holds a TorchScript program.*torch.jit.load\(.*best.pt'\).state_dict\(\)"
    ):
        read_state_dict(tmp_path / "best.pt")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({}, "holds no tensors"),
        ({"epoch": 3}, "holds no tensors"),
        ({"state_dict": {}}, "holds no tensors"),
        (torch.ones(2), "holds one tensor without a name"),
        ([torch.ones(2)], "holds a list, not tensors by name"),
        ({"generator": {"a": torch.ones(2)}, "critic": {"a": torch.ones(2)}}, "holds generator, critic, none of which"),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path, content, text):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError) as caught:
        read_state_dict(tmp_path / "w.pt")
    assert f"w.pt {text}" in one_sentence(caught)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"no weights at .*gone.pt: there is no such file"):
        read_state_dict(tmp_path / "gone.pt")
    with pytest.raises(CheckpointError, match=r"no weights at .*: there is a folder"):
        read_state_dict(tmp_path)
    (tmp_path / "w.pt").touch()
    with pytest.raises(CheckpointError, match=r"w.pt is empty: it has 0 bytes"):
        read_state_dict(tmp_path / "w.pt")


@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
def test_every_truncation_is_refused_by_name(tmp_path, kind):
    path = tmp_path / f"best.{'safetensors' if kind == 'safetensors' else 'pt'}"
    state = made().state_dict()
    save_file(dict(state), path) if kind == "safetensors" else torch.save(state, path, **(OLD if kind == "old" else {}))
    whole = path.read_bytes()
    for length in {*range(1, len(whole), max(1, len(whole) // 40)), len(whole) - 1}:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"best\.") as caught:
            read_state_dict(path)
        one_sentence(caught)


def test_a_flipped_bit_in_a_tensor_is_noticed_in_zip_files(tmp_path):
    path, state = tmp_path / "best.pt", made().state_dict()
    torch.save(state, path)
    whole = path.read_bytes()
    at = whole.index(state["conv.weight"].numpy().tobytes())
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(CheckpointError, match=r"best.pt is damaged, or no file of weights \(its part best/data/\d"):
        read_state_dict(path)


@pytest.mark.parametrize(
    "content", [b"not weights", b"\xff" * 64, b"PK\x03\x04" + b"\0" * 60, b"\x80\x02}q\x00."], ids=repr
)
@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_other_files_are_refused(tmp_path, content, ending):
    path = tmp_path / f"w.{ending}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"w.{ending} (is damaged, or no file of weights|holds)") as caught:
        read_state_dict(path)
    one_sentence(caught)


def test_any_damage_is_a_checkpoint_error(tmp_path):
    path = tmp_path / "w.pt"
    torch.save(made().state_dict(), path, **OLD)
    whole, draw = path.read_bytes(), np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(whole)
        for at in draw.integers(0, 300, 3):
            damaged[at] = draw.integers(0, 256)
        path.write_bytes(damaged)
        with contextlib.suppress(CheckpointError):  # nothing else; or other bytes of a name, which are as good
            read_state_dict(path)
