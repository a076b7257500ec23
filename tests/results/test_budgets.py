"""Budgets as one types them."""

import pytest

from robustspike.results import Budget, parse_budget


@pytest.mark.parametrize(
    ("text", "gradients", "minutes"),
    [
        ("2000", 2000, None), ("30min", None, 30), ("2h", None, 120), ("1.5 h", None, 90), ("90s", None, 1.5),
        ("500,30min", 500, 30), (" 2h , 7 ", 7, 120),
    ],
)  # fmt: skip
def test_a_budget_is_parsed(text, gradients, minutes):
    assert parse_budget(text) == Budget(gradients=gradients, minutes=minutes)


@pytest.mark.parametrize("text", ["", "0", "-3", "2.5", "two", "3d", "0min", "5,6", "1h,2h", "inf", "1e3", "5,"])
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match=r"^budget: expected gradient evaluations per sample such as \"2000\", a time"):
        parse_budget(text)


@pytest.mark.parametrize("wrong", [{"gradients": 0}, {"minutes": 0}, {"minutes": float("inf")}])
def test_a_budget_of_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Budget(**wrong)
