"""An audit: an evaluation, a chosen set of audits within a time budget, and a folder from which it goes on."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress, TaskID
from torch import nn

from robustspike.attacks import Attack, Suite
from robustspike.attacks.suites import autoattack, standard
from robustspike.audits.batches import Watch
from robustspike.audits.reporting import AuditReport
from robustspike.balls import Linf
from robustspike.checkpoints import fingerprint, settings_text
from robustspike.data import Split
from robustspike.data.stratify import stratified
from robustspike.evaluate import evaluate
from robustspike.evaluate.settings import as_suite, check_data, network_name, versions
from robustspike.gradients import Estimator
from robustspike.neurons import spiking_layers
from robustspike.progress import progress_bar
from robustspike.results import Audited, Budget, Network, Outcome, ResultError
from robustspike.results.audits.files import AUDIT_FILE, AuditHeader, read_audit_header, read_audits
from robustspike.writing import write_text

EVALUATION = "evaluation"

AuditFunction = Callable[..., Audited]


class _TimeIsOverError(Exception):
    """The time budget ended an audit."""


def audit(
    model: nn.Module,
    data: Split,
    *,
    attacks: Suite | Attack | Sequence[Attack] | Outcome | None = None,
    eps: float | str = "8/255",
    audits: Sequence[str] | None = None,
    samples: int | None = 100,
    out: str | Path | None = None,
    resume: bool = False,
    seed: int = 0,
    batch_size: int = 64,
    estimator: Estimator | None = None,
    attack: Attack | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    budget: Budget | None = None,
    doubts: int = 32,
    model_name: str | None = None,
    data_name: str = "data",
    class_names: Sequence[str] | None = None,
    training: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> AuditReport:
    """Evaluate a network, measure what an accuracy does not say, and return what a report shows.

    Args:
        model: x [N, ...] in [0, 1] to logits [N, K]; on its own device, in evaluation mode meanwhile, left as it was.
        data: images and labels.
        attacks: what the robust accuracy is measured under; None: ``suites.standard(eps)``, or ``autoattack`` where there
            are no spiking layers; an outcome: that evaluation.
        eps: L∞ radius in pixel units, of the suite and of the attacks that audits make.
        audits: names in :data:`AUDITS`; None: all.
        samples: so many samples, stratified by class; None: all.
        out: folder for the evaluation and one file per audit; None keeps them in memory only.
        resume: go on with what is in ``out``; without it, a folder that holds an audit is refused.
        seed: of all random draws, and of the choice of samples.
        batch_size: samples at a time.
        estimator: how gradients pass through the neurons, for audits that take one; None: the model's own.
        attack: for audits that make one; None: PGD-10 under four estimators, the worst for every sample.
        options: for single audits, by their names, such as ``{"heatmaps": {"pictures": 10}}``.
        budget: what the evaluation may spend per sample, and a time for all together; None: no limit. When the time is
            over, what is done is returned and the rest is named; at least one audit is finished in every call.
        doubts: so many samples are probed for gradient masking; 0: none.
        model_name, data_name, class_names: as printed.
        training: how the network was trained, to be shown with its figures.
        progress: show progress bars on a terminal.

    Raises:
        ValueError: for an audit or an option that does not exist, or unfit data.
        ResultError: if ``out`` holds another audit, or one is there and ``resume`` is False.

    Example:
        >>> model, images = digits_cnn(time_steps=2), load("digits").test.subset(8)
        >>> report = audit(model, images, attacks=fgsm(Linf(0.1)), audits=["gradients"], doubts=0, progress=False)
        >>> list(report.records)
        ['gradients']
    """
    chosen, own = _chosen(audits), _checked(options or {})
    folder, budget = None if out is None else Path(out), budget or Budget()
    until = time.monotonic() + 60 * budget.minutes if budget.minutes else float("inf")
    part = data if samples is None or samples >= len(data) else _subset(data, samples, seed)
    eps = Linf(eps).eps
    shared = {
        "eps": eps, "estimator": estimator, "attack": attack, "seed": seed, "batch_size": batch_size,
        "class_names": class_names,
    }  # fmt: skip
    name = model_name or network_name(model)
    header = _header(model, part, shared, own, name, data_name)
    suite, notes = _suite(attacks, header, standard if spiking_layers(model) else autoattack)
    check_data(model, part)
    done, damaged = ({}, {}) if folder is None else _claimed(folder, header, resume)
    outcome = suite if isinstance(suite, Outcome) else evaluate(
        model, part, suite, out=None if folder is None else folder / EVALUATION, resume=resume, seed=seed,
        batch_size=batch_size, budget=budget, doubts=doubts, model_name=name, data_name=data_name, progress=progress,
    )  # fmt: skip
    found, left_out = _measured(model, part, chosen, shared, own, done, folder, until, progress)
    notes += [
        f"{text}{'; the audit was made again.' if one in found else '; audit again.'}" for one, text in damaged.items()
    ]
    network = Network(
        name=name, training=dict(training or {}), summary=outcome.summary(),
        audits={one: found[one] for one in _all_audits() if one in found},
    )  # fmt: skip
    return AuditReport(network, outcome, (*notes, *left_out))


def _all_audits() -> Mapping[str, AuditFunction]:
    from robustspike.audits import AUDITS  # which imports this module

    return AUDITS


def _chosen(audits: Sequence[str] | None) -> list[str]:
    known = _all_audits()
    for name in audits or ():
        if name not in known:
            raise ValueError(f"there is no audit {name!r}; take some of {', '.join(known)}")
    return [name for name in known if audits is None or name in audits]


def _checked(options: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    for name in _chosen(list(options)):
        takes = inspect.signature(_all_audits()[name]).parameters
        for option in options[name]:
            if option not in takes or option in ("model", "data", "watch"):
                offered = [p for p in takes if p not in ("model", "data", "watch")]
                raise ValueError(f"audit {name!r} has no option {option!r}; it has {', '.join(offered)}")
    return {name: dict(given) for name, given in options.items()}


def _subset(data: Split, samples: int, seed: int) -> Split:
    if samples < 1:
        raise ValueError(f"samples must be ≥ 1, or None for all, got {samples}")
    return data.subset(stratified(data.labels, samples, seed, "audit"))


def _header(
    model: nn.Module, data: Split, shared: Mapping[str, Any], own: Mapping[str, Any], model_name: str, data_name: str
) -> AuditHeader:
    given = {key: shared[key] for key in ("estimator", "attack", "class_names") if shared[key] is not None}
    settings = {key: settings_text(value) for key, value in given.items()}
    settings |= {f"{name}.{key}": settings_text(value) for name, each in own.items() for key, value in each.items()}
    return AuditHeader(
        model=model_name, weights_fingerprint=fingerprint(model), data=data_name, data_fingerprint=data.fingerprint(),
        n=len(data), eps=shared["eps"], seed=shared["seed"], batch_size=shared["batch_size"], settings=settings,
        versions=versions(model),
    )  # fmt: skip


def _suite(attacks: Any, header: AuditHeader, usual: Callable[[float], Suite]) -> tuple[Suite | Outcome, list[str]]:
    """What the accuracy is measured under, or an evaluation of the same weights, and in what that differs."""
    if not isinstance(attacks, Outcome):
        return usual(header.eps) if attacks is None else as_suite(attacks), []
    theirs = attacks.header
    if theirs.weights_fingerprint != header.weights_fingerprint:
        raise ResultError(
            f"the outcome given is of {theirs.model}, whose weights are others than the model's; evaluate this one"
        )
    differing = [
        f"{what} ({mine} in the audits, {other} in the evaluation)"
        for what, mine, other in (("ε", header.eps, theirs.eps), ("data", header.data, theirs.data))
        if mine != other
    ]
    return attacks, [f"Evaluation and audits differ in {', '.join(differing)}."] if differing else []


def _claimed(folder: Path, header: AuditHeader, resume: bool) -> tuple[dict[str, Audited], dict[str, str]]:
    """The records that are there already, and what cannot be read; a folder with another audit is refused."""
    if not (folder / AUDIT_FILE).exists():
        write_text(folder / AUDIT_FILE, header.model_dump_json(indent=1) + "\n")
        return {}, {}
    if not resume:
        raise ResultError(f"{folder} holds an audit already; go on with it (resume), or choose another folder")
    theirs = read_audit_header(folder)
    no_difference = {"versions", "batch_size", "model", "data"}
    mine, there = header.model_dump(exclude=no_difference), theirs.model_dump(exclude=no_difference)
    if differing := [name for name in mine if mine[name] != there[name]]:
        if "settings" in differing:
            one, other = mine["settings"], there["settings"]
            names = [key for key in sorted({*one, *other}) if one.get(key) != other.get(key)]
            differing = [*(name for name in differing if name != "settings"), *names]
        raise ResultError(f"{folder} holds another audit: {', '.join(differing)} differ; choose another folder")
    return read_audits(folder)


def _measured(
    model: nn.Module, data: Split, chosen: Sequence[str], shared: Mapping[str, Any], own: Mapping[str, dict[str, Any]],
    done: Mapping[str, Audited], folder: Path | None, until: float, progress: bool,
) -> tuple[dict[str, Audited], list[str]]:  # fmt: skip
    """The records of the audits, those that were there included, and a sentence for each that is missing."""
    found, missing, deadline = dict(done), [], float("inf")
    with progress_bar(progress) as bar:
        task = bar.add_task("audits", total=len(chosen))
        for k, name in enumerate(chosen):
            if name in found:
                continue
            bar.update(task, description=f"audit {name}")
            watch = _watching(bar, task, k, deadline)
            try:
                watch(0.0)
                found[name] = _run(name, model, data, shared, own.get(name, {}), watch)
            except _TimeIsOverError:
                missing.append(f"Audit {name}: not done, the time budget was over; resume for it.")
                continue
            except ValueError as error:
                missing.append(f"Audit {name}: not possible here: {error}")
                continue
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                missing.append(f"Audit {name}: failed: {type(error).__name__}: {str(error).strip().splitlines()[0]}")
                continue
            deadline = until
            if folder is not None:
                write_text(folder / f"{name}.json", found[name].model_dump_json() + "\n")
        bar.update(task, completed=len(chosen), description="audits")
    return found, missing


def _watching(bar: Progress, task: TaskID, before: int, deadline: float) -> Watch:
    """Moves the bar by what one audit says it has done, and ends the audit once the time is over."""

    def watch(share: float) -> None:
        bar.update(task, completed=before + share)
        if time.monotonic() >= deadline:
            raise _TimeIsOverError

    return watch


def _run(
    name: str, model: nn.Module, data: Split, shared: Mapping[str, Any], own: Mapping[str, Any], watch: Watch
) -> Audited:
    function = _all_audits()[name]
    takes = inspect.signature(function).parameters
    given = {key: value for key, value in {**shared, "watch": watch}.items() if key in takes}
    return function(model, data, **{**given, **own})
