"""Accuracy against the surrogate's width: one neuron by hand, sets by hand, each sample by itself."""

import pytest
import torch
from tests.conftest import small_snn
from torch import nn

from robustspike.attacks import PGD
from robustspike.audits import widths
from robustspike.balls import Linf
from robustspike.data import Split
from robustspike.draws import Draws
from robustspike.gradients import BPTT
from robustspike.neurons import LIF
from robustspike.results import Chart, rate
from robustspike.results.audits import Tried, Widths
from robustspike.surrogates import Triangle

pytestmark = pytest.mark.usefixtures("one_thread")


def images(n=12, classes=4, shape=(1, 8, 8)):
    generator = torch.Generator().manual_seed(5)
    return Split(torch.rand(n, *shape, generator=generator), torch.arange(n) % classes)


class OneNeuron(nn.Module):
    """One step of one neuron with θ = 1 and u = weight·x; it fires: class 1, it does not: class 0."""

    def __init__(self, weight):
        super().__init__()
        self.weight, self.neuron = nn.Parameter(torch.tensor(weight, dtype=torch.float64)), LIF()

    def forward(self, x):
        spikes = self.neuron((self.weight * x.double().flatten(1))[None]).mean(0)
        return torch.cat([torch.full_like(spikes, 0.5), spikes], 1)


def record(*rows, widths=(0.5, 1.0, 2.0), correct=8, **changes):
    given = {"n": 10, "seed": 0, "under": "PGD-10 under triangles, L∞ ε = 0.1", "classes": 2, "correct": correct}
    made = tuple(Tried(broken=broken, gradients=10, zero=zero) for broken, zero in rows)
    return Widths(**given | changes, widths=widths, tried=made)


BY_HAND = record(((0, 1, 2), 6), ((1,), 0), ((1, 3), 2))


def same(found):
    return found.model_copy(update={"seconds": 0.0})


def test_one_neuron_by_hand():
    """u = x at 0.6 ± ε: never within 0.25 of θ = 1; within 0.5 always. With ε = 0.05 no x fires; with 0.45 some does."""
    data = Split(torch.full((3, 1), 0.6), torch.zeros(3, dtype=torch.int64))
    found = widths(OneNeuron(1.0), data, eps=0.05, widths=(0.25, 0.5))
    assert found.correct == 3
    assert [one.broken for one in found.tried] == [(), ()]
    assert [one.gradients for one in found.tried] == [30, 30]
    assert [one.zero for one in found.tried] == [30, 0]
    assert found.blind == (0.25,)
    assert "Under 1 of 2 widths more than half of the gradients are exactly zero (γ = 0.25)" in found.answer()
    wide = widths(OneNeuron(1.0), data, eps=0.45, widths=(0.05, 3.0))
    assert wide.tried[1].broken == (0, 1, 2)
    assert wide.strongest == 1
    assert wide.usual is None
    assert "γ = 1 leaves" not in wide.answer()


def test_sets_by_hand():
    assert BY_HAND.clean == rate(8, 10)
    assert [BY_HAND.alone(w) for w in range(3)] == [rate(5, 10), rate(7, 10), rate(6, 10)]
    assert BY_HAND.worst == rate(4, 10)
    assert (BY_HAND.strongest, BY_HAND.usual, BY_HAND.blind) == (0, 1, (0.5,))
    answer = BY_HAND.answer()
    assert f"Strongest is γ = 0.5: {rate(5, 10)} % of 10 stand" in answer
    assert f"The usual γ = 1 leaves {rate(7, 10)} %, 20.0 points more" in answer
    assert "(broken only under γ = 0.5: 2, only under γ = 1: 0)" in answer
    assert f"Under the worst of 3 widths for every sample {rate(4, 10)} % stand" in answer
    assert BY_HAND.headline() == {
        "clean": str(rate(8, 10)), "γ = 1": str(rate(7, 10)), "strongest γ": f"0.5: {rate(5, 10)}",
        "worst of 3 widths": str(rate(4, 10)), "widths with mostly zero gradients": "1",
    }  # fmt: skip


def test_of_equally_strong_widths_the_nearest_to_one_is_named():
    assert record(((0,), 0), ((1,), 0), ((2,), 0)).strongest == 1
    assert "No width tried beats the usual γ = 1." in record(((0,), 0), ((1,), 0), ((2,), 0)).answer()
    assert record(((0,), 0), ((), 0), ((2,), 0)).strongest == 0
    assert record(((0,), 0), ((), 0), ((2, 3), 0)).strongest == 2


def test_the_answer_names_what_would_mislead():
    assert record(((), 0), ((), 0), ((), 0), correct=0).answer().startswith("Nothing to attack")
    assert "among 2 classes this cannot be told from chance" in BY_HAND.answer()
    assert "no better than chance among 2 classes" in record(((), 0), ((), 0), ((), 0), correct=4).answer()
    assert "chance" not in record(((), 0), ((), 0), ((), 0), correct=10).answer()


@pytest.mark.parametrize("options", [{}, {"encoder": "frames", "time_steps": 3}], ids=str)
def test_each_sample_is_as_if_attacked_by_itself(options):
    model = small_snn(**options).double().eval()
    data = images(shape=(3, 1, 8, 8) if options else (1, 8, 8))
    found = widths(model, data, eps=0.05, widths=(2, 0.3), steps=3)
    assert found.widths == (0.3, 2.0)
    for w, width in enumerate((0.3, 2.0)):
        # the papers' step: 0.01 at ε = 8/255
        attack = PGD(Linf(0.05), 3, 0.05 * 0.01 / (8 / 255), estimator=BPTT(Triangle(width)), early_stop=True)
        broken, spent = [], 0
        for k in range(len(data)):
            x, y = data.images[k : k + 1].double(), data.labels[k : k + 1]
            with torch.no_grad():
                if model(x).argmax(1) != y:
                    continue
            draws = Draws.of(0, torch.tensor([k])).fork("widths").fork("attack")
            attempt = attack.run(model, x, y, draws)
            with torch.no_grad():
                broken += [k] * bool(model(attempt.x_adv).argmax(1) != y)
            spent += int(attempt.gradients)
        assert found.tried[w].broken == tuple(broken)
        assert found.tried[w].gradients == spent
    assert found.gradients == sum(one.gradients for one in found.tried)


@pytest.mark.parametrize("options", [{}, {"encoder": "poisson"}], ids=str)
def test_neither_the_batch_nor_other_widths_matter(options):
    model = small_snn(**options).double()
    whole = widths(model, images(), eps=0.05, widths=(0.3, 1.0), steps=3)
    assert same(whole) == same(widths(model, images(), eps=0.05, widths=(0.3, 1.0), steps=3, batch_size=5))
    assert widths(model, images(), eps=0.05, widths=(1.0,), steps=3).tried == whole.tried[1:]
    assert ("majority of 10 calls" in whole.under) == bool(options)


def test_by_default_ten_widths_between_the_papers_ends(double_model):
    found = widths(double_model, images(), steps=1)
    assert len(found.widths) == 10
    assert (found.widths[0], found.widths[-1], found.usual) == (0.1, 3.0, 5)
    assert found.worst.value <= min(found.alone(w).value for w in range(10)) <= found.clean.value
    assert widths(double_model, images(), steps=1, samples=4, widths=(1.0,)).n == 4


def test_views_hold_the_records_figures():
    chart, zeros, table = BY_HAND.views()
    assert isinstance(chart, Chart)
    alone, worst = chart.lines
    assert alone.x == (0.5, 1, 2)
    assert alone.y == pytest.approx((50, 70, 60))
    assert alone.low[0] == 100 * rate(5, 10).low
    assert worst.dashed
    assert (worst.x, worst.y) == ((0.5, 2), (40, 40))
    assert zeros.lines[0].y == pytest.approx((60, 0, 20))
    assert table.rows[0] == ("0.5", str(rate(5, 10)), "60.0", "0", "10")
    assert table.rows[-1][:2] == ("worst of all", str(rate(4, 10)))


def test_networks_side_by_side():
    table, chart, zeros = Widths.compared({"one": BY_HAND, "other": record(((), 0), widths=(1.0,))})
    assert [row[0] for row in table.rows] == ["one", "other"]
    assert table.rows[1][4:] == ("·", "0", str(rate(8, 10)))
    assert [line.label for line in chart.lines] == [line.label for line in zeros.lines] == ["one", "other"]
    assert chart.lines[0].y == pytest.approx((50, 70, 60))


def test_json_comes_back_exactly(double_model):
    found = widths(double_model, images(), eps=0.1, steps=2)
    assert Widths.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": ()}, "expected widths above 0"),
        ({"widths": (0.0, 1.0)}, "expected widths above 0"),
        ({"widths": (float("inf"),)}, "expected widths above 0"),
        ({"samples": 0}, "samples=0"),
        ({"steps": 0}, "steps must be ≥ 1"),
        ({"eps": 8}, 'did you mean "8/255"'),
    ],
    ids=["none", "zero", "infinite", "samples", "steps", "eps"],
)
def test_bad_input(double_model, options, message):
    with pytest.raises(ValueError, match=message):
        widths(double_model, images(), **options)


def test_it_needs_spiking_layers():
    with pytest.raises(ValueError, match="needs spiking layers, whose surrogate it varies; found none in Linear"):
        widths(nn.Linear(3, 2), Split(torch.rand(2, 3), torch.tensor([0, 1])))
