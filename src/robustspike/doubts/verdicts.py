"""How a check becomes a finding."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from robustspike.doubts.probed import Missing, MissingError
from robustspike.results import Finding

PAGES = "docs/doubts"


class Verdict(NamedTuple):
    """What a check decides (None: not applicable), the figures behind it, and a remedy more exact than its usual one."""

    passed: bool | None
    evidence: str
    remedy: str = ""


@dataclass(frozen=True)
class Check:
    """One doubt.

    Attributes:
        name: as printed; it says what is wrong where the check fails.
        page: the file in docs/doubts that explains it.
        remedy: what to do if it fails.
        judge: from the figures to a verdict; may raise :class:`MissingError`.
    """

    name: str
    page: str
    remedy: str
    judge: Callable[[Any], Verdict]

    @property
    def address(self) -> str:
        """Page and section, such as "docs/doubts/seeing.md#zero-gradients"."""
        section = re.sub(r"[^\w -]", "", self.name.lower()).replace(" ", "-")
        return f"{PAGES}/{self.page}.md#{section}"

    def finding(self, figures: Any) -> Finding:
        """The finding; a figure that could not be measured fails it."""
        try:
            verdict = self.judge(figures)
        except MissingError as absent:
            verdict = Verdict(False if absent.missing.failed else None, absent.missing.why)
        return Finding(
            check=self.name,
            passed=verdict.passed,
            evidence=verdict.evidence,
            remedy=verdict.remedy or self.remedy,
            page=self.address,
        )


def findings(checks: Iterable[Check], figures: Any | Missing) -> list[Finding]:
    """One finding for each check; all alike where there are no figures at all."""
    if not isinstance(figures, Missing):
        return [check.finding(figures) for check in checks]
    why = figures

    def judge(_: Any) -> Verdict:
        raise MissingError(why)

    return [Check(check.name, check.page, check.remedy, judge).finding(None) for check in checks]
