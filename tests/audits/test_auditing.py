"""rs.audit: a chosen set, a budget, a folder that goes on, one page."""

import json

import pytest
import torch
from tests.conftest import record_of, small_snn

import robustspike as rs
from robustspike.attacks import fgsm
from robustspike.audits import AUDITS, audit, side_by_side
from robustspike.balls import Linf
from robustspike.data import Split
from robustspike.results import Budget, Comparison, ResultError
from robustspike.results.audits import AUDIT_RECORDS

QUICK = {"attacks": fgsm(Linf(0.1)), "eps": 0.1, "audits": ["gradients"], "doubts": 0, "progress": False}


@pytest.fixture(autouse=True)
def one(one_thread):
    """Networks this small are no faster on more threads."""


@pytest.fixture
def model():
    return small_snn().eval()


@pytest.fixture
def data():
    torch.manual_seed(0)
    return Split(torch.rand(12, 1, 8, 8), torch.arange(12) % 4)


def test_the_figures_are_those_of_evaluate_and_of_the_audit(model, data):
    before = record_of(model)
    report = audit(model, data, **QUICK)
    assert record_of(model) == before
    outcome = rs.evaluate(model, data, fgsm(Linf(0.1)), doubts=0, progress=False)
    assert report.outcome.robust_accuracy == outcome.robust_accuracy
    alone = rs.audits.gradients(model, data)
    assert report.records["gradients"].of_loss == alone.of_loss


def test_samples_are_stratified_and_the_same_for_all(model, data):
    report = audit(model, data, samples=4, **QUICK)
    assert sorted(report.outcome.labels.tolist()) == [0, 1, 2, 3]
    assert report.records["gradients"].n == 4


def test_a_folder_goes_on_where_it_was_stopped(model, data, tmp_path, monkeypatch):
    whole = audit(model, data, out=tmp_path / "a", **QUICK)
    called = []
    monkeypatch.setitem(AUDITS, "gradients", lambda *a, **k: called.append(1))
    again = audit(model, data, out=tmp_path / "a", resume=True, **QUICK)
    assert again.records == whole.records
    assert not called


def test_a_folder_in_use_is_refused(model, data, tmp_path):
    audit(model, data, out=tmp_path, **QUICK)
    with pytest.raises(ResultError, match="holds an audit already"):
        audit(model, data, out=tmp_path, **QUICK)
    with pytest.raises(ResultError, match="holds another audit: seed"):
        audit(model, data, out=tmp_path, resume=True, seed=3, **QUICK)
    model.head.weight.data += 1
    with pytest.raises(ResultError, match="weights_fingerprint"):
        audit(model, data, out=tmp_path, resume=True, **QUICK)


def test_a_damaged_record_is_named_and_made_again(model, data, tmp_path):
    whole = audit(model, data, out=tmp_path, **QUICK)
    (tmp_path / "gradients.json").write_text('{"n": 3')
    report = audit(model, data, out=tmp_path, resume=True, **QUICK)
    assert report.records["gradients"].of_loss == whole.records["gradients"].of_loss
    assert any("gradients.json is damaged" in note for note in report.notes)
    assert json.loads((tmp_path / "gradients.json").read_text())["n"] == 12


def test_a_killed_audit_keeps_what_was_done(model, data, tmp_path, monkeypatch):
    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setitem(AUDITS, "gradients", killed)
    with pytest.raises(KeyboardInterrupt):
        audit(model, data, out=tmp_path, **QUICK)
    monkeypatch.undo()
    report = audit(model, data, out=tmp_path, resume=True, **QUICK)
    assert list(report.records) == ["gradients"]


def test_the_time_budget_names_what_is_left_and_one_audit_is_done(model, data, tmp_path):
    options = QUICK | {"audits": list(AUDITS)[:3], "budget": Budget(minutes=1e-6), "out": tmp_path}
    report = audit(model, data, **options)
    assert len(report.records) == 1
    assert sum("time budget was over" in note for note in report.notes) == 2
    report = audit(model, data, resume=True, **options)
    assert len(report.records) == 2


def test_an_audit_that_is_not_possible_is_said_to_be_missing(data):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4)).eval()
    report = audit(model, data, **QUICK | {"audits": ["gradients", "bounds"]})
    assert list(report.records) == ["gradients"]
    assert report.notes[0].startswith("Audit bounds: not possible here: ")


def test_unknown_audits_and_options_are_refused(model, data):
    with pytest.raises(ValueError, match="no audit 'nope'; take some of gradients"):
        audit(model, data, **QUICK | {"audits": ["nope"]})
    with pytest.raises(ValueError, match="has no option 'nope'; it has"):
        audit(model, data, options={"gradients": {"nope": 1}}, **QUICK)
    with pytest.raises(ValueError, match="samples must be ≥ 1"):
        audit(model, data, samples=0, **QUICK)


def test_an_option_reaches_its_audit_only(model, data):
    report = audit(model, data, options={"gradients": {"seed": 5}}, **QUICK)
    assert report.records["gradients"].seed == 5
    assert report.outcome.header.seed == 0


def test_an_outcome_is_used_as_it_is(model, data):
    outcome = rs.evaluate(model, data, fgsm(Linf(0.2)), doubts=0, progress=False)
    assert audit(model, data, **QUICK | {"attacks": outcome}).outcome is outcome


def test_everything_comes_back_from_json(model, data, tmp_path):
    report = audit(model, data, **QUICK)
    report.to_json(tmp_path / "report.json")
    found = Comparison.model_validate_json((tmp_path / "report.json").read_text())
    assert found == report.comparison()
    assert type(found.networks[0].audits["gradients"]) is AUDIT_RECORDS["gradients"]


def test_the_page_shows_the_audits(model, data, tmp_path):
    report = audit(model, data, **QUICK)
    report.to_html(tmp_path / "report.html", title="Mine")
    page = (tmp_path / "report.html").read_text()
    assert "<title>Mine</title>" in page
    assert report.records["gradients"].title in page
    assert "worst case" in report.to_markdown()


def test_several_networks_stand_side_by_side(model, data):
    reports = [audit(model, data, model_name=name, **QUICK) for name in ("a", "b")]
    assert [network.name for network in side_by_side(reports).networks] == ["a", "b"]
    with pytest.raises(ValueError, match="different names"):
        side_by_side([reports[0], reports[0]])
    with pytest.raises(ValueError, match="at least one"):
        side_by_side([])


def test_an_outcome_of_other_weights_is_refused_and_of_another_radius_named(model, data):
    outcome = rs.evaluate(model, data, fgsm(Linf(0.2)), doubts=0, progress=False)
    assert "ε (0.1 in the audits, 0.2 in the evaluation)" in audit(model, data, **QUICK | {"attacks": outcome}).notes[0]
    model.head.weight.data += 1
    with pytest.raises(ResultError, match="whose weights are others"):
        audit(model, data, **QUICK | {"attacks": outcome})


def test_a_refused_call_claims_no_folder(model, data, tmp_path):
    with pytest.raises(ValueError, match="at least one attack"):
        audit(model, data, out=tmp_path / "a", **QUICK | {"attacks": []})
    audit(model, data, out=tmp_path / "a", **QUICK)


def test_an_audit_that_breaks_does_not_take_the_others_along(model, data, monkeypatch):
    def broken(model, data):
        raise RuntimeError("a matrix of NaN\nand more")

    monkeypatch.setitem(AUDITS, "bounds", broken)
    report = audit(model, data, **QUICK | {"audits": ["gradients", "bounds"]})
    assert list(report.records) == ["gradients"]
    assert report.notes == ("Audit bounds: failed: RuntimeError: a matrix of NaN",)


def test_other_class_names_are_another_audit(model, data, tmp_path):
    names = ("a", "b", "c", "d")
    audit(model, data, out=tmp_path, class_names=names, **QUICK)
    with pytest.raises(ResultError, match="class_names differ"):
        audit(model, data, out=tmp_path, resume=True, class_names=names[::-1], **QUICK)
