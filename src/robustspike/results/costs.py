"""What it took to break the samples: first breaks, and robust accuracy against gradient evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from robustspike.results.rates import Rate, Record, rate
from robustspike.results.records import marked, under
from robustspike.results.tables import Table

if TYPE_CHECKING:
    from robustspike.results.outcome import Outcome


class Broken(Record):
    """The samples that one member broke first.

    Attributes:
        first: how many.
        later_restart: how many of them by another restart than the first.
        median_gradients: the median, over these samples, of all gradient evaluations spent until then; None for none.
        gradients, queries, seconds: all that was spent on these samples until then, by this and by earlier members.
    """

    attack: str
    estimator: str
    first: int
    later_restart: int
    median_gradients: float | None
    gradients: int
    queries: int
    seconds: float


class Breaks(Record):
    """Which member broke the samples first, and what had been spent on them by then.

    Attributes:
        members: those that count in the worst case, in order.
        n, misclassified, standing: all samples, those that needed no attack, and those that none broke.
    """

    members: tuple[Broken, ...]
    n: int
    misclassified: int
    standing: int

    def table(self) -> Table:
        """One row per member."""
        rows = [
            (
                one.attack, one.estimator, str(one.first), str(one.later_restart),
                "–" if one.median_gradients is None else f"{one.median_gradients:g}",
                str(one.gradients), str(one.queries), f"{one.seconds:.1f}",
            )
            for one in self.members
        ]  # fmt: skip
        return Table(
            title=f"First breaks, of {self.n} samples: {self.misclassified} misclassified without attack, "
            f"{self.standing} standing",
            columns=(
                "attack", "estimator", "broke first", "by a later restart", "median gradients", "gradients", "queries",
                "seconds",
            ),
            rows=tuple(rows),
            note="Spent on these samples by this attack and all earlier ones.",
        )  # fmt: skip


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


def until_broken(outcome: Outcome, name: str) -> NDArray[np.float64]:
    """[N]: a field summed over the members up to the one that broke the sample first; over all where none did."""
    first, members = outcome.first_break(), np.arange(len(outcome.header.members))
    last = np.where(first >= 0, first, len(members))
    wanted = (members[None] <= last[:, None]) & outcome.counted
    total: NDArray[np.float64] = np.where(wanted, np.nan_to_num(outcome.field(name)), 0.0).sum(1)
    return total


def breaks(outcome: Outcome) -> Breaks:
    """See :meth:`Outcome.breaks`."""
    first, restart = outcome.first_break(), outcome.first_restart()
    spent = {name: until_broken(outcome, name) for name in ("gradients", "queries", "seconds")}
    found = []
    for m in np.flatnonzero(outcome.counted).tolist():
        which = first == m
        found.append(
            Broken(
                attack=outcome.header.members[m].attack,
                estimator=outcome.header.members[m].estimator,
                first=int(which.sum()),
                later_restart=int((restart[which] > 0).sum()),
                median_gradients=float(np.median(spent["gradients"][which])) if which.any() else None,
                gradients=int(spent["gradients"][which].sum()),
                queries=int(spent["queries"][which].sum()),
                seconds=float(spent["seconds"][which].sum()),
            )
        )
    return Breaks(
        members=tuple(found), n=len(first), misclassified=int((first == -2).sum()), standing=int((first == -1).sum())
    )


def against_gradients(outcome: Outcome, budgets: Sequence[int], with_queries: bool) -> CostCurve:
    """See :meth:`Outcome.against_gradients`."""
    spent = until_broken(outcome, "gradients") + (until_broken(outcome, "queries") if with_queries else 0)
    broken = outcome.first_break() >= 0
    n = len(broken)
    robust = [rate(int((outcome.correct & ~(broken & (spent <= b))).sum()), n) for b in budgets]
    return CostCurve(
        label=outcome.header.model, under=under(outcome.header, n), gradients=tuple(budgets), robust=tuple(robust),
        with_queries=with_queries, seed=outcome.header.seed,
    )  # fmt: skip


def by_estimator(outcome: Outcome) -> Table:
    """See :meth:`Outcome.by_estimator`."""
    members, counted = outcome.header.members, np.flatnonzero(outcome.counted).tolist()
    attacks = list(dict.fromkeys((member.attack, bool(member.caveat)) for member in members))
    estimators = list(dict.fromkeys(member.estimator for member in members))

    def cell(columns: list[int]) -> str:
        found = outcome.accuracy_under(columns) if columns else None
        return "·" if found is None else str(found)

    rows = []
    for attack, caveat in attacks:
        own = [m for m, member in enumerate(members) if (member.attack, bool(member.caveat)) == (attack, caveat)]
        cells = [
            cell([m for m in own if members[m].estimator == e]) if any(members[m].estimator == e for m in own) else ""
            for e in estimators
        ]
        rows.append((marked(attack, caveat), *cells, cell(own)))
    worst = [cell([m for m in counted if members[m].estimator == e]) for e in estimators]
    rows.append(("worst case", *worst, cell(counted)))
    return Table(
        title=f"{outcome.header.model}: accuracy in % [95 % interval] under "
        f"{under(outcome.header, len(outcome.samples))}",
        columns=("attack", *estimators, "worst case"),
        rows=tuple(rows),
        note="",
    )
