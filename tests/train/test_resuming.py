"""A run that was stopped at any moment goes on to the same weights; another run is refused."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.conftest import small_snn
from tests.train.making import Killed, data, figures, files, network, stopping, train

from robustspike import checkpoints
from robustspike.attacks import PGD
from robustspike.balls import Linf
from robustspike.checkpoints import CheckpointError, fingerprint, load_model, read_tensors, save_model
from robustspike.defences import Objective, at, sr
from robustspike.models import digits_cnn

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]
ATTACKED = at(PGD(Linf(0.1), steps=2))
CHEAP = PGD(Linf(0.05), steps=1)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("call", [1, 4, 8, 12], ids=["first step", "after epoch 1", "in epoch 3", "in the last step"])
@pytest.mark.parametrize("save_every", [None, 1])
def test_a_killed_run_resumes_to_the_same_weights(tmp_path, optimizer, call, save_every):
    options = {"optimizer": optimizer, "validation": data(8, seed=1), "schedule": "one-cycle"}
    whole, log = train(objective=stopping(0), **options, out=tmp_path / "whole")
    options["save_every"] = save_every
    with pytest.raises(Killed):
        train(objective=stopping(call), **options, out=tmp_path / "cut")
    done = call - 1 if save_every else (call - 1) // 3 * 3
    for name in ("weights.safetensors", "state.safetensors"):
        (tmp_path / "cut").mkdir(exist_ok=True)
        (tmp_path / "cut" / f".{name}.1.unfinished").write_bytes(b"half a file")
    again = stopping(0)
    model, log_again = train(
        network(seed=9) if done else network(), again, **options, out=tmp_path / "cut", resume=True
    )
    assert again.parts[0].term.calls == 12 - done
    assert fingerprint(model) == fingerprint(whole)
    assert figures(log_again) == figures(log)
    for name in ("weights.safetensors", "best.safetensors"):
        assert fingerprint(load_model(tmp_path / "cut" / name)) == fingerprint(load_model(tmp_path / "whole" / name))


EVERYTHING = {
    "ema": 0.9, "clip_norm": 1.0, "warmup_epochs": 1.5, "augmentation": "cutout", "micro_batch": 5, "optimizer": "adam",
    "schedule": "one-cycle", "validation_attack": CHEAP, "validation_limit": 4, "save_every": 2,
}  # fmt: skip


def everything(model, out, objective=ATTACKED, **options):
    return train(model, objective, out=out, validation=data(8, seed=1), **EVERYTHING | options)


KILLING = """
import os, signal, sys
from pathlib import Path
import torch
from tests.conftest import small_snn
from tests.train.test_resuming import everything
from robustspike.defences import Objective

torch.set_num_threads(1)
call, calls = Objective.__call__, []

def counted(self, *arguments, **options):
    calls.append(None)
    if len(calls) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return call(self, *arguments, **options)

Objective.__call__ = counted
everything(small_snn(encoder="poisson"), Path(sys.argv[1]))
"""


def test_a_process_killed_within_an_epoch_resumes_bit_for_bit(tmp_path):
    """SIGKILL in the third step of epoch 2 (2 + 2 + 1 micro-batches each), the state being of the second."""
    whole, log = everything(small_snn(encoder="poisson"), tmp_path / "whole")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLING, str(tmp_path / "cut"), "10"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == -signal.SIGKILL, done.stderr
    position = read_tensors(tmp_path / "cut" / "state.safetensors")[1]["position"]
    assert (len(position["log"]), position["step"], position["seen"]) == (1, 2, 16)
    torch.manual_seed(77)
    other = small_snn(encoder="poisson")
    with torch.no_grad():
        other.head.weight.normal_()
    again, log_again = everything(other, tmp_path / "cut", resume=True)
    assert figures(log_again) == figures(log)
    assert log[0].validation_robust is not None
    assert fingerprint(again) == fingerprint(whole)
    for name in ("weights.safetensors", "best.safetensors"):
        assert read_tensors(tmp_path / "cut" / name)[1] == read_tensors(tmp_path / "whole" / name)[1]
    mine, theirs = (read_tensors(tmp_path / name / "state.safetensors")[0] for name in ("cut", "whole"))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert {name.split(".")[0] for name in mine} == {"model", "average", "optimizer"}


@pytest.mark.parametrize("write", range(1, 9))
def test_a_kill_between_two_files_loses_no_more_than_an_epoch(tmp_path, monkeypatch, write):
    """Each epoch replaces best (here: as it happens), weights, log and state in turn."""
    whole = fingerprint(train()[0])
    replace, calls = os.replace, []

    def counted(source, target):
        calls.append(target)
        if len(calls) == write:
            raise Killed
        replace(source, target)

    with monkeypatch.context() as m:
        m.setattr(os, "replace", counted)
        with pytest.raises(Killed):
            train(out=tmp_path)
    again, log = train(out=tmp_path, resume=True)
    assert fingerprint(again) == whole
    assert len(log) == 4
    assert fingerprint(load_model(tmp_path)) == whole


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    train(out=tmp_path, epochs=4, objective=stopping(0))
    state, written = (tmp_path / "state.safetensors"), []
    before = fingerprint(load_model(tmp_path))

    def full(path, content):
        written.append(path)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints.Path, "write_bytes", full)
    state.unlink()
    with pytest.raises(OSError, match="No space left"):
        train(out=tmp_path, epochs=1, resume=True)
    assert written
    assert fingerprint(load_model(tmp_path)) == before


@pytest.mark.parametrize("ema", [0, 0.9])
def test_a_finished_run_resumes_to_itself(tmp_path, monkeypatch, ema):
    model, log = train(out=tmp_path, ema=ema)
    before = files(tmp_path)
    monkeypatch.setattr(Objective, "__call__", None)  # training on would raise
    again, log_again = train(network(seed=5), out=tmp_path, resume=True, ema=ema)
    assert log_again == log
    assert fingerprint(again) == fingerprint(model)
    assert files(tmp_path) == before


def test_resume_without_a_run_starts_one(tmp_path):
    assert fingerprint(train(out=tmp_path / "new", resume=True)[0]) == fingerprint(train()[0])


def test_what_only_says_where_and_how_often_may_differ_on_resume(tmp_path):
    with pytest.raises(Killed):
        train(objective=stopping(5), out=tmp_path, save_every=1)
    model, _ = train(objective=stopping(0), out=tmp_path, save_every=2, tensorboard=True, resume=True)
    assert fingerprint(model) == fingerprint(train(objective=stopping(0))[0])


def test_a_folder_in_use_is_refused_without_resume(tmp_path):
    train(out=tmp_path, epochs=1)
    before = files(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"holds a training run already; resume it \(--resume\), or choose another"
    ):
        train(out=tmp_path, epochs=1)
    assert files(tmp_path) == before


def test_weights_that_are_there_are_not_written_over(tmp_path):
    save_model(network(seed=1), tmp_path / "weights.safetensors")
    before = files(tmp_path)
    with pytest.raises(CheckpointError, match="choose another folder"):
        train(out=tmp_path, epochs=1)
    assert files(tmp_path) == before


OTHERS = {
    "epochs": {"epochs": 5},
    "batch_size": {"batch_size": 7},
    "lr": {"lr": 0.02},
    "optimizer": {"optimizer": "adam"},
    "momentum": {"momentum": 0.5},
    "weight_decay": {"weight_decay": 0.0},
    "schedule": {"schedule": "constant"},
    "crop_padding": {"crop_padding": 0},
    "flip": {"flip": False},
    "precision": {"precision": "bf16-mixed"},
    "seed": {"seed": 1},
    "n": {"split": data(16)},
    "data_fingerprint": {"split": data(20, seed=5)},
    "objective": {"objective": sr()},
    "warmup_epochs": {"warmup_epochs": 1},
    "ema": {"ema": 0.9},
    "clip_norm": {"clip_norm": 1.0},
    "augmentation": {"augmentation": "cutout"},
    "micro_batch": {"micro_batch": 4},
    "validation_attack": {"validation": data(8), "validation_attack": CHEAP},
    "validation_limit": {"validation_limit": 3},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    train(out=folder, epochs=4)
    return folder


@pytest.mark.parametrize("field", OTHERS)
def test_other_settings_are_refused_on_resume_naming_the_field(finished, field):
    before = files(finished)
    with pytest.raises(CheckpointError, match=rf"belongs to another run: (.*, )?{field}(, .*)? differ; choose another"):
        train(**{"out": finished, "resume": True} | OTHERS[field])
    assert files(finished) == before


def test_every_setting_is_told_apart():
    from dataclasses import fields

    from robustspike.train import Schedule

    assert {f.name for f in fields(Schedule)} - set(OTHERS) == {"architecture"}


@pytest.mark.parametrize(
    "pair",
    [(sr(0.1), sr(0.2)), (sr(0.1), sr(0.1, penalty="square")), (ATTACKED, at(PGD(Linf(0.2), steps=2)))],
    ids=["weight", "penalty", "attack"],
)
def test_another_setting_of_the_objective_is_refused_on_resume(tmp_path, pair):
    train(objective=pair[0], out=tmp_path, epochs=1)
    with pytest.raises(CheckpointError, match="belongs to another run: objective differ"):
        train(objective=pair[1], out=tmp_path, epochs=1, resume=True)


def test_another_architecture_is_refused_on_resume(tmp_path):
    train(out=tmp_path, epochs=1)
    with pytest.raises(CheckpointError, match=r"state.safetensors belongs to another run: architecture differ"):
        train(digits_cnn(num_classes=6, time_steps=1), out=tmp_path, epochs=1, resume=True)


def test_the_state_of_an_earlier_version_is_refused(tmp_path):
    train(out=tmp_path, epochs=1)
    tensors, record = read_tensors(tmp_path / "state.safetensors")
    del record["schedule"]["clip_norm"]
    checkpoints.write_tensors(tmp_path / "state.safetensors", tensors, json.loads(json.dumps(record)))
    with pytest.raises(CheckpointError, match="belongs to another run: clip_norm differ"):
        train(out=tmp_path, epochs=1, resume=True)


@pytest.mark.parametrize("length", [0, 100, -1])
def test_a_damaged_state_is_refused_by_name(tmp_path, length):
    train(out=tmp_path, epochs=1)
    state = tmp_path / "state.safetensors"
    state.write_bytes(state.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"state.safetensors is no readable safetensors file"):
        train(out=tmp_path, epochs=1, resume=True)
