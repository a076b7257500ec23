"""Accuracy against an attack's steps: sets by hand, a linear model, each sample by itself."""

import pytest
import torch
from tests.conftest import small_snn
from torch import nn

from robustspike.attacks import PGD
from robustspike.audits import steps
from robustspike.balls import Linf
from robustspike.data import Split
from robustspike.draws import Draws
from robustspike.gradients import BPTT, RGA
from robustspike.results import Chart, rate
from robustspike.results.audits import Steps, Tried

pytestmark = pytest.mark.usefixtures("one_thread")


def images(n=12, classes=4, shape=(1, 8, 8)):
    generator = torch.Generator().manual_seed(5)
    return Split(torch.rand(n, *shape, generator=generator), torch.arange(n) % classes)


class Linear(nn.Module):
    """z = (w·x − 0.5, 0) in float64."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -1.0, 2.0], dtype=torch.float64))

    def forward(self, x):
        z = x.flatten(1).double() @ self.weight - 0.5
        return torch.stack([z, torch.zeros_like(z)], 1)


def tried(*rows):
    return tuple(tuple(Tried(broken=broken, gradients=10, zero=zero) for broken, zero in row) for row in rows)


def record(rows, correct=8, steps=(1, 5, 10), **changes):
    given = {"n": 10, "seed": 0, "under": "PGD, L∞ ε = 0.1", "classes": 2, "correct": correct, "steps": steps}
    names = tuple(f"estimator {k}" for k in range(len(rows)))
    return Steps(**given | changes, estimators=names, tried=tried(*rows))


BY_HAND = record([[((0,), 0), ((0, 1), 0), ((1, 2), 0)], [((3,), 0), ((), 0), ((2, 5), 3)]])


def same(found):
    return found.model_copy(update={"seconds": 0.0})


def test_sets_by_hand():
    assert BY_HAND.clean == rate(8, 10)
    assert [BY_HAND.alone(0, s) for s in range(3)] == [rate(7, 10), rate(6, 10), rate(6, 10)]
    assert [BY_HAND.alone(1, s) for s in range(3)] == [rate(7, 10), rate(8, 10), rate(6, 10)]
    assert [BY_HAND.worst(s) for s in range(3)] == [rate(6, 10), rate(6, 10), rate(5, 10)]
    assert [BY_HAND.running(s) for s in range(3)] == [rate(6, 10), rate(5, 10), rate(3, 10)]
    assert [BY_HAND.newly_broken(s) for s in range(3)] == [2, 1, 2]
    assert BY_HAND.zero_share == 3 / 60
    answer = BY_HAND.answer()
    assert f"{rate(6, 10)} % under 1 step and {rate(5, 10)} % under 10 steps, the worst of the estimators" in answer
    assert "From 5 to 10 steps further samples break: 2 of 10 (20.0 points). The attack has not converged" in answer
    assert BY_HAND.headline()["points gained by the last"] == "20.0"


def test_the_answer_without_a_further_sample():
    found = record([[((0,), 0), ((0, 1), 0), ((1,), 0)]])
    assert (
        f"no further sample breaks (of 10; 95 % interval up to {100 * rate(0, 10).high:.1f} points)" in found.answer()
    )
    assert "With 10 steps alone it is 10.0 points higher than with fewer" in found.answer()
    assert "the worst of the estimators" not in found.answer()
    everything = record([[(tuple(range(8)), 0), (tuple(range(8)), 0)]], steps=(1, 2))
    assert "Already with 1 step nothing is left standing" in everything.answer()


def test_the_answer_names_what_would_mislead():
    assert "60 % of the gradients are exactly zero" in record([[((), 6)]], steps=(1,)).answer()
    assert "among 2 classes this cannot be told from chance" in record([[((), 0)]], steps=(1,)).answer()
    assert "no better than chance among 2 classes" in record([[((), 0)]], steps=(1,), correct=5).answer()
    assert "chance" not in record([[((), 0)]], steps=(1,), classes=10).answer()
    assert record([[((), 0)]], steps=(1,), correct=0).answer().startswith("Nothing to attack")


def test_a_linear_model_is_broken_exactly_within_reach():
    """The worst point of the ball is w·x − 0.5 − 4ε, and every run ends there."""
    x = torch.tensor([[v, 0.5, 0.5] for v in (0.05, 0.2, 0.35, 0.55, 0.75)])
    data, eps = Split(x, torch.zeros(5, dtype=torch.int64)), 0.1
    reach = [v - 4 * eps <= 0 for v in (0.05, 0.2, 0.35, 0.55, 0.75)]
    found = steps(Linear(), data, eps=eps, steps=(1, 2, 5, 50))
    assert found.correct == 5
    assert len(found.tried) == 1  # no spiking layers: the model's own gradient
    for one in found.tried[0]:
        assert one.broken == tuple(k for k, broken in enumerate(reach) if broken) == (0, 1, 2)
    assert found.worst(3) == rate(2, 5)
    assert found.estimators == ("BPTT own surrogate",)


@pytest.mark.parametrize("options", [{}, {"encoder": "frames", "time_steps": 3}], ids=str)
def test_each_sample_is_as_if_attacked_by_itself(options):
    model = small_snn(**options).double().eval()
    data = images(shape=(3, 1, 8, 8) if options else (1, 8, 8))
    found = steps(model, data, eps=0.05, steps=(4, 1), estimators=(BPTT(), RGA()))
    assert found.steps == (1, 4)
    for e, estimator in enumerate((BPTT(), RGA())):
        for s, count in enumerate((1, 4)):
            broken, spent = [], 0
            for k in range(len(data)):
                x, y = data.images[k : k + 1].double(), data.labels[k : k + 1]
                with torch.no_grad():
                    if model(x).argmax(1) != y:
                        continue
                    draws = Draws.of(0, torch.tensor([k])).fork("steps").fork("attack")
                attempt = PGD(Linf(0.05), count, estimator=estimator, early_stop=True).run(model, x, y, draws)
                with torch.no_grad():
                    broken += [k] * bool(model(attempt.x_adv).argmax(1) != y)
                spent += int(attempt.gradients)
            assert found.tried[e][s].broken == tuple(broken)
            assert found.tried[e][s].gradients == spent


@pytest.mark.parametrize("options", [{}, {"encoder": "poisson"}], ids=str)
def test_neither_the_batch_nor_other_attacks_matter(options):
    model = small_snn(**options).double()
    whole = steps(model, images(), eps=0.05, steps=(1, 3))
    assert same(whole) == same(steps(model, images(), eps=0.05, steps=(1, 3), batch_size=5))
    assert steps(model, images(), eps=0.05, steps=(3,)).tried == tuple((row[1],) for row in whole.tried)
    assert ("majority of 10 calls" in whole.under) == bool(options)
    assert len(whole.tried) == 4


def test_more_attacks_never_help_the_network(double_model):
    found = steps(double_model, images(40), eps=0.03, steps=(1, 2, 4, 8))
    for s in range(4):
        assert all(found.worst(s).value <= found.alone(e, s).value <= found.clean.value for e in range(4))
        assert found.running(s).value <= found.worst(s).value
        assert s == 0 or found.running(s).value <= found.running(s - 1).value
    assert sum(found.newly_broken(s) for s in range(4)) == found.correct - round(40 * found.running(3).value)
    assert 0 < found.running(3).value < found.clean.value


def test_only_the_first_samples_are_attacked(double_model):
    found = steps(double_model, images(12), steps=(1,), samples=5)
    assert found.n == 5
    assert found.correct <= 5


def test_views_hold_the_records_figures():
    chart, table = BY_HAND.views()
    assert isinstance(chart, Chart)
    assert (chart.x_log, chart.percent) == (True, True)
    lines = {line.label: line for line in chart.lines}
    assert list(lines) == ["estimator 0", "estimator 1", "worst case", "worst case so far"]
    assert lines["estimator 1"].y == pytest.approx((70, 80, 60))
    assert lines["worst case"].y == pytest.approx((60, 60, 50))
    assert lines["worst case"].low[2] == 100 * rate(5, 10).low
    assert lines["worst case so far"].dashed
    assert lines["worst case so far"].y == pytest.approx((60, 50, 30))
    assert all(line.x == (1, 5, 10) for line in chart.lines)
    assert table.rows[0] == ("estimator 0", str(rate(7, 10)), str(rate(6, 10)), str(rate(6, 10)))
    assert table.rows[-1] == ("newly broken", "2", "1", "2")
    single = record([[((0,), 0), ((), 0)]], steps=(1, 2)).views()[0]
    assert [line.label for line in single.lines] == ["estimator 0", "worst case so far"]


def test_networks_side_by_side():
    other = record([[((), 0), ((), 0)]], steps=(1, 20))
    table, chart = Steps.compared({"one": BY_HAND, "other": other})
    assert [row[0] for row in table.rows] == ["one", "other"]
    assert {line.label: line.x for line in chart.lines} == {"one": (1, 5, 10), "other": (1, 20)}
    assert chart.lines[0].y == pytest.approx((60, 60, 50))


def test_json_comes_back_exactly(double_model):
    found = steps(double_model, images(), eps=0.1, steps=(1, 2))
    assert Steps.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": ()}, "expected numbers of steps"),
        ({"steps": (0, 1)}, r"got steps=\(0, 1\)"),
        ({"samples": 0}, "samples=0"),
        ({"estimators": ()}, "expected at least one estimator"),
        ({"eps": 8}, 'did you mean "8/255"'),
    ],
    ids=["none", "zero", "samples", "estimators", "eps"],
)
def test_bad_input(double_model, options, message):
    with pytest.raises(ValueError, match=message):
        steps(double_model, images(), **options)


def test_an_estimator_needs_spiking_layers():
    with pytest.raises(ValueError, match="found no spiking layer in Linear"):
        steps(Linear(), Split(torch.full((1, 3), 0.9), torch.tensor([0])), steps=(1,), estimators=(RGA(),))
