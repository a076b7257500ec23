"""Findings: to read, to JSON and back, and what tables say of them."""

import dataclasses

import pytest
from tests.test_results import comparison, header, outcome, rows, write

from robustspike.results import DOUBTS_FILE, Checklist, Doubts, Finding, ResultError, comparison_table, load_outcome


def doubts(*passed, **options):
    findings = [
        Finding(check=f"check {k}", passed=p, evidence=f"evidence {k}", remedy=f"remedy {k}", page="page")
        for k, p in enumerate(passed)
    ]
    checklist = Checklist(
        estimators=("BPTT", "RGA"),
        items=("1", "2"),
        cells=(((True, "a"), (False, "b")), ((None, "c"), (True, "d"))),
    )
    fields = {"checklist": checklist, "samples": 8, "seed": 3, "gradients": 70, "seconds": 1.5} | options
    return Doubts(findings=tuple(findings), **fields)


def test_failed_findings_come_first_with_their_remedies():
    table = doubts(True, None, False, True).table()
    assert [row[:2] for row in table.rows] == [("✗", "check 2"), ("✓", "check 0"), ("✓", "check 3"), ("–", "check 1")]
    assert [row[3] for row in table.rows] == ["remedy 2", "", "", ""]
    assert "1 of 4 checks failed, 8 samples, seed 3" in table.title
    assert "70 gradient evaluations" in table.note


def test_the_checklist_has_a_row_per_estimator():
    assert doubts().checklist_table().rows == (("BPTT", "✓ a", "✗ b"), ("RGA", "– c", "✓ d"))
    assert doubts().checklist.marks().rows == (("BPTT", "✓", "✗"), ("RGA", "–", "✓"))
    assert doubts(checklist=None).checklist_table() is None


def test_doubts_survive_json():
    made = doubts(True, None, False)
    assert Doubts.model_validate_json(made.model_dump_json()) == made


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, "Doubts: masking checks not run."),
        (doubts(True, False, None, False), "Doubts: check 1, check 3 (2 of 3 masking checks failed)."),
        (doubts(True, None), "Doubts: no masking check failed (1 of 2 were applicable, 8 samples probed)."),
        (doubts(None), "Doubts: no masking check was applicable (of 1, 8 samples probed)."),
    ],
)
def test_every_table_says_what_the_checks_found(found, said):
    o = dataclasses.replace(outcome(), doubts=found)
    assert o.table().note.endswith(said)
    assert o.summary().doubts == found
    assert comparison_table(comparison(o, o)).note.endswith(said)


def test_a_comparison_says_which_network_is_in_doubt():
    o = dataclasses.replace(outcome(), doubts=doubts(False))
    note = comparison_table(comparison(outcome(), o)).note
    assert "net 0: masking checks not run. net 1: check 0 (1 of 1 masking checks failed)." in note


def test_doubts_lie_beside_the_rows(tmp_path):
    folder, made = write(tmp_path, rows()), doubts(True, False)
    assert load_outcome(folder).doubts is None
    (folder / DOUBTS_FILE).write_text(made.model_dump_json())
    assert load_outcome(folder).doubts == made


@pytest.mark.parametrize("content", ["", "{", "[]", '{"findings": []}'])
def test_a_damaged_file_is_named(tmp_path, content):
    (write(tmp_path, rows(), header()) / DOUBTS_FILE).write_text(content)
    with pytest.raises(ResultError, match=r"doubts.json is damaged \(.*\); delete it and resume"):
        load_outcome(tmp_path)


def test_an_unfinished_evaluation_is_read_on_request(tmp_path):
    folder = write(tmp_path, rows()[:3])
    (folder / "samples.rank1.jsonl").write_text(rows()[2] + "\n" + rows()[3][:20])
    found = load_outcome(folder, unfinished=True)
    assert (found.samples.tolist(), found.finished, found.timed_out) == ([0, 1, 2], False, False)
    (folder / "samples.rank1.jsonl").write_text(rows()[3] + "\n")
    assert load_outcome(folder).finished
    with pytest.raises(ResultError, match="holds 0 of 4 samples"):
        load_outcome(write(tmp_path / "e", []), unfinished=True)
