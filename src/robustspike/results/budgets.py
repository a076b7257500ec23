"""How much an evaluation may spend."""

from __future__ import annotations

import re

from pydantic import Field

from robustspike.results.rates import Record

_MINUTES = {"s": 1 / 60, "min": 1.0, "h": 60.0}


class Budget(Record):
    """What an evaluation may spend; None: no limit.

    Attributes:
        gradients: per sample, gradient evaluations and forward passes together; no attack is started on a sample that
            has spent as much. It belongs to the sample, so figures depend neither on batches nor on the machine.
        minutes: by the clock, of one call; looked at between batches. What is done then is returned, and can be resumed.

    Example:
        >>> Budget(gradients=2000).minutes is None
        True
    """

    gradients: int | None = Field(default=None, ge=1)
    minutes: float | None = Field(default=None, gt=0, allow_inf_nan=False)


def parse_budget(text: str) -> Budget:
    """A budget as one types it: evaluations per sample, a time, or both with a comma.

    Raises:
        ValueError: for anything else.

    Example:
        >>> parse_budget("2000").gradients, parse_budget("2h").minutes, parse_budget("500, 30min")
        (2000, 120.0, Budget(gradients=500, minutes=30.0))
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h)?", part.strip())
        number = float(match[1]) if match else 0.0
        name = "minutes" if match and match[2] else "gradients"
        if not match or number <= 0 or name in found or (name == "gradients" and not number.is_integer()):
            raise ValueError(
                f'budget: expected gradient evaluations per sample such as "2000", a time such as "30min" or "2h", '
                f'or both as in "2000,2h", got {text!r}'
            )
        found[name] = number * _MINUTES[match[2]] if match[2] else int(number)
    return Budget(**found)  # type: ignore[arg-type]
