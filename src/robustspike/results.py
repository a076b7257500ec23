"""What evaluations return: frozen records that say beside each figure under what it was measured, and their files.

An evaluation is a folder with ``evaluation.json`` (the settings, one :class:`Header`) and ``samples.jsonl`` (one line
per sample). Every figure is computed from the lines, so two runs can be compared sample by sample.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from scipy import stats

HEADER_FILE, ROWS_FILE = "evaluation.json", "samples.jsonl"

# Columns of one attempt in a line of samples.jsonl, in this order.
_ROW_FIELDS = ("sample", "label", "clean")
ATTEMPT_FIELDS = ("member", "fooled", "predicted", "distance", "gradients", "zero", "nan", "restart", "seconds")


class ResultError(ValueError):
    """A result on disk is missing, damaged, or belongs to another run."""


class Record(BaseModel):
    """A frozen record with a JSON form."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Rate(Record):
    """A share of samples with its 95 % Clopper-Pearson interval; all in [0, 1]."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def rate(successes: int, n: int) -> Rate:
    """The share successes/n with its exact binomial interval.

    Example:
        >>> str(rate(5, 10))
        '50.0 [18.7, 81.3]'
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"need 0 ≤ successes ≤ n and n ≥ 1, got {successes} of {n}")
    interval = stats.binomtest(successes, n).proportion_ci(0.95, method="exact")
    return Rate(value=successes / n, low=float(interval.low), high=float(interval.high), n=n)


class Member(Record):
    """One attack under one estimator, as listed in tables; ``settings`` is its full representation."""

    attack: str
    estimator: str
    settings: str


class Header(Record):
    """Everything needed to say what an evaluation measured; two runs with equal headers give equal rows.

    ``calls`` is the number of calls whose majority is a stochastic model's answer, 1 for a deterministic model.
    """

    format: int = 1

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
    versions: dict[str, str]


class MemberSummary(Record):
    """The figures of one member over an evaluation."""

    attack: str
    estimator: str
    tried: int
    broke: int
    alone: Rate | None
    standing_after: Rate
    gradients: int
    seconds: float
    largest_distance: float
    zero_share: float
    nan_share: float


class Summary(Record):
    """The figures of one evaluation without its rows."""

    header: Header
    clean: Rate
    robust: Rate
    by_attack: dict[str, Rate]
    members: tuple[MemberSummary, ...]
    gradients: int
    seconds: float


class Curve(Record):
    """Robust accuracy of one network against ε, everything else held."""

    label: str
    under: str
    norm: str
    eps: tuple[float, ...]
    robust: tuple[Rate, ...]
    seed: int


class Network(Record):
    """One network of a comparison: how it was trained, how it fared."""

    name: str
    training: dict[str, Any]
    summary: Summary
    curve: Curve | None = None


class Comparison(Record):
    """Several networks under the same attacks."""

    title: str
    networks: tuple[Network, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """Figures to read: ``str(table)`` for a terminal, ``markdown()`` for a page."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def __str__(self) -> str:
        lines = [self.columns, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        text = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        return "\n".join([self.title, text[0], "-" * len(text[0]), *text[1:], *([self.note] if self.note else [])])

    def markdown(self) -> str:
        """The table in Markdown, with title and note."""
        rows = ["| " + " | ".join(cells) + " |" for cells in (self.columns, *self.rows)]
        rows.insert(1, "|" + " --- |" * len(self.columns))
        return "\n".join([f"**{self.title}**", "", *rows, *(["", self.note] if self.note else [])])


@dataclass(frozen=True)
class Outcome:
    """One evaluation, sample by sample.

    Attributes:
        header: what was measured.
        samples, labels, clean: [N] the samples' numbers, labels, and predicted classes without attack.
        attempts: [N, M, 9] float64, the fields of ``ATTEMPT_FIELDS`` for each sample and member; NaN where not tried.

    Example:
        >>> model, images = digits_cnn(time_steps=2), load("digits").test.subset(4)
        >>> outcome = rs.evaluate(model, images, [fgsm(Linf(0.1))], progress=False)
        >>> outcome.fooled.shape
        (4, 1)
    """

    header: Header
    samples: NDArray[np.int64]
    labels: NDArray[np.int64]
    clean: NDArray[np.int64]
    attempts: NDArray[np.float64]

    def field(self, name: str) -> NDArray[np.float64]:
        """One field of all attempts, [N, M], NaN where not tried."""
        values: NDArray[np.float64] = self.attempts[:, :, ATTEMPT_FIELDS.index(name)]
        return values

    @property
    def tried(self) -> NDArray[np.bool_]:
        """[N, M]: whether the member was run on the sample."""
        return ~np.isnan(self.field("member"))

    @property
    def fooled(self) -> NDArray[np.bool_]:
        """[N, M]: whether the member was run on the sample and broke it."""
        return self.field("fooled") == 1

    @property
    def correct(self) -> NDArray[np.bool_]:
        """[N]: classified correctly without attack."""
        return self.clean == self.labels

    @property
    def robust(self) -> NDArray[np.bool_]:
        """[N]: classified correctly without attack and under every member."""
        return self.correct & ~self.fooled.any(1)

    @property
    def clean_accuracy(self) -> float:
        return float(self.correct.mean())

    @property
    def robust_accuracy(self) -> float:
        """The worst case per sample: an upper bound, under the attacks of the header."""
        return float(self.robust.mean())

    def first_break(self) -> NDArray[np.int64]:
        """[N]: the first member that broke the sample; −1 if none did, −2 if it was misclassified anyway."""
        first = np.where(self.fooled.any(1), self.fooled.argmax(1), -1)
        return np.where(self.correct, first, -2)

    def summary(self) -> Summary:
        """All figures, each with n and interval."""
        n = len(self.samples)
        names = list(dict.fromkeys(member.attack for member in self.header.members))
        by_attack = {}
        for name in names:
            columns = [m for m, member in enumerate(self.header.members) if member.attack == name]
            if self._run_on_all(columns):
                by_attack[name] = rate(int((self.correct & ~self.fooled[:, columns].any(1)).sum()), n)
        return Summary(
            header=self.header,
            clean=rate(int(self.correct.sum()), n),
            robust=rate(int(self.robust.sum()), n),
            by_attack=by_attack,
            members=tuple(self._member(m) for m in range(len(self.header.members))),
            gradients=int(np.nansum(self.field("gradients"))),
            seconds=float(np.nansum(self.field("seconds"))),
        )

    def _run_on_all(self, columns: list[int]) -> bool:
        """Whether these members together have an accuracy of their own: each sample tried by all, or broken by one."""
        tried, fooled = self.tried[self.correct][:, columns], self.fooled[self.correct][:, columns]
        return bool((tried.all(1) | fooled.any(1)).all())

    def _member(self, m: int) -> MemberSummary:
        n, tried, fooled = len(self.samples), self.tried[:, m], self.fooled[:, m]
        gradients = float(np.nansum(self.field("gradients")[:, m]))
        return MemberSummary(
            attack=self.header.members[m].attack,
            estimator=self.header.members[m].estimator,
            tried=int(tried.sum()),
            broke=int(fooled.sum()),
            alone=rate(int((self.correct & ~fooled).sum()), n) if self._run_on_all([m]) else None,
            standing_after=rate(int((self.correct & ~self.fooled[:, : m + 1].any(1)).sum()), n),
            gradients=int(gradients),
            seconds=float(np.nansum(self.field("seconds")[:, m])),
            largest_distance=float(np.nanmax(self.field("distance")[:, m])) if tried.any() else 0.0,
            zero_share=float(np.nansum(self.field("zero")[:, m])) / max(gradients, 1),
            nan_share=float(np.nansum(self.field("nan")[:, m])) / max(gradients, 1),
        )

    def table(self) -> Table:
        """One row per attack and estimator, then the worst case per sample."""
        summary = self.summary()
        rows = [("clean", "", str(self.header.n), "", str(summary.clean), "", "", "", "", "")]
        for member in summary.members:
            rows.append((
                member.attack, member.estimator, str(member.tried), str(member.broke),
                str(member.alone) if member.alone else "·", str(member.standing_after), str(member.gradients),
                f"{member.largest_distance:.5f}", f"{100 * member.zero_share:.1f}", f"{100 * member.nan_share:.1f}",
            ))  # fmt: skip
        worst = (
            "worst case per sample",
            "all of the above",
            str(self.header.n),
            "",
            str(summary.robust),
            "",
            str(summary.gradients),
        )
        rows.append((*worst, "", "", ""))
        return Table(
            title=f"{self.header.model}, {self.header.data}: accuracy in % [95 % interval] under {under(self.header)}",
            columns=(
                "attack", "estimator", "tried", "broke", "accuracy", "standing after", "gradients",
                f"max {self.header.norm}", "zero grad. %", "NaN grad. %",
            ),
            rows=tuple(rows),
            note="An accuracy under attack is an upper bound. · : run only on samples that earlier rows left standing.",
        )  # fmt: skip


def under(header: Header) -> str:
    """What a robustness figure was measured under, in one line."""
    return f"{header.suite}, {header.norm} ε = {header.eps:.4g}, n = {header.n}, seed {header.seed}"


def row_of(sample: int, label: int, clean: int, attempts: list[list[float]]) -> str:
    """One line of samples.jsonl."""
    named = [dict(zip(ATTEMPT_FIELDS, attempt, strict=True)) for attempt in attempts]
    return json.dumps({"sample": sample, "label": label, "clean": clean, "attempts": named})


def outcome_of(header: Header, rows: list[dict[str, Any]]) -> Outcome:
    """The outcome of parsed lines, in the order of the samples' numbers."""
    rows = sorted(rows, key=lambda row: row["sample"])
    attempts = np.full((len(rows), len(header.members), len(ATTEMPT_FIELDS)), np.nan)
    for i, row in enumerate(rows):
        for attempt in row["attempts"]:
            attempts[i, int(attempt["member"])] = [attempt[name] for name in ATTEMPT_FIELDS]
    samples, labels, clean = (np.array([row[name] for row in rows], dtype=np.int64) for name in _ROW_FIELDS)
    return Outcome(header, samples, labels, clean, attempts)


def read_header(folder: str | Path) -> Header:
    """The header of an evaluation's folder.

    Raises:
        ResultError: if it is missing or damaged.
    """
    path = Path(folder) / HEADER_FILE
    try:
        return Header.model_validate_json(path.read_text())
    except FileNotFoundError:
        raise ResultError(
            f"{folder} holds no evaluation: {HEADER_FILE} is missing; run `robustspike attack` first"
        ) from None
    except (ValidationError, ValueError) as error:
        raise ResultError(f"{path} is damaged or of another version: {str(error).splitlines()[0]}") from None


def read_rows(folder: str | Path) -> list[dict[str, Any]]:
    """The complete lines of samples.jsonl; a last line that was cut short is left out."""
    path = Path(folder) / ROWS_FILE
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(_row(line))
        except (ValueError, TypeError, KeyError):
            if any(later.strip() for later in lines[number:]):
                raise ResultError(f"{path}, line {number} is damaged; delete the folder and evaluate again") from None
    return rows


def _row(line: str) -> dict[str, Any]:
    """A parsed line; raises if it lacks a field."""
    row: dict[str, Any] = json.loads(line)
    for name in _ROW_FIELDS:
        int(row[name])
    for attempt in row["attempts"]:
        _ = [float(attempt[name]) for name in ATTEMPT_FIELDS]
    return row


def load_outcome(folder: str | Path) -> Outcome:
    """A finished evaluation from its folder.

    Raises:
        ResultError: if it is missing, damaged or not finished.

    Example:
        >>> model, images = digits_cnn(time_steps=2), load("digits").test.subset(4)
        >>> outcome = rs.evaluate(model, images, [fgsm(Linf(0.1))], out=tmp_path / "a", progress=False)
        >>> load_outcome(tmp_path / "a").robust_accuracy == outcome.robust_accuracy
        True
    """
    header, rows = read_header(folder), read_rows(folder)
    found = {row["sample"] for row in rows}
    if len(rows) != header.n or len(found) != header.n:
        raise ResultError(
            f"{folder} holds {len(found)} of {header.n} samples: the evaluation is not finished; resume it"
        )
    return outcome_of(header, rows)


def comparison_table(comparison: Comparison) -> Table:
    """The shape of Liu 2024, Table 3: one row per network, clean accuracy, each attack, the worst case per sample."""
    first = comparison.networks[0].summary
    attacks = list(first.by_attack)
    rows = []
    for network in comparison.networks:
        s = network.summary
        rows.append((network.name, str(s.clean), *(str(s.by_attack.get(a, "·")) for a in attacks), str(s.robust)))
    return Table(
        title=f"{comparison.title}: accuracy in % [95 % interval] under {under(first.header)}",
        columns=("network", "clean", *attacks, "worst case"),
        rows=tuple(rows),
        note="Each attack: robust only if it fails under every estimator. Every accuracy under attack is an upper bound.",
    )
