"""When the checks for gradient masking run, and where their findings go; the checks themselves are replaced."""

import sys
from types import SimpleNamespace

import pytest
from tests.evaluate.stubs import Bright, Spends, bright

from robustspike.evaluate import evaluate
from robustspike.results import DOUBTS_FILE, Doubts, Finding, ResultError, load_outcome

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def calls(monkeypatch):
    """What the checks were called with."""
    seen = []

    def doubts(model, data, outcome, suite, *, samples, seed):
        inner = evaluate(model, data.subset(2), suite, doubts=0, progress=False)
        seen.append((len(outcome.samples), suite.name, samples, seed, len(inner.samples)))
        finding = Finding(check="dead gradients", passed=False, evidence="…", remedy="…", page="…")
        return Doubts(findings=(finding,), checklist=None, samples=2, seed=seed, gradients=5, seconds=0.1)

    monkeypatch.setitem(sys.modules, "robustspike.doubts", SimpleNamespace(doubts=doubts))
    return seen


def run(**options):
    return evaluate(Bright(), bright(), Spends(0.035), **{"progress": False, "seed": 3} | options)


def test_the_checks_run_once_the_rows_are_complete(calls, tmp_path):
    outcome = run(out=tmp_path, doubts=4)
    assert calls == [(8, "custom", 4, 3, 2)]
    assert outcome.doubts.failed == ("dead gradients",)
    assert outcome.table().note.endswith("Doubts: dead gradients (1 of 1 masking checks failed).")
    assert load_outcome(tmp_path).doubts == outcome.doubts


def test_the_checks_run_without_a_folder_too(calls):
    assert run(doubts=4).doubts.failed == ("dead gradients",)


def test_what_was_found_is_read_and_not_sought_again(calls, tmp_path):
    first = run(out=tmp_path, doubts=4)
    assert run(out=tmp_path, doubts=4, resume=True).doubts == first.doubts
    assert run(out=tmp_path, doubts=0, resume=True).doubts == first.doubts
    assert len(calls) == 1
    assert run(out=tmp_path, doubts=5, resume=True).doubts.asked == 5
    assert len(calls) == 2
    (tmp_path / DOUBTS_FILE).unlink()
    run(out=tmp_path, doubts=5, resume=True)
    assert len(calls) == 3


def test_none_are_sought_on_no_samples(calls, tmp_path):
    outcome = run(out=tmp_path, doubts=0)
    assert (outcome.doubts, calls) == (None, [])
    assert not (tmp_path / DOUBTS_FILE).exists()
    assert outcome.table().note.endswith("Doubts: masking checks not run.")


def test_a_damaged_file_of_findings_is_named(calls, tmp_path):
    run(out=tmp_path, doubts=4)
    (tmp_path / DOUBTS_FILE).write_text("{")
    with pytest.raises(ResultError, match=r"doubts.json is damaged .*; delete it and resume"):
        run(out=tmp_path, doubts=4, resume=True)
