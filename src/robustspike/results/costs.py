"""What it took to break the samples: first breaks, robust accuracy against gradient evaluations and against steps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from robustspike.results.curves import CostCurve, StepsCurve, StepsRow
from robustspike.results.rates import Rate, Record, rate
from robustspike.results.records import Member, marked, under
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
        """One row per member that broke a sample first."""
        rows = [
            (
                one.attack, one.estimator, str(one.first), str(one.later_restart),
                "–" if one.median_gradients is None else f"{one.median_gradients:g}",
                str(one.gradients), str(one.queries), f"{one.seconds:.1f}",
            )
            for one in self.members
            if one.first
        ]  # fmt: skip
        idle = len(self.members) - len(rows)
        others = f" The other {idle} broke no sample that earlier ones had left standing." if idle else ""
        return Table(
            title=f"First breaks, of {self.n} samples: {self.misclassified} misclassified without attack, "
            f"{self.standing} standing",
            columns=(
                "attack", "estimator", "broke first", "by a later restart", "median gradients", "gradients", "queries",
                "seconds",
            ),
            rows=tuple(rows),
            note=f"Spent on these samples by this attack and all earlier ones.{others}",
        )  # fmt: skip


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


def spending(outcome: Outcome) -> CostCurve:
    """Robust accuracy at 1, 2, 5, 10, 20, … evaluations per sample, up to what was spent; queries count if there are any."""
    with_queries = bool(np.nansum(outcome.field("queries")) > 0)
    most = until_broken(outcome, "gradients") + (until_broken(outcome, "queries") if with_queries else 0)
    budgets = [1]
    while budgets[-1] < most.max():
        budgets.append(budgets[-1] * (5 if str(budgets[-1])[0] == "2" else 4) // 2)
    return against_gradients(outcome, budgets, with_queries)


def _family(member: Member) -> tuple[str, str, str]:
    """Attack, estimator and settings of a member without its number of steps."""
    settings = re.sub(r"\b(steps=\d+|label=('[^']*'|None))", "", member.settings)
    attack = re.sub(rf"-{member.steps}\b|, {member.steps} steps", "", member.attack, count=1)
    return attack, member.estimator, settings


def against_steps(outcome: Outcome) -> StepsCurve | None:
    """See :meth:`Outcome.against_steps`."""
    families: dict[tuple[str, str, str], dict[int, int]] = {}
    for m, member in enumerate(outcome.header.members):
        if member.steps is not None and not member.caveat and outcome.accuracy_under([m]) is not None:
            families.setdefault(_family(member), {})[member.steps] = m
    families = {family: found for family, found in families.items() if len(found) > 1}
    if not families:
        return None
    steps = sorted({n for found in families.values() for n in found})
    rows = [
        StepsRow(attack=attack, estimator=estimator, accuracy=tuple(_alone(outcome, found.get(n)) for n in steps))
        for (attack, estimator, _), found in families.items()
    ]
    worst = [outcome.accuracy_under([found[n] for found in families.values() if n in found]) for n in steps]
    return StepsCurve(
        label=outcome.header.model, under=under(outcome.header, len(outcome.samples)), steps=tuple(steps),
        rows=tuple(rows), worst=tuple(r for r in worst if r is not None), seed=outcome.header.seed,
    )  # fmt: skip


def _alone(outcome: Outcome, member: int | None) -> Rate | None:
    return None if member is None else outcome.accuracy_under([member])


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
