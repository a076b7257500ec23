"""Rows read in blocks: the same numbers as read one by one, the same refusals, once while nothing changes."""

import json
import os

import numpy as np
import pytest
from tests.experiment.made_runs import lines_of
from tests.report import made
from tests.test_results import header, row_of, rows, tried, write

from robustspike.results import ATTEMPT_FIELDS, ROWS_FILE, ResultError, load_outcome, outcome_of, read_rows
from robustspike.results import files as module
from robustspike.results.files import reading_once


def one_by_one(header, lines):
    """[N, M, 10] by json and loops: the reference."""
    parsed = sorted(map(json.loads, lines), key=lambda row: row["sample"])
    values = np.full((len(parsed), len(header.members), len(ATTEMPT_FIELDS)), np.nan)
    for i, row in enumerate(parsed):
        for attempt in row["attempts"]:
            values[i, int(attempt["member"])] = [float(attempt[name]) for name in ATTEMPT_FIELDS]
    return values


@pytest.mark.parametrize("survivors_only", [False, True])
@pytest.mark.parametrize("n", [1, 63, 64, 65, 200])
def test_blocks_give_the_numbers_of_single_lines(tmp_path, n, survivors_only):
    outcome = made.outcome(seed=n, n=n, survivors_only=survivors_only)
    lines = lines_of(outcome)
    np.random.default_rng(n).shuffle(lines)
    found = load_outcome(write(tmp_path / "e", lines, outcome.header))
    np.testing.assert_array_equal(found.attempts, one_by_one(outcome.header, lines))
    np.testing.assert_array_equal(found.attempts, outcome.attempts)
    for name in ("samples", "labels", "clean"):
        np.testing.assert_array_equal(getattr(found, name), getattr(outcome, name))
        assert getattr(found, name).dtype == np.int64
    assert read_rows(tmp_path / "e") == list(map(json.loads, lines))


def test_every_float_is_read_to_its_last_bit(tmp_path):
    bits = np.random.default_rng(0).integers(0, 2**63, 4000, dtype=np.int64)
    values = bits.view(np.float64)[np.isfinite(bits.view(np.float64))]
    lines = [row_of(i, 1, 1, [tried(0, False, distance=float(v))]) for i, v in enumerate(values)]
    found = load_outcome(write(tmp_path, lines, header(n=len(values))))
    np.testing.assert_array_equal(found.field("distance")[:, 0].view(np.int64), values.view(np.int64))


def test_numbers_that_json_lacks_and_small_ones(tmp_path):
    odd = [float("nan"), float("inf"), 1e-300, 5e-05, 0.1 + 0.2]
    lines = [row_of(i, 1, 1, [tried(0, False, distance=v)]) for i, v in enumerate(odd)]
    found = load_outcome(write(tmp_path, lines, header(n=len(odd)))).field("distance")[:, 0]
    np.testing.assert_array_equal(found, odd)


@pytest.mark.parametrize("line", [3, 64, 65, 130])
def test_a_damaged_line_is_named_in_any_block(tmp_path, line):
    outcome = made.outcome(n=150)
    lines = lines_of(outcome)
    lines[line - 1] = lines[line - 1][:-20]
    folder = write(tmp_path, lines, outcome.header)
    for read in (load_outcome, read_rows):
        with pytest.raises(ResultError, match=rf"samples.jsonl, line {line} is damaged; delete the folder"):
            read(folder)


@pytest.mark.parametrize("kept", [63, 64, 65])
def test_a_last_line_cut_short_at_the_edge_of_a_block(tmp_path, kept):
    outcome = made.outcome(n=100)
    lines = lines_of(outcome)
    folder = write(tmp_path, lines[:kept], outcome.header)
    with (folder / ROWS_FILE).open("a") as file:
        file.write(lines[kept][:50])
    assert len(load_outcome(folder, unfinished=True).samples) == kept
    with pytest.raises(ResultError, match=f"holds {kept} of 100 samples: the evaluation is not finished; resume it"):
        load_outcome(folder)


@pytest.mark.parametrize(
    "damage",
    [
        {"sample": 1.5},
        {"sample": "1"},
        {"label": None},
        {"clean": [1]},
        {"attempts": 3},
        {"attempts": ["member"]},
        {"attempts": [{**dict.fromkeys(ATTEMPT_FIELDS, 0), "distance": None}]},
        {"attempts": [{**dict.fromkeys(ATTEMPT_FIELDS, 0), "gradients": 10**400}]},
        {"sample": 2**70},
    ],
)
def test_a_line_without_numbers_where_these_belong_is_damaged(tmp_path, damage):
    lines = rows()
    lines[1] = json.dumps(json.loads(lines[1]) | damage)
    with pytest.raises(ResultError, match=r"samples.jsonl, line 2 is damaged"):
        load_outcome(write(tmp_path, lines))


@pytest.mark.parametrize("member", [3, -1, 0.5, 17])
def test_a_member_that_the_header_does_not_list(tmp_path, member):
    lines = [*rows()[:3], row_of(3, 1, 1, [tried(0, False), tried(member, False)])]
    message = rf"sample 3 was tried by member {member}, but the header lists 3, from 0"
    with pytest.raises(ResultError, match=message):
        load_outcome(write(tmp_path, lines))
    with pytest.raises(ResultError, match=message):
        outcome_of(header(), list(map(json.loads, lines)))


def test_a_sample_tried_twice_by_one_member(tmp_path):
    lines = [*rows()[:2], row_of(2, 1, 1, [tried(0, False), tried(1, True), tried(1, False)]), rows()[3]]
    with pytest.raises(ResultError, match=r"sample 2 was tried twice by member 1; evaluate again"):
        load_outcome(write(tmp_path, lines))


def test_a_sample_that_occurs_twice_and_one_too_many(tmp_path):
    lines = rows()
    with pytest.raises(ResultError, match=r"sample 2 occurs twice; evaluate again in another folder"):
        load_outcome(write(tmp_path / "twice", [*lines[:3], lines[2]]))
    with pytest.raises(ResultError, match=r"holds 4 samples of 3: its files do not belong together"):
        load_outcome(write(tmp_path / "many", lines, header(n=3)))


def test_the_lines_of_several_processes(tmp_path):
    lines = rows()
    folder = write(tmp_path, lines[:1])
    (folder / "samples.rank0.jsonl").write_text("\n".join(lines[:2]) + "\n")
    (folder / "samples.rank1.jsonl").write_text("\n".join(lines[1:]) + "\n" + lines[0][:9])
    whole = load_outcome(write(tmp_path / "whole", lines))
    np.testing.assert_array_equal(load_outcome(folder).attempts, whole.attempts)
    assert [row["sample"] for row in read_rows(folder)] == [0, 1, 2, 3]


# --- once


def test_rows_are_read_once_within_the_block_and_again_when_a_file_changes(tmp_path):
    folder = write(tmp_path, rows())
    assert load_outcome(folder) is not load_outcome(folder)
    with reading_once():
        first = load_outcome(folder)
        assert load_outcome(str(folder)) is first
        lines = rows()
        lines[3] = row_of(3, 1, 1, [tried(0, True)])
        (folder / ROWS_FILE).write_text("\n".join(lines) + "\n")
        os.utime(folder / ROWS_FILE, ns=(1, 1))
        again = load_outcome(folder)
        assert again.robust_accuracy < first.robust_accuracy
        (folder / "doubts.json").write_text(made.doubts(True).model_dump_json())
        assert load_outcome(folder).doubts == made.doubts(True)
        assert again.doubts is None
    assert load_outcome(folder) is not again


def test_a_part_that_was_read_is_no_finished_evaluation(tmp_path):
    folder = write(tmp_path, rows()[:2])
    with reading_once():
        assert not load_outcome(folder, unfinished=True).finished
        with pytest.raises(ResultError, match="not finished"):
            load_outcome(folder)


def test_no_more_is_kept_than_the_limit(tmp_path, monkeypatch):
    folder = write(tmp_path, rows())
    monkeypatch.setattr(module, "_KEPT", load_outcome(folder).attempts.nbytes - 1)
    with reading_once():
        assert load_outcome(folder) is not load_outcome(folder)


def test_a_summary_is_made_once_and_is_that_of_the_rows():
    outcome = made.outcome(n=50, survivors_only=True)
    assert outcome.summary() is outcome.summary()
    for m, member in enumerate(outcome.summary().members):
        correct = outcome.labels == outcome.clean
        reached = ~np.isnan(outcome.attempts[correct][:, m, 0])
        broken = outcome.attempts[correct][:, m, 1] == 1
        alone = None if not reached.all() else (correct.sum() - broken.sum()) / 50
        assert (member.alone.value if member.alone else None) == alone
