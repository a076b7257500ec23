"""Frozen records, and a share of samples with its interval."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from scipy import special


class ResultError(ValueError):
    """A result on disk is missing, damaged, or belongs to another run."""


class Record(BaseModel):
    """A frozen record with a JSON form."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Rate(Record):
    """A share of samples with its 95 % Clopper-Pearson interval; all in [0, 1]."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def rate(successes: int, n: int) -> Rate:
    """The share successes/n with its exact binomial interval.

    Example:
        >>> str(rate(5, 10))
        '50.0 [18.7, 81.3]'
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"need 0 ≤ successes ≤ n and n ≥ 1, got {successes} of {n}")
    return with_interval(successes, n)


def with_interval(successes: float, n: int) -> Rate:
    """The share with Clopper and Pearson's interval of n samples; ``successes`` need not be a whole number.

    Shares that are means of numbers between 0 and 1 vary less than samples that are right or wrong: for them the interval
    holds and is a little wide.
    """
    missed = n - successes
    low = float(special.betaincinv(successes, missed + 1, 0.025)) if successes > 0 else 0.0
    high = float(special.betaincinv(successes + 1, missed, 0.975)) if missed > 0 else 1.0
    return Rate(value=successes / n, low=low, high=high, n=n)
