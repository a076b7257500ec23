"""Every run in some folders: which of its evaluations check out, against rows and weights, and what is missing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from robustspike.checkpoints import CheckpointError
from robustspike.experiment.auditing import AUDITED, audits_of
from robustspike.experiment.compare import comparison
from robustspike.experiment.entries import Checkpoints, Weights, entry_of
from robustspike.experiment.names import near
from robustspike.experiment.own_record import OwnNetwork, recorded
from robustspike.experiment.record import NETWORK, RECORD, Experiment
from robustspike.experiment.runs import CHECKPOINTS, EVALUATIONS
from robustspike.experiment.sources import STAND_INS
from robustspike.results import (
    HEADER_FILE,
    ROWS_FILE,
    Comparison,
    Header,
    Network,
    ResultError,
    load_outcome,
    rank_files,
    read_header,
)
from robustspike.results.leaderboard import Entry, Leaderboard, Missing, leaderboard_of

PAGE = "report.html"


@dataclass(frozen=True)
class Run:
    """A training run as it was found.

    Attributes:
        folder: where it is.
        recorded: whether it says what its network is: ``experiment.yaml`` or ``network.yaml`` is there and can be read.
        entries: its evaluations with a readable header, each checked.
        lacks: what it lacks itself, one sentence each.
        unread: what cannot be read of its evaluations and audits.
    """

    folder: Path
    recorded: bool
    entries: tuple[Entry, ...]
    lacks: tuple[Missing, ...] = ()
    unread: tuple[Missing, ...] = ()

    @property
    def finished(self) -> tuple[Entry, ...]:
        """The evaluations that a page can show."""
        return tuple(entry for entry in self.entries if entry.done == entry.header.n)


def find_runs(paths: Sequence[str | Path]) -> tuple[list[Path], list[Missing]]:
    """The folders of runs that these folders are or hold at any depth, whole or not; and what is wrong with the others.

    A run is a folder with a record, weights, or evaluations.

    Raises:
        CheckpointError: if there is no run in any of them.
    """
    found: dict[Path, Path] = {}
    missing = []
    for path in map(Path, paths):
        inside = sorted(_runs_in(path))
        if not inside:
            there = "no run in it" if path.is_dir() else "no such folder"
            what = f"{there} (no {RECORD}); make one with `robustspike train --out {path}`"
            missing.append(Missing(where=str(path), what=what))
        for run in inside:
            found.setdefault(run.resolve(), run)
    if not found:
        raise CheckpointError("; ".join(f"{one.where}: {one.what}" for one in missing))
    return list(found.values()), missing


def _runs_in(path: Path) -> Iterator[Path]:
    for folder, inside, files in os.walk(path):
        evaluations = Path(folder, EVALUATIONS)
        evaluated = EVALUATIONS in inside and any(evaluations.glob(f"*/{HEADER_FILE}"))
        if evaluated or {RECORD, NETWORK, CHECKPOINTS["last"]} & set(files):
            yield Path(folder)
            inside[:] = [name for name in inside if name not in (EVALUATIONS, AUDITED, STAND_INS)]
        inside[:] = [name for name in inside if not name.startswith(".")]


def read_run(folder: Path, beside: Path) -> Run:
    """What a run holds; ``beside`` is the folder of the leaderboard, from which paths are said."""
    where = Path(os.path.relpath(folder, beside)).as_posix()
    checkpoints = Checkpoints(folder)
    record = _recorded(folder)
    lacks = [record] if isinstance(record, str) else []
    last = checkpoints.read("last")
    if isinstance(last, CheckpointError):
        there = (folder / CHECKPOINTS["last"]).exists()
        lacks.append(_from(folder, last) if there else f"{CHECKPOINTS['last']} is missing, so nothing can be checked")
    elif not isinstance(record, str):
        lacks += _differing(record, last)
    headers, unread = _headers(folder)
    if not headers and not unread:
        lacks.append(f"no evaluation yet; run `robustspike attack {folder}`")
    name, defence = ("", "") if isinstance(record, str) else (record.label, record.defence)
    page = f"{where}/{PAGE}"
    entries = tuple(
        entry_of(folder, one, header, checkpoints, network=name, defence=defence, where=where, page=page)
        for one, header in headers.items()
    )
    unread += _damaged_audits(folder, entries)
    return Run(
        folder=folder,
        recorded=not isinstance(record, str),
        entries=entries,
        lacks=tuple(Missing(where=where, what=what) for what in lacks),
        unread=tuple(Missing(where=where, what=what) for what in unread),
    )


def _recorded(folder: Path) -> Experiment | OwnNetwork | str:
    """What it says of its network; a sentence where that is nothing."""
    path = folder / NETWORK if (folder / NETWORK).is_file() else folder / RECORD
    if not path.is_file():
        return f"{RECORD} is missing: how it was trained is not known"
    try:
        if not path.read_bytes().strip():
            return f"{path.name} is empty: how it was trained is not known"
        return recorded(folder)
    except ValueError as error:
        return f"{_from(folder, error)}: how it was trained is not known"


def _differing(record: Experiment | OwnNetwork, weights: Weights) -> list[str]:
    if isinstance(record, OwnNetwork):
        if record.fingerprint == weights.fingerprint:
            return []
        return [f"{NETWORK} says weights {record.fingerprint}, but those in the folder are {weights.fingerprint}"]
    said, there = (record.model, record.time_steps), (weights.architecture, weights.time_steps)
    if said == there:
        return []
    texts = [f"{model} with T = {time_steps}" for model, time_steps in (said, there)]
    return [f"{RECORD} says {texts[0]}, but the weights are of {texts[1]}"]


def _headers(run: Path) -> tuple[dict[str, Header], list[str]]:
    """The headers of a run's evaluations by the names of their folders, and what cannot be read."""
    headers, unread = {}, []
    for folder in sorted(path for path in (run / EVALUATIONS).glob("*") if path.is_dir()):
        try:
            headers[folder.name] = read_header(folder)
        except ResultError as error:
            if (folder / HEADER_FILE).exists():
                unread.append(_from(run, error))
            elif (folder / ROWS_FILE).exists() or rank_files(folder):
                unread.append(f"{EVALUATIONS}/{folder.name}: {HEADER_FILE} is missing, so its rows say nothing")
    return headers, unread


def _damaged_audits(run: Path, entries: Sequence[Entry]) -> list[str]:
    """What is wrong with the audits of a run, as seen from its fullest evaluation."""
    if not entries or not (run / AUDITED).is_dir():
        return []
    _, problems = audits_of(run, max(entries, key=_telling).header)
    return [_from(run, problem.removeprefix("Left out: ")) for problem in problems]


def _from(folder: Path, text: object) -> str:
    """A sentence with the paths in a run as seen from there."""
    return str(text).replace(f"{folder}{os.sep}", "")


def _telling(entry: Entry) -> tuple[int, int, float, str]:
    """The fuller an evaluation, the larger."""
    return len(entry.header.members), entry.header.n, entry.header.eps, entry.evaluation


def leaderboard(runs: Sequence[Run], *, title: str | None = None, missing: Sequence[Missing] = ()) -> Leaderboard:
    """All evaluations of these runs, ranked where they were measured alike and check out.

    Args:
        runs: see :func:`read_run`.
        title: None: how many of them were evaluated.
        missing: to be said first.

    Raises:
        ResultError: if there is nothing to show, not even an evaluation that has only begun.
    """
    lacking = [*missing, *(one for run in runs for one in (*run.lacks, *run.unread))]
    entries = [entry for run in runs for entry in run.entries]
    if not entries:
        unread = [f"{one.where}: {one.what}" for run in runs for one in run.unread]
        folders = ", ".join(str(run.folder) for run in runs)
        nothing = f"no evaluation in {folders}; run `robustspike attack {runs[0].folder}` first"
        raise ResultError("; ".join(unread) or nothing)
    count = sum(bool(run.entries) for run in runs)
    shown = title or ("Leaderboard of 1 network" if count == 1 else f"Leaderboard of {count} networks")
    return leaderboard_of(shown, entries, lacking)


def comparable(runs: Sequence[Run], evaluation: str | None = None) -> tuple[str, list[Run]] | None:
    """The evaluation to compare, and the most runs that have finished it alike; None where none has finished any.

    Args:
        runs: those without a record are left out.
        evaluation: the folder's name; None: the one that most runs share, then that of most attacks, samples, largest ε.

    Raises:
        ResultError: if ``evaluation`` is given and no run has finished it.
    """
    alike: dict[tuple[str, ...], list[tuple[Entry, Run]]] = {}
    for run in runs:
        for entry in run.finished if run.recorded else ():
            if evaluation in (None, entry.evaluation):
                shared = entry.evaluation, entry.samples, _conditions(entry.header)
                alike.setdefault(shared, []).append((entry, run))
    if not alike:
        if evaluation is not None:
            names = dict.fromkeys(entry.evaluation for run in runs for entry in run.finished)
            raise ResultError(f"no run has finished an evaluation {evaluation!r}; {near(evaluation, names)}")
        return None
    best = max(alike.values(), key=lambda found: (len(found), _telling(found[0][0])))
    return best[0][0].evaluation, [run for _, run in best]


def _conditions(header: Header) -> str:
    """What has to be equal for figures to stand in one table."""
    own = {"weights_fingerprint", "model", "versions", "batch_size", "survivors_only", "data"}
    return header.model_dump_json(exclude=own)


def compared(runs: Sequence[Run], *, evaluation: str | None = None, title: str | None = None) -> Comparison | None:
    """The runs that can stand in one table, see :func:`comparable`; None where these are fewer than two.

    Raises:
        ResultError: if ``evaluation`` is given and no run has finished it.
    """
    found = comparable(runs, evaluation)
    if found is None or len(found[1]) < 2:
        return None
    name, chosen = found
    entries = [entry for run in chosen for entry in run.entries if entry.evaluation == name]
    notes = [f"Not verified: {one.run}: {one.reason}" for one in entries if one.standing == "unverified"]
    if others := [str(run.folder) for run in runs if run not in chosen]:
        notes.append(f"Left out, as they have not finished {name} alike: {', '.join(others)}")
    return comparison([run.folder for run in chosen], evaluation=name, title=title, notes=_sentences(notes))


def own_comparison(run: Run, *, evaluation: str | None = None, title: str | None = None) -> Comparison:
    """One run for its own page, with what it lacks in the notes; also without a readable record.

    Args:
        run: see :func:`read_run`.
        evaluation: the folder's name; None: of the finished ones that of most attacks, most samples, the largest ε.
        title: None: the network and the data.

    Raises:
        ResultError: if no evaluation, or not this one, is finished.
    """
    notes = [f"What is missing: {one.what}" for one in run.lacks]
    notes += [f"What is missing: {e.evaluation}: {e.reason}" for e in run.entries if e.standing == "unfinished"]
    notes += [f"Not verified: {e.evaluation}: {e.reason}" for e in run.entries if e.standing == "unverified"]
    if evaluation is None and run.finished:
        evaluation = max(run.finished, key=_telling).evaluation
    if run.recorded:
        return comparison([run.folder], evaluation=evaluation, title=title, notes=_sentences(notes))
    if evaluation is None:
        raise ResultError("; ".join(f"{run.folder}: {one.what}" for one in (*run.lacks, *run.unread)))
    outcome = load_outcome(run.folder / EVALUATIONS / evaluation)
    header = outcome.header
    notes += [f"What is missing: {one.what}" for one in run.unread]
    network = Network(
        name=header.model, training={}, summary=outcome.summary(), audits=audits_of(run.folder, header)[0]
    )
    shown = title or f"{header.model} on {header.data}"
    return Comparison(title=shown, networks=(network,), notes=_sentences(notes))


def _sentences(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{text.rstrip('.')}." for text in texts)
