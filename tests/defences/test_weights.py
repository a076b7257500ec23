"""Weights that change over training: values by hand, and what is refused."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustspike.defences import CosineRamp, Linear, sr, trades
from robustspike.defences.weights import check_weight, weight_at

shares = st.floats(0, 1)


def test_a_straight_line_by_hand():
    assert [Linear(2.0, 6.0)(share) for share in (0.0, 0.25, 0.5, 1.0)] == [2.0, 3.0, 4.0, 6.0]
    assert Linear(6.0, 0.0)(0.75) == 1.5


def test_the_ramp_by_hand():
    # (1 − cos 0)/2 = 0, (1 − cos 60°)/2 = ¼, (1 − cos 90°)/2 = ½, (1 − cos 180°)/2 = 1
    assert [CosineRamp(0.4)(share) for share in (0.0, 1 / 3, 0.5, 1.0)] == pytest.approx([0, 0.1, 0.2, 0.4], abs=1e-12)
    assert CosineRamp(0.4)(0.0) == 0
    assert CosineRamp(0.4)(1.0) == 0.4


@given(shares, shares)
def test_the_ramp_rises_and_is_symmetric_about_its_middle(a, b):
    low, high = sorted((a, b))
    ramp = CosineRamp(3.0)
    assert 0 <= ramp(low) <= ramp(high) <= 3
    assert ramp(a) + ramp(1 - a) == pytest.approx(3.0)


@given(shares)
def test_the_ramp_is_slow_at_first(share):
    if share <= 0.5:
        assert CosineRamp(1.0)(share) <= Linear(0.0, 1.0)(share) + 1e-12


def test_a_number_stays_the_same_and_a_function_is_asked():
    assert [weight_at(0.3, share) for share in (0.0, 0.7, 1.0)] == [0.3] * 3
    assert weight_at(lambda share: 2 * share, 0.25) == 0.5


@pytest.mark.parametrize("progress", [-0.01, 1.01, math.nan])
def test_a_share_outside_zero_to_one_is_refused(progress):
    with pytest.raises(
        ValueError, match=r"^progress must lie in \[0, 1\], the share of the training that is done, got"
    ):
        weight_at(1.0, progress)


@pytest.mark.parametrize(
    "weight", [-1.0, math.nan, math.inf, Linear(-0.1, 1), Linear(0, -1), CosineRamp(-0.5)], ids=str
)
def test_weights_below_zero_at_either_end_are_refused_by_every_builder(weight):
    with pytest.raises(ValueError, match="^weight must be ≥ 0 and finite, got "):
        check_weight(weight)
    with pytest.raises(ValueError, match="^weight must be ≥ 0 and finite, got "):
        sr(weight)
    with pytest.raises(ValueError, match="^weight must be ≥ 0 and finite, got "):
        trades(lambda model, x, y: x, weight)


@pytest.mark.parametrize("weight", [Linear(1, 0), CosineRamp(0.4), abs], ids=str)
def test_functions_pass_as_they_are(weight):
    assert check_weight(weight) is weight


@pytest.mark.parametrize("weight", [0, 1, 0.5])
def test_numbers_are_floats_so_that_records_of_1_and_of_1_0_are_equal(weight):
    assert check_weight(weight) == weight
    assert type(check_weight(weight)) is float
