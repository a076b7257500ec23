"""The checks of an evaluation's rows, on rows made by hand, and the checklist of obfuscation."""

import re

import numpy as np
import pytest
import torch

from robustspike.doubts.all_checks import CHECKS
from robustspike.doubts.checklist import ITEMS, checklist
from robustspike.doubts.probed import Missing, Probe, Probed, Run
from robustspike.doubts.probes import ESTIMATORS, PLAN
from robustspike.doubts.rows import ROWS
from robustspike.results import ATTEMPT_FIELDS, Header, Member, Outcome

N = 1000
FGSM = Member(attack="FGSM", estimator="own", settings="a", kind="one-step")
PGD = Member(attack="PGD-10", estimator="RGA", settings="b", kind="white-box")
SQUARE = Member(attack="Square", estimator="–", settings="c", kind="black-box")
NOISE = Member(attack="noise", estimator="–", settings="d", kind="noise")
ENCODED = Member(attack="Luu", estimator="own", settings="e", kind="white-box", caveat="not on pixels")
COST = {FGSM: 1, PGD: 10, ENCODED: 10}


def outcome(*members, clean=N, survivors_only=True, **also):
    """Rows of members, each with the numbers of the samples that it broke: (FGSM, range(100)).

    ``also``: zero and nan, gradients of that kind of the first member.
    """
    attempts = np.full((N, len(members), len(ATTEMPT_FIELDS)), np.nan)
    standing = np.arange(N) < clean
    for m, (member, broken) in enumerate(members):
        fooled = np.isin(np.arange(N), list(broken))
        tried = standing if survivors_only and not member.caveat else np.arange(N) < clean
        values = {"member": m, "fooled": fooled, "gradients": COST.get(member, 0), "zero": 0, "nan": 0, "queries": 1}
        for name, value in values.items():
            attempts[tried, m, ATTEMPT_FIELDS.index(name)] = np.broadcast_to(value, N)[tried]
        if not member.caveat:
            standing = standing & ~fooled
    for name, number in also.items():
        attempts[:number, 0, ATTEMPT_FIELDS.index(name)] = COST[members[0][0]]
    header = Header(
        suite="made", norm="Linf", eps=0.03, members=tuple(member for member, _ in members), survivors_only=survivors_only,
        seed=0, batch_size=8, n=N, data="made", data_fingerprint="", model="made", weights_fingerprint="", versions={},
    )  # fmt: skip
    samples = np.arange(N)
    return Outcome(header, samples, np.zeros(N, np.int64), np.where(samples < clean, 0, 1), attempts)


# check: rows with which it passes, rows with which it fails, and what its evidence says then
CASES = {
    "zero gradients in the evaluation": (
        outcome((PGD, []), zero=50),
        outcome((PGD, []), (FGSM, []), zero=51),
        r"4.6 % of 11000 gradients .* most of PGD-10 \(RGA\): 5.1 % of 10000",
    ),
    "NaN gradients in the evaluation": (
        outcome((PGD, [])),
        outcome((PGD, []), nan=1),
        r"0.1 % of 10000 gradients were NaN",
    ),
    "one step beats many in the evaluation": (
        outcome((FGSM, range(100)), (PGD, range(4, 100)), survivors_only=False),
        outcome((FGSM, range(100)), (PGD, range(5, 100)), survivors_only=False),
        "of 1000 samples one-step attacks broke 100, iterative ones 95",
    ),
    "one-step gap": (
        outcome((FGSM, range(100)), (PGD, range(100, 300))),
        outcome((FGSM, range(100)), (PGD, range(100, 301))),
        "90.0 % withstand the one-step attacks, 69.9 % the iterative ones too",
    ),
    "black-box beats the evaluation's gradients": (
        outcome((PGD, range(100)), (SQUARE, range(100, 102))),
        outcome((PGD, range(100)), (SQUARE, range(100, 103))),
        "black-box attacks broke 3 of 900 samples that met every gradient attack and withstood all, and 0 before",
    ),
    "noise beats the evaluation's gradients": (
        outcome((NOISE, range(50)), (PGD, range(100))),
        outcome((PGD, range(100)), (NOISE, range(900, 1000))),
        "noise broke 100 of 900",
    ),
}


def test_every_check_of_rows_has_both_cases():
    assert list(CASES) == [check.name for check in ROWS]


@pytest.mark.parametrize("name", CASES)
def test_passes_and_fails(name):
    passing, failing, evidence = CASES[name]
    assert CHECKS[name].finding(passing).passed is True, CHECKS[name].finding(passing).evidence
    found = CHECKS[name].finding(failing)
    assert found.passed is False
    assert re.search(evidence, found.evidence), found.evidence


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("rows", [None, outcome((NOISE, range(5)))], ids=["no rows", "noise alone"])
def test_without_the_members_in_question_there_is_no_verdict(name, rows):
    assert CHECKS[name].finding(rows).passed is None


def test_iterations_that_met_only_survivors_are_not_compared():
    rows = outcome((FGSM, range(100)), (PGD, range(5, 100)))
    assert CHECKS["one step beats many in the evaluation"].finding(rows).passed is None


def test_samples_broken_blindly_before_gradients_met_them_are_counted_apart():
    found = CHECKS["black-box beats the evaluation's gradients"].finding(
        outcome((FGSM, range(10)), (SQUARE, range(10, 60)), (PGD, range(60, 80)))
    )
    assert found.passed is True
    assert "broke 0 of 920 samples that met every gradient attack and withstood all, and 50 before" in found.evidence


def test_members_with_a_caveat_count_for_nothing_but_their_gradients():
    rows = outcome((ENCODED, range(900)), (FGSM, range(100)), zero=600)
    assert CHECKS["one-step gap"].finding(rows).passed is None
    assert CHECKS["zero gradients in the evaluation"].finding(rows).passed is False


# The checklist


def broke(number, first=0):
    mask = torch.zeros(32, dtype=torch.bool)
    mask[first : first + number] = True
    return Run(mask)


def probed(**runs):
    """Figures of six estimators without a symptom, but for those given for RGA."""
    usual = {"FGSM": 10, "noise": 3, "black-box": 12}
    by_size = {"ε/2": 6, "ε": 14, "2ε": 22, "large": 32, "unbounded": 32}
    found = {probe: broke(usual.get(probe.attack, by_size[probe.size])) for probe in PLAN}
    shared = {"noise": Probe("noise"), "black_box": Probe("black-box"), "FGSM": Probe("FGSM", "RGA")}
    sizes = {"one": "ε", "two": "2ε", "unbounded": "unbounded"}
    for name, run in runs.items():
        found[shared.get(name) or Probe("PGD-10", "RGA", sizes[name])] = run
    eps = {"ε/2": 0.05, "ε": 0.1, "2ε": 0.2, "large": 0.8, "unbounded": 1.0}
    return Probed(n=32, eps=eps, runs=found)


def row_of_rga(figures):
    return dict(zip(ITEMS, checklist(figures).cells[list(ESTIMATORS).index("RGA")], strict=True))


SYMPTOMS = {
    "one-step ≤ iterative": ({"FGSM": broke(19)}, "FGSM 19, PGD-10 14 of 32"),
    "white-box ≥ black-box": ({"one": broke(7)}, "white-box 7, black-box 12 of 32"),
    "more ε, more success": ({"two": broke(9)}, "14 at 0.1, 9 at 0.2, 32 at 1 of 32"),
    "unbounded: ~100 %": ({"unbounded": broke(30)}, "30 of 32 at 1"),
    "random finds nothing more": ({"noise": broke(3, 20)}, "noise 3, 3 missed by PGD-10 of 32"),
}


def test_a_network_without_symptoms_passes_all_five_items_with_counts():
    found = checklist(probed())
    assert found.estimators == ("BPTT own surrogate", "BPTR", "RGA", "CBA", "HART", "ASSG")
    assert tuple(SYMPTOMS) == found.items
    assert all(passed is True and "32" in evidence for cells in found.cells for passed, evidence in cells)


@pytest.mark.parametrize("item", SYMPTOMS)
def test_each_symptom_is_seen_in_its_own_cell(item):
    runs, evidence = SYMPTOMS[item]
    row = row_of_rga(probed(**runs))
    assert row[item] == (False, evidence)
    assert sum(passed is False for passed, _ in row.values()) == 1


def test_a_flat_curve_is_a_symptom():
    row = row_of_rga(probed(one=broke(14), two=broke(14), unbounded=broke(14)))
    assert row["more ε, more success"][0] is False


@pytest.mark.parametrize(("failed", "verdict"), [(True, False), (False, None)])
def test_cells_without_figures_say_why(failed, verdict):
    row = row_of_rga(probed(one=Missing("the reason", failed)))
    others = [cell for item, cell in row.items() if item != "unbounded: ~100 %"]
    assert set(others) == {(verdict, "the reason")}
    assert row["unbounded: ~100 %"][0] is True
