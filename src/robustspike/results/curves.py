"""Accuracy of one network against one setting of the attack: ε, gradient evaluations, steps."""

from __future__ import annotations

from robustspike.results.rates import Rate, Record
from robustspike.results.tables import Table


class Curve(Record):
    """Robust accuracy of one network against ε, everything else held."""

    label: str
    under: str
    norm: str
    eps: tuple[float, ...]
    robust: tuple[Rate, ...]
    seed: int

    def table(self) -> Table:
        """One row per ε.

        Example:
            >>> Curve(label="AT", under="mine", norm="L2", eps=(0.5,), robust=(rate(5, 10),), seed=0).table().rows
            (('0.5', '50.0 [18.7, 81.3]'),)
        """
        rows = [(f"{eps:.4g}", str(r)) for eps, r in zip(self.eps, self.robust, strict=True)]
        return Table(
            title=f"{self.label}: worst case per sample in % [95 % interval] against {self.norm} ε under {self.under}, "
            f"seed {self.seed}",
            columns=("ε", "worst case"),
            rows=tuple(rows),
            note="An accuracy under attack is an upper bound.",
        )


class CostCurve(Record):
    """Robust accuracy of one network against gradient evaluations per sample.

    Attributes:
        gradients: the budgets b.
        robust: a sample counts as broken at b if it was broken having spent at most b.
        with_queries: whether forward passes without gradient count as well.
    """

    label: str
    under: str
    gradients: tuple[int, ...]
    robust: tuple[Rate, ...]
    with_queries: bool
    seed: int

    def table(self) -> Table:
        """One row per budget."""
        rows = [(str(b), str(r)) for b, r in zip(self.gradients, self.robust, strict=True)]
        counted = "Forward passes without gradient count as well." if self.with_queries else "Only gradients count."
        return Table(
            title=f"{self.label}: robust accuracy in % [95 % interval] under {self.under}",
            columns=("gradients per sample", "robust"),
            rows=tuple(rows),
            note=f"Had the evaluation stopped after so many gradient evaluations per sample. {counted}",
        )


class StepsRow(Record):
    """One attack through one estimator; ``accuracy``: for each number of steps, None where it was not run."""

    attack: str
    estimator: str
    accuracy: tuple[Rate | None, ...]


class StepsCurve(Record):
    """Accuracy of one network against the steps of an attack, all else held.

    Attributes:
        steps: the numbers of steps, ascending.
        rows: one for each attack and estimator.
        worst: the worst case per sample over the rows, for each number of steps.
    """

    label: str
    under: str
    steps: tuple[int, ...]
    rows: tuple[StepsRow, ...]
    worst: tuple[Rate, ...]
    seed: int

    def table(self) -> Table:
        """One row per attack and estimator, one column per number of steps."""
        rows = [(row.attack, row.estimator, *("" if r is None else str(r) for r in row.accuracy)) for row in self.rows]
        if len(rows) > 1:
            rows.append(("worst case", "", *map(str, self.worst)))
        return Table(
            title=f"{self.label}: accuracy in % [95 % interval] against the attack's steps under {self.under}",
            columns=("attack", "estimator", *(f"{steps} steps" for steps in self.steps)),
            rows=tuple(rows),
            note="Each number of steps is a run of its own on every sample. Where more steps still lower the accuracy, the "
            "last figure is not the bottom.",
        )
