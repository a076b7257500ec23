"""Audits of trained runs: where they lie in a run's folder, how they are made, and how they are found again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robustspike.attacks import Suite
from robustspike.attacks.suites import describe_estimator, standard
from robustspike.audits import AuditReport
from robustspike.audits import audit as audit_model
from robustspike.balls import Linf
from robustspike.checkpoints import load_model
from robustspike.experiment.names import chosen
from robustspike.experiment.recipes import default_eps
from robustspike.experiment.record import read_experiment
from robustspike.experiment.runs import CHECKPOINTS, attack, device, load_data
from robustspike.gradients import Estimator
from robustspike.results import Audited, Budget, Header, Outcome, ResultError
from robustspike.results.audits.files import AUDIT_FILE, read_audit_header, read_audits

AUDITED = "audits"


def audit_folder(
    run: str | Path,
    eps: float | str,
    n: int,
    seed: int = 0,
    checkpoint: str = "last",
    estimator: Estimator | None = None,
) -> Path:
    """Where an audit of a run lies.

    Example:
        >>> audit_folder("runs/b", "8/255", 100).as_posix()
        'runs/b/audits/Linf-0.03137-n100'
    """
    parts = [f"Linf-{Linf(eps).eps:.4g}-n{n}", *([checkpoint] if checkpoint != "last" else [])]
    if estimator is not None:
        parts.append(re.sub(r"[^A-Za-z0-9.]+", "-", describe_estimator(estimator)).strip("-"))
    return Path(run) / AUDITED / "-".join([*parts, *([f"seed{seed}"] if seed else [])])


def audit(
    run: str | Path,
    *,
    audits: Sequence[str] | None = None,
    suite: Suite | Outcome | None = None,
    eps: float | str | None = None,
    samples: int = 100,
    checkpoint: str = "last",
    data: str | None = None,
    estimator: Estimator | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    resume: bool = False,
    seed: int = 0,
    batch_size: int = 64,
    budget: Budget | None = None,
    doubts: int = 32,
    accelerator: str = "auto",
    progress: bool = True,
) -> AuditReport:
    """Audit a trained network on its own test data; records go to ``RUN/audits``, the evaluation to ``RUN/attacks``.

    Args:
        run: the folder of a training run.
        audits: names in :data:`robustspike.AUDITS`; None: all.
        suite: what the robust accuracy is measured under; None: ``standard``; an outcome: that evaluation as it is.
        eps: L∞ radius of the audits in pixel units; None: the recipe's.
        samples: so many test samples, stratified by class.
        checkpoint, data, accelerator: as in :func:`attack`.
        estimator, options, resume, batch_size, budget, doubts, progress: see :func:`robustspike.audit`.
        seed: of all random draws; the samples are always the same, those that ``attack`` takes.

    Raises:
        CheckpointError, ResultError, ValueError: see :func:`attack` and :func:`robustspike.audit`.
    """
    experiment = read_experiment(run)
    radius = Linf(default_eps(experiment.data) if eps is None else eps).eps
    model = load_model(Path(run) / chosen("checkpoint", checkpoint, CHECKPOINTS)).to(device(accelerator))
    whole = load_data(experiment, data, samples)
    place = audit_folder(run, radius, len(whole.test), seed, checkpoint, estimator)
    if (place / AUDIT_FILE).exists() and not resume:
        raise ResultError(f"{place} holds an audit already; go on with it (--resume), or delete it first")
    if isinstance(suite, Outcome):
        outcome = suite
    else:
        outcome = attack(
            run, suite or standard(radius), limit=samples, checkpoint=checkpoint, data=data, resume=True, seed=seed,
            batch_size=batch_size, budget=budget, doubts=doubts, accelerator=accelerator, progress=progress,
        )  # fmt: skip
    return audit_model(
        model, whole.test, attacks=outcome, eps=radius, audits=audits, samples=None, out=place, resume=resume, seed=seed,
        batch_size=batch_size, estimator=estimator, options=options, budget=budget, model_name=outcome.header.model,
        data_name=outcome.header.data, class_names=whole.class_names, training=experiment.model_dump(), progress=progress,
    )  # fmt: skip


def audits_of(run: Path, header: Header) -> tuple[dict[str, Audited], list[str]]:
    """The audits in a run's folder that are of the network of an evaluation, and what could not be read.

    Where several folders hold an audit, that of the evaluation's ε counts, then that of most samples.
    """
    found: list[tuple[tuple[bool, int], dict[str, Audited]]] = []
    problems: list[str] = []
    for folder in sorted(file.parent for file in (run / AUDITED).glob(f"*/{AUDIT_FILE}")):
        try:
            theirs = read_audit_header(folder)
        except ResultError as error:
            problems.append(f"Left out: {error}")
            continue
        wanted = {"weights": "weights_fingerprint", "data": "data"}
        if other := [what for what, name in wanted.items() if getattr(theirs, name) != getattr(header, name)]:
            problems.append(f"Left out: {folder} is an audit of other {' and '.join(other)} than were evaluated.")
            continue
        records, damaged = read_audits(folder)
        problems += [f"Left out: {text}; audit again." for text in damaged.values()]
        found.append(((theirs.eps == header.eps, theirs.n), records))
    merged: dict[str, Audited] = {}
    for _, records in sorted(found, key=lambda one: one[0]):
        merged |= records
    return merged, problems
