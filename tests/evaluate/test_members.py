"""Kinds and caveats of attacks, and attacks that present something other than pixels."""

import contextlib
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from tests.evaluate.stubs import BALL, Bright, Spends, bright

from robustspike.attacks.attempt import Attempt
from robustspike.balls import Linf
from robustspike.evaluate import evaluate
from robustspike.results import ResultError, load_outcome

pytestmark = pytest.mark.usefixtures("one_thread")


def run(members, data=None, **options):
    return evaluate(Bright(), data or bright(), members, **{"doubts": 0, "progress": False} | options)


def test_kind_and_caveat_are_the_attacks_own():
    header = run([Spends(0.01, kind="black-box", caveat="why"), Spends(0.01)]).header
    assert [(m.kind, m.caveat) for m in header.members] == [("black-box", "why"), ("white-box", "")]


@pytest.mark.parametrize("survivors_only", [True, False])
def test_a_member_with_a_caveat_meets_every_sample_and_breaks_none(survivors_only):
    members = [Spends(0.035), Spends(0.065, caveat="other weights"), Spends(0.045)]
    outcome = run(members, survivors_only=survivors_only)
    assert outcome.tried[:, 1].all()
    assert outcome.tried[:, 2].sum() == (5 if survivors_only else 8)
    assert outcome.robust.tolist() == [False] * 4 + [True] * 4
    assert [m.alone and m.alone.value for m in outcome.summary().members][1] == 2 / 8
    without = run([members[0], members[2]], survivors_only=survivors_only)
    np.testing.assert_array_equal(without.robust, outcome.robust)
    np.testing.assert_array_equal(without.attempts[:, 1, 1:-1], outcome.attempts[:, 2, 1:-1])


def test_forward_passes_are_booked():
    outcome = run([Spends(0.035, gradients=3, queries=7)])
    assert outcome.field("queries")[:, 0].tolist() == [7] * 8
    assert outcome.field("gradients")[:, 0].tolist() == list(range(3, 11))
    assert outcome.summary().queries == 56


class Inverted(Bright):
    """Takes images or, while somebody presents them, their negatives."""

    negative = False

    def forward(self, x):
        return super().forward(1 - x if self.negative else x)


@dataclass(frozen=True)
class OnNegatives:
    """Attacks the negative of the image: its examples mean something only while they are presented."""

    reach: float
    name: str = "on negatives"
    ball: Linf = BALL

    @contextlib.contextmanager
    def presented(self, model, x, draws):
        model.negative = True
        try:
            yield 1 - x
        finally:
            model.negative = False

    def run(self, model, x, y, draws=None):
        assert not model.negative
        return Attempt.begin(1 - x + self.reach)


def test_what_an_attack_presents_is_scored_and_measured_around_its_own_centre():
    model = Inverted()
    outcome = evaluate(model, bright(), OnNegatives(0.035), doubts=0, progress=False)
    assert outcome.fooled[:, 0].tolist() == [True] * 3 + [False] * 5
    assert outcome.field("distance")[:, 0].tolist() == pytest.approx([0.035] * 8, abs=1e-6)
    assert not model.negative
    with pytest.raises(ResultError, match="on negatives left its ball"):
        evaluate(model, bright(), OnNegatives(0.11), doubts=0, progress=False)
    assert not model.negative


def test_members_come_back_from_the_disk(tmp_path):
    made = run([Spends(0.035, kind="noise", caveat="why")], out=tmp_path)
    assert load_outcome(tmp_path).header == made.header
    assert torch.is_tensor(bright().images)
