"""Confusion matrices: counted by hand and by a loop, and against the package's own evaluation."""

import numpy as np
import pytest
import torch
from tests.conftest import small_snn
from torch import nn

from robustspike.attacks import PGD, EncodedPGD, WorstOf, fgsm
from robustspike.audits import confusion
from robustspike.balls import L2, Linf
from robustspike.data import Split
from robustspike.evaluate import evaluate
from robustspike.gradients import RGA
from robustspike.results import Bars, Matrix, rate
from robustspike.results.audits import Confusion

pytestmark = pytest.mark.usefixtures("one_thread")


def images(n=16, classes=4, shape=(1, 8, 8)):
    generator = torch.Generator().manual_seed(5)
    return Split(torch.rand(n, *shape, generator=generator), torch.arange(n) % classes, torch.arange(n) * 3 + 1)


def record(labels, clean, attacked, classes=("cat", "dog", "ox"), **changes):
    given = {"n": len(labels), "seed": 0, "under": "FGSM, L∞ ε = 0.1", "classes": classes}
    return Confusion(**given | changes, labels=tuple(labels), clean=tuple(clean), attacked=tuple(attacked))


BY_HAND = record([0, 0, 0, 1, 1, 2, 2, 2], [0, 0, 1, 1, 1, 2, 2, -1], [1, 1, 1, 1, 0, 2, 0, -1])


def random_record(n, classes, seed=0):
    draw = np.random.default_rng(seed)
    labels, clean = draw.integers(0, classes, n), draw.integers(-1, classes, n)
    clean = np.where(draw.random(n) < 0.8, labels, clean)
    attacked = np.where((clean == labels) & (draw.random(n) < 0.6), draw.integers(0, classes, n), clean)
    return record(
        *(list(map(int, x)) for x in (labels, clean, attacked)), classes=tuple(f"c{k}" for k in range(classes))
    )


def same(found):
    return found.model_copy(update={"seconds": 0.0})


def test_counts_by_hand():
    assert BY_HAND.matrix("clean").tolist() == [[2, 1, 0, 0], [0, 2, 0, 0], [0, 0, 2, 1]]
    assert BY_HAND.matrix("attacked").tolist() == [[0, 3, 0, 0], [1, 1, 0, 0], [1, 0, 1, 1]]
    assert BY_HAND.accuracy("clean") == rate(6, 8)
    assert BY_HAND.accuracy("attacked") == rate(2, 8)
    assert BY_HAND.by_class("attacked") == {0: rate(0, 3), 1: rate(1, 2), 2: rate(1, 3)}
    assert BY_HAND.confusions() == [(0, 1, 3, 1), (1, 0, 1, 0), (2, -1, 1, 1), (2, 0, 1, 0)]
    assert BY_HAND.extremes() == ((0, rate(0, 3)), (1, rate(1, 2)))
    answer = BY_HAND.answer()
    assert "Most frequent under attack: cat → dog (3)." in answer
    assert "The least robust class is cat, 0.0 [0.0, 70.8] % of 3" in answer
    assert "their intervals overlap" in answer
    assert "go to" not in answer  # dog takes three of six errors, not more than half
    assert BY_HAND.headline()["most frequent confusion"] == "cat → dog (3)"


def test_a_class_that_takes_most_errors_is_named():
    found = record([0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [2, 2, 2, 0, 2])
    assert "75 % of all errors under attack go to ox." in found.answer()
    nowhere = record([0, 1], [0, 1], [-1, -1])
    assert "100 % of all errors under attack go to no answer." in nowhere.answer()


def test_without_errors_there_is_no_confusion():
    found = record([0, 1, 2] * 5, [0, 1, 2] * 5, [0, 1, 2] * 5)
    assert found.confusions() == []
    assert "Most frequent" not in found.answer()
    assert "least robust" not in found.answer()
    assert found.headline()["most frequent confusion"] == "–"
    assert found.views()[3].rows == ()


def test_a_network_no_better_than_chance_is_named():
    assert "no better than chance among 3 classes" in record([0, 1, 2], [0, 0, 0], [0, 0, 0]).answer()
    assert "chance" not in record([0] * 9, [0] * 9, [0] * 9).answer()


def test_few_samples_are_not_called_chance():
    """5 of 6 at two classes: Clopper and Pearson's interval, from 36 to 99.6 %, holds a half."""
    answer = record([0] * 6, [0] * 5 + [1], [0] * 6, classes=("cat", "dog")).answer()
    assert "no better than chance" not in answer
    assert "say nothing" not in answer
    assert "83.3 % of 6 samples right: among 2 classes this cannot be told from chance on so few samples" in answer
    assert "(95 % interval 35.9 to 99.6 %)" in answer


@pytest.mark.parametrize("which", ["clean", "attacked"])
def test_the_matrix_is_a_loops(which):
    found = random_record(200, 7)
    counts = np.zeros((7, 8), dtype=int)
    for label, predicted in zip(found.labels, getattr(found, which), strict=True):
        counts[label][predicted if predicted >= 0 else 7] += 1
    np.testing.assert_array_equal(found.matrix(which), counts)
    assert found.matrix(which).sum() == found.n


LINF, L2_BALL = fgsm(Linf(0.1)), PGD(L2(0.5), 3, random_start=False, early_stop=True)


@pytest.mark.parametrize("attack", [LINF, L2_BALL], ids=["Linf", "L2"])
def test_it_agrees_with_an_evaluation(double_model, attack):
    data = images(40)
    attack = WorstOf((attack, fgsm(attack.ball, RGA())))
    found = confusion(double_model, data, attack=attack, batch_size=7)
    outcome = evaluate(double_model, data, attack, doubts=0, progress=False)
    predicted = np.where(outcome.fooled[:, 0], outcome.field("predicted")[:, 0], outcome.clean)
    assert found.labels == tuple(outcome.labels.tolist())
    assert found.clean == tuple(outcome.clean.tolist())
    assert found.attacked == tuple(predicted.astype(int).tolist())
    assert found.accuracy("clean").value == outcome.clean_accuracy
    assert found.accuracy("attacked").value == outcome.robust_accuracy < outcome.clean_accuracy
    assert found.gradients == np.nansum(outcome.field("gradients"))


@pytest.mark.parametrize("options", [{}, {"encoder": "poisson"}, {"encoder": "frames", "time_steps": 3}], ids=str)
def test_the_batch_does_not_matter(options):
    model = small_snn(**options).double()
    data = images(shape=(3, 1, 8, 8) if "time_steps" in options else (1, 8, 8))
    whole, parts = (confusion(model, data, eps=0.05, batch_size=size) for size in (16, 5))
    assert same(whole) == same(parts)
    assert ("majority of 10 calls" in whole.under) == ("poisson" in options.values())


def test_what_is_wrong_without_attack_stays_as_it_is(double_model):
    found = confusion(double_model, images(40), eps=0.2)
    rows = list(zip(found.labels, found.clean, found.attacked, strict=True))
    assert {after for label, clean, after in rows if clean != label}
    assert all(after == clean for label, clean, after in rows if clean != label)
    assert any(after != clean for label, clean, after in rows if clean == label)


def test_logits_that_are_not_finite_are_no_answer():
    class Broken(nn.Module):
        def forward(self, x):
            return torch.stack([x.flatten(1).mean(1), torch.full((len(x),), float("nan"))], 1)

    found = confusion(Broken(), images(4, 2), eps=0.1)
    assert found.clean == found.attacked == (-1,) * 4
    assert found.views()[0].columns == ("0", "1", "no answer")
    assert found.accuracy("attacked").value == 0
    assert found.gradients == 0


def test_views_hold_the_records_counts():
    attacked, clean, bars, frequent, classes = BY_HAND.views()
    assert isinstance(attacked, Matrix)
    assert isinstance(bars, Bars)
    assert attacked.written
    assert attacked.columns == clean.columns == ("cat", "dog", "ox", "no answer")
    np.testing.assert_array_equal(attacked.values, BY_HAND.matrix("attacked"))
    np.testing.assert_array_equal(clean.values, BY_HAND.matrix("clean"))
    assert bars.series["under attack"] == (0, 50, 100 * (1 / 3))
    assert bars.series["without attack"] == (100 * (2 / 3), 100, 100 * (2 / 3))
    assert frequent.rows[0] == ("cat → dog", "3", "1")
    assert classes.rows[1] == ("dog", "2", str(rate(2, 2)), str(rate(1, 2)))
    assert record([0, 1], [0, 1], [1, 1]).views()[0].columns == ("cat", "dog", "ox")
    assert record([0, 1], [0, 1], [1, 1]).views()[2].categories == ("cat", "dog")  # no sample of class ox


def test_a_hundred_classes_stay_small():
    found = random_record(1000, 100)
    attacked, _, bars, frequent, classes = found.views()
    assert len(found.model_dump_json()) < 20_000
    assert Confusion.model_validate_json(found.model_dump_json()) == found
    assert not attacked.written
    robust = {f"c{k}": 100 * r.value for k, r in found.by_class("attacked").items()}
    assert len(bars.categories) == 20
    assert "the 10 least and the 10 most robust of 100" in bars.title
    assert bars.series["under attack"] == tuple(robust[name] for name in bars.categories)
    assert max(bars.series["under attack"][:10]) <= np.sort(list(robust.values()))[10]
    assert min(bars.series["under attack"][10:]) >= np.sort(list(robust.values()))[-11]
    assert len(frequent.rows) == 10
    listed = sum(int(row[1]) for row in frequent.rows)
    errors = sum(a != b for a, b in zip(found.labels, found.attacked, strict=True))
    assert frequent.note.startswith(f"{errors - listed} further errors")
    assert len(classes.rows) == 100


def test_networks_side_by_side():
    other = BY_HAND.model_copy(update={"attacked": BY_HAND.clean})
    table, bars, classes = Confusion.compared({"one": BY_HAND, "other": other})
    assert [row[0] for row in table.rows] == ["one", "other"]
    assert bars.series["one"] == (0, 50, 100 * (1 / 3))
    assert bars.series["other"] == (100 * (2 / 3), 100, 100 * (2 / 3))
    assert classes.rows[0] == ("cat", "3", str(rate(0, 3)), str(rate(2, 3)))
    assert len(Confusion.compared({"one": BY_HAND, "other": random_record(10, 3)})) == 1


def test_json_comes_back_exactly(double_model):
    found = confusion(double_model, images(), eps=0.1, class_names=("cat", "dog", "ox", "pig"))
    assert Confusion.model_validate_json(found.model_dump_json()) == found
    assert found.classes == ("cat", "dog", "ox", "pig")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_names": ("a",)}, "expected 4 names"),
        ({"eps": -1}, "eps"),
        ({"attack": EncodedPGD(Linf(0.1))}, "audit 'confusion' takes attacks on pixels"),
        ({"batch_size": 0}, "batch_size must be ≥ 1"),
    ],
    ids=["names", "eps", "code", "batch"],
)
def test_bad_input(double_model, options, message):
    with pytest.raises(ValueError, match=message):
        confusion(double_model, images(), **options)
