"""What was found on random two-layer networks."""

from __future__ import annotations

import math

from scipy import special

from robustspike.results.rates import Record

ERRORS = 2.0  # standard errors that a bound must be missed by


class Trail(Record):
    """The share of exact zeros in three gradients of one loss, for each of B networks (Luu 2025, theorem 4.3).

    Attributes:
        setting: how the networks were drawn.
        surrogate: of their neurons.
        s, w1, w2: share of zeros of ∇_s, ∇_w₁ and ∇_w₂, in [0, 1], [B] each.
        silent: hidden neurons without any gradient, over all networks.
        violations: gradient entries that are not 0 though every path to them is.
    """

    setting: str
    surrogate: str
    s: tuple[float, ...]
    w1: tuple[float, ...]
    w2: tuple[float, ...]
    silent: int
    violations: int

    def correlation(self, weight: str) -> float | None:
        """Spearman's rank correlation of the zeros of ∇_s with those of "w1" or "w2"; None where one is constant."""
        other: tuple[float, ...] = getattr(self, weight)
        if len(set(self.s)) < 2 or len(set(other)) < 2:
            return None
        return _rank_correlation(self.s, other)

    def interval(self, weight: str) -> tuple[float, float] | None:
        """Its 95 % interval after Fisher's transformation."""
        r = self.correlation(weight)
        if r is None or len(self.s) < 5 or abs(r) == 1:
            return None
        width = 1.96 * 1.03 / math.sqrt(len(self.s) - 3)
        return math.tanh(math.atanh(r) - width), math.tanh(math.atanh(r) + width)

    def told_apart(self) -> float | None:
        """The p-value of two correlations that do not differ, r(∇w₁) and r(∇w₂) with the same ∇s; None where one is missing.

        Source: Meng, Rosenthal and Rubin 1992, eq. 1, with 1.06 for ranks.
        """
        near, far = self.correlation("w1"), self.correlation("w2")
        if near is None or far is None or len(self.s) < 5 or 1 in (abs(near), abs(far)):
            return None
        between = _rank_correlation(self.w1, self.w2)
        if between == 1:
            return None
        mean = (near**2 + far**2) / 2
        f = min((1 - between) / (2 * (1 - mean)), 1.0)
        h = (1 - f * mean) / (1 - mean)
        z = (math.atanh(near) - math.atanh(far)) * math.sqrt((len(self.s) - 3) / 1.06 / (2 * (1 - between) * h))
        return float(2 * special.ndtr(-abs(z)))


class EntryBound(Record):
    """Theorem 4.4, E‖∇w₁‖₀ ≤ T/d · k_S/k_w₁ · E‖∇s‖₀, at one setting; means over networks and their standard errors.

    Attributes:
        d, steps: the size d and T.
        k_w1, k_w2, k_s: non-zero entries in each column of w₁, each row of w₂ and spikes at each step.
        weight, input: E‖w₂·S‖₀ and E‖w₂·w₁‖₀, which stand for the gradients in Luu 2025, eq. 13.
        weight_gradient, input_gradient: entries of ∇_w₁ and of ∇_{s[t]} (mean over t) of a scalar loss that are not 0.
    """

    d: int
    steps: int
    k_w1: int
    k_w2: int
    k_s: int
    weight: float
    weight_error: float
    input: float
    input_error: float
    weight_gradient: float
    weight_gradient_error: float
    input_gradient: float
    input_gradient_error: float

    @property
    def factor(self) -> float:
        """T/d · k_S/k_w₁."""
        return self.steps / self.d * self.k_s / self.k_w1

    def claimed(self, gradient: bool = False) -> float:
        """The claimed upper bound of E‖∇w₁‖₀, by the counts of eq. 13 or by those of the gradients."""
        return self.factor * (self.input_gradient if gradient else self.input)

    def measured(self, gradient: bool = False) -> float:
        """What it is to bound."""
        return self.weight_gradient if gradient else self.weight

    def fails(self, gradient: bool = False) -> bool:
        """Whether the bound is exceeded by more than two standard errors."""
        left = self.weight_gradient_error if gradient else self.weight_error
        right = self.input_gradient_error if gradient else self.input_error
        margin = ERRORS * math.hypot(left, self.factor * right)
        return self.measured(gradient) > self.claimed(gradient) * (1 + 1e-5) + margin

    def exceeds_product(self) -> bool:
        """Whether E‖w₂·w₁‖₀ > k_w₂·k_w₁, against Luu 2025, eq. 17."""
        return self.input > self.k_w2 * self.k_w1 * (1 + 1e-5) + ERRORS * self.input_error

    def exceeds_steps(self) -> bool:
        """Whether E‖w₂·S‖₀ > T·k_w₂·k_S/d, against Luu 2025, eq. 18."""
        return self.weight > self.steps * self.k_w2 * self.k_s / self.d * (1 + 1e-5) + ERRORS * self.weight_error


def _rank_correlation(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    from scipy import stats  # takes a second to load

    return float(stats.spearmanr(a, b).statistic)
