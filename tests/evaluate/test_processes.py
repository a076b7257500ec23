"""Two processes of torchrun give the figures of one, also after some of their work was lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.test_evaluate import assert_same_rows, data, run, small_snn

from robustspike.results import DOUBTS_FILE, ROWS_FILE, load_outcome, rank_files

pytestmark = pytest.mark.usefixtures("one_thread")
SCRIPT = Path(__file__).with_name("in_processes.py")
ROOT = Path(__file__).parents[2]


def torchrun(scenario, folder):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += [str(SCRIPT), scenario, str(folder)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=240)


def deal(folder, lost):
    """The rows of a finished evaluation as two processes leave them when killed: dealt out, the last ones lost."""
    lines = (folder / ROWS_FILE).read_text().splitlines(keepends=True)
    blocks = [lines[k : k + 2] for k in range(2, len(lines), 2)]
    (folder / ROWS_FILE).write_text("".join(lines[:2]))
    for rank in range(2):
        text = "".join(line for block in blocks[rank::2] for line in block)
        (folder / f"samples.rank{rank}.jsonl").write_text(text[: len(text) - lost * rank])


@pytest.fixture
def cut(tmp_path):
    run(small_snn(), out=tmp_path / "cut", batch_size=2)
    deal(tmp_path / "cut", lost=2500)
    return tmp_path / "cut"


def test_two_processes_are_as_good_as_one(tmp_path, cut):
    expected = run(small_snn(), batch_size=2)
    assert 2 < len(load_outcome(cut, unfinished=True).samples) < 13
    done = torchrun("several", tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"found.{rank}.json").read_text()) for rank in range(2))
    assert repr(first) == repr(second)
    for name in ("whole", "memory", "cut"):
        np.testing.assert_array_equal(np.array(first[name])[:, :, :-1], expected.attempts[:, :, :-1])
    few = run(small_snn(), split=data(2), batch_size=2)
    np.testing.assert_array_equal(np.array(first["one block"])[:, :, :-1], few.attempts[:, :, :-1])
    for folder in (tmp_path / "whole", cut):
        assert_same_rows(load_outcome(folder), expected)
        assert rank_files(folder) == []
        samples = [json.loads(line)["sample"] for line in (folder / ROWS_FILE).read_text().splitlines()]
        assert samples == list(range(13))
    assert first["doubts"] == [3, 2, 0]  # asked for 3; found in process 0, which evaluated two samples by itself
    assert (tmp_path / "whole" / DOUBTS_FILE).exists()
    assert "holds an evaluation already; resume it" in first["refused"]
    assert "were given different evaluations: seed differ" in first["unlike"]


def test_one_process_resumes_what_two_left(cut):
    expected = run(small_snn(), batch_size=2)
    assert_same_rows(run(small_snn(), out=cut, batch_size=2, resume=True), expected)
    assert rank_files(cut) == []
    assert_same_rows(load_outcome(cut), expected)


def test_killed_processes_leave_what_can_be_resumed(tmp_path):
    done = torchrun("killed", tmp_path)
    assert done.returncode != 0
    assert (tmp_path / "samples.rank1.jsonl").exists()
    left = load_outcome(tmp_path, unfinished=True)
    assert 2 <= len(left.samples) < 13
    again = run(small_snn(), out=tmp_path, batch_size=2, resume=True)
    assert_same_rows(again, run(small_snn(), batch_size=2))
    assert rank_files(tmp_path) == []
