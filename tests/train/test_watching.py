"""The event file that TensorBoard reads."""

import struct

import pytest
import torch
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event
from tests.conftest import small_snn
from tests.train.making import Killed, data, network, stopping, train

from robustspike.attacks import PGD
from robustspike.balls import Linf
from robustspike.train import TENSORBOARD
from robustspike.train.watching import EVENTS, Events

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = {"epochs": 5, "batch_size": 4, "validation": data(8, seed=1), "validation_attack": PGD(Linf(0.1), steps=1)}


def unmask(checksum):
    """TFRecord's masked checksums: rotated right by 15 bits, plus a constant."""
    rotated = (checksum - 0xA282EAD8) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF


def events(folder):
    data, found = (folder / TENSORBOARD / EVENTS).read_bytes(), []
    while data:
        length, check = struct.unpack("<QI", data[:12])
        assert unmask(check) == crc32c(data[:8])
        record, data = data[12 : 12 + length], data[12 + length :]
        (check,), data = struct.unpack("<I", data[:4]), data[4:]
        assert unmask(check) == crc32c(record)
        found.append(Event.FromString(record))
    return found


def scalars(folder):
    """{tag: [(step, value), ...]}"""
    curves = {}
    for event in events(folder):
        for value in event.summary.value:
            curves.setdefault(value.tag, []).append((event.step, value.simple_value))
    return curves


def test_what_is_noted(tmp_path):
    model, log = train(small_snn(), out=tmp_path, tensorboard=True, **OPTIONS)
    assert events(tmp_path)[0].file_version == "brain.Event:2"
    curves = scalars(tmp_path)
    assert [step for step, _ in curves["train/loss"]] == [10, 20]
    rates = [log[1].lr, log[3].lr]  # the cosine changes after every fifth step
    assert curves["train/lr"] == [(step, pytest.approx(rate)) for step, rate in zip((10, 20), rates, strict=True)]
    for tag, name in {
        "validation/clean": "validation_accuracy", "validation/robust": "validation_robust", "seconds": "seconds"
    }.items():  # fmt: skip
        assert curves[tag] == [(5 * row.epoch + 5, pytest.approx(getattr(row, name))) for row in log]
    norms = {tag.removeprefix("spectral/"): value[-1] for tag, value in curves.items() if tag.startswith("spectral/")}
    assert norms.keys() == {"layers.0", "head"}
    for name, norm in norms.items():
        expected = torch.linalg.matrix_norm(model.get_submodule(name).weight.flatten(1), 2).item()
        assert norm == (25, pytest.approx(expected, rel=1e-3))


@pytest.mark.parametrize("call", [3, 9, 14])
def test_a_resumed_run_notes_every_step_once(tmp_path, call):
    options = {"batch_size": 2, "epochs": 2, "validation": data(8, seed=1), "tensorboard": True, "save_every": 4}
    train(network(), stopping(0), out=tmp_path / "whole", **options)
    with pytest.raises(Killed):
        train(network(), stopping(call), out=tmp_path / "cut", **options)
    train(network(), stopping(0), out=tmp_path / "cut", resume=True, **options)
    whole, cut = (scalars(tmp_path / name) for name in ("whole", "cut"))
    for curves in (whole, cut):
        del curves["seconds"]
    assert whole == cut
    assert len(whole["train/loss"]) == 2


def test_what_came_after_the_state_is_forgotten_and_a_torn_end_too(tmp_path):
    before = Events(tmp_path / TENSORBOARD, 0)
    for step in (10, 20, 30):
        before.note(step, {"a": step / 2, "b": None})
    before.close()
    path = tmp_path / TENSORBOARD / EVENTS
    path.write_bytes(path.read_bytes()[:-3])
    after = Events(tmp_path / TENSORBOARD, 15)
    after.note(20, {"a": -1.0})
    after.close()
    assert scalars(tmp_path) == {"a": [(10, 5.0), (20, -1.0)]}
    Events(tmp_path / TENSORBOARD, 0).close()
    assert scalars(tmp_path) == {}


def test_nothing_is_noted_unless_asked_for(tmp_path):
    train(out=tmp_path, epochs=1)
    assert not (tmp_path / TENSORBOARD).exists()
