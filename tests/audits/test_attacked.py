"""Answers, attacked samples and sweeps of attacks, against counts by hand and the package's own evaluation."""

import dataclasses

import numpy as np
import pytest
import torch
from tests.conftest import record_of, small_snn
from torch import nn

from robustspike.attacks import PGD
from robustspike.audits.attacked import answers, attacked, check_on_pixels, judged, sweep
from robustspike.audits.pictured import as_picture, names_of, one_of_each
from robustspike.balls import L2, Linf
from robustspike.data import Split
from robustspike.draws import Draws
from robustspike.evaluate import evaluate
from robustspike.gradients import BPTT, RGA
from robustspike.results.audits.tried import Tried, broken_by, nothing_learned, standing
from robustspike.results.rates import rate
from robustspike.surrogates import Triangle

pytestmark = pytest.mark.usefixtures("one_thread")


class Saying(nn.Module):
    """Gives the same logits [K] for every image, others in every call."""

    def __init__(self, *calls):
        super().__init__()
        self.calls, self.k = torch.tensor(calls, dtype=torch.float64), 0

    def forward(self, x):
        self.k += 1
        return self.calls[(self.k - 1) % len(self.calls)].expand(len(x), -1)


def images(n=12, classes=4, ids=None):
    generator = torch.Generator().manual_seed(5)
    return Split(torch.rand(n, 1, 8, 8, generator=generator), torch.arange(n) % classes, ids)


def test_the_answer_is_the_majority_and_the_confidence_the_mean():
    calls = ([2.0, 0.0, 0.0], [0.0, 3.0, 0.0], [1.0, 0.0, 0.0])
    found = answers(Saying(*calls), torch.zeros(2, 1), Draws.of(0, torch.arange(2)), 3)
    softmax = np.exp(calls) / np.exp(calls).sum(1, keepdims=True)
    assert found.classes.tolist() == [0, 0]
    assert found.confidence.tolist() == pytest.approx([softmax[:, 0].mean()] * 2, rel=1e-12)


@pytest.mark.parametrize("calls", [([1.0, 0.0], [0.0, 1.0]), ([float("nan"), 0.0],), ([float("inf"), 0.0],)])
def test_without_a_majority_or_a_finite_logit_there_is_no_answer(calls):
    found = answers(Saying(*calls), torch.zeros(1, 1), Draws.of(0, torch.arange(1)), len(calls))
    assert found.classes.tolist() == [-1]
    assert found.confidence.tolist() == [0.0]
    assert bool(found.probabilities.isfinite().all())


def test_correct_rows_are_those_with_the_true_class(double_model):
    (one,) = judged(double_model, images(), "test", 0, 64)
    with torch.no_grad():
        expected = (double_model(images().images.double()).argmax(1) == images().labels).nonzero().flatten()
    assert 0 < len(expected) < 12
    assert one.correct.tolist() == expected.tolist()


@dataclasses.dataclass(frozen=True)
class TooFar:
    """Leaves its ball."""

    ball: Linf
    name: str = "too far"

    def run(self, model, x, y, draws=None):
        from robustspike.attacks import Attempt

        attempt = Attempt.begin(x)
        attempt.x_adv = (x + 2 * self.ball.eps).clamp(0, 1)
        return attempt


def test_an_attack_that_leaves_its_ball_is_refused(double_model):
    (one,) = judged(double_model, images(), "test", 0, 64)
    with pytest.raises(ValueError, match=r"too far left its ball: expected Linf ≤ 0\.1, got 0\.2"):
        attacked(double_model, TooFar(Linf(0.1)), one, one.correct)


def test_an_attack_on_the_code_is_refused():
    from robustspike.attacks import EncodedPGD

    with pytest.raises(ValueError, match="audit 'mine' takes attacks on pixels"):
        check_on_pixels(EncodedPGD(Linf(0.1)), "mine")


@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.5)])
def test_a_sweep_equals_an_evaluation(double_model, ball):
    estimators = (BPTT(), RGA(), BPTT(Triangle(0.2)))
    members = [PGD(ball, n, estimator=e, random_start=False, early_stop=True) for e in estimators for n in (1, 4)]
    data = images(ids=torch.randperm(100)[:12])
    found = sweep(double_model, data, members, "test", 0, 5, None)
    outcome = evaluate(double_model, data, members, survivors_only=False, doubts=0, progress=False)
    assert 0 < found.correct == int(outcome.correct.sum())
    for m, tried in enumerate(found.tried):
        assert sorted(data.ids[list(tried.broken)].tolist()) == sorted(outcome.samples[outcome.fooled[:, m]].tolist())
        costs = [np.nansum(outcome.field(name)[:, m]) for name in ("gradients", "zero", "nan")]
        assert [tried.gradients, tried.zero, tried.nan] == costs
    assert broken_by(found.tried)
    assert standing(12, found.correct, found.tried).value == outcome.robust_accuracy
    assert found.gradients == sum(one.gradients for one in found.tried)


@pytest.mark.parametrize("options", [{}, {"encoder": "poisson"}], ids=str)
def test_a_sweep_does_not_depend_on_the_batch(options):
    model, members = small_snn(**options).double(), [PGD(Linf(0.1), n, early_stop=True) for n in (1, 3)]
    whole, parts = (sweep(model, images(), members, "test", 1, size, None) for size in (12, 5))
    assert whole == parts
    assert whole != sweep(model, images(), members, "test", 2, 12, None)


def test_the_watch_rises_to_one_and_may_end_a_sweep(double_model):
    heard = []
    members = [PGD(Linf(0.1), 2), PGD(Linf(0.1), 3)]
    sweep(double_model, images(), members, "test", 0, 5, heard.append)
    assert heard == pytest.approx([2.5 / 12, 5 / 12, 7.5 / 12, 10 / 12, 11 / 12, 1])

    def refuse(share):
        raise RuntimeError("time is over")

    model = small_snn()
    before = record_of(model)
    with pytest.raises(RuntimeError, match="time is over"):
        sweep(model, images(), members, "test", 0, 5, refuse)
    assert record_of(model) == before


def test_labels_without_a_class_are_refused(double_model):
    with pytest.raises(ValueError, match="labels go up to 8"):
        next(judged(double_model, images(classes=9), "test", 0, 4))


def test_standing_counts_each_sample_once():
    tried = [Tried(broken=(0, 3), gradients=4, zero=1), Tried(broken=(3, 7))]
    assert broken_by(tried) == {0, 3, 7}
    assert standing(10, 9, tried) == rate(6, 10)
    assert [one.zero_share for one in tried] == [0.25, 0.0]


def test_what_is_no_better_than_chance_is_said():
    assert nothing_learned(rate(9, 10), 4) == ""
    assert "no better than chance among 4 classes" in nothing_learned(rate(2, 10), 4)


def test_one_of_each_class_then_the_first():
    labels = torch.tensor([2, 2, 0, 2, 1, 0])
    assert one_of_each(labels, 2).tolist() == [0, 2]
    assert one_of_each(labels, 3).tolist() == [0, 2, 4]
    assert one_of_each(labels, 4).tolist() == [0, 1, 2, 4]
    assert one_of_each(labels, 9).tolist() == [0, 1, 2, 3, 4, 5]


def test_pictures_of_every_shape():
    frames = torch.rand(3, 2, 4, 5)
    np.testing.assert_allclose(as_picture(frames), np.stack([f.double().numpy() for f in frames]).mean(0), rtol=1e-12)
    assert as_picture(torch.rand(2, 3, 1, 4, 5)).shape == (1, 4, 5)
    assert as_picture(torch.rand(3, 4, 5)).shape == (3, 4, 5)
    assert as_picture(torch.rand(4, 5)).shape == (1, 4, 5)
    assert as_picture(torch.rand(5)).shape == (1, 1, 5)


def test_names_are_as_many_as_classes():
    assert names_of(("a", "b"), 2) == ("a", "b")
    with pytest.raises(ValueError, match="expected 3 names, one for each class of the model, got 2"):
        names_of(("a", "b"), 3)
