"""Learning rates."""

import math

import pytest
import torch
from tests.train.making import train

from robustspike.train import learning_rate_factor

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_cosine_by_hand():
    got = [learning_rate_factor("cosine", step, 2, 4) for step in range(9)]
    quarter = math.sqrt(0.5) / 2
    assert got == pytest.approx([1, 1, 0.5 + quarter, 0.5 + quarter, 0.5, 0.5, 0.5 - quarter, 0.5 - quarter, 0])


def test_one_cycle_by_hand():
    # 100 steps: from 1/25 to 1 over the first 30, halfway at 15 (0.52), then to 0 over 70, half at 65.
    points = {0: 0.04, 15: 0.52, 30: 1.0, 65: 0.5, 100: 0.0}
    assert {s: learning_rate_factor("one-cycle", s, 10, 10) for s in points} == pytest.approx(points)
    rising = [learning_rate_factor("one-cycle", s, 10, 10) for s in range(101)]
    assert rising[:31] == sorted(rising[:31])
    assert rising[30:] == sorted(rising[30:], reverse=True)


def test_one_cycle_is_the_shape_of_torch():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], 1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=1001, final_div_factor=1e9)
    for step in range(1000):
        assert learning_rate_factor("one-cycle", step, 100, 10) == pytest.approx(theirs.get_last_lr()[0], abs=0.005)
        optimizer.step()
        theirs.step()


def test_a_constant_rate():
    assert {learning_rate_factor("constant", s, 3, 4) for s in range(12)} == {1.0}


def test_the_warm_up_by_hand():
    """Two epochs of three steps: sixths of a constant rate; of the cosine, sixths of its own value in that epoch."""
    got = [learning_rate_factor("constant", step, 3, 4, 2) for step in range(8)]
    assert got == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1, 1])
    second = 0.5 + math.sqrt(0.5) / 2
    got = [learning_rate_factor("cosine", step, 3, 4, 2) for step in range(7)]
    assert got == pytest.approx([1 / 6, 2 / 6, 3 / 6, second * 4 / 6, second * 5 / 6, second, 0.5])


@pytest.mark.parametrize(
    ("options", "rates"),
    [
        ({"schedule": "cosine"}, [0.01 * 0.5 * (1 + math.cos(math.pi * e / 4)) for e in range(4)]),
        ({"schedule": "one-cycle"}, [0.01 * learning_rate_factor("one-cycle", s, 3, 4) for s in (2, 5, 8, 11)]),
        ({"schedule": "constant"}, [0.01] * 4),
        ({"schedule": "constant", "warmup_epochs": 2}, [0.005, 0.01, 0.01, 0.01]),
    ],
)
def test_the_log_says_the_rate_of_the_last_step_of_each_epoch(options, rates):
    assert [row.lr for row in train(**options)[1]] == pytest.approx(rates)
