"""One attack on every sample, and what several of them leave standing."""

from __future__ import annotations

from collections.abc import Iterable

from robustspike.results.rates import Rate, Record, rate


class Tried(Record):
    """One attack on every sample that is classified correctly without attack.

    Attributes:
        broken: the places in the data, from 0, of the samples that it broke.
        gradients: gradient evaluations spent.
        zero, nan: how many of them were exactly zero everywhere, or held a NaN.
    """

    broken: tuple[int, ...]
    gradients: int = 0
    zero: int = 0
    nan: int = 0

    @property
    def zero_share(self) -> float:
        """The share of gradient evaluations that were exactly zero everywhere, in [0, 1]."""
        return self.zero / max(self.gradients, 1)


def broken_by(tried: Iterable[Tried]) -> set[int]:
    """The samples that at least one of the attacks broke."""
    return {sample for one in tried for sample in one.broken}


def standing(n: int, correct: int, tried: Iterable[Tried]) -> Rate:
    """The share of n samples that are classified correctly without attack and that no attack broke.

    Example:
        >>> standing(10, 8, [Tried(broken=(1, 2)), Tried(broken=(2, 5))]).value
        0.5
    """
    return rate(correct - len(broken_by(tried)), n)


def nothing_learned(clean: Rate, classes: int) -> str:
    """A sentence, with a space before it, unless the accuracy without attack exceeds chance beyond its interval.

    Example:
        >>> nothing_learned(rate(5, 6), 2).split(": ")[0]
        ' Without attack the network gets 83.3 % of 6 samples right'
    """
    if clean.low > 1 / classes:
        return ""
    text = f" Without attack the network gets {100 * clean.value:.1f} % of {clean.n} samples right"
    if clean.value <= 1 / classes:
        return f"{text}, no better than chance among {classes} classes: its figures under attack say nothing."
    return (
        f"{text}: among {classes} classes this cannot be told from chance on so few samples (95 % interval "
        f"{100 * clean.low:.1f} to {100 * clean.high:.1f} %)."
    )
