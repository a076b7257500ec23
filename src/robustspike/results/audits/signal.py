"""Signal and noise of weight gradients against the number of time steps."""

from __future__ import annotations

import math
from itertools import pairwise

from robustspike.results.rates import Record

ERRORS = 2.0  # standard errors by which a step is sure


class WeightSignal(Record):
    """‖E δ‖² and E‖δ − E δ‖² of one weight's gradient δ over the samples, for the same weights at several T.

    Logits are means over time; sums, as in Luu 2025, eq. 34, multiply both by T².

    Attributes:
        weight: its name in the network.
        quantity: what is differentiated.
        norm: "sup" (theorem 4.2) or "l2" (eq. 33).
        time_steps: T, ascending.
        signal, noise: for each T.
        error: standard error of ln SNR at each T, by the jackknife; None where it is not finite.
        step_error: of the difference of ln SNR from each T to the next.
    """

    weight: str
    quantity: str
    norm: str
    time_steps: tuple[int, ...]
    signal: tuple[float, ...]
    noise: tuple[float, ...]
    error: tuple[float | None, ...]
    step_error: tuple[float | None, ...]

    def snr(self) -> list[float | None]:
        """Signal over noise at each T; None where one of them is 0."""
        pairs = zip(self.signal, self.noise, strict=True)
        return [signal / noise if signal > 0 and noise > 0 else None for signal, noise in pairs]

    def logs(self) -> list[float | None]:
        """How ln SNR changes from each T to the next; None where it cannot be said."""
        known = self.snr()
        return [None if a is None or b is None else math.log(b / a) for a, b in pairwise(known)]

    def steps(self) -> tuple[int, int, int]:
        """Of the steps to the next T: how many there are, in how many SNR does not fall, and falls beyond two errors."""
        changes = [
            (change, error) for change, error in zip(self.logs(), self.step_error, strict=True) if change is not None
        ]
        held = sum(change >= 0 for change, _ in changes)
        fell = sum(error is not None and change < -ERRORS * error for change, error in changes)
        return len(changes), held, fell

    @property
    def timeless(self) -> bool:
        """Whether T makes no difference at all."""
        return len(set(self.signal)) == len(set(self.noise)) == 1

    def larger_signals(self, as_sum: bool) -> tuple[int, int]:
        """Of the steps to the next T: how many there are, and in how many the signal does not fall (Luu 2025, lemma B.1)."""
        powers = [t * t if as_sum else 1 for t in self.time_steps]
        values = [signal * power for signal, power in zip(self.signal, powers, strict=True)]
        return len(values) - 1, sum(b >= a for a, b in pairwise(values))

    def noise_ratios(self, as_sum: bool) -> list[float]:
        """Noise at the next T over that at each T, which lemma B.2 takes to be 1."""
        powers = [t * t if as_sum else 1 for t in self.time_steps]
        values = [noise * power for noise, power in zip(self.noise, powers, strict=True)]
        return [b / a for a, b in pairwise(values) if a > 0]


class Steadiness(Record):
    """How far theorem 4.2's assumptions hold for the gradient of the true class's logit with respect to one weight.

    Attributes:
        weight: its name in the network.
        time_steps: T, ascending.
        covariance: ‖Cov(h, g)‖∞/‖E[h·g]‖∞ at each T, which the theorem takes to be 0; h is the one-hot label.
        mean_differs: share of the weight's entries whose distributions at T and the next T tests of shape and spread tell
            apart at the 5 % level, logits being means over time; None where it cannot be said.
        sum_differs: the same with sums over time, as in eq. 34.
        same_differs: of the same T, the samples in two halves: what the test finds where nothing differs.
    """

    weight: str
    time_steps: tuple[int, ...]
    covariance: tuple[float, ...]
    mean_differs: tuple[float | None, ...]
    sum_differs: tuple[float | None, ...]
    same_differs: tuple[float | None, ...]
