"""What was measured, and the figures without the rows."""

from __future__ import annotations

from typing import Any

from pydantic import Field, SerializeAsAny, field_validator

from robustspike.results.audits import AUDIT_RECORDS, Audited
from robustspike.results.curves import CostCurve, Curve, StepsCurve
from robustspike.results.findings import Doubts, doubts_sentence
from robustspike.results.paired import McNemar
from robustspike.results.rates import Rate, Record
from robustspike.results.tables import Table

FORMAT = 2


class Member(Record):
    """One attack under one estimator, as listed in tables; ``settings`` is its full representation.

    Attributes:
        kind: "one-step", "white-box", "black-box" or "noise".
        caveat: why its figure is no sound robustness figure; a member with one counts in no worst case and is marked †.
        steps: gradient steps of the attack; None where it has no such number.
    """

    attack: str
    estimator: str
    settings: str
    kind: str = "white-box"
    caveat: str = ""
    steps: int | None = None


def marked(attack: str, caveat: object) -> str:
    """The name of an attack, with † if it has a caveat."""
    return f"{attack} †" if caveat else attack


class Header(Record):
    """Everything needed to say what an evaluation measured; two runs with equal headers give equal rows.

    ``calls`` is the number of calls whose majority is a stochastic model's answer, 1 for a deterministic model;
    ``budget`` the gradient evaluations and queries after which no further attack is started on a sample.
    """

    format: int = FORMAT

    suite: str
    norm: str
    eps: float
    members: tuple[Member, ...]
    survivors_only: bool
    seed: int
    batch_size: int
    n: int
    data: str
    data_fingerprint: str
    model: str
    weights_fingerprint: str
    calls: int = 1
    budget: int | None = None
    versions: dict[str, str]


class MemberSummary(Record):
    """The figures of one member over an evaluation."""

    attack: str
    estimator: str
    kind: str = "white-box"
    caveat: str = ""
    tried: int
    broke: int
    alone: Rate | None
    standing_after: Rate
    gradients: int
    queries: int = 0
    seconds: float
    largest_distance: float
    zero_share: float
    nan_share: float


class Summary(Record):
    """The figures of one evaluation without its rows.

    Attributes:
        cut: standing samples that did not meet every attack.
        cost: robust accuracy against what was spent; None where every attack has a caveat.
        steps: accuracy against the steps of an attack; None where none was run with several numbers of steps.
    """

    header: Header
    clean: Rate
    robust: Rate
    by_attack: dict[str, Rate]
    members: tuple[MemberSummary, ...]
    gradients: int
    queries: int = 0
    seconds: float
    cut: int = 0
    doubts: Doubts | None = None
    cost: CostCurve | None = None
    steps: StepsCurve | None = None

    @property
    def has_worst_case(self) -> bool:
        """Whether some attack counts in the worst case: not all have a caveat."""
        return not all(member.caveat for member in self.header.members)


class Network(Record):
    """One network of a comparison: how it was trained, how it fared, what audits measured, by their names."""

    name: str
    training: dict[str, Any]
    summary: Summary
    curve: Curve | None = None
    audits: dict[str, SerializeAsAny[Audited]] = Field(default_factory=dict)

    @field_validator("audits", mode="before")
    @classmethod
    def _by_name(cls, found: Any) -> Any:
        if isinstance(found, dict):
            return {
                name: AUDIT_RECORDS[name].model_validate(one)
                if name in AUDIT_RECORDS and isinstance(one, dict)
                else one
                for name, one in found.items()
            }
        return found


class Comparison(Record):
    """Several networks under the same attacks; ``tests``: the first against each other one, sample by sample."""

    title: str
    networks: tuple[Network, ...]
    notes: tuple[str, ...] = ()
    tests: tuple[McNemar, ...] = ()


def under(header: Header, n: int | None = None) -> str:
    """What a robustness figure was measured under, in one line; n: of how many samples, None: all."""
    count = f"{header.n}" if n in (None, header.n) else f"{n} of {header.n}"
    return f"{header.suite}, {header.norm} ε = {header.eps:.4g}, n = {count}, seed {header.seed}"


def caveats(members: tuple[Member, ...]) -> list[str]:
    """Why some members count in no worst case, one sentence for each reason."""
    names: dict[str, dict[str, None]] = {}
    for member in members:
        names.setdefault(member.caveat, {})[member.attack] = None
    return [f"† Not in the worst case: {', '.join(n)}: {c.rstrip('.')}." for c, n in names.items() if c]


def worst_case(summary: Summary) -> str:
    """The worst case as printed: a dash where every attack has a caveat."""
    return str(summary.robust) if summary.has_worst_case else "–"


def tested(tests: tuple[McNemar, ...]) -> list[str]:
    """What tests of several networks against the same one found, as one sentence; nothing where there are none."""
    if not tests:
        return []
    found = "; ".join(f"{one.b} p = {one.p:.2g} ({one.only_a} and {one.only_b})" for one in tests)
    return [
        f"Worst case against {tests[0].a}, sample by sample: {found} (McNemar's exact test, two-sided, uncorrected; in "
        f"brackets the samples robust only in {tests[0].a} and only in the other)."
    ]


def comparison_table(comparison: Comparison) -> Table:
    """The shape of Liu 2024, Table 3: one row per network, clean accuracy, each attack, the worst case per sample."""
    first = comparison.networks[0].summary
    attacks = list(first.by_attack)
    rows = []
    doubts: dict[str, list[str]] = {}
    for network in comparison.networks:
        s = network.summary
        rows.append((network.name, str(s.clean), *(str(s.by_attack.get(a, "·")) for a in attacks), worst_case(s)))
        doubts.setdefault(doubts_sentence(s.doubts), []).append(network.name)
    named = [text if len(doubts) == 1 else f"{', '.join(names)}: {text}" for text, names in doubts.items()]
    notes = [
        "Each attack: robust only if it fails under every estimator. Every accuracy under attack is an upper bound.",
        *caveats(first.header.members),
        *tested(comparison.tests),
        f"Doubts: {' '.join(named)}",
    ]
    return Table(
        title=f"{comparison.title}: accuracy in % [95 % interval] under {under(first.header)}",
        columns=("network", "clean", *attacks, "worst case"),
        rows=tuple(rows),
        note=" ".join(notes),
    )
