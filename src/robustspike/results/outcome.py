"""One evaluation, sample by sample, and the figures that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from robustspike.results import costs
from robustspike.results.curves import CostCurve, StepsCurve
from robustspike.results.findings import Doubts, doubts_sentence
from robustspike.results.rates import Rate, rate
from robustspike.results.records import Header, MemberSummary, Summary, caveats, marked, under, worst_case
from robustspike.results.tables import Table

# Columns of one attempt in a line of samples.jsonl, in this order.
ATTEMPT_FIELDS = (
    "member", "fooled", "predicted", "distance", "gradients", "queries", "zero", "nan", "restart", "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """One evaluation, sample by sample.

    Attributes:
        header: what was measured.
        samples, labels, clean: [N] the samples' numbers, labels, and predicted classes without attack.
        attempts: [N, M, 10] float64, the fields of ``ATTEMPT_FIELDS`` for each sample and member; NaN where not tried.
        doubts: what the checks for gradient masking found; None where they were not run.
        timed_out: whether the time budget ended the evaluation before its last sample.

    Example:
        >>> model, images = digits_cnn(time_steps=2), load("digits").test.subset(4)
        >>> outcome = rs.evaluate(model, images, [fgsm(Linf(0.1))], doubts=0, progress=False)
        >>> outcome.fooled.shape
        (4, 1)
    """

    header: Header
    samples: NDArray[np.int64]
    labels: NDArray[np.int64]
    clean: NDArray[np.int64]
    attempts: NDArray[np.float64]
    doubts: Doubts | None = None
    timed_out: bool = False

    def field(self, name: str) -> NDArray[np.float64]:
        """One field of all attempts, [N, M], NaN where not tried."""
        values: NDArray[np.float64] = self.attempts[:, :, ATTEMPT_FIELDS.index(name)]
        return values

    @property
    def finished(self) -> bool:
        """Whether every sample was evaluated."""
        return len(self.samples) == self.header.n

    @cached_property
    def counted(self) -> NDArray[np.bool_]:
        """[M]: whether the member counts in the worst case: it has no caveat."""
        return np.array([not member.caveat for member in self.header.members], dtype=np.bool_)

    @cached_property
    def tried(self) -> NDArray[np.bool_]:
        """[N, M]: whether the member was run on the sample."""
        return ~np.isnan(self.field("member"))

    @cached_property
    def fooled(self) -> NDArray[np.bool_]:
        """[N, M]: whether the member was run on the sample and broke it."""
        return self.field("fooled") == 1

    @property
    def correct(self) -> NDArray[np.bool_]:
        """[N]: classified correctly without attack."""
        return self.clean == self.labels

    @property
    def robust(self) -> NDArray[np.bool_]:
        """[N]: classified correctly without attack and under every member that counts."""
        return self.correct & ~(self.fooled & self.counted).any(1)

    @property
    def cut(self) -> NDArray[np.bool_]:
        """[N]: robust, but the budget kept members away that count."""
        return self.robust & ~(self.tried | ~self.counted).all(1)

    @property
    def clean_accuracy(self) -> float:
        return float(self.correct.mean())

    @property
    def robust_accuracy(self) -> float:
        """The worst case per sample: an upper bound, under the attacks of the header."""
        return float(self.robust.mean())

    def first_break(self) -> NDArray[np.int64]:
        """[N]: the first counted member that broke the sample; −1 if none did, −2 if it was misclassified anyway."""
        fooled = self.fooled & self.counted
        first = np.where(fooled.any(1), fooled.argmax(1), -1)
        return np.where(self.correct, first, -2)

    def first_restart(self) -> NDArray[np.int64]:
        """[N]: the restart of that member that broke the sample; −1 where none did."""
        first = self.first_break()
        restart = np.nan_to_num(self.field("restart"))[np.arange(len(first)), np.maximum(first, 0)]
        return np.where(first >= 0, restart, -1).astype(np.int64)

    def until_broken(self, name: str = "gradients") -> NDArray[np.float64]:
        """[N]: what was spent on a sample ("gradients", "queries", "seconds") until it broke; all of it if it did not."""
        return costs.until_broken(self, name)

    def breaks(self) -> costs.Breaks:
        """For each counted member, how many samples it broke first and what had been spent on them by then.

        Example:
            >>> model, images = digits_cnn(time_steps=2), load("digits").test.subset(4)
            >>> found = rs.evaluate(model, images, [fgsm(Linf(0.1))], doubts=0, progress=False).breaks()
            >>> found.misclassified + found.standing + sum(one.first for one in found.members)
            4
        """
        return costs.breaks(self)

    def against_gradients(
        self, budgets: Sequence[int] = (10, 20, 50, 100, 300, 1000, 3000, 10_000), *, with_queries: bool = False
    ) -> CostCurve:
        """Robust accuracy, had the evaluation stopped after so many gradient evaluations per sample.

        Args:
            budgets: gradient evaluations per sample.
            with_queries: count forward passes without gradient as well, as a :class:`Budget` does.

        Example:
            >>> model, images = digits_cnn(time_steps=2), load("digits").test.subset(4)
            >>> outcome = rs.evaluate(model, images, [fgsm(Linf(0.1))], doubts=0, progress=False)
            >>> outcome.against_gradients((0, 1)).robust[1].value == outcome.robust_accuracy
            True
        """
        return costs.against_gradients(self, budgets, with_queries)

    def against_steps(self) -> StepsCurve | None:
        """Accuracy against the number of steps, for attacks that were run with several on every sample; None without any.

        Example:
            >>> model, images = digits_cnn(time_steps=2), load("digits").test.subset(4)
            >>> members = [PGD(Linf(0.1), steps) for steps in (1, 2)]
            >>> outcome = rs.evaluate(model, images, members, survivors_only=False, doubts=0, progress=False)
            >>> outcome.against_steps().steps
            (1, 2)
        """
        return costs.against_steps(self)

    def by_estimator(self) -> Table:
        """Rows are attacks, columns estimators, cells the accuracy under that member alone; last, the worst case of each.

        Example:
            >>> model, images = digits_cnn(time_steps=2), load("digits").test.subset(4)
            >>> members = [fgsm(Linf(0.1), estimator) for estimator in (RGA(), BPTT())]
            >>> outcome = rs.evaluate(model, images, members, survivors_only=False, doubts=0, progress=False)
            >>> outcome.by_estimator().columns
            ('attack', 'RGA', 'BPTT own surrogate', 'worst case')
        """
        return costs.by_estimator(self)

    def accuracy_under(self, columns: Sequence[int]) -> Rate | None:
        """The accuracy under these members together; None unless each sample met all of them, or was broken by one."""
        tried, fooled = self.tried[:, columns].all(1), self.fooled[:, columns].any(1)
        if not (tried | fooled | ~self.correct).all():
            return None
        return rate(int((self.correct & ~fooled).sum()), len(self.samples))

    def summary(self) -> Summary:
        """All figures, each with n and interval; computed once, as the rows of an outcome stay as they are."""
        return self._summary

    @cached_property
    def _summary(self) -> Summary:
        n, members = len(self.samples), self.header.members
        by_attack = {}
        for name in dict.fromkeys(marked(member.attack, member.caveat) for member in members):
            columns = [m for m, member in enumerate(members) if marked(member.attack, member.caveat) == name]
            if (found := self.accuracy_under(columns)) is not None:
                by_attack[name] = found
        return Summary(
            header=self.header,
            clean=rate(int(self.correct.sum()), n),
            robust=rate(int(self.robust.sum()), n),
            by_attack=by_attack,
            members=tuple(self._member(m) for m in range(len(members))),
            gradients=int(np.nansum(self.field("gradients"))),
            queries=int(np.nansum(self.field("queries"))),
            seconds=float(np.nansum(self.field("seconds"))),
            cut=int(self.cut.sum()),
            doubts=self.doubts,
            cost=costs.spending(self) if self.counted.any() else None,
            steps=self.against_steps(),
        )

    def _member(self, m: int) -> MemberSummary:
        tried, member = self.tried[:, m], self.header.members[m]
        earlier = self.counted & (np.arange(len(self.header.members)) <= m)
        gradients = float(np.nansum(self.field("gradients")[:, m]))
        return MemberSummary(
            attack=member.attack,
            estimator=member.estimator,
            kind=member.kind,
            caveat=member.caveat,
            tried=int(tried.sum()),
            broke=int(self.fooled[:, m].sum()),
            alone=self.accuracy_under([m]),
            standing_after=rate(int((self.correct & ~self.fooled[:, earlier].any(1)).sum()), len(tried)),
            gradients=int(gradients),
            queries=int(np.nansum(self.field("queries")[:, m])),
            seconds=float(np.nansum(self.field("seconds")[:, m])),
            largest_distance=float(np.nanmax(self.field("distance")[:, m])) if tried.any() else 0.0,
            zero_share=float(np.nansum(self.field("zero")[:, m])) / max(gradients, 1),
            nan_share=float(np.nansum(self.field("nan")[:, m])) / max(gradients, 1),
        )

    def table(self) -> Table:
        """One row per attack and estimator, then the worst case per sample."""
        summary, n = self.summary(), len(self.samples)
        rows = [("clean", "", str(n), "", str(summary.clean), *[""] * 6)]
        for member in summary.members:
            rows.append((
                marked(member.attack, member.caveat), member.estimator, str(member.tried), str(member.broke),
                str(member.alone) if member.alone else "·", "" if member.caveat else str(member.standing_after),
                str(member.gradients), str(member.queries),
                f"{member.largest_distance:.5f}", f"{100 * member.zero_share:.1f}", f"{100 * member.nan_share:.1f}",
            ))  # fmt: skip
        rows.append((
            "worst case per sample", "all of the above" if self.counted.all() else "all without †", str(n), "",
            worst_case(summary), "", str(summary.gradients), str(summary.queries), "", "", "",
        ))  # fmt: skip
        return Table(
            title=f"{self.header.model}, {self.header.data}: accuracy in % [95 % interval] under "
            f"{under(self.header, n)}",
            columns=(
                "attack", "estimator", "tried", "broke", "accuracy", "standing after", "gradients", "queries",
                f"max {self.header.norm}", "zero grad. %", "NaN grad. %",
            ),
            rows=tuple(rows),
            note=" ".join(self._notes()),
        )  # fmt: skip

    def _notes(self) -> list[str]:
        n, cut = len(self.samples), int(self.cut.sum())
        notes = ["An accuracy under attack is an upper bound. · : run only on samples that earlier rows left standing."]
        notes += caveats(self.header.members)
        if cut:
            limit = self.header.budget
            hit = f"Budget of {limit} gradient evaluations and queries per sample hit" if limit else "Not complete"
            notes.append(f"{hit}: {cut} of {n} samples did not meet every attack.")
        if not self.finished:
            why = "Time budget hit" if self.timed_out else "Not finished"
            notes.append(f"{why}: {n} of {self.header.n} samples evaluated, in the data's order; resume for the rest.")
        return [*notes, f"Doubts: {doubts_sentence(self.doubts)}"]
