"""Every check of the probes' figures, on figures made by hand: it passes, it fails, and it says when it does not apply."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from scipy.stats import binomtest

from robustspike.doubts.all_checks import CHECKS
from robustspike.doubts.answering import ANSWERING
from robustspike.doubts.probed import Answers, Batches, Chance, Missing, Probe, Probed, Reach, Run, Traces, weaker
from robustspike.doubts.probes import COMPARED, PLAN
from robustspike.doubts.rows import ROWS
from robustspike.doubts.seeing import SEEING
from robustspike.doubts.strength import STRENGTH

N = 32
EPS = {"ε/2": 0.05, "ε": 0.1, "2ε": 0.2, "large": 0.8, "unbounded": 1.0}


def broke(number, first=0):
    """``number`` samples from the ``first`` on."""
    mask = torch.zeros(N, dtype=torch.bool)
    mask[first : first + number] = True
    return Run(mask)


def usual(probe):
    """How many samples a probe breaks on a network without tricks."""
    by_size = {"ε/2": 6, "ε": 14, "2ε": 22, "large": 32, "unbounded": 32}
    special = {"FGSM": 10, "noise": 3, "black-box": 12, "PGD-20": 15, "PGD-40": 15}
    return special.get(probe.attack, by_size[probe.size])


def directions(seed=0, **others):
    """Gradients [N, 64] that agree roughly, but for those given."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(N, 64, generator=generator, dtype=torch.float64)
    found = {name: common + 0.5 * torch.randn(N, 64, generator=generator, dtype=torch.float64) for name in COMPARED}
    return found | others


NOTHING = torch.zeros(N, dtype=torch.float64)
HONEST = Probed(
    n=N,
    eps=EPS,
    runs={probe: broke(usual(probe)) for probe in PLAN},
    gradients=directions(),
    moved=torch.ones(N, dtype=torch.bool),
    reach={"first": Reach(0.6, 0.3, 1.8), "second": Reach(0.5, 0.4, 1.5)},
    answers=Answers(NOTHING, NOTHING, "float64"),
    batches=Batches(NOTHING, NOTHING, "float64"),
    chance=Chance(declared=False, found=False, streams=True),
    traces=Traces((), (), norms=2, modules=9),
)


def with_runs(**runs):
    """The honest figures with other runs at ε: ``FGSM=3``, ``PGD_10__ASSG=19`` (through ASSG), or a Run."""
    named = {}
    for name, run in runs.items():
        attack, _, estimator = name.partition("__")
        probe = Probe(attack.replace("_", "-"), estimator.replace("_", " ") or "own")
        assert probe in HONEST.runs, probe
        named[probe] = run if isinstance(run, Run) else broke(run)
    return dataclasses.replace(HONEST, runs={**HONEST.runs, **named})


def at_sizes(**counts):
    """PGD-10 through the own surrogate at several sizes."""
    names = {"half": "ε/2", "one": "ε", "two": "2ε", "large": "large", "unbounded": "unbounded"}
    runs = {Probe("PGD-10", "own", names[key]): broke(number) for key, number in counts.items()}
    return dataclasses.replace(HONEST, runs={**HONEST.runs, **runs})


def made(**fields):
    return dataclasses.replace(HONEST, **fields)


def some(number, value):
    """A [N, 64] gradient that is ``value`` everywhere at the first samples."""
    gradient = directions()["own"].clone()
    gradient[:number] = value
    return gradient


def differing(number, by=0.5):
    distance = NOTHING.clone()
    distance[:number] = by
    return distance


ZERO = torch.zeros(N, 64, dtype=torch.float64)
EOT = Probe("PGD-10 EOT")

# check: figures with which it passes, figures with which it fails, and what its evidence says then
CASES = {
    "zero gradients": (
        made(gradients=directions(own=some(1, 0.0))),
        made(gradients=directions(own=some(2, 0.0))),
        "at 2 of 32",
    ),
    "NaN gradients": (HONEST, made(gradients=directions(HART=some(1, torch.nan))), "HART is the worst: .* at 1 of 32"),
    "detached pixels": (
        made(gradients=dict.fromkeys(COMPARED, ZERO) | {"RGA": some(0, 1)}),
        made(gradients=dict.fromkeys(COMPARED, ZERO)),
        "32 of 32 samples; 6 of 6",
    ),
    "estimators disagree": (
        made(gradients=directions(RGA=3 * directions()["RGA"])),
        made(gradients=directions(RGA=-directions()["own"])),
        r"RGA -0\.\d",
    ),
    "stronger estimator": (with_runs(PGD_10__ASSG=18), with_runs(PGD_10__ASSG=19), r"best ASSG, \+15.6 points"),
    "surrogate width": (
        with_runs(PGD_10__triangle_2=18),
        with_runs(PGD_10__triangle_2=19),
        r"2: 19.*best triangle 2, \+15.6 points",
    ),
    "saturated surrogate": (
        made(reach={"a": Reach(0.02, 0.3, 1)}),
        made(reach={"a": Reach(0.5, 0.3, 1), "b": Reach(0.01, 0.3, 1)}),
        "1.0 % of the potentials of b",
    ),
    "guarded threshold": (
        made(reach={"a": Reach(0.02, 0.02, 9.0)}),
        dataclasses.replace(with_runs(PGD_10__ASSG=25), reach={"a": Reach(0.02, 0.02, 9.0)}),
        r"2 % of the potentials of a .* through ASSG: \+34.4 points",
    ),
    "one step beats many": (with_runs(FGSM=18), with_runs(FGSM=19), "FGSM breaks 19, PGD-10 14 of 32"),
    "more ε, no more success": (
        at_sizes(half=14, one=14, two=14, large=15),
        at_sizes(half=6, one=14, two=9, large=32),
        "6, 14, 9, 32 of 32",
    ),
    "large ε withstood": (at_sizes(large=31, unbounded=31), at_sizes(large=32, unbounded=30), "30 at Linf ε = 1"),
    "more steps, less success": (
        with_runs(PGD_40=11),
        with_runs(PGD_40=10),
        "14, 14, 15, 10 of 32; the last doubling -15.6 points",
    ),
    "noise beats gradients": (
        with_runs(noise=broke(2, 30)),
        with_runs(noise=broke(3, 29)),
        "3 of 32, 3 of them missed by gradients",
    ),
    "black-box beats gradients": (with_runs(black_box=17), with_runs(black_box=18), "18 of 32, 3 of them missed"),
    "averaging weakens": (
        dataclasses.replace(HONEST, runs={**HONEST.runs, EOT: broke(10)}),
        dataclasses.replace(HONEST, runs={**HONEST.runs, EOT: broke(9)}),
        "9 of 32 with gradients averaged",
    ),
    "depends on the batch": (
        made(batches=Batches(differing(3), NOTHING, "float32")),
        made(batches=Batches(NOTHING, differing(1), "float64")),
        "0 of 32 samples differ when alone, of 1 when",
    ),
    "depends on previous calls": (
        made(answers=Answers(NOTHING, differing(3), "float32")),
        made(answers=Answers(NOTHING, differing(4), "float32")),
        "of 4 after a call",
    ),
    "undeclared chance": (
        made(chance=Chance(True, True, True)),
        made(chance=Chance(False, True, True)),
        "does not say",
    ),
    "changed by the attack": (HONEST, made(traces=Traces(("norm.running_mean",), (), 2, 9)), "norm.running_mean"),
    "training mode": (HONEST, made(traces=Traces((), ("norm",), 2, 9)), "1 of 9 modules .*: norm"),
}

ALSO_FAIL = {
    "more ε, no more success": at_sizes(half=6, one=6, two=6, large=6),
    "large ε withstood": at_sizes(large=30),
    "more steps, less success": with_runs(PGD_5=20, PGD_10=18, PGD_20=16, PGD_40=15),
    "depends on the batch": made(batches=Batches(differing(1), NOTHING, "float64")),
    "depends on previous calls": made(answers=Answers(differing(1), NOTHING, "float64")),
    "zero gradients": made(gradients=directions(own=ZERO)),
    "NaN gradients": made(gradients=directions(own=some(1, torch.inf))),
    "detached pixels": made(gradients=dict.fromkeys(COMPARED, Missing("no graph"))),
    "estimators disagree": made(gradients=directions(HART=-directions()["own"])),
}
UNUSED = Missing("of no use here", failed=False)
BROKEN = Missing("RuntimeError: inside")


def without(missing):
    """No figure at all."""
    fields = dict.fromkeys(("moved", "reach", "answers", "batches", "chance", "traces"), missing)
    runs, gradients = dict.fromkeys(HONEST.runs, missing), dict.fromkeys(HONEST.gradients, missing)
    return dataclasses.replace(HONEST, runs=runs, gradients=gradients, **fields)


def test_every_check_of_probes_has_both_cases():
    assert list(CASES) == [check.name for check in (*SEEING, *STRENGTH, *ANSWERING)]
    assert list(CHECKS) == [check.name for check in ROWS] + list(CASES)


@pytest.mark.parametrize("name", CASES)
def test_passes_and_fails(name):
    passing, failing, evidence = CASES[name]
    assert CHECKS[name].finding(passing).passed is True
    found = CHECKS[name].finding(failing)
    assert found.passed is False
    assert re.search(evidence, found.evidence), found.evidence
    assert found.remedy


@pytest.mark.parametrize("name", ALSO_FAIL)
def test_fails_in_another_way_too(name):
    assert CHECKS[name].finding(ALSO_FAIL[name]).passed is False


@pytest.mark.parametrize("name", CASES)
def test_the_honest_figures_pass(name):
    assert CHECKS[name].finding(HONEST).passed is True


@pytest.mark.parametrize("name", CASES)
def test_a_probe_that_raised_fails_the_check_with_its_sentence(name):
    found = CHECKS[name].finding(without(BROKEN))
    assert found.passed is False
    assert "RuntimeError: inside" in found.evidence


@pytest.mark.parametrize("name", CASES)
def test_a_probe_that_does_not_apply_gives_no_verdict_and_says_why(name):
    found = CHECKS[name].finding(without(UNUSED))
    assert found.passed is None
    assert found.evidence == "of no use here"


def test_without_batchnorm_there_is_nothing_to_change_unless_it_did():
    check = CHECKS["changed by the attack"]
    assert check.finding(made(traces=Traces((), (), 0, 9))).passed is None
    assert check.finding(made(traces=Traces(("kept",), (), 0, 9))).passed is False


def test_logits_that_do_not_depend_on_the_pixels_are_no_sign_of_a_cut():
    still = made(moved=torch.zeros(N, dtype=torch.bool), gradients=dict.fromkeys(COMPARED, ZERO))
    assert CHECKS["detached pixels"].finding(still).passed is None
    assert CHECKS["estimators disagree"].finding(still).passed is None


def test_an_estimator_without_a_gradient_is_named_and_left_out_of_the_agreement():
    found = CHECKS["estimators disagree"].finding(made(gradients=directions(BPTR=ZERO)))
    assert found.passed is True
    assert found.evidence.endswith("no gradient: BPTR")


def test_so_few_samples_that_nothing_could_fail_are_no_pass():
    def first(n):
        runs = {probe: dataclasses.replace(run, broke=run.broke[:n]) for probe, run in HONEST.runs.items()}
        return dataclasses.replace(HONEST, n=n, runs=runs)

    for name in ("one step beats many", "more steps, less success"):
        found = CHECKS[name].finding(first(4))
        assert (found.passed, found.evidence) == (None, "only 4 samples: no difference could be beyond chance")
    assert CHECKS["noise beats gradients"].finding(first(2)).passed is None


def test_gradients_that_never_ran_leave_blind_attacks_ahead():
    raised = {probe: BROKEN for probe in HONEST.runs if probe.attack not in ("noise", "black-box")}
    figures = dataclasses.replace(HONEST, runs={**HONEST.runs, **raised})
    assert CHECKS["noise beats gradients"].finding(figures).passed is False
    assert "no gradient attack could be run" in CHECKS["black-box beats gradients"].finding(figures).evidence


def test_an_estimator_of_the_suite_is_no_news():
    strong = with_runs(PGD_10__ASSG=25)
    assert CHECKS["stronger estimator"].finding(strong).passed is False
    covered = dataclasses.replace(strong, suite=("own", "ASSG"))
    found = CHECKS["stronger estimator"].finding(covered)
    assert found.passed is True
    assert "+0.0 points against own surrogate and ASSG with 25" in found.evidence


def test_a_finding_names_the_best_width_in_its_remedy():
    remedy = CHECKS["surrogate width"].finding(CASES["surrogate width"][1]).remedy
    assert remedy == "Attack through BPTT with triangle 2 as well: +15.6 points against own surrogate with 14."


@pytest.mark.parametrize(
    ("only_weak", "only_strong", "verdict"),
    [(4, 0, False), (5, 0, True), (7, 1, True), (7, 2, False), (0, 9, False), (0, 0, False)],
)
def test_weaker_is_the_one_sided_sign_test(only_weak, only_strong, verdict):
    weak, strong = broke(10 + only_weak).broke, (broke(10).broke | broke(only_strong, N - only_strong).broke)
    p = binomtest(only_weak, max(only_weak + only_strong, 1), 0.5, "greater").pvalue if only_weak else 1.0
    assert weaker(strong, weak) == verdict == (p < 0.05)


def test_every_check_is_explained_on_its_page():
    root = Path(__file__).parents[2]
    for check in CHECKS.values():
        path, _, section = check.address.partition("#")
        headings = [line[3:] for line in (root / path).read_text().splitlines() if line.startswith("## ")]
        assert section in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings], (
            check.address
        )
