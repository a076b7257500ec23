"""Finished evaluations of several runs, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustspike.checkpoints import CheckpointError
from robustspike.experiment.auditing import audits_of
from robustspike.experiment.names import near
from robustspike.experiment.own_record import recorded
from robustspike.experiment.record import NETWORK, RECORD, Experiment
from robustspike.experiment.runs import EVALUATIONS
from robustspike.results import (
    HEADER_FILE,
    Comparison,
    Curve,
    Header,
    McNemar,
    Network,
    Outcome,
    Rate,
    ResultError,
    Summary,
    load_outcome,
    mcnemar,
    read_header,
)  # fmt: skip
from robustspike.train import LOG

RECORDS = (RECORD, NETWORK)


def run_folders(paths: Iterable[str | Path]) -> list[Path]:
    """The runs that these folders are, or hold at any depth: folders that say what their network is.

    Raises:
        CheckpointError: if one of them neither is nor holds a run.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        inside = [path] if any((path / name).is_file() for name in RECORDS) else sorted(_below(path))
        if not inside:
            there = "no run in it" if path.is_dir() else "no such folder"
            raise CheckpointError(f"{path}: {there} (no {RECORD}); make one with `robustspike train --out {path}`")
        found += inside
    return list(dict.fromkeys(found))


def _below(path: Path) -> set[Path]:
    return {file.parent for name in RECORDS for file in path.rglob(name)}


@dataclass(frozen=True)
class Evaluations:
    """The evaluations of a run, finished or not, by the names of their folders; ``unread``: those that cannot be read."""

    headers: dict[str, Header]
    unread: dict[str, ResultError]

    @classmethod
    def of(cls, run: Path) -> Evaluations:
        """What is in the run's folder."""
        headers, unread = {}, {}
        for folder in sorted(file.parent for file in (run / EVALUATIONS).glob(f"*/{HEADER_FILE}")):
            try:
                headers[folder.name] = read_header(folder)
            except ResultError as error:
                unread[folder.name] = error
        return cls(headers, unread)


def evaluation_folders(paths: Sequence[str | Path], evaluation: str | None = None) -> list[Path]:
    """The folders of evaluations: each path itself if it is one, else one inside the run that it is.

    Args:
        paths: folders of evaluations or of runs.
        evaluation: the folder's name in each run's ``attacks``; None: as for :func:`comparison`.

    Raises:
        CheckpointError: if a folder is neither.
        ResultError: if a run has no such evaluation.
    """
    folders = list(map(Path, paths))
    runs = {folder: Evaluations.of(folder) for folder in folders if not (folder / HEADER_FILE).is_file()}
    for run, found in runs.items():
        recorded(run)
        for error in found.unread.values():
            if not found.headers:
                raise error
    name = evaluation or (_most_telling({run: found.headers for run, found in runs.items()}) if runs else "")
    for run, found in runs.items():
        if name not in found.headers:
            raise found.unread.get(name) or _no_evaluation(run, name, found.headers)
    return [folder / EVALUATIONS / name if folder in runs else folder for folder in folders]


def comparison(
    paths: Sequence[str | Path], *, evaluation: str | None = None, title: str | None = None, notes: Sequence[str] = ()
) -> Comparison:
    """The runs in these folders under one evaluation, each with its ε-curve where there are several radii.

    Args:
        paths: folders of runs, or folders that hold such.
        evaluation: the folder's name in each run's ``attacks``; None: the one that most runs have, then the one with
            most attacks, most samples, the largest ε. Other evaluations are named in the notes.
        title: None: the networks and the data.
        notes: to be shown first.

    Raises:
        CheckpointError: if there is no run.
        ResultError: if a named run lacks the evaluation or has not finished it, or the runs' data or attacks differ. A
            run that was only found inside a folder is left out instead, with a note; so is an evaluation that cannot be
            read, as long as another network is left.
    """
    runs = run_folders(paths)
    named = {Path(path) for path in paths}
    found = {run: Evaluations.of(run) for run in runs}
    headers = {run: found[run].headers for run in runs}
    problems = [f"Left out: {error}" for run in runs for error in found[run].unread.values()]
    if problems and not any(headers.values()):
        raise ResultError("; ".join(str(error) for run in runs for error in found[run].unread.values()))
    evaluation = evaluation or _most_telling(headers)
    networks, outcomes = {}, {}
    for run in runs:
        if found[run].unread and evaluation not in headers[run]:
            continue
        try:
            outcomes[run] = _outcome(run, evaluation, headers[run])
            networks[run], missing = _network(run, outcomes[run], headers[run])
            problems += missing
        except ResultError as error:
            if run in named:
                raise
            problems.append(f"Left out: {error}")
    if not networks:
        raise ResultError("; ".join(problem.removeprefix("Left out: ") for problem in problems))
    _check_alike(networks)
    others = sorted({name for run in networks for name in headers[run]} - {evaluation} - _in_curves(networks, headers))
    also = [f"Also evaluated, not in this table: {', '.join(others)}."] if others else []
    first = next(iter(networks.values())).summary.header
    models = list(dict.fromkeys(recorded(run).title for run in networks))
    shown = distinctly_named(networks)
    return Comparison(
        title=title or f"{', '.join(models)} on {first.data}",
        networks=tuple(shown),
        notes=(*notes, *_cut(shown), *also, *problems),
        tests=_against_first([network.name for network in shown], [outcomes[run] for run in networks]),
    )


def _cut(networks: Sequence[Network]) -> list[str]:
    """A sentence for each figure that a budget keeps high."""
    return [
        f"{n.name}: the budget of {n.summary.header.budget} gradient evaluations and queries per sample kept attacks away "
        f"from {n.summary.cut} of {n.summary.robust.n} samples that stand."
        for n in networks
        if n.summary.cut
    ]


def _against_first(names: list[str], outcomes: list[Outcome]) -> tuple[McNemar, ...]:
    """McNemar's test of the first network and each other one; none where no attack counts in the worst case."""
    if not outcomes[0].counted.any():
        return ()
    found = zip(names[1:], outcomes[1:], strict=True)
    return tuple(mcnemar(outcomes[0], o).model_copy(update={"a": names[0], "b": name}) for name, o in found)


def _most_telling(headers: dict[Path, dict[str, Header]]) -> str:
    """The name of the evaluation to show where none is asked for."""
    count = Counter(name for found in headers.values() for name in found)
    if not count:
        runs = ", ".join(map(str, headers))
        raise ResultError(f"no evaluation in {runs}; run `robustspike attack {next(iter(headers))}` first")
    kinds = {name: header for found in headers.values() for name, header in found.items()}
    return max(count, key=lambda name: (count[name], len(kinds[name].members), kinds[name].n, kinds[name].eps, name))


def _no_evaluation(run: Path, evaluation: str, headers: dict[str, Header]) -> ResultError:
    hint = near(evaluation, headers) if headers else f"run `robustspike attack {run}` first"
    return ResultError(f"{run} has no evaluation {evaluation!r}; {hint}")


def _outcome(run: Path, evaluation: str, headers: dict[str, Header]) -> Outcome:
    if evaluation not in headers:
        raise _no_evaluation(run, evaluation, headers)
    return load_outcome(run / EVALUATIONS / evaluation)


def _network(run: Path, outcome: Outcome, headers: dict[str, Header]) -> tuple[Network, list[str]]:
    """A run's figures with its audits, and what of these could not be read."""
    record, summary = recorded(run), outcome.summary()
    audits, missing = audits_of(run, outcome.header)
    curve, training = _curve(run, record.label, summary, headers), record.model_dump()
    if isinstance(record, Experiment):
        training |= _trained(run)
    return Network(name=record.label, training=training, summary=summary, curve=curve, audits=audits), missing


def _trained(run: Path) -> dict[str, Any]:
    """What the log says of the training and its last epoch."""
    import json

    log = run / LOG
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {"epochs_done": len(rows), "training_seconds": sum(row["seconds"] for row in rows)}
    last = {"validation_accuracy": rows[-1]["validation_accuracy"], "loss": rows[-1]["loss"]} if rows else {}
    return done | last


def _conditions(header: Header) -> tuple[Any, ...]:
    """What has to be equal for figures at several ε to be one curve."""
    members = tuple((member.attack, member.estimator) for member in header.members)
    return (
        header.suite,
        header.norm,
        members,
        header.n,
        header.seed,
        header.budget,
        header.calls,
        header.data_fingerprint,
        header.weights_fingerprint,
    )


def _curve_names(headers: dict[str, Header]) -> list[str]:
    """The evaluations at the most radii that differ in nothing else; fewer than two are no curve."""
    kinds: dict[tuple[Any, ...], dict[float, str]] = {}
    for name, header in headers.items():
        kinds.setdefault(_conditions(header), {}).setdefault(header.eps, name)
    best = max(kinds.values(), key=len, default={})
    return [best[eps] for eps in sorted(best)] if len(best) > 1 else []


def _curve(run: Path, label: str, summary: Summary, headers: dict[str, Header]) -> Curve | None:
    outcomes = []
    for name in _curve_names(
        {n: h for n, h in headers.items() if h.weights_fingerprint == summary.header.weights_fingerprint}
    ):
        try:
            outcomes.append(load_outcome(run / EVALUATIONS / name).summary())
        except ResultError:
            continue  # not finished: a point less
    return curve_of(label, outcomes) if len(outcomes) > 1 and outcomes[0].has_worst_case else None


def curve_of(label: str, summaries: Sequence[Summary]) -> Curve:
    """Evaluations that differ only in ε as one curve, from the accuracy without attack on."""
    summaries = sorted(summaries, key=lambda one: one.header.eps)
    header = summaries[0].header
    points: list[tuple[float, Rate]] = [(one.header.eps, one.robust) for one in summaries]
    if points[0][0] > 0:
        points.insert(0, (0.0, summaries[0].clean))
    return Curve(
        label=label, under=f"{header.suite}, n = {header.n}", norm=header.norm, seed=header.seed,
        eps=tuple(eps for eps, _ in points), robust=tuple(robust for _, robust in points),
    )  # fmt: skip


def _in_curves(networks: dict[Path, Network], headers: dict[Path, dict[str, Header]]) -> set[str]:
    return {name for run, network in networks.items() if network.curve for name in _curve_names(headers[run])}


def _check_alike(networks: dict[Path, Network]) -> None:
    """One table holds only figures of the same samples under the same attacks."""
    (first, one), *rest = networks.items()
    for run, network in rest:
        mine, theirs = one.summary.header, network.summary.header
        wanted = ("suite", "norm", "eps", "members", "n", "seed", "budget", "calls", "data_fingerprint")
        differing = [name for name in wanted if getattr(mine, name) != getattr(theirs, name)]
        if differing:
            raise ResultError(
                f"{first} and {run} were evaluated differently ({', '.join(differing)} differ); "
                "report them one by one, or evaluate them alike"
            )


def distinctly_named(networks: Mapping[Path, Network]) -> list[Network]:
    """Objectives' names where they tell the networks apart, else with the folders' names."""
    names = Counter(network.name for network in networks.values())
    if max(names.values()) == 1:
        return list(networks.values())
    renamed = []
    for run, network in networks.items():
        name = f"{network.name} ({run.name})"
        curve = network.curve and network.curve.model_copy(update={"label": name})
        renamed.append(network.model_copy(update={"name": name, "curve": curve}))
    return renamed
