"""How much depends on the width of the surrogate that an attack sees through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from robustspike.results.audits.audited import Audited, headlines
from robustspike.results.audits.tried import Tried, broken_by, nothing_learned, standing
from robustspike.results.rates import Rate, rate
from robustspike.results.tables import Table
from robustspike.results.views import Chart, Line, View


class Widths(Audited):
    """Accuracy under PGD through triangular surrogates of several widths γ (Liu 2024, appendix G).

    Attributes:
        classes: how many the model has.
        correct: samples classified correctly without attack; only these were attacked.
        widths: γ, ascending, in units of the membrane potential.
        tried: one for each width.
    """

    title: ClassVar[str] = "Does the attack's surrogate have the right width?"
    about: ClassVar[str] = (
        "PGD through triangular surrogates max(0, γ − |u − θ|)/γ² of several widths γ: accuracy for each, the worst of them "
        "for every sample, and how many gradients are exactly zero."
    )
    page: ClassVar[str] = "docs/audits/widths.md"

    classes: int
    correct: int
    widths: tuple[float, ...]
    tried: tuple[Tried, ...]

    @property
    def clean(self) -> Rate:
        """Accuracy without attack."""
        return rate(self.correct, self.n)

    def alone(self, w: int) -> Rate:
        """Accuracy under the width at place w."""
        return standing(self.n, self.correct, [self.tried[w]])

    @property
    def worst(self) -> Rate:
        """Accuracy under the worst width for every sample."""
        return standing(self.n, self.correct, self.tried)

    @property
    def strongest(self) -> int:
        """The place of the width with the lowest accuracy; of several, the one nearest to 1."""
        return min(range(len(self.widths)), key=lambda w: (self.alone(w).value, abs(self.widths[w] - 1)))

    @property
    def usual(self) -> int | None:
        """The place of γ = 1; None where it was not tried."""
        return self.widths.index(1.0) if 1.0 in self.widths else None

    @property
    def blind(self) -> tuple[float, ...]:
        """The widths under which more than half of the gradients are exactly zero."""
        return tuple(width for width, one in zip(self.widths, self.tried, strict=True) if one.zero_share > 0.5)

    def left_standing(self) -> Rate | None:
        return self.worst

    def answer(self) -> str:
        if self.correct == 0:
            return f"Nothing to attack: the network classifies none of {self.n} samples correctly."
        best, worst = self.strongest, self.worst
        texts = [
            f"Strongest is γ = {self.widths[best]:g}: {self.alone(best)} % of {self.n} stand, {self.clean} % without attack "
            f"(upper bounds, under {self.under})."
        ]
        if self.usual is not None:
            texts.append(self._against_usual(best, self.usual))
        texts.append(f"Under the worst of {len(self.widths)} widths for every sample {worst} % stand.")
        if self.blind:
            where = ", ".join(f"{width:g}" for width in self.blind)
            texts.append(
                f"Under {len(self.blind)} of {len(self.widths)} widths more than half of the gradients are exactly zero "
                f"(γ = {where}): what stands there was hardly attacked."
            )
        return " ".join(texts) + nothing_learned(self.clean, self.classes)

    def _against_usual(self, best: int, usual: int) -> str:
        if best == usual:
            return "No width tried beats the usual γ = 1."
        here, there = broken_by([self.tried[best]]), broken_by([self.tried[usual]])
        points = 100 * (self.alone(usual).value - self.alone(best).value)
        return (
            f"The usual γ = 1 leaves {self.alone(usual)} %, {points:.1f} points more (broken only under "
            f"γ = {self.widths[best]:g}: {len(here - there)}, only under γ = 1: {len(there - here)}). "
            "The strongest was chosen on these samples, so that its lead is flattered."
        )

    def headline(self) -> dict[str, str]:
        best = self.strongest
        return {
            "clean": str(self.clean),
            "γ = 1": "·" if self.usual is None else str(self.alone(self.usual)),
            "strongest γ": f"{self.widths[best]:g}: {self.alone(best)}",
            f"worst of {len(self.widths)} widths": str(self.worst),
            "widths with mostly zero gradients": str(len(self.blind)),
        }

    def views(self) -> tuple[View, ...]:
        ends = (self.widths[0], self.widths[-1])
        worst = Line(label="worst width for every sample", x=ends, y=(100 * self.worst.value,) * 2, dashed=True)
        chart = Chart(
            title=f"Accuracy against the surrogate's width: {self.conditions()}",
            x="width γ of the triangle, in units of the membrane potential",
            y="accuracy in %",
            lines=(self._line("each width alone"), worst),
            percent=True,
            note="Upper bounds. Dashed: a sample stands only if every width fails.",
        )
        return chart, _zeros({"this network": self}), self._table()

    def _line(self, label: str) -> Line:
        return Line.of_rates(label, self.widths, [self.alone(w) for w in range(len(self.widths))])

    def _table(self) -> Table:
        rows = [
            (f"{width:g}", str(self.alone(w)), f"{100 * one.zero_share:.1f}", str(one.nan), str(one.gradients))
            for w, (width, one) in enumerate(zip(self.widths, self.tried, strict=True))
        ]
        rows.append(("worst of all", str(self.worst), "", "", str(sum(one.gradients for one in self.tried))))
        return Table(
            title=f"Accuracy in % [95 % interval]: {self.conditions()}; {self.clean} without attack",
            columns=("γ", "accuracy", "zero gradients, %", "gradients with NaN", "gradients"),
            rows=tuple(rows),
            note="Upper bounds.",
        )

    @classmethod
    def compared(cls, found: Mapping[str, Widths]) -> tuple[View, ...]:
        table = headlines(cls.title, found)
        chart = Chart(
            title="Accuracy against the surrogate's width",
            x="width γ of the triangle, in units of the membrane potential",
            y="accuracy in %",
            lines=tuple(one._line(name) for name, one in found.items()),
            percent=True,
            note=f"Upper bounds. {table.note}",
        )
        return table, chart, _zeros(found)


def _zeros(found: Mapping[str, Widths]) -> Chart:
    return Chart(
        title="Gradients that are exactly zero everywhere",
        x="width γ of the triangle, in units of the membrane potential",
        y="share of the gradient evaluations in %",
        lines=tuple(
            Line(label=name, x=one.widths, y=tuple(100 * each.zero_share for each in one.tried))
            for name, one in found.items()
        ),
        percent=True,
        note="Samples that stand are attacked longer and weigh more.",
    )
