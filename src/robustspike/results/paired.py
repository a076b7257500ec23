"""Two evaluations of the same samples, compared sample by sample."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from robustspike.results.rates import Record, ResultError
from robustspike.results.tables import Table

if TYPE_CHECKING:
    from robustspike.results.outcome import Outcome


class McNemar(Record):
    """McNemar's exact test of two evaluations of the same samples.

    Attributes:
        a, b: what was evaluated.
        n: samples.
        both: how many were robust in both.
        only_a, only_b: how many were robust in one of the two only.
        p: two-sided; how likely so uneven a split of these is, were both equally robust.
    """

    a: str
    b: str
    n: int
    both: int
    only_a: int
    only_b: int
    p: float

    def __str__(self) -> str:
        return (
            f"Of {self.n} samples, {self.only_a} are robust only in {self.a} and {self.only_b} only in {self.b}: "
            f"p = {self.p:.2g} (McNemar's exact test, two-sided)."
        )

    def table(self) -> Table:
        """The four counts: rows for a, columns for b."""
        neither = self.n - self.both - self.only_a - self.only_b
        return Table(
            title=f"Samples, n = {self.n}",
            columns=("", f"robust in {self.b}", f"broken in {self.b}"),
            rows=(
                (f"robust in {self.a}", str(self.both), str(self.only_a)),
                (f"broken in {self.a}", str(self.only_b), str(neither)),
            ),
        )


def mcnemar(a: Outcome, b: Outcome) -> McNemar:
    """Whether two evaluations of the same samples differ in robust accuracy by more than chance.

    With b and c samples robust in one of the two only, p is that of b successes in b + c tosses of a fair coin (McNemar
    1947, the exact form). The two may be of different models, attacks or seeds.

    Raises:
        ResultError: if samples, labels or data differ, or one has no attack that counts in the worst case.

    Example:
        >>> model, images = digits_cnn(time_steps=2), load("digits").test.subset(4)
        >>> outcome = rs.evaluate(model, images, [fgsm(Linf(0.1))], doubts=0, progress=False)
        >>> mcnemar(outcome, outcome).p
        1.0
    """
    _check_same_samples(a, b)
    if not (a.counted.any() and b.counted.any()):
        raise ResultError(
            "McNemar's test needs a worst case in both evaluations, but every attack of one has a caveat; evaluate with "
            "attacks that count, such as the suite standard"
        )
    only_a, only_b = int((a.robust & ~b.robust).sum()), int((b.robust & ~a.robust).sum())
    names = [f"{o.header.model} under {o.header.suite}" for o in (a, b)]
    if names[0] == names[1]:
        names = ["the first", "the second"]
    return McNemar(
        a=names[0], b=names[1], n=len(a.samples), both=int((a.robust & b.robust).sum()), only_a=only_a, only_b=only_b,
        p=exact_p(only_a, only_b),
    )  # fmt: skip


def exact_p(only_a: int, only_b: int) -> float:
    """How likely so uneven a split of the samples that are robust in one only is, were both equally robust; two-sided.

    Example:
        >>> exact_p(3, 0)
        0.25
    """
    return float(min(1.0, 2 * special.bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def _check_same_samples(a: Outcome, b: Outcome) -> None:
    differing = [
        what
        for what, mine, theirs in (
            ("samples", a.samples, b.samples),
            ("labels", a.labels, b.labels),
            ("data_fingerprint", a.header.data_fingerprint, b.header.data_fingerprint),
        )
        if not np.array_equal(mine, theirs)
    ]
    if differing:
        raise ResultError(
            f"McNemar's test needs two evaluations of the same samples, but {', '.join(differing)} differ; "
            "evaluate both on the same data"
        )
