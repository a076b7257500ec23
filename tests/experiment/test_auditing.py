"""Audits in a run's folder, and their way into a comparison."""

import shutil

import pytest
import torch
from tests.experiment.test_experiment import SMALL

from robustspike.attacks import fgsm
from robustspike.attacks.suites import Suite
from robustspike.balls import Linf
from robustspike.checkpoints import load_model, save_model
from robustspike.experiment import Experiment, attack, audit, audit_folder, comparison, read_experiment, train
from robustspike.results import ResultError
from robustspike.train import WEIGHTS

QUICK = {"audits": ["gradients"], "samples": 12, "doubts": 0, "accelerator": "cpu", "progress": False}
SUITE = Suite("one step", Linf(0.1), (fgsm(Linf(0.1)),))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Networks this small are no faster on more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """An audited run; copy it before changing it."""
    run = tmp_path_factory.mktemp("runs") / "vanilla"
    train(Experiment.of(defence="vanilla", **SMALL), run, progress=False)
    audit(run, suite=SUITE, eps=0.1, **QUICK)
    return run


@pytest.fixture
def run(audited, tmp_path):
    return shutil.copytree(audited, tmp_path / "vanilla")


def test_records_and_evaluation_lie_in_the_run(run):
    assert (run / "audits" / "Linf-0.1-n12" / "gradients.json").is_file()
    assert audit_folder(run, 0.1, 12) == run / "audits" / "Linf-0.1-n12"
    assert [folder.name[:8] for folder in (run / "attacks").iterdir()] == ["one-step"]


def test_a_comparison_brings_the_audits_along(run):
    network = comparison([run]).networks[0]
    report = audit(run, suite=SUITE, eps=0.1, resume=True, **QUICK)
    assert network.audits == report.records
    assert network.audits["gradients"].n == 12
    assert report.network.training["defence"] == "vanilla"


def test_an_audit_that_is_there_is_not_made_again_unasked(run):
    with pytest.raises(ResultError, match="holds an audit already"):
        audit(run, suite=SUITE, eps=0.1, **QUICK)


def test_an_audit_of_other_weights_is_left_out_with_a_note(run):
    model = load_model(run / WEIGHTS)
    with torch.no_grad():
        model.head.weight += 1
    save_model(model, run / WEIGHTS)
    (run / "attacks").rename(run / "old")
    attack(run, SUITE, limit=12, doubts=0, accelerator="cpu", progress=False)
    found = comparison([run])
    assert not found.networks[0].audits
    assert any("is an audit of other weights" in note for note in found.notes)


@pytest.mark.parametrize("name", ["audit.json", "gradients.json"])
def test_a_damaged_audit_is_left_out_with_a_note(run, name):
    path = run / "audits" / "Linf-0.1-n12" / name
    path.write_text(path.read_text()[:40])
    found = comparison([run])
    assert not found.networks[0].audits
    assert any(f"{name} is damaged" in note for note in found.notes)


def test_of_several_audits_that_of_the_evaluations_radius_is_shown(run):
    audit(run, suite=SUITE, eps=0.2, **QUICK | {"samples": 14})
    radius = comparison([run]).networks[0].audits["gradients"]
    assert read_experiment(run).defence == "vanilla"
    # one evaluation is on 12 samples and one on 14; that of 14 is shown, both at ε = 0.1, the audit at 0.1 has 12
    assert radius.n == 12
