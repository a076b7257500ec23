"""What is claimed of spiking networks' gradients, and what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import ClassVar

from robustspike.results.audits.audited import Audited, headlines
from robustspike.results.audits.signal import Steadiness, WeightSignal
from robustspike.results.audits.two_layers import EntryBound, Trail
from robustspike.results.tables import Table
from robustspike.results.views import Bars, Chart, Line, View


class Theorems(Audited):
    """Luu 2025, theorems 4.2, 4.3 and 4.4, measured.

    Attributes:
        network: what the first part is measured on.
        signals: signal and noise of the first and the last weight's gradients against T, in two norms.
        steadiness: how far theorem 4.2's assumptions hold, for each of the two weights.
        trails: zeros of the gradients of random networks, in two settings; ``networks`` of them each.
        bounds: theorem 4.4 at each setting of random networks, ``repeats`` of them each.
    """

    title: ClassVar[str] = "Do the theorems on weight and input gradients hold?"
    about: ClassVar[str] = (
        "Luu's theorems, measured: the signal-to-noise ratio of weight gradients against T for the same weights, where "
        "zeros of input and weight gradients come from, and the bound of the weight gradient's entries by the input's."
    )
    page: ClassVar[str] = "docs/audits/theorems.md"

    network: str
    signals: tuple[WeightSignal, ...]
    steadiness: tuple[Steadiness, ...]
    trails: tuple[Trail, ...]
    networks: int
    bounds: tuple[EntryBound, ...]
    repeats: int

    def of(self, norm: str, quantity: str = "logit") -> list[WeightSignal]:
        """Both weights' signals in the "sup" or "l2" norm, of the theorem's δ ("logit") or of the loss ("entropy")."""
        return [one for one in self.signals if one.norm == norm and quantity in one.quantity]

    def steps(self, norm: str, quantity: str = "logit") -> tuple[int, int, int]:
        """Over both weights: steps of T, those in which SNR does not fall, and those in which it surely does."""
        counts = [one.steps() for one in self.of(norm, quantity)]
        return sum(c[0] for c in counts), sum(c[1] for c in counts), sum(c[2] for c in counts)

    def differing(self) -> tuple[float | None, float | None, float | None]:
        """Mean share of entries that differ from T to the next: means over time, sums over time, and at the same T."""
        columns = ("mean_differs", "sum_differs", "same_differs")
        shares = ([v for one in self.steadiness for v in getattr(one, name) if v is not None] for name in columns)
        means = [fmean(known) if known else None for known in shares]
        return means[0], means[1], means[2]

    def failing(self, gradient: bool) -> list[EntryBound]:
        """The settings at which the bound of theorem 4.4 is exceeded, by eq. 13's counts or by those of the gradients."""
        return [one for one in self.bounds if one.fails(gradient)]

    def answer(self) -> str:
        return f"{self._says_snr()} {self._says_trail()} {self._says_bound()}"

    def _says_snr(self) -> str:
        total, held, fell = self.steps("sup")
        if total == 0:
            return "Theorem 4.2: the gradients vanish or do not vary, so there is no ratio to compare."
        if all(one.timeless for one in self.signals):
            return f"Theorem 4.2: on {self.network} nothing depends on T, so that there is nothing to compare."
        means, sums, same = map(_percent, self.differing())
        ratios = [r for one in self.of("sup") for r in one.noise_ratios(as_sum=True)]
        return (
            f"Theorem 4.2 (the sup-norm SNR of a weight gradient does not fall with T, weights held) holds in {held} of "
            f"{total} steps of T on {self.network}; in {fell} it falls by more than two standard errors. It assumes "
            f"gradients distributed alike at both T, where tests tell {means} of the entries apart (sums over time, as in "
            f"the proof: {sums}, and their noise changes by a factor of {_span(ratios)}; at the same T: {same}). Were they "
            "alike, both SNRs would be equal, and the theorem would say no more."
        )

    def _says_trail(self) -> str:
        wrong, silent = (sum(getattr(one, name) for one in self.trails) for name in ("violations", "silent"))
        verdict = "no entry is" if wrong == 0 else f"{wrong} entries are"
        parts = [f"Theorem 4.3: zeros travel ({verdict} non-zero where every path is zero; {silent} silent neurons)"]
        parts += [f"with {one.setting} {_verdict(one)}" for one in self.trails]
        return "; ".join(parts) + "."

    def _says_bound(self) -> str:
        failing, n = self.failing(False), len(self.bounds)
        fewer = sum(one.k_s < one.k_w1 for one in failing)
        text = (
            f"Theorem 4.4 fails at {len(failing)} of {n} settings as eq. 13 counts, {fewer} of them with fewer spikes per "
            f"step than weights per column, and at {len(self.failing(True))} as autograd counts."
        )
        if failing:
            text += " Its proof divides two upper bounds by each other, which bounds nothing."
        return text

    def headline(self) -> dict[str, str]:
        total, held, fell = self.steps("sup")
        means, _, same = self.differing()
        correlations = [_pair(one) for one in self.trails]
        return {
            "4.2: SNR∞ does not fall": f"{held} of {total} steps",
            "surely falls": str(fell),
            "δ differs with T, %": "–" if means is None else f"{100 * means:.0f}",
            "at the same T, %": "–" if same is None else f"{100 * same:.0f}",
            "4.3: r(w₁), r(w₂)": "; ".join(correlations),
            "4.4 fails, eq. 13": f"{len(self.failing(False))} of {len(self.bounds)}",
            "4.4 fails, autograd": f"{len(self.failing(True))} of {len(self.bounds)}",
        }

    def views(self) -> tuple[View, ...]:
        return (
            self._claims(), self._snr_chart("sup"), self._snr_chart("l2"), self._snr_table(), self._correlations(),
            *map(_trail_chart, self.trails), self._bound_table(), self._bound_chart(),
        )  # fmt: skip

    def _claims(self) -> Table:
        means, sums, same = map(_percent, self.differing())
        own, n = self.of("sup"), len(self.bounds)
        larger = [[one.larger_signals(as_sum) for one in own] for as_sum in (True, False)]
        ratios = [[r for one in own for r in one.noise_ratios(as_sum)] for as_sum in (True, False)]
        covariance = [value for one in self.steadiness for value in one.covariance]
        rows = (
            ("4.2", "SNR of δ in the sup norm does not fall with T", _steps(self.steps("sup"))),
            ("eq. 33", "the same in ℓ2", _steps(self.steps("l2"))),
            ("–", "the same of the loss's gradient, sup norm", _steps(self.steps("sup", "entropy"))),
            (
                "4.2, assumed", "δ at two T distributed alike (then both SNRs are equal)",
                f"differ: {means} of entries (means over time), {sums} (sums), {same} at the same T",
            ),
            ("4.2, assumed", "Cov(h, g) = 0", f"‖Cov‖∞/‖E[h·g]‖∞: {_span(covariance)}"),
            ("lemma B.1", "‖E δ‖∞ does not fall with T", f"sums: {_of(larger[0])} steps; means: {_of(larger[1])}"),
            ("lemma B.2", "E‖δ − E δ‖∞² is the same at two T", f"× {_span(ratios[0])} (sums), × {_span(ratios[1])} (means)"),
            ("4.3", "zeros of the shared trail reach ∇s and ∇w₁", f"{sum(t.violations for t in self.trails)} violations"),
            (
                "4.3", "zeros of ∇s correlate more with those of ∇w₁ than of ∇w₂",
                "; ".join(f"{one.setting}: {_verdict(one)}" for one in self.trails),
            ),
            ("eq. 17", "E‖w₂·w₁‖₀ ≤ k_w₂·k_w₁", f"fails at {sum(b.exceeds_product() for b in self.bounds)} of {n}"),
            ("eq. 18", "E‖w₂·S‖₀ ≤ T·k_w₂·k_S/d", f"fails at {sum(b.exceeds_steps() for b in self.bounds)} of {n}"),
            (
                "4.4", "E‖∇w₁‖₀ ≤ T/d·k_S/k_w₁·E‖∇s‖₀",
                f"fails at {len(self.failing(False))} of {n} as eq. 13 counts, {len(self.failing(True))} as autograd does",
            ),
        )  # fmt: skip
        return Table(
            title=f"Claimed and measured: {self.conditions()}",
            columns=("where", "claimed", "measured"),
            rows=rows,
            note=f"4.2: on {self.network}, over its first and last weight; δ is the gradient of the true class's logit; "
            "expectations are means over the n samples. "
            f"4.3: {self.networks} random networks in each setting, r is Spearman's. 4.4: means over {self.repeats} random "
            "networks at each setting; fails: by more than two standard errors, so now and then by chance where both sides "
            "are equal.",
        )

    def _snr_chart(self, norm: str) -> Chart:
        lines = []
        for one in self.signals:
            if one.norm != norm:
                continue
            known = [math.nan if value is None else value for value in one.snr()]
            widths = [0.0 if error is None else 2 * error for error in one.error]
            low, high = (
                tuple(value * math.exp(sign * width) for value, width in zip(known, widths, strict=True))
                for sign in (-1, 1)
            )
            x = tuple(map(float, one.time_steps))
            lines.append(Line(label=f"{one.weight}: {one.quantity}", x=x, y=tuple(known), low=low, high=high))
        if norm == "l2" and lines and self.n > 1:
            ends = (lines[0].x[0], lines[0].x[-1])
            lines.append(Line(label="no signal at all", x=ends, y=(1 / (self.n - 1),) * 2, dashed=True))
        return Chart(
            title=f"Signal-to-noise ratio of weight gradients, {'sup norm' if norm == 'sup' else 'ℓ2'}",
            x="time steps T, same weights",
            y="SNR",
            x_log=True,
            y_log=True,
            lines=tuple(lines),
            note="Band: two standard errors (jackknife). Theorem 4.2 claims that the logit's sup-norm lines do not fall."
            + (" Dashed: what n gradients of mean zero give, 1/(n − 1)." if norm == "l2" else ""),
        )

    def _snr_table(self) -> Table:
        rows = []
        for one in self.signals:
            for t, signal, noise, snr in zip(one.time_steps, one.signal, one.noise, one.snr(), strict=True):
                ratio = "–" if snr is None else f"{snr:.3g}"
                rows.append((one.weight, one.quantity, one.norm, str(t), f"{signal:.3g}", f"{noise:.3g}", ratio))
        return Table(
            title=f"Signal and noise of weight gradients on {self.network}: {self.conditions()}",
            columns=("weight", "gradient", "norm", "T", "‖E δ‖²", "E‖δ − E δ‖²", "SNR"),
            rows=tuple(rows),
            note="Logits are means over time. n gradients of mean zero have an SNR of 1/(n − 1) in ℓ2.",
        )

    def _correlations(self) -> Bars:
        known = [one for one in self.trails if one.told_apart() is not None]
        return Bars(
            title="Rank correlation of the zeros of ∇s with those of the weight gradients",
            y="Spearman's r",
            categories=tuple(one.setting for one in known),
            series={
                label: tuple(r for one in known if (r := one.correlation(name)) is not None)
                for label, name in (("∇w₁", "w1"), ("∇w₂", "w2"))
            },
            note="Theorem 4.3 claims that ∇w₁ correlates more strongly. 95 % intervals: "
            + "; ".join(f"{one.setting}: {_intervals(one)}" for one in known)
            + ".",
        )

    def _bound_table(self) -> Table:
        groups = {
            "k_S < k_w₁": [one for one in self.bounds if one.k_s < one.k_w1],
            "k_S = k_w₁": [one for one in self.bounds if one.k_s == one.k_w1],
            "k_S > k_w₁": [one for one in self.bounds if one.k_s > one.k_w1],
        }
        counted = ("fails", lambda one: one.fails()), ("fails", lambda one: one.fails(True))
        rows = tuple(
            (
                name, str(len(ones)), *(str(sum(test(one) for one in ones)) for _, test in counted),
                str(sum(one.exceeds_product() for one in ones)), str(sum(one.exceeds_steps() for one in ones)),
            )
            for name, ones in groups.items()
        )  # fmt: skip
        return Table(
            title=f"Where theorem 4.4 and the bounds it divides fail: {self.repeats} random networks at each setting",
            columns=(
                "settings",
                "how many",
                "4.4 fails, eq. 13",
                "4.4 fails, autograd",
                "eq. 17 fails",
                "eq. 18 fails",
            ),
            rows=rows,
            note="k_S spikes per step, k_w₁ non-zero weights in each column of w₁. Dense weights and sparse spikes, as "
            "networks have them, are in the first row.",
        )

    def _bound_chart(self) -> Chart:
        points = [
            Line(
                label=label,
                x=_each(self.bounds, "claimed", gradient),
                y=_each(self.bounds, "measured", gradient),
                points=True,
            )
            for label, gradient in (("as eq. 13 counts", False), ("as autograd counts", True))
        ]
        values = [v for line in points for v in (*line.x, *line.y) if v > 0]
        ends = (min(values), max(values)) if values else (1.0, 1.0)
        return Chart(
            title="Entries of the weight gradient, claimed bound against measured",
            x="claimed: T/d · k_S/k_w₁ · E‖∇s‖₀",
            y="measured: E‖∇w₁‖₀",
            x_log=True,
            y_log=True,
            lines=(*points, Line(label="equal", x=ends, y=ends, dashed=True)),
            note="Points above the dashed line exceed the bound of theorem 4.4.",
        )

    @classmethod
    def compared(cls, found: Mapping[str, Theorems]) -> tuple[View, ...]:
        return (headlines(cls.title, found),)


def _trail_chart(one: Trail) -> Chart:
    return Chart(
        title=f"Zeros of the gradients of random networks: {one.setting}, {one.surrogate}",
        x="zeros of ∇s in %",
        y="zeros of a weight gradient in %",
        percent=True,
        lines=tuple(
            Line(
                label=label, x=tuple(100 * v for v in one.s), y=tuple(100 * v for v in getattr(one, name)), points=True
            )
            for label, name in (("∇w₁", "w1"), ("∇w₂", "w2"))
        ),
    )  # fmt: skip


def _verdict(one: Trail) -> str:
    near, far, p = one.correlation("w1"), one.correlation("w2"), one.told_apart()
    if near is None or far is None or p is None:
        return "one gradient has no zeros to correlate"
    judged = (
        "not told apart"
        if p >= 0.05
        else "stronger for ∇w₁, as claimed"
        if near > far
        else "weaker for ∇w₁, unlike claimed"
    )
    return f"zeros of ∇s correlate with those of ∇w₁ at {near:.2f} and of ∇w₂ at {far:.2f} ({judged}, p = {p:.2g})"


def _steps(counts: tuple[int, int, int]) -> str:
    return f"{counts[1]} of {counts[0]} steps; surely falls in {counts[2]}"


def _pair(one: Trail) -> str:
    near, far = one.correlation("w1"), one.correlation("w2")
    return ", ".join("–" if r is None else f"{r:.2f}" for r in (near, far))


def _intervals(one: Trail) -> str:
    named = ((label, one.interval(weight)) for label, weight in (("∇w₁", "w1"), ("∇w₂", "w2")))
    return ", ".join(
        f"{label} –" if pair is None else f"{label} [{pair[0]:.2f}, {pair[1]:.2f}]" for label, pair in named
    )


def _each(bounds: Sequence[EntryBound], what: str, gradient: bool) -> tuple[float, ...]:
    return tuple(getattr(one, what)(gradient) for one in bounds)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


def _of(pairs: Sequence[tuple[int, int]]) -> str:
    return f"{sum(held for _, held in pairs)} of {sum(total for total, _ in pairs)}"


def _span(values: Sequence[float]) -> str:
    return f"{min(values):.3g} to {max(values):.3g}" if values else "–"
