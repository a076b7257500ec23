"""One evaluation as an entry of a leaderboard: its rows computed again, its weights compared with those on disk."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from robustspike.attacks import SUITES
from robustspike.balls import BALLS
from robustspike.checkpoints import CheckpointError, fingerprint, fingerprint_of, model_of, read_tensors
from robustspike.evaluate.settings import member_of
from robustspike.experiment.runs import CHECKPOINTS, EVALUATIONS
from robustspike.results import Header, Member, Outcome, ResultError, load_outcome, read_rows
from robustspike.results.checking import faults
from robustspike.results.leaderboard import Entry, Standing


@dataclass(frozen=True)
class Weights:
    """What a leaderboard says of a network, and the hash that ties an evaluation to it."""

    fingerprint: str
    architecture: str
    time_steps: int | None
    classes: int
    parameters: int


def weights_in(path: Path) -> Weights:
    """The network in a file; of one that a user's file made, what is said of it, and its tensors.

    Raises:
        CheckpointError: if the file is missing, damaged or foreign.
    """
    tensors, record = read_tensors(path)
    if (said := record.get("network")) is not None:
        known = {name: said[name] for name in ("architecture", "time_steps", "classes", "parameters")}
        return Weights(fingerprint=fingerprint_of(said["modules"], tensors), **known)
    model = model_of(tensors, record, path)
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


@lru_cache(maxsize=64)
def published(norm: str, eps: float) -> Mapping[str, tuple[Member, ...]]:
    """The members of each published suite that there is on this ball, as headers list them; empty for other balls.

    Example:
        >>> [member.attack for member in published("Linf", 0.1)["luu2025_sound"]]
        ['FGSM', 'PGD-7']
    """
    found: dict[str, tuple[Member, ...]] = {}
    for name, suite in SUITES.items() if norm in BALLS else ():
        try:
            found[name] = tuple(map(member_of, suite(BALLS[norm](eps)).attacks))
        except ValueError:  # no such ball, or none that the suite takes
            continue
    return found


def suite_name(header: Header) -> str:
    """The suite; where its attacks are not those of the published one of this name, with the ones that are not in it.

    Example:
        >>> from types import SimpleNamespace
        >>> members = published("Linf", 0.1)["luu2025_sound"]
        >>> header = SimpleNamespace(suite="luu2025_sound", norm="Linf", eps=0.1, members=members)
        >>> suite_name(header)
        'luu2025_sound'
        >>> header.members = members[:1]
        >>> suite_name(header)
        'luu2025_sound, changed'
    """
    usual = published(header.norm, header.eps).get(header.suite, ())
    if header.suite not in SUITES or header.members == usual:
        return header.suite
    known = {member.attack for member in usual}
    names = [name for name in dict.fromkeys(member.attack for member in header.members) if name not in known]
    if not names:
        return f"{header.suite}, changed"
    more = [f"{len(names) - 3} more"] if len(names) > 3 else []
    return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join([header.suite, *names[:3], *more]))


def renamed(header: Header) -> tuple[str, ...]:
    """What a header says of a published attack that is not so: its name, estimator, kind, caveat or number of steps."""
    known = {one.settings: one for members in published(header.norm, header.eps).values() for one in members}
    found: dict[str, None] = {}
    for member in header.members:
        usual = known.get(member.settings, member)
        for name in ("attack", "estimator", "kind", "caveat", "steps"):
            says, true = getattr(member, name), getattr(usual, name)
            if says != true:
                found[f"{member.attack} with the settings of {usual.attack} has the {name} {true!r}, not {says!r}"] = (
                    None
                )
    return tuple(found)


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
        "suite": suite_name(header),
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
        known |= {"page": page, "samples": _hash(outcome), "stands": np.packbits(outcome.robust).tobytes().hex()}
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
    found = (*renamed(outcome.header), *faults(outcome, None if isinstance(weights, str) else weights[1].classes))
    if found:
        more = f"; and {len(found) - 1} more faults" if len(found) > 1 else ""
        return {"standing": "unverified", "reason": f"it cannot be what it says it is: {found[0]}{more}"}
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
