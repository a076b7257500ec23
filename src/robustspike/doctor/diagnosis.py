"""What the doctor found: a record to print, to keep as JSON, or to ask whether all is well."""

from __future__ import annotations

from robustspike.results import MARKS, Finding, Table
from robustspike.results.rates import Record


class Diagnosis(Record):
    """What was found of an installation and, where one was given, of a network.

    Attributes:
        surroundings: versions of packages, processor, GPU and compiler by name; "–" where there is none.
        installation: findings on what is installed.
        frameworks: known defects of the frameworks that are installed, found by running them.
        carried: names of those that the network carries.
        network: findings on the network as it is, as its owner would attack it; empty where none was given.
        adapted: the same for ``rs.adapt(network)``; empty where it could not be adapted.
        unadapted: why it could not be; "" where it could.
        model: the network's class and what it takes; "" where none was given.
        tried_on: the images.
        seed: of random images and draws.
        seconds: what it took.

    Example:
        >>> leak = Finding(check="state leak", passed=False, evidence="8 of 8 differ", remedy="Reset.", page="doctor.md")
        >>> found = Diagnosis(surroundings={}, installation=(), frameworks=(), network=(leak,))
        >>> found.healthy, found.failed, found.repaired
        (False, ('state leak',), ())
    """

    surroundings: dict[str, str]
    installation: tuple[Finding, ...]
    frameworks: tuple[Finding, ...]
    carried: tuple[str, ...] = ()
    network: tuple[Finding, ...] = ()
    adapted: tuple[Finding, ...] = ()
    unadapted: str = ""
    model: str = ""
    tried_on: str = ""
    seed: int = 0
    seconds: float = 0.0

    @property
    def failed(self) -> tuple[str, ...]:
        """What decides: the network's failed checks; without a network, those of the installation."""
        return tuple(one.check for one in (self.network or self.installation) if one.passed is False)

    @property
    def healthy(self) -> bool:
        """Whether a network's checks passed; without a network, those of the installation.

        A framework's known defects do not decide: a network is judged by whether it carries one.
        """
        return not self.failed

    @property
    def repaired(self) -> tuple[str, ...]:
        """The network's failed checks that pass, or no longer apply, for ``rs.adapt(network)``."""
        well = {one.check for one in self.adapted if one.passed is not False}
        return tuple(name for name in self.failed if name in well)

    def table(self) -> Table:
        """One row per finding: the network's, the installation's, the frameworks'; failed ones first in each."""
        order = {False: 0, True: 1, None: 2}
        after = {one.check: MARKS[one.passed] for one in self.adapted}
        rows = [
            (MARKS[one.passed], after.get(one.check, "") * (group is self.network), one.check, one.evidence,
             one.remedy if one.passed is False else "", one.page)
            for group in (self.network, self.installation, self.frameworks)
            for one in sorted(group, key=lambda one: order[one.passed])
        ]  # fmt: skip
        return Table(
            title=self.title,
            columns=("", "adapted", "check", "evidence", "remedy", "see"),
            rows=tuple(rows),
            note="✓ passed, ✗ failed, – not applicable; adapted: the same for rs.adapt(model), through a surrogate of ours. "
            f"{f'Not adapted: {self.unadapted}. ' if self.unadapted else ''}{self.tried_on}",
        )

    @property
    def title(self) -> str:
        """What was examined, and how much of it failed."""
        known = sum(one.passed is False for one in self.frameworks)
        wrong = sum(one.passed is False for one in self.installation)
        here = f"installation: {wrong} of {len(self.installation)} checks failed, known defects: {known}"
        if not self.network:
            return f"Doctor, {here}"
        return f"Doctor, {self.model}: {len(self.failed)} of {len(self.network)} checks failed; {here}"

    def versions(self) -> Table:
        """Packages and machine."""
        return Table("Installed", ("what", "which"), tuple(self.surroundings.items()))
