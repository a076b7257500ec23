"""The files of a run."""

import json

import pytest
from tests.train.making import data, files, train, watched

from robustspike.attacks import PGD
from robustspike.balls import Linf
from robustspike.checkpoints import read_tensors
from robustspike.defences import sr

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_log_has_one_line_for_each_epoch(tmp_path):
    options = {"validation": data(8, seed=1), "validation_attack": PGD(Linf(0.1), steps=1)}
    _, log = train(out=tmp_path, **options)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3]
    assert [line["loss"] for line in lines] == [row.loss for row in log]
    assert all(0 <= line["validation_robust"] <= line["validation_accuracy"] <= 1 for line in lines)
    assert all(line["seconds"] > 0 for line in lines)


def test_the_checkpoint_says_where_it_comes_from(tmp_path):
    model, _ = train(out=tmp_path, objective=sr(0.1))
    _, record = read_tensors(tmp_path / "weights.safetensors")
    assert record["model"] == model.settings.record()
    assert record["history"]["epochs_done"] == 4
    schedule = record["history"]["schedule"]
    assert (schedule["epochs"], schedule["batch_size"], schedule["n"]) == (4, 8, 20)
    assert not (tmp_path / "best.safetensors").exists()
    assert sorted(files(tmp_path)) == ["log.jsonl", "state.safetensors", "weights.safetensors"]


def test_a_state_within_an_epoch_is_all_that_is_written_there(tmp_path):
    """Steps 2 of 3: nothing but the state; its sums are those of 16 samples."""
    states = []

    def looking(batch, loss, call):
        if call == 3:
            assert files(tmp_path).keys() == {"state.safetensors"}
            states.append(read_tensors(tmp_path / "state.safetensors")[1]["position"])
        return loss

    train(objective=watched(looking), out=tmp_path, save_every=2, epochs=1)
    (position,) = states
    assert (position["step"], position["seen"], position["log"], position["micro_batch"]) == (2, 16, [], None)
    assert position["seconds"] > 0
