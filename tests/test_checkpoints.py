"""Checkpoints: bit-exact round trips, a sentence for every kind of damage, and files that are whole or not there."""

import errno
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from robustspike import checkpoints
from robustspike.checkpoints import (
    CheckpointError,
    fingerprint,
    load_model,
    load_weights,
    read_tensors,
    save_model,
    settings_text,
    tensors_fingerprint,
    unfit,
    write_tensors,
)
from robustspike.models import digits_cnn
from robustspike.surrogates import Sigmoid
from robustspike.writing import write_text

pytestmark = pytest.mark.usefixtures("one_thread")


def network(seed=0, **options):
    torch.manual_seed(seed)
    model = digits_cnn(**{"num_classes": 3, "time_steps": 1} | options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
    return model


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_tensors(path, {"b": torch.arange(3.0), "a": torch.tensor([[1, 2]])}, {"epoch": 3})
    return path


def test_a_network_comes_back_bit_for_bit(tmp_path):
    model = network(leak=0.9, threshold=0.7, surrogate=Sigmoid(3.0), mean=(0.3,), std=(0.2,), readout="spikes")
    save_model(model, tmp_path / "deep" / "w.safetensors", epoch=3)
    again = load_model(tmp_path / "deep" / "w.safetensors")
    assert again.settings.record() == model.settings.record()
    for name, t in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], t), name
    assert not again.training
    x = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(again(x), model.eval()(x))
    assert read_tensors(tmp_path / "deep" / "w.safetensors")[1]["history"] == {"epoch": 3}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_network_of_another_type_comes_back_in_its_type(tmp_path, dtype):
    model = network().to(dtype)
    nn.init.normal_(model.head.bias)
    save_model(model, tmp_path / "w.safetensors")
    assert fingerprint(load_model(tmp_path / "w.safetensors")) == fingerprint(model)


def test_a_folder_stands_for_its_weights(tmp_path):
    save_model(network(), tmp_path / "weights.safetensors")
    assert fingerprint(load_model(tmp_path)) == fingerprint(network())


def test_tensors_of_every_kind_come_back(tmp_path):
    tensors = {
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 4),
        "strided": torch.arange(6.0).reshape(2, 3).T,
        "half": torch.randn(3).to(torch.bfloat16),
        "flags": torch.tensor([True, False]),
        "odd": torch.tensor([float("nan"), float("inf"), -0.0]),
    }
    write_tensors(tmp_path / "t", tensors, {"ünïcode": [1, None]})
    again, record = read_tensors(tmp_path / "t")
    assert record == {"ünïcode": [1, None]}
    assert again.keys() == tensors.keys()
    assert tensors_fingerprint(again) == tensors_fingerprint(tensors)
    assert all(again[n].dtype == t.dtype and again[n].shape == t.shape for n, t in tensors.items())


def test_the_fingerprint_sees_names_shapes_types_and_contents_but_no_order():
    t = torch.arange(4.0)
    base = tensors_fingerprint({"a": t, "b": t + 1})
    assert tensors_fingerprint({"b": t + 1, "a": t}) == base
    others = [{"a": t, "c": t + 1}, {"a": t, "b": t}, {"a": t.reshape(2, 2), "b": t + 1}, {"a": t.double(), "b": t + 1}]
    assert base not in {tensors_fingerprint(o) for o in others}
    assert len(base) == 16


# Damage


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"^no checkpoint at .*gone.safetensors; train one with"):
        load_model(tmp_path / "gone.safetensors")
    with pytest.raises(CheckpointError, match=r"^no checkpoint at .*weights.safetensors"):
        load_model(tmp_path)


def test_every_truncation_is_refused(saved):
    whole = saved.read_bytes()
    for length in range(len(whole)):
        saved.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"weights.safetensors"):
            read_tensors(saved)


def test_every_flipped_bit_of_the_tensors_is_refused_by_name(saved):
    whole = saved.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    assert len(whole) - header == 3 * 4 + 2 * 8
    for position in range(header, len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[position] ^= 1 << bit
            saved.write_bytes(bytes(changed))
            with pytest.raises(CheckpointError, match=r"weights.safetensors is damaged: .* its fingerprint"):
                read_tensors(saved)


def test_every_flipped_bit_is_refused_by_name(saved):
    whole = saved.read_bytes()
    for position in range(len(whole)):
        for bit in (0, 6):
            changed = bytearray(whole)
            changed[position] ^= 1 << bit
            saved.write_bytes(bytes(changed))
            with pytest.raises(CheckpointError, match=r"weights.safetensors"):
                read_tensors(saved)


def test_flipped_bits_in_the_architecture_of_a_network_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_model(network(), path)
    whole = path.read_bytes()
    start = whole.index(b"record")
    for position in range(start, start + 500, 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(CheckpointError, match=r"weights.safetensors"):
            load_model(path)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\xff" * 64, b"PK\x03\x04" + b"\0" * 60], ids=repr)
def test_another_file_is_refused(tmp_path, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"w.safetensors is no readable safetensors file"):
        read_tensors(path)


class Explosive:
    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


@pytest.mark.parametrize("protocol", ["pickle", "torch"])
def test_nothing_is_unpickled(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.safetensors"
    if protocol == "pickle":
        path.write_bytes(pickle.dumps(Explosive()))
    else:
        torch.save({"weights": Explosive()}, path)
    with pytest.raises(CheckpointError, match="no readable safetensors file"):
        load_model(path)
    assert not Path("exploded").exists()


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}], ids=str)
def test_a_foreign_safetensors_file_is_refused(tmp_path, metadata):
    save_file({"a": torch.zeros(2)}, tmp_path / "w", metadata=metadata)
    with pytest.raises(CheckpointError, match="w was not written by robustspike: its header lacks the format"):
        load_model(tmp_path / "w")


def test_tensors_without_a_network_are_refused_as_a_network(saved):
    with pytest.raises(CheckpointError, match=r"holds no network \(its record has epoch\)"):
        load_model(saved)


@pytest.mark.parametrize(
    "change", [{"name": "resnet"}, {"colour": "red"}, {"surrogate": {"name": "square"}}, {"time_steps": 0}], ids=str
)
def test_a_network_that_this_version_cannot_build_is_refused_by_file(tmp_path, change):
    path = tmp_path / "w.safetensors"
    model = network()
    write_tensors(path, model.state_dict(), {"model": model.settings.record() | change})
    with pytest.raises(CheckpointError, match=r"w.safetensors"):
        load_model(path)


def test_weights_of_another_architecture_are_refused_with_the_first_differences(tmp_path):
    wide, path = network(num_classes=5), "somewhere"
    with pytest.raises(CheckpointError) as caught:
        load_weights(network(), wide.state_dict(), path)
    assert str(caught.value) == (
        "somewhere does not fit this network: head.weight is [5, 256] and should be [3, 256]; "
        "head.bias is [5] and should be [3]"
    )
    with pytest.raises(CheckpointError, match=r"0.weight is missing; .*; a is unexpected; b is unexpected and 1 more$"):
        load_weights(nn.Sequential(nn.Linear(1, 1)), dict.fromkeys("abc", torch.zeros(1)), path)
    before = fingerprint(network())
    model = network()
    with pytest.raises(CheckpointError):
        load_weights(model, wide.state_dict(), path)
    assert fingerprint(model) == before


NO_WEIGHTS = {
    "is of complex64 and should be of float32": lambda t: t + 1j,
    "is of int8 and should be of float32": lambda t: t.to(torch.int8),
    "is of bool and should be of float32": lambda t: t > 0,
    "has values that are not finite": lambda t: t.index_fill(0, torch.tensor([1]), float("nan")),
    "has values too large for float32": lambda t: t.double().index_fill(0, torch.tensor([1]), 1e39),
    "is on the meta device and has no values": lambda t: t.to("meta"),
    "is sparse_coo and should be dense": lambda t: t.to_sparse(),
    "is quantized and should be dequantized first": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    "is nested and should be dense": lambda t: torch.nested.as_nested_tensor(list(t)),
}


@pytest.mark.filterwarnings("ignore:.*quantize.*:UserWarning", "ignore:.*nested.*:UserWarning")
@pytest.mark.parametrize("sentence", NO_WEIGHTS)
def test_what_cannot_be_weights_is_refused_before_anything_is_copied(sentence):
    model, before = network(), fingerprint(network())
    other = network(1).state_dict()
    other["head.weight"] = NO_WEIGHTS[sentence](other["head.weight"])
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, other, "somewhere")
    assert str(caught.value) == f"somewhere does not fit this network: head.weight {sentence}"
    assert fingerprint(model) == before


def test_other_precisions_of_the_same_kind_are_taken_as_they_are_rounded():
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        model, other = nn.Linear(2, 2), nn.Linear(2, 2).to(dtype)
        load_weights(model, other.state_dict(), "somewhere")
        assert torch.equal(model.weight, other.weight.float())


def test_counts_are_not_taken_from_floats_nor_flags_from_counts():
    count, flag, real = torch.tensor([1]), torch.tensor([True]), torch.tensor([1.0])
    assert unfit(count, real) == "is of float32 and should be of int64"
    assert unfit(flag, count) == "is of int64 and should be of bool"
    assert unfit(count, count.int()) is None
    assert unfit(torch.ones(1, dtype=torch.float16), real * 7e4) == "has values too large for float16"
    assert unfit(real, real.to(torch.float8_e4m3fn)) is None
    assert unfit(torch.ones(1, dtype=torch.complex64), real * 1j) is None


def test_infinite_values_are_taken_where_the_models_own_are():
    own = torch.tensor([0.0, float("-inf")])
    assert unfit(own, torch.tensor([1.0, float("-inf")])) is None
    for other in ([float("-inf"), 1.0], [1.0, float("inf")], [1.0, float("nan")]):
        assert unfit(own, torch.tensor(other)) == "has values that are not finite"
    assert unfit(own, torch.tensor([1.0, -1e39], dtype=torch.float64)) == "has values too large for float32"


# Files are whole or not there


def full_disk(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


WAYS = {"replace": (os, "replace"), "write": (Path, "write_bytes"), "killed": (Path, "write_bytes")}


@pytest.mark.parametrize("way", WAYS)
def test_a_failed_write_leaves_the_old_file_whole(saved, monkeypatch, way):
    before = saved.read_bytes()

    def fails(path, content):
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise KeyboardInterrupt

    owner, name = WAYS[way]
    monkeypatch.setattr(owner, name, fails if way == "killed" else full_disk)
    with pytest.raises((OSError, KeyboardInterrupt)):
        write_tensors(saved, {"a": torch.ones(1000)}, {})
    monkeypatch.undo()
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_what_a_killed_process_left_behind_disturbs_nothing(saved):
    saved.with_name(f".{saved.name}.123.unfinished").write_bytes(b"half")
    assert read_tensors(saved)[1] == {"epoch": 3}
    write_tensors(saved, {"a": torch.ones(1)}, {"epoch": 4})
    assert read_tensors(saved)[1] == {"epoch": 4}


def test_functions_made_by_one_function_are_told_apart_by_what_they_hold():
    def made(w):
        return lambda z, y: w * z[:, 0]

    def named(w):
        def loss(z, y, *, scale=w):
            return scale * z[:, 0]

        return loss

    for make in (made, named):
        assert checkpoints.settings_text(make(1.0)) == checkpoints.settings_text(make(1.0))
        assert checkpoints.settings_text(make(1.0)) != checkpoints.settings_text(make(-1.0))


def test_tied_weights_are_written_each_by_itself(tmp_path):
    weight = torch.rand(3, 2)
    write_tensors(tmp_path / "w.safetensors", {"a": weight, "b": weight, "c": weight.T}, {})
    tensors, _ = read_tensors(tmp_path / "w.safetensors")
    assert torch.equal(tensors["a"], weight)
    assert torch.equal(tensors["b"], weight)
    assert torch.equal(tensors["c"], weight.T)


class Scaled:
    """A loss that is a method."""

    def __init__(self, by):
        self.by = by

    def loss(self, z, y):
        return self.by * z[:, 0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda z: z.sin(), lambda z: z.cos()),
        (lambda z: (lambda: z + 1)(), lambda z: (lambda: z + 2)()),
        (Scaled(1).loss, Scaled(2).loss),
    ],
    ids=["names", "inner", "methods"],
)
def test_functions_that_do_something_else_have_another_text(one, other):
    assert settings_text(one) != settings_text(other)
    assert settings_text(one) == settings_text(one)


def test_text_is_written_in_utf8_whatever_the_machine_speaks(tmp_path, monkeypatch):
    monkeypatch.setattr("locale.getpreferredencoding", lambda *_: "ascii")
    write_text(tmp_path / "a.txt", "L∞ ε")
    assert (tmp_path / "a.txt").read_bytes() == "L∞ ε".encode()
