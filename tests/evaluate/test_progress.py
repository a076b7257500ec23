"""The progress bar moves within a block, and counts what will not be run."""

import contextlib

import pytest
from tests.evaluate.stubs import Bright, Spends, bright

from robustspike.evaluate import evaluate, evaluation
from robustspike.results import Budget

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def shown(monkeypatch):
    """What the bar was told: its total and start, then every count."""
    seen = []

    class Bar:
        def add_task(self, description, total, completed):
            seen.append((total, completed))

        def update(self, task, completed):
            seen.append(completed)

    monkeypatch.setattr(evaluation, "progress_bar", lambda _: contextlib.nullcontext(Bar()))
    return seen


def run(members, **options):
    return evaluate(Bright(), bright(), members, **{"doubts": 0, "progress": True, "batch_size": 4} | options)


def test_every_attack_moves_the_bar(shown):
    run([Spends(0.0), Spends(0.0, name="second")])
    assert shown == [(8, 0), 2, 4, 4, 6, 8, 8]


def test_samples_that_fell_count_as_done(shown):
    run([Spends(0.035), Spends(0.0, name="second")])
    # Of the first block, three fall to the first attack: only one attack on one sample is left.
    assert shown == [(8, 0), 3.5, 4, 4, 6, 8, 8]
    shown.clear()
    run([Spends(0.035), Spends(0.0, name="second")], survivors_only=False)
    assert shown == [(8, 0), 2, 4, 4, 6, 8, 8]
    shown.clear()
    run([Spends(0.035), Spends(0.0, caveat="meets all")])
    assert shown == [(8, 0), 2, 4, 4, 6, 8, 8]


def test_what_the_budget_forbids_counts_as_done(shown):
    run([Spends(0.0, 8), Spends(0.0, name="second")], budget=Budget(gradients=10))
    # Samples 2 and 3 of the first block and all of the second have spent 10 or more.
    assert shown == [(8, 0), 3, 4, 4, 8, 8, 8]


def test_a_resumed_bar_starts_where_the_rows_end(shown, tmp_path):
    run([Spends(0.0)], out=tmp_path, budget=Budget(minutes=1e-9))
    shown.clear()
    run([Spends(0.0)], out=tmp_path, resume=True)
    assert shown == [(8, 4), 8, 8]
