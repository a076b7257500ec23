"""The checks on whole networks: fakes are caught by name, honest networks pass, and nothing is disturbed."""

import pytest
import torch
from tests.conftest import InDouble, record_of, small_snn
from tests.doubts.fakes import FAKES, Around, Function, Stubborn, replaced, split
from torch import nn

from robustspike.attacks import PGD, Suite, UniformNoise, WorstOf, fgsm
from robustspike.attacks.square import Square
from robustspike.balls import L2, Linf
from robustspike.data import Split
from robustspike.doubts import CHECKS, doubts, probes
from robustspike.doubts.potentials import reach
from robustspike.doubts.probed import Probe
from robustspike.doubts.rows import ROWS
from robustspike.doubts.subject import Subject
from robustspike.draws import Draws
from robustspike.evaluate import evaluate
from robustspike.gradients import ASSG, BPTT
from robustspike.models import SNN, Settings
from robustspike.neurons import LIF, OverTime
from robustspike.results import Doubts
from robustspike.surrogates import Triangle

pytestmark = pytest.mark.usefixtures("one_thread")
SUITE = Suite("made", Linf(0.04), ())
OF_ROWS = {check.name for check in ROWS}


ONE_STEP = (Probe("FGSM"),)
STRONGEST = (
    *(probe for probe in probes.PLAN if probe.size == "ε" and probe.attack in ("PGD-10", "noise", "black-box")),
    *(Probe("PGD-10", "own", size) for size in ("large", "unbounded")),
)


def only(plan, monkeypatch):
    """Run these probes only; checks that need others have no verdict."""
    monkeypatch.setattr(probes, "PLAN", plan)


def verdicts(found):
    return {finding.check: finding.passed for finding in found.findings}


CAUGHT = {
    "honest": set(),
    "saturated surrogate": {"saturated surrogate", "surrogate width", "stronger estimator", "large ε withstood"},
    "NaN surrogate": {"NaN gradients", "surrogate width", "large ε withstood"},
    "backward surrogate": {"estimators disagree", "stronger estimator", "large ε withstood"},
    "detached encoder": {"detached pixels", "zero gradients", "noise beats gradients", "black-box beats gradients"},
    "quantised input": {"detached pixels", "zero gradients", "noise beats gradients", "black-box beats gradients"},
    "state between calls": {"depends on previous calls", "changed by the attack"},
    "BatchNorm in training mode": {"training mode", "changed by the attack", "depends on the batch"},
    "batch statistics": {"depends on the batch"},
    "guarded threshold": {"guarded threshold", "stronger estimator", "large ε withstood"},
    "undeclared noise": {"undeclared chance"},
    "overconfident": {"zero gradients", "black-box beats gradients"},
}


ANSWERS = {"batch statistics", "undeclared noise", "state between calls", "BatchNorm in training mode"}


@pytest.mark.parametrize("name", FAKES)
def test_each_fake_is_caught_by_the_check_of_that_trick(name, monkeypatch):
    if name != "honest":
        only(ONE_STEP if name in ANSWERS else STRONGEST, monkeypatch)
    model = FAKES[name]()
    found = doubts(model.eval(), split(model), None, SUITE, samples=16)
    assert CAUGHT[name] <= set(found.failed), found.failed
    assert list(verdicts(found)) == list(CHECKS)
    if name in ANSWERS or name == "honest":
        assert CAUGHT[name] == set(found.failed)
    if name == "honest":  # all applies, but what is read from rows and what is for stochastic networks
        assert {name for name, passed in verdicts(found).items() if passed is None} == OF_ROWS | {"averaging weakens"}


def test_a_trained_network_passes_every_check_that_applies(trained, digits):
    members = (fgsm(Linf(0.05), early_stop=True), PGD(Linf(0.05), steps=10, early_stop=True))
    suite, data = Suite("made", Linf(0.05), members), digits.test.subset(24)
    outcome = evaluate(trained.model, data, suite, doubts=0, progress=False)
    found = doubts(trained.model, data, outcome, suite, samples=12)
    assert found.failed == ()
    assert found.samples == 12
    assert {name for name, passed in verdicts(found).items() if passed is None} == {
        "one step beats many in the evaluation", "black-box beats the evaluation's gradients",
        "noise beats the evaluation's gradients", "averaging weakens",
    }  # fmt: skip


def test_a_stochastic_network_is_judged_by_several_calls_and_passes(monkeypatch):
    only((*ONE_STEP, Probe("PGD-10"), Probe("PGD-10 EOT"), Probe("noise"), Probe("black-box")), monkeypatch)
    model = small_snn(encoder="poisson", time_steps=4)
    found = doubts(model.eval(), split(model), None, SUITE, samples=6)
    assert verdicts(found)["averaging weakens"] is True
    assert verdicts(found)["undeclared chance"] is True
    assert verdicts(found)["depends on the batch"] is True
    assert found.failed == ()
    assert found.gradients == found.samples * (1 + 10 + 50 + 7)


def test_a_network_without_neurons_has_no_estimators_to_compare():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))
    found = doubts(model, split(model), None, SUITE, samples=8)
    assert {name for name, passed in verdicts(found).items() if passed is None} - OF_ROWS == {
        "estimators disagree", "stronger estimator", "surrogate width", "saturated surrogate", "guarded threshold",
        "averaging weakens", "changed by the attack",
    }  # fmt: skip
    own, *others = found.checklist.cells
    assert all(passed is not None for passed, _ in own)
    assert {cell for cells in others for cell in cells} == {(None, "no spiking layer in Sequential")}


def steady():
    """A network that nothing breaks: the dearest to probe."""
    model = Around(after=Function(lambda z: 0 * z + torch.arange(4.0)))
    return model.eval(), Split(torch.rand(4, 1, 8, 8), torch.full((4,), 3))


def cost(probe):
    """Gradient evaluations that a probe takes of a sample that nothing breaks."""
    eot = {"PGD-10 EOT": 10 * probes.EOT, "FGSM": 1, "noise": 0, "black-box": 0}
    return eot.get(probe.attack) if probe.attack in eot else int(probe.attack.removeprefix("PGD-"))


def test_costs_are_counted_and_bounded(monkeypatch):
    assert sum(map(cost, probes.PLAN)) + len(probes.COMPARED) + 1 <= 400
    plan = [*STRONGEST, *ONE_STEP, Probe("PGD-20"), Probe("PGD-10", "own", "2ε")]
    only(plan, monkeypatch)
    model, data = steady()
    evaluations = []
    model.network.layers[0].register_full_backward_hook(lambda module, inward, _: evaluations.append(len(inward[0])))
    found = doubts(model, data, None, Suite("made", L2(0.2), ()), samples=4)
    once = set(plan) - {Probe("PGD-10", "triangle 1")}  # the own surrogate under another name
    assert found.gradients == sum(evaluations) == 4 * (sum(map(cost, once)) + len(probes.COMPARED) + 1)
    assert verdicts(found)["large ε withstood"] is False


# What the checks leave alone, and what they do not depend on


def unusual_model():
    """Mixed modes, some frozen parameters, gradients in place, and a BatchNorm that follows the attack."""
    model = replaced(Stubborn)
    model.layers[2].train()
    for k, p in enumerate(model.parameters()):
        p.requires_grad_(k % 2 == 0)
        p.grad = torch.full_like(p, 0.5) if k % 4 == 0 else None
    return model


def test_the_model_the_data_and_the_generators_are_left_as_they_were(monkeypatch):
    only(ONE_STEP, monkeypatch)
    model = unusual_model()
    data = split(model)
    model.train()
    images, before, hooks = data.images.clone(), record_of(model), [len(m._forward_pre_hooks) for m in model.modules()]
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    found = doubts(model, data, None, SUITE, samples=4)
    assert "changed by the attack" in found.failed
    assert torch.equal(torch.rand(3), expected)
    assert record_of(model) == before
    assert [len(m._forward_pre_hooks) for m in model.modules()] == hooks
    assert torch.equal(data.images, images)


def test_what_a_model_keeps_between_calls_is_put_back(monkeypatch):
    only(ONE_STEP, monkeypatch)
    model = FAKES["state between calls"]().eval()
    data = split(model)
    kept = model.before.kept.clone()
    doubts(model, data, None, SUITE, samples=4)
    assert torch.equal(model.before.kept, kept)


def test_the_same_seed_finds_the_same(monkeypatch):
    only((Probe("FGSM"), Probe("PGD-5")), monkeypatch)
    model = small_snn().eval()
    data = split(model)

    def found(part, seed=0):
        torch.rand(1)
        return doubts(model, part, None, SUITE, samples=8, seed=seed).model_copy(update={"seconds": 0.0})

    first = found(data)
    assert found(data) == first
    assert found(data.subset(torch.arange(8).flip(0))) == first  # draws belong to samples


@pytest.mark.parametrize("double", [False, True])
def test_only_samples_that_are_classified_correctly_are_probed(monkeypatch, double):
    only(ONE_STEP, monkeypatch)
    model = InDouble(small_snn()) if double else small_snn()
    data = split(model)
    wrong = torch.arange(len(data)) % 2 == 0
    data = Split(data.images, torch.where(wrong, (data.labels + 1) % 4, data.labels))
    assert doubts(model, data, None, SUITE, samples=32).samples == 12
    assert doubts(model, data, None, SUITE, samples=5).samples == 5
    outcome = evaluate(model, data.subset(torch.arange(7)), [fgsm(Linf(0.04))], doubts=0, progress=False)
    assert doubts(model, data, outcome, SUITE, samples=5).samples == 3  # by the rows that there are


def test_without_a_correct_sample_there_are_no_probes():
    model = small_snn()
    data = split(model)
    found = doubts(model, Split(data.images, (data.labels + 1) % 4), None, SUITE)
    assert set(verdicts(found).values()) == {None}
    assert (found.samples, found.gradients, found.checklist) == (0, 0, None)
    assert found.findings[-1].evidence == "no sample is classified correctly"


def test_a_model_that_raises_fails_its_checks_and_is_left_as_it_was():
    class Raising(nn.Module):
        def forward(self, x):
            raise RuntimeError("inside\nand more")

    found = doubts(Raising(), Split(torch.rand(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64)), None, SUITE)
    assert set(found.failed) == set(CHECKS) - OF_ROWS
    assert {f.evidence for f in found.findings[-5:]} == {"could not be measured: RuntimeError: inside"}


def test_an_attack_that_raises_fails_only_what_is_judged_by_it(monkeypatch):
    only((Probe("FGSM"), Probe("PGD-10"), Probe("black-box")), monkeypatch)
    monkeypatch.setattr(Square, "run", lambda *args: 1 / 0)
    model = small_snn()
    found = doubts(model, split(model), None, SUITE, samples=4)
    assert found.failed == ("black-box beats gradients",)
    assert [cell for cells in found.checklist.cells for cell in cells if cell[0] is False] == [
        (False, "could not be measured: ZeroDivisionError: division by zero")
    ]


def test_estimators_of_the_suite_are_recognised():
    ball, model = Linf(0.04), small_snn(surrogate=Triangle(2.0))
    inner = WorstOf((PGD(ball, estimator=ASSG(0.87)), fgsm(ball, BPTT(Triangle(0.5)))))
    suite = Suite("made", ball, (fgsm(ball, BPTT(Triangle(2.0))), inner, UniformNoise(ball)))
    assert probes.estimators_of(suite, model) == ("own", "ASSG", "triangle 0.5")


def test_the_sizes_of_the_balls():
    assert [round(255 * eps) for eps in probes.sizes(Linf("8/255"), 64).values()] == [4, 8, 16, 64, 255]
    assert [round(255 * eps) for eps in probes.sizes(Linf("2/255"), 64).values()] == [1, 2, 4, 64, 255]
    assert list(probes.sizes(Linf(0.3), 64).values()) == [0.15, 0.3, 0.6, 1.0, 1.0]
    assert list(probes.sizes(L2(0.5), 64).values()) == [0.25, 0.5, 1.0, 4.0, 8.0]


def test_random_signs_reach_the_corners():
    x = torch.full((2, 1, 4, 4), 0.5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    y, draws = torch.tensor([0, 1]), Draws.of(0, torch.arange(2))
    moved = probes.RandomSigns(Linf(0.1), tries=2).run(model, x, y, draws)
    assert (moved.x_adv - x).abs().min() > 0.0999
    one = probes.RandomSigns(L2(0.2)).run(model, x, y, draws).x_adv
    assert L2(0.2).distance(one, x).tolist() == pytest.approx([0.2, 0.2])


def test_the_reach_of_a_surrogate_is_the_share_of_potentials_with_a_slope():
    neuron = LIF(leak=0.5, threshold=2.0, surrogate=Triangle(1.0))
    u = torch.tensor([[[0.0, 1.2, 2.0, 2.9, 3.5]], [[2.0, 2.5, -4.0, 1.5, 8.0]]])
    slope = Triangle(1.0).slope(u - 2.0)
    assert torch.equal(neuron.slope(u).abs(), slope)
    model = SNN(Settings("one", 2, 1, in_channels=1, image_size=2), OverTime(nn.Flatten(), neuron), nn.Linear(4, 2))
    x = torch.tensor([[[[0.0, 0.5], [0.9, 3.0]]]])
    subject = Subject(model.eval(), x, torch.tensor([0]), Draws.fresh(1), Linf(0.1), calls=1)
    neuron.threshold = 0.5  # distances 0.5, 0, 0.4 and 2.5
    assert reach(subject)["layers.1"][:2] == (0.75, 0.75)
    neuron.threshold = 2.0  # distances 2, 1.5, 1.1 and 1
    assert reach(subject)["layers.1"][:2] == (0.0, 1.0)


def test_samples_below_one_are_refused():
    with pytest.raises(ValueError, match="samples must be ≥ 1, got 0"):
        doubts(small_snn(), split(small_snn()), None, SUITE, samples=0)


def test_a_suite_without_a_ball_is_probed_at_the_usual_one(monkeypatch):
    model = small_snn()
    only((Probe("FGSM"), Probe("PGD-10")), monkeypatch)
    found = doubts(model, split(model), None, Suite("made", None, ()), samples=8)
    assert "Linf ε = 0.0314" in found.findings[list(CHECKS).index("one step beats many")].evidence


def test_findings_survive_json(monkeypatch):
    only(ONE_STEP, monkeypatch)
    model = small_snn()
    found = doubts(model, split(model), None, SUITE, samples=4)
    assert Doubts.model_validate_json(found.model_dump_json()) == found
    assert all(finding.remedy.endswith(".") for finding in found.findings)
