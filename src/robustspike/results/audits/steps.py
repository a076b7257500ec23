"""Whether an attack has enough steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from robustspike.results.audits.audited import Audited, headlines
from robustspike.results.audits.tried import Tried, broken_by, nothing_learned, standing
from robustspike.results.rates import Rate, rate
from robustspike.results.tables import Table
from robustspike.results.views import Chart, Line, View


class Steps(Audited):
    """Accuracy against the number of steps of PGD, each number a run of its own from the same starts.

    Attributes:
        classes: how many the model has.
        correct: samples classified correctly without attack; only these were attacked.
        steps: the numbers of steps, ascending.
        estimators: how the gradient passed through the neurons.
        tried: [estimator][number of steps].
    """

    title: ClassVar[str] = "Does the attack have enough steps?"
    about: ClassVar[str] = (
        "PGD with more and more steps, under each estimator alone and the worst of them for every sample. An attack that "
        "still breaks more samples with more steps has not converged, and its figure is not the bottom."
    )
    page: ClassVar[str] = "docs/audits/steps.md"

    classes: int
    correct: int
    steps: tuple[int, ...]
    estimators: tuple[str, ...]
    tried: tuple[tuple[Tried, ...], ...]

    @property
    def clean(self) -> Rate:
        """Accuracy without attack."""
        return rate(self.correct, self.n)

    def alone(self, estimator: int, s: int) -> Rate:
        """Accuracy under one estimator with the number of steps at place s."""
        return standing(self.n, self.correct, [self.tried[estimator][s]])

    def worst(self, s: int) -> Rate:
        """Accuracy under the worst estimator for every sample, with this number of steps alone."""
        return standing(self.n, self.correct, [one[s] for one in self.tried])

    def running(self, s: int) -> Rate:
        """The same, with this number of steps and all smaller ones."""
        return standing(self.n, self.correct, [each for one in self.tried for each in one[: s + 1]])

    def newly_broken(self, s: int) -> int:
        """Samples that this number of steps breaks and no smaller one did."""
        earlier = broken_by(each for one in self.tried for each in one[:s])
        return len(broken_by(one[s] for one in self.tried) - earlier)

    @property
    def zero_share(self) -> float:
        """The share of all gradients that were exactly zero everywhere."""
        total = sum(one.gradients for row in self.tried for one in row)
        return sum(one.zero for row in self.tried for one in row) / max(total, 1)

    def left_standing(self) -> Rate | None:
        return self.running(len(self.steps) - 1)

    def answer(self) -> str:
        if self.correct == 0:
            return f"Nothing to attack: the network classifies none of {self.n} samples correctly."
        last = len(self.steps) - 1
        worst = ", the worst of the estimators" if len(self.estimators) > 1 else ""
        texts = [
            f"Accuracy {self.clean} % without attack, {self.worst(0)} % under {_count(self.steps[0])} and "
            f"{self.worst(last)} % under {_count(self.steps[last])}{worst} (n = {self.n}, upper bounds)."
        ]
        if last:
            texts.append(self._last_gain(last))
        weaker = 100 * (self.worst(last).value - min(self.worst(s).value for s in range(last + 1)))
        if weaker > 0:
            texts.append(
                f"With {self.steps[last]} steps alone it is {weaker:.1f} points higher than with fewer: a larger number of "
                "steps, which are smaller, is not always the stronger attack; take the worst case over several."
            )
        if self.zero_share > 0.5:
            texts.append(f"{100 * self.zero_share:.0f} % of the gradients are exactly zero: more steps cannot help.")
        return " ".join(texts) + nothing_learned(self.clean, self.classes)

    def _last_gain(self, last: int) -> str:
        gained, before = self.newly_broken(last), self.steps[last - 1]
        if self.running(last - 1).value == 0:
            return f"Already with {_count(before)} nothing is left standing."
        if gained:
            return (
                f"From {before} to {self.steps[last]} steps further samples break: {gained} of {self.n} "
                f"({100 * gained / self.n:.1f} points). The attack has not converged, and no figure with so many steps is "
                "the bottom."
            )
        return (
            f"From {before} to {self.steps[last]} steps no further sample breaks (of {self.n}; 95 % interval up to "
            f"{100 * rate(0, self.n).high:.1f} points): more of these steps gain little, which says nothing about other "
            "attacks."
        )

    def headline(self) -> dict[str, str]:
        last = len(self.steps) - 1
        figures = {"clean": str(self.clean)}
        figures |= {_count(steps): str(self.worst(s)) for s, steps in enumerate(self.steps) if s in (0, last)}
        if last:
            figures["points gained by the last"] = f"{100 * self.newly_broken(last) / self.n:.1f}"
        return figures

    def views(self) -> tuple[View, ...]:
        return self._chart(), self._table()

    def _x(self) -> tuple[float, ...]:
        return tuple(map(float, self.steps))

    def _worst_line(self, label: str) -> Line:
        return Line.of_rates(label, self._x(), [self.worst(s) for s in range(len(self.steps))])

    def _chart(self) -> Chart:
        places = range(len(self.steps))
        lines = [
            Line(label=name, x=self._x(), y=tuple(100 * self.alone(e, s).value for s in places))
            for e, name in enumerate(self.estimators)
        ]
        if len(self.estimators) > 1:
            lines.append(self._worst_line("worst case"))
        else:
            lines = [self._worst_line(self.estimators[0])]
        running = tuple(100 * self.running(s).value for s in places)
        lines.append(Line(label="worst case so far", x=self._x(), y=running, dashed=True))
        return Chart(
            title=f"Accuracy against the attack's steps: {self.conditions()}",
            x="steps",
            y="accuracy in %",
            lines=tuple(lines),
            x_log=True,
            percent=True,
            note="Each point is an attack of its own with so many steps; dashed, a sample stands only if all attacks up to "
            "here fail. Upper bounds.",
        )

    def _table(self) -> Table:
        places = range(len(self.steps))
        rows = [(name, *(str(self.alone(e, s)) for s in places)) for e, name in enumerate(self.estimators)]
        if len(self.estimators) > 1:
            rows.append(("worst case", *(str(self.worst(s)) for s in places)))
        rows.append(("worst case so far", *(str(self.running(s)) for s in places)))
        rows.append(("newly broken", *(str(self.newly_broken(s)) for s in places)))
        return Table(
            title=f"Accuracy in % [95 % interval]: {self.conditions()}; {self.clean} without attack",
            columns=("estimator", *map(_count, self.steps)),
            rows=tuple(rows),
            note=f"Upper bounds. {100 * self.zero_share:.1f} % of the gradients were exactly zero.",
        )

    @classmethod
    def compared(cls, found: Mapping[str, Steps]) -> tuple[View, ...]:
        table = headlines(cls.title, found)
        chart = Chart(
            title="Worst case against the attack's steps",
            x="steps",
            y="accuracy in %",
            lines=tuple(one._worst_line(name) for name, one in found.items()),
            x_log=True,
            percent=True,
            note=f"Upper bounds. {table.note}",
        )
        return table, chart


def _count(steps: int) -> str:
    return f"{steps} step{'s' if steps > 1 else ''}"
