"""One evaluation as an entry of a leaderboard: its rows computed again, its weights compared with those on disk."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from robustspike.checkpoints import CheckpointError, fingerprint, load_model
from robustspike.experiment.runs import CHECKPOINTS, EVALUATIONS
from robustspike.results import Header, Outcome, ResultError, load_outcome, read_rows
from robustspike.results.checking import faults
from robustspike.results.leaderboard import Entry, Standing


@dataclass(frozen=True)
class Weights:
    """What a leaderboard says of a network, and the hash that ties an evaluation to it."""

    fingerprint: str
    architecture: str
    time_steps: int
    classes: int
    parameters: int


def weights_in(path: Path) -> Weights:
    """The network in a file.

    Raises:
        CheckpointError: if the file is missing, damaged or foreign.
    """
    model = load_model(path)
    return Weights(
        fingerprint=fingerprint(model),
        architecture=model.settings.name,
        time_steps=model.settings.time_steps,
        classes=model.settings.num_classes,
        parameters=sum(p.numel() for p in model.parameters()),
    )


@dataclass
class Checkpoints:
    """The checkpoints of a run, each read when an evaluation first asks for it."""

    run: Path
    known: dict[str, Weights | CheckpointError] = field(default_factory=dict)

    def read(self, name: str) -> Weights | CheckpointError:
        """The network of a checkpoint, or why it cannot be read."""
        if name not in self.known:
            try:
                self.known[name] = weights_in(self.run / CHECKPOINTS[name])
            except CheckpointError as error:
                self.known[name] = error
        return self.known[name]

    def of(self, header: Header) -> tuple[str, Weights] | str:
        """The checkpoint that was evaluated and its network; a sentence where the run has none such."""
        there = [name for name, file in CHECKPOINTS.items() if (self.run / file).exists()]
        for name in there:
            found = self.read(name)
            if isinstance(found, Weights) and found.fingerprint == header.weights_fingerprint:
                return name, found
        if "last" not in there:
            return f"no weights to compare with: {CHECKPOINTS['last']} is missing"
        if isinstance(last := self.read("last"), CheckpointError):
            return f"no weights to compare with: {last}".replace(f"{self.run}/", "")
        wrote = {name: header.versions.get(name, "?") for name in ("robustspike", "torch")}
        others = [f"{name} {version}" for name, version in wrote.items() if version != metadata.version(name)]
        made = f" (or the same ones under {' and '.join(others)})" if others else ""
        return f"it is of other weights than those that are in the folder now{made}; evaluate again"


def suite_name(evaluation: str, header: Header) -> str:
    """The suite with its changed attacks, as the name of the folder says; only the suite for a folder named otherwise.

    Example:
        >>> from types import SimpleNamespace
        >>> header = SimpleNamespace(suite="liu2024", norm="Linf", eps=0.1)
        >>> suite_name("liu2024-PGD-20-1a2b3c-Linf-0.1-n100", header), suite_name("mine", header)
        ('liu2024-PGD-20', 'liu2024')
    """
    plain, ball = (re.sub(r"[^A-Za-z0-9.]+", "-", text) for text in (header.suite, f"-{header.norm}-{header.eps:.4g}"))
    found = re.match(rf"{re.escape(plain)}(.*?)(-[0-9a-f]{{6}})?{re.escape(ball)}", evaluation)
    return header.suite + found[1] if found else header.suite


def entry_of(
    run: Path,
    evaluation: str,
    header: Header,
    checkpoints: Checkpoints,
    *,
    network: str,
    defence: str,
    where: str,
    page: str,
) -> Entry:
    """An evaluation of a run, checked.

    Args:
        run, evaluation, header: the run's folder, the name of the evaluation's folder in it, and what that says of itself.
        checkpoints: of the run.
        network, defence: how it was trained, "" where that is not known.
        where, page: the run and its own page, as seen from the leaderboard.
    """
    known: dict[str, Any] = {
        "network": network or header.model,
        "run": where,
        "evaluation": evaluation,
        "header": header,
        "suite": suite_name(evaluation, header),
        "defence": defence,
    }
    weights = checkpoints.of(header)
    if not isinstance(weights, str):
        known |= {"checkpoint": weights[0]}
        known |= {name: getattr(weights[1], name) for name in ("architecture", "time_steps", "parameters")}
    folder = run / EVALUATIONS / evaluation
    try:
        outcome = load_outcome(folder, unfinished=True)
    except ResultError as error:
        return Entry(**known, **_unread(folder, error))
    if outcome.finished:
        known |= {"page": page, "samples": _hash(outcome)}
    return Entry(**known, done=len(outcome.samples), **_judged(outcome, weights))


def _hash(outcome: Outcome) -> str:
    return hashlib.sha256(outcome.samples.tobytes() + outcome.labels.tobytes()).hexdigest()[:16]


def _unread(folder: Path, error: ResultError) -> Mapping[str, Any]:
    """Why there are no figures: no sample is done yet, or the rows cannot be read."""
    try:
        begun = bool(read_rows(folder))
    except ResultError:
        begun = True
    if begun:
        return {"standing": "unverified", "reason": str(error).replace(f"{folder}/", "")}
    return {"standing": "unfinished", "done": 0, "reason": "not finished: no sample is done; resume it"}


def _judged(outcome: Outcome, weights: tuple[str, Weights] | str) -> Mapping[str, Any]:
    """Whether an evaluation can be ranked, and the figures that can be relied on."""
    found = faults(outcome, None if isinstance(weights, str) else weights[1].classes)
    if found:
        more = f"; and {len(found) - 1} more faults" if len(found) > 1 else ""
        return {"standing": "unverified", "reason": f"its rows cannot be what it says they are: {found[0]}{more}"}
    if isinstance(weights, str):
        return {"standing": "unverified", "reason": weights}
    n, header, doubts = len(outcome.samples), outcome.header, outcome.doubts
    if not outcome.finished:
        return {"standing": "unfinished", "reason": f"not finished: {n} of {header.n} samples; resume it"}
    summary = outcome.summary()
    figures: dict[str, Any] = {"clean": summary.clean, "gradients": summary.gradients, "queries": summary.queries}
    if doubts is not None:
        figures |= {"doubts": doubts.failed, "checks": sum(one.passed is not None for one in doubts.findings)}
    standing: Standing = "ranked"
    reason = ""
    if not summary.has_worst_case:
        return figures | {"standing": "no worst case", "reason": "no worst case: every attack has a caveat (†)"}
    if summary.cut:
        standing = "cut"
        reason = f"cut short by the budget: {summary.cut} of {n} samples stand without having met every attack"
    return figures | {"robust": summary.robust, "standing": standing, "reason": reason}
