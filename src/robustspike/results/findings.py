"""What speaks for and against a robustness figure: findings with evidence and remedy, and the checklist of obfuscation."""

from __future__ import annotations

from robustspike.results.rates import Record
from robustspike.results.tables import Table

MARKS = {True: "✓", False: "✗", None: "–"}


class Finding(Record):
    """One check of whether an evaluation can be trusted.

    Attributes:
        check: its name.
        passed: None: not applicable here; the evidence says why.
        evidence: the figures that decide it.
        remedy: what to do if it failed.
        page: where it comes from, or where it is explained.

    Example:
        >>> Finding(check="ε = 1", passed=False, evidence="12 of 32 stand", remedy="attack harder", page="doubts").passed
        False
    """

    check: str
    passed: bool | None
    evidence: str
    remedy: str
    page: str


class Checklist(Record):
    """The five items of gradient obfuscation, for each gradient estimator (Ding 2022, table 4).

    Attributes:
        estimators, items: names of rows and columns.
        cells: [estimator][item], (passed, evidence).

    Example:
        >>> list_ = Checklist(estimators=("RGA",), items=("one-step < iterative",), cells=(((True, "20 % < 45 %"),),))
        >>> list_.table().rows
        (('RGA', '✓ 20 % < 45 %'),)
    """

    estimators: tuple[str, ...]
    items: tuple[str, ...]
    cells: tuple[tuple[tuple[bool | None, str], ...], ...]

    def table(self) -> Table:
        """One row per estimator, one column per item."""
        rows = [
            (name, *(f"{MARKS[passed]} {evidence}" for passed, evidence in cells))
            for name, cells in zip(self.estimators, self.cells, strict=True)
        ]
        return Table("Checklist of gradient obfuscation", ("estimator", *self.items), tuple(rows), LEGEND)

    def marks(self) -> Table:
        """The same without the evidence."""
        rows = [
            (name, *(MARKS[passed] for passed, _ in cells))
            for name, cells in zip(self.estimators, self.cells, strict=True)
        ]
        return Table("Checklist of gradient obfuscation", ("estimator", *self.items), tuple(rows), LEGEND)


class Doubts(Record):
    """The checks of one evaluation.

    Attributes:
        findings: one for each check.
        checklist: None where no gradient attack was run.
        samples: how many samples were probed.
        seed: of all random draws.
        gradients, seconds: what the checks cost.
        asked: how many samples were to be probed at most.

    Example:
        >>> one = Finding(check="zero gradients", passed=True, evidence="0 of 320", remedy="–", page="doubts")
        >>> Doubts(findings=(one,), checklist=None, samples=32, seed=0, gradients=320, seconds=1.0).failed
        ()
    """

    findings: tuple[Finding, ...]
    checklist: Checklist | None
    samples: int
    seed: int
    gradients: int
    seconds: float
    asked: int = 0

    @property
    def failed(self) -> tuple[str, ...]:
        """The names of the checks that failed."""
        return tuple(finding.check for finding in self.findings if finding.passed is False)

    def table(self) -> Table:
        """One row per finding, failed ones first."""
        order = {False: 0, None: 2, True: 1}
        rows = [
            (MARKS[one.passed], one.check, one.evidence, one.remedy if one.passed is False else "", one.page)
            for one in sorted(self.findings, key=lambda one: order[one.passed])
        ]
        cost = f"{self.gradients} gradient evaluations in all, {self.seconds:.1f} s"
        return Table(
            title=f"Doubts: {len(self.failed)} of {len(self.findings)} checks failed, {self.samples} samples, "
            f"seed {self.seed}",
            columns=("", "check", "evidence", "remedy", "see"),
            rows=tuple(rows),
            note=f"{LEGEND} {cost}.",
        )

    def checklist_table(self) -> Table | None:
        """The checklist to read; None where there is none."""
        return None if self.checklist is None else self.checklist.table()

    def sentence(self) -> str:
        """The failed checks in one sentence."""
        applied = sum(finding.passed is not None for finding in self.findings)
        if self.failed:
            return f"{', '.join(self.failed)} ({len(self.failed)} of {applied} masking checks failed)."
        if not applied:
            return f"no masking check was applicable (of {len(self.findings)}, {self.samples} samples probed)."
        count = f"{applied} of {len(self.findings)}"
        return f"no masking check failed ({count} were applicable, {self.samples} samples probed)."


LEGEND = "✓ passed, ✗ failed, – not applicable."


def doubts_sentence(doubts: Doubts | None) -> str:
    """What the checks found, in one sentence; that there were none, where there were none.

    Example:
        >>> doubts_sentence(None)
        'masking checks not run.'
    """
    return "masking checks not run." if doubts is None else doubts.sentence()
