"""Many evaluations of many networks: which can be ranked against each other, in which order, and what is missing."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from typing import Literal

import numpy as np

from robustspike.results.paired import exact_p
from robustspike.results.rates import Rate, Record
from robustspike.results.records import Header, caveats
from robustspike.results.tables import Table

TIE = "≈"
LEVEL = 0.05

Standing = Literal["ranked", "unfinished", "cut", "no worst case", "unverified"]


class Entry(Record):
    """One evaluation of one network.

    Attributes:
        network: the name of its training objective.
        run, evaluation: the run's folder, relative to the leaderboard's, and the name of the evaluation's folder in it.
        header: under what its figures hold.
        suite: the suite's name, with those of attacks that are not the published ones.
        architecture, time_steps, parameters: of the network in the run's weights; "" and None where these are missing.
        defence: how it was trained, as on the command line; "" where the record is missing.
        samples: a hash over the numbers and labels of the samples; "" where not all of them can be read.
        checkpoint: "last" or "best"; "" where no weights of the run are those that were evaluated.
        done: how many of ``header.n`` samples were evaluated; None where that cannot be read.
        clean, robust: accuracy without attack and in the worst case; None where there is none that can be relied on.
        gradients, queries: spent on all samples together.
        doubts: the checks for gradient masking that failed; None where none were run.
        checks: how many of them could be applied.
        stands: which samples are robust, in the order of their numbers, eight to a byte, in hexadecimal; "" where unknown.
        standing: "ranked", or why it is not.
        reason: the same in one sentence; "" for an entry that is ranked.
        page: the run's own page, relative to the leaderboard's folder; "" where there is none.
    """

    network: str
    run: str
    evaluation: str
    header: Header
    suite: str
    architecture: str = ""
    time_steps: int | None = None
    parameters: int | None = None
    defence: str = ""
    samples: str = ""
    checkpoint: str = ""
    done: int | None = None
    clean: Rate | None = None
    robust: Rate | None = None
    gradients: int = 0
    queries: int = 0
    doubts: tuple[str, ...] | None = None
    checks: int = 0
    stands: str = ""
    standing: Standing = "ranked"
    reason: str = ""
    page: str = ""

    @property
    def strength(self) -> str:
        """How many attacks were tried, and through how many gradient estimators."""
        members = self.header.members
        attacks = len({member.attack for member in members})
        estimators = len({member.estimator for member in members} - {"", "–"})
        if attacks * estimators == len(members):
            return f"{_several(attacks, 'attack')} × {_several(estimators, 'estimator')}"
        return f"{_several(attacks, 'attack')}, {_several(estimators, 'estimator')}, {_several(len(members), 'pair')}"

    @property
    def progress(self) -> str:
        """How many samples were evaluated of how many."""
        return f"{'?' if self.done is None else self.done} of {self.header.n}"


def _several(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


class Place(Record):
    """An entry and its rank.

    Attributes:
        rank: 1 for the most robust; equal worst cases share it.
        entry: the evaluation.
        p: of McNemar's exact test against the first entry, two-sided, uncorrected; None for the first, and where it is not
            known which samples of both are robust.
        overlaps: whether its 95 % interval overlaps with the first's, which is no test; only where there is no p.
    """

    rank: int
    entry: Entry
    p: float | None = None
    overlaps: bool = False

    @property
    def tie(self) -> bool:
        """Whether the samples do not tell it from the first: p > 0.05."""
        return self.p is not None and self.p > LEVEL

    @property
    def remark(self) -> str:
        """How it differs from the first, in some words; "" for the first, and where intervals without rows do not meet."""
        if self.p is None:
            return "the intervals overlap" if self.overlaps else ""
        return f"{f'{TIE} ' if self.tie else ''}p = {self.p:.2g}"


class Group(Record):
    """Entries that were measured alike, the most robust first: same samples, same ball, same attacks."""

    places: tuple[Place, ...]

    @property
    def header(self) -> Header:
        """That of the first entry; seeds, batches and weights may differ in the others."""
        return self.places[0].entry.header

    @property
    def suite(self) -> str:
        """The suite's name, with those of attacks that are not the published ones."""
        return self.places[0].entry.suite

    def notes(self) -> tuple[str, ...]:
        """What has to be said below the figures."""
        tested = (
            "p: against the first, sample by sample (McNemar's exact test, two-sided, uncorrected for the number of "
            f"entries); {TIE}: p > {LEVEL}, so these samples do not tell the two apart."
        )
        unpaired = "The intervals overlap: with the first's, which is no test."
        return (
            f"The worst case is an upper bound: an attack that is not in {self.suite} can lower it, none can raise it.",
            *caveats(self.header.members),
            *([tested] if any(place.p is not None for place in self.places) else []),
            *([unpaired] if any(place.overlaps for place in self.places) else []),
        )

    def table(self) -> Table:
        """One row for each entry."""
        header, (first, *_) = self.header, self.places
        under = f"{self.suite}, {header.norm} ε = {header.eps:.4g}, n = {header.n}"
        rows = [
            (
                str(place.rank), f"{place.entry.network} ({place.entry.run})", place.entry.architecture,
                str(place.entry.clean), str(place.entry.robust), place.remark or "–", str(place.entry.header.seed),
                str(place.entry.gradients), masking(place.entry),
            )
            for place in self.places
        ]  # fmt: skip
        return Table(
            title=f"{header.data}: accuracy in % [95 % interval] under {under}, {first.entry.strength}",
            columns=(
                "rank", "network", "architecture", "clean", "worst case", "against the first", "seed", "gradients",
                "masking checks",
            ),
            rows=tuple(rows),
            note=" ".join(self.notes()),
        )  # fmt: skip


class Missing(Record):
    """Something that a run lacks or that cannot be read, in one sentence."""

    where: str
    what: str


class Leaderboard(Record):
    """Evaluations of many runs.

    Attributes:
        title: of the page.
        groups: what can be ranked; only entries of one group can be compared.
        unranked: evaluations that are not finished, were cut short, or do not check out; each with its reason.
        missing: what else should be there.
    """

    title: str
    groups: tuple[Group, ...]
    unranked: tuple[Entry, ...] = ()
    missing: tuple[Missing, ...] = ()

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All evaluations, ranked ones first."""
        return (*(place.entry for group in self.groups for place in group.places), *self.unranked)

    def tables(self) -> tuple[Table, ...]:
        """One for each group, then what is not ranked and what is missing."""
        tables = [group.table() for group in self.groups]
        if self.unranked:
            rows = [(one.network, f"{one.run}/{one.evaluation}", one.progress, one.reason) for one in self.unranked]
            tables.append(Table("Not ranked", ("network", "evaluation", "samples", "why"), tuple(rows)))
        if self.missing:
            found = [(one.where, one.what) for one in self.missing]
            tables.append(Table("What is missing", ("where", "what"), tuple(found)))
        return tuple(tables)


def masking(entry: Entry) -> str:
    """What the checks for gradient masking found, in some words."""
    if entry.doubts is None:
        return "not run"
    if entry.doubts:
        return f"✗ {', '.join(entry.doubts)} ({len(entry.doubts)} of {entry.checks} failed)"
    return f"✓ none of {entry.checks} failed" if entry.checks else "none applicable"


def alike(entry: Entry) -> Hashable:
    """What two entries must share to be ranked against each other: samples, ball and attacks with all their settings.

    Seeds, budgets that were not hit, and the networks themselves may differ, also those that examples are transferred from
    where they are made for each network anew, such as a twin.
    """
    header = entry.header
    members = tuple(
        (member.attack, member.estimator, member.caveat, re.sub(r"\[[0-9a-f]{16}\]", "", member.settings))
        for member in header.members
    )
    return header.data, header.data_fingerprint, header.norm, repr(header.eps), header.suite, members, header.n


def agreeing(entries: Iterable[Entry]) -> list[Entry]:
    """The entries; where those that name the same data have other samples or labels, all of these are unverified.

    Which of them are right cannot be told: not by how many there are either, as a run can be copied.
    """
    entries = list(entries)
    found: dict[str, dict[str, str]] = {}
    for entry in entries:
        if entry.samples and entry.standing != "unverified":
            found.setdefault(entry.header.data_fingerprint, {}).setdefault(entry.samples, entry.run)
    return [
        entry.model_copy(update={"standing": "unverified", "reason": reason, "clean": None, "robust": None})
        if entry.standing != "unverified" and (reason := _disagreement(entry, found))
        else entry
        for entry in entries
    ]


def _disagreement(entry: Entry, found: dict[str, dict[str, str]]) -> str:
    """Why an entry's samples cannot be relied on; "" where all agree. ``found``: by data, then samples, one run."""
    runs = [run for samples, run in found.get(entry.header.data_fingerprint, {}).items() if samples != entry.samples]
    if not entry.samples or not runs:
        return ""
    named = f"{runs[0]}{f' and {len(runs) - 1} more' if len(runs) > 1 else ''}"
    return f"its samples or labels are not those of {named}, which names the same data; which are right is not known"


def leaderboard_of(title: str, entries: Iterable[Entry], missing: Iterable[Missing] = ()) -> Leaderboard:
    """Sort entries into groups and rank them within these, once they agree on what the samples are.

    Groups come in the order of data, suite, norm, ε and number of samples. Equal worst cases share a rank.
    """
    groups: dict[Hashable, list[Entry]] = {}
    unranked = []
    for entry in agreeing(entries):
        if entry.standing == "ranked":
            groups.setdefault(alike(entry), []).append(entry)
        else:
            unranked.append(entry)
    made = sorted(map(_ranked, groups.values()), key=_order)
    return Leaderboard(title=title, groups=tuple(made), unranked=tuple(unranked), missing=tuple(missing))


def _order(group: Group) -> tuple[str, str, str, float, int]:
    header = group.header
    return header.data, group.suite, header.norm, header.eps, header.n


def _ranked(entries: list[Entry]) -> Group:
    figures = [(entry, entry.robust, entry.clean) for entry in entries]
    rated = [(entry, robust, clean) for entry, robust, clean in figures if robust is not None and clean is not None]
    rated.sort(key=lambda one: (-one[1].value, -one[2].value, one[0].network, one[0].run, one[0].evaluation))
    (first, best, _), *_ = rated
    places = []
    for k, (entry, robust, _) in enumerate(rated):
        p = _p_of(first, entry) if k > 0 else None
        rank = 1 + sum(other.value > robust.value for _, other, _ in rated)
        overlaps = k > 0 and p is None and robust.high >= best.low
        places.append(Place(rank=rank, entry=entry, p=p, overlaps=overlaps))
    return Group(places=tuple(places))


def _p_of(a: Entry, b: Entry) -> float | None:
    """McNemar's exact test, see :func:`robustspike.results.mcnemar`; None where the two cannot be paired."""
    if not (a.stands and b.stands and a.samples and a.samples == b.samples and a.header.n == b.header.n):
        return None
    one, other = (np.unpackbits(np.frombuffer(bytes.fromhex(entry.stands), np.uint8)) == 1 for entry in (a, b))
    only_a, only_b = int((one & ~other).sum()), int((other & ~one).sum())
    return exact_p(only_a, only_b)
