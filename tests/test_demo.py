"""The demo, in a toy size."""

import json

import pytest
import torch

from robustspike.demo import QUICK, demo, main_suite, masking, pgd_suite, verdict
from robustspike.results import Comparison, Doubts, Finding, rate

TOY = QUICK | {"doubts": 2}


def found_nothing(model, data, outcome, suite, *, samples, seed):
    """One check that passed."""
    finding = Finding(check="zero gradients", passed=True, evidence="0 of 9", remedy="", page="docs/doubts")
    return Doubts(findings=(finding,), checklist=None, samples=samples, seed=seed, gradients=9, seconds=0.1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(the comparison, its folder)"""
    threads, out = torch.get_num_threads(), tmp_path_factory.mktemp("demo")
    torch.set_num_threads(1)  # networks this small are no faster on more
    with pytest.MonkeyPatch.context() as patch:  # the checks themselves have tests of their own
        patch.setattr("robustspike.doubts.doubts", found_nothing)
        yield demo(out, progress=False, **TOY), out
    torch.set_num_threads(threads)


def test_it_leaves_figures_and_a_page(made):
    found, out = made
    assert Comparison.model_validate_json((out / "results.json").read_text()) == found
    assert "<html" in (out / "report.html").read_text()


def test_it_holds_four_networks_under_liu2024(made):
    found, _ = made
    assert [network.name for network in found.networks] == ["vanilla", "AT", "SR", "SR*"]
    for network in found.networks:
        assert set(network.summary.by_attack) == {"FGSM", "R-FGSM", "PGD-10"}
        assert all(member.alone is not None for member in network.summary.members)
        assert len(network.summary.members) == 12
        assert (network.summary.header.n, network.summary.header.eps) == (20, 0.15)
        assert network.curve.eps == (0.0, *QUICK["curve_eps"])
        assert {point.n for point in network.curve.robust} == {QUICK["curve_limit"]}
    assert len({network.summary.header.data_fingerprint for network in found.networks}) == 1
    assert not [note for note in found.notes if "not in this table" in note]


def test_run_again_it_only_prints(made, capsys, monkeypatch):
    found, out = made
    monkeypatch.setenv("COLUMNS", "80")
    weights = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert demo(out, progress=False, **TOY) == found
    assert weights == {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    printed = capsys.readouterr().out
    for text in ("vanilla", "SR*", "R-FGSM", "PGD-10", "worst", "n = 20", "results.json", "report.html", "order"):
        assert text in printed
    assert max(map(len, printed.split("order")[0].splitlines()[4:])) <= 80


def test_other_settings_do_not_mix_with_what_is_there(made):
    _, out = made
    with pytest.raises(ValueError, match="holds a run with seed 0"):
        demo(out, seed=1, progress=False, **TOY)


def test_the_curve_uses_pgd_alone():
    assert [attack.name for attack in pgd_suite(0.1).attacks] == ["PGD-10"] * 4


def test_its_attacks_are_those_of_its_first_release():
    suite = main_suite(0.15)
    assert (suite.name, [member.name for member in suite.attacks]) == (
        "liu2024", ["FGSM"] * 4 + ["R-FGSM"] * 4 + ["PGD-10"] * 4,
    )  # fmt: skip
    assert {member.step_size for member in suite.attacks[8:]} == {0.15 * 0.01 / (8 / 255)}
    assert all(member.early_stop for member in suite.attacks)


def test_the_main_evaluation_is_doubted_and_the_curve_is_not(made):
    found, out = made
    for network in found.networks:
        doubts = network.summary.doubts
        assert (doubts.asked, doubts.samples) == (2, 2)
    assert len(list(out.rglob("doubts.json"))) == 4
    assert masking(found) in found.notes[0]


def test_what_the_checks_found_is_said(made):
    def with_doubts(*passed):
        networks = []
        for network, names in zip(found.networks, passed, strict=True):
            findings = [Finding(check=c, passed=False, evidence="", remedy="", page="") for c in names]
            doubts = Doubts(findings=tuple(findings), checklist=None, samples=1, seed=0, gradients=0, seconds=0)
            summary = network.summary.model_copy(update={"doubts": doubts})
            networks.append(network.model_copy(update={"summary": summary}))
        return found.model_copy(update={"networks": tuple(networks)})

    found, _ = made
    assert masking(with_doubts([], [], [], [])) == "No check for gradient masking failed."
    said = masking(with_doubts(["a", "b"], [], ["c"], []))
    assert said.startswith("Checks for gradient masking FAILED (vanilla: a, b; SR: c): the page says")
    networks = [n.model_copy(update={"summary": n.summary.model_copy(update={"doubts": None})}) for n in found.networks]
    unchecked = found.model_copy(update={"networks": tuple(networks)})
    assert masking(unchecked) == "Gradient masking was not checked for."


def with_figures(found, **counts):
    networks = []
    for network in found.networks:
        summary = network.summary.model_copy(update={"robust": rate(counts[network.name], 100)})
        networks.append(network.model_copy(update={"summary": summary}))
    return found.model_copy(update={"networks": tuple(networks)})


def test_the_verdict_is_computed(made):
    found, _ = made
    fine = verdict(with_figures(found, **{"vanilla": 10, "AT": 40, "SR": 35, "SR*": 80}))
    assert "came out" in fine
    assert "the 95 % intervals lie apart" in fine
    close = verdict(with_figures(found, **{"vanilla": 30, "AT": 40, "SR": 35, "SR*": 80}))
    assert "intervals of vanilla and SR, vanilla and AT overlap" in close
    wrong = verdict(with_figures(found, **{"vanilla": 10, "AT": 40, "SR": 50, "SR*": 45}))
    assert "did NOT come out" in wrong
    assert "SR* 45.0 is not above SR 50.0" in wrong
    assert "not above AT" not in wrong


def test_results_are_json(made):
    _, out = made
    assert json.loads((out / "results.json").read_text())["networks"][0]["training"]["data"] == "digits"
