"""Budgets: per sample, whatever the batches and their order; by the clock, resumable."""

import time

import numpy as np
import pytest
import torch
from tests.evaluate.stubs import Bright, Spends, bright
from tests.test_evaluate import assert_same_rows, data, small_snn
from tests.test_evaluate import run as run_snn

from robustspike.evaluate import evaluate
from robustspike.results import Budget, ResultError, load_outcome

pytestmark = pytest.mark.usefixtures("one_thread")

# Sample i stands where its reach is below 0.01·(i + 1); it costs the named sum plus i for each member.
MEMBERS = [Spends(0.015, 5), Spends(0.025, 2, 3, name="second"), Spends(0.035, name="third")]


def run(members=MEMBERS, split=None, **options):
    return evaluate(Bright(), split or bright(), members, **{"doubts": 0, "progress": False} | options)


def test_no_member_is_started_on_a_sample_that_has_spent_its_budget():
    outcome = run(budget=Budget(gradients=12))
    # Before the second: 5 + i, so all but i ≥ 7. Before the third: 10 + 2i, so only i = 0; it fell to the first already.
    assert outcome.tried[:, 0].all()
    assert outcome.tried[:, 1].tolist() == [False] + [True] * 6 + [False]
    assert not outcome.tried[:, 2].any()
    assert outcome.fooled.argmax(1).tolist()[:2] == [0, 1]
    assert outcome.robust.tolist() == [False] * 2 + [True] * 6
    assert outcome.cut.tolist() == [False] * 2 + [True] * 6
    assert outcome.header.budget == 12
    assert (
        "Budget of 12 gradient evaluations and queries per sample hit: 6 of 8 samples did not meet every attack."
        in str(outcome.table())
    )


def test_a_budget_counts_the_same_where_every_member_meets_every_sample():
    few, each = run(budget=Budget(gradients=12)), run(budget=Budget(gradients=12), survivors_only=False)
    np.testing.assert_array_equal(few.robust, each.robust)
    np.testing.assert_array_equal(few.cut, each.cut)
    assert each.tried[:, 2].tolist() == [True] + [False] * 7  # sample 0 has spent 10 and is tried though broken


def test_without_a_budget_nothing_is_cut():
    outcome = run()
    assert not outcome.cut.any()
    assert outcome.header.budget is None
    assert outcome.robust.tolist() == [False] * 3 + [True] * 5


def test_a_member_with_a_caveat_spends_no_budget_and_needs_none():
    members = [Spends(0.0, 1000, caveat="why"), *MEMBERS, Spends(0.0, caveat="why", name="last")]
    outcome = run(members, budget=Budget(gradients=12))
    np.testing.assert_array_equal(outcome.tried[:, 1:4], run(budget=Budget(gradients=12)).tried)
    assert outcome.tried[:, [0, 4]].all()


@pytest.mark.parametrize("survivors_only", [True, False])
def test_a_budget_belongs_to_the_sample(survivors_only):
    options = {"budget": Budget(gradients=4), "survivors_only": survivors_only}
    whole = run_snn(**options)
    assert whole.cut.any()
    assert whole.tried.any(0).sum() > 2
    order = torch.randperm(13, generator=torch.Generator().manual_seed(1))
    for batch_size in (1, 3, 8):
        assert_same_rows(run_snn(batch_size=batch_size, **options), whole)
        assert_same_rows(run_snn(split=data().subset(order), batch_size=batch_size, **options), whole)


def test_another_budget_is_another_evaluation(tmp_path):
    model = small_snn()
    run_snn(model, out=tmp_path, budget=Budget(gradients=4))
    with pytest.raises(ResultError, match="budget differ"):
        run_snn(model, out=tmp_path, budget=Budget(gradients=5), resume=True)
    assert run_snn(model, out=tmp_path, budget=Budget(gradients=4, minutes=9), resume=True).finished


# By the clock


class Slow(Spends):
    """Takes its time."""

    def run(self, model, x, y, draws=None):
        time.sleep(0.05)
        return super().run(model, x, y, draws)


def test_the_clock_ends_an_evaluation_between_blocks_and_it_can_be_resumed(tmp_path):
    members, options = [Slow(0.035)], {"out": tmp_path, "batch_size": 2, "budget": Budget(minutes=0.0005)}
    first = run(members, **options, doubts=32)  # no checks before the rows are complete
    assert (first.finished, first.timed_out, first.doubts) == (False, True, None)
    assert first.samples.tolist() == [0, 1]
    assert "Time budget hit: 2 of 8 samples evaluated, in the data's order; resume for the rest." in first.table().note
    assert first.header.budget is None
    with pytest.raises(ResultError, match="holds 2 of 8 samples: the evaluation is not finished; resume it"):
        load_outcome(tmp_path)
    assert_same_rows(load_outcome(tmp_path, unfinished=True), first)
    assert run(members, **options, resume=True).samples.tolist() == [0, 1, 2, 3]
    last = run(members, **options | {"budget": None}, resume=True)
    assert (last.finished, last.timed_out) == (True, False)
    assert_same_rows(last, run(members))
