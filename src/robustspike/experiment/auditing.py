"""Audits of networks: where they lie in a run's folder, how they are made, and how they are found again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from robustspike.attacks import SUITES, Suite
from robustspike.attacks.suites import describe_estimator
from robustspike.audits import AuditReport
from robustspike.audits import audit as audit_model
from robustspike.balls import Linf
from robustspike.experiment.attackable import Attackable, attackable
from robustspike.experiment.evaluations import attack
from robustspike.experiment.own_record import recorded
from robustspike.experiment.recipes import default_eps
from robustspike.gradients import Estimator
from robustspike.neurons import spiking_layers
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
    run: str | Path | Attackable,
    *,
    audits: Sequence[str] | None = None,
    suite: Suite | Outcome | None = None,
    eps: float | str | None = None,
    samples: int = 100,
    checkpoint: str | None = None,
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
    """Audit a network on its test data; records go to ``RUN/audits``, the evaluation to ``RUN/attacks``.

    Args:
        run: the folder of a training run, or what :func:`attackable` returned, which has a checkpoint, data and device.
        audits: names in :data:`robustspike.AUDITS`; None: all.
        suite: what the robust accuracy is measured under; None: :func:`usual_suite`; an outcome: that evaluation as it is.
        eps: L∞ radius of the audits in pixel units; None: the recipe's.
        samples: so many test samples, stratified by class.
        checkpoint, data, accelerator: as in :func:`attack`.
        estimator, options, resume, batch_size, budget, doubts, progress: see :func:`robustspike.audit`.
        seed: of all random draws; the samples are always the same, those that ``attack`` takes.

    Raises:
        CheckpointError, ResultError, ValueError: see :func:`attack` and :func:`robustspike.audit`.
    """
    attacked = attackable(run, checkpoint=checkpoint, data=data, accelerator=accelerator)
    radius = Linf(default_eps(attacked.source) if eps is None else eps).eps
    whole = attacked.data(samples)
    place = audit_folder(attacked.folder, radius, len(whole.test), seed, attacked.checkpoint, estimator)
    if (place / AUDIT_FILE).exists() and not resume:
        raise ResultError(f"{place} holds an audit already; go on with it (--resume), or delete it first")
    attacked.claim(whole.test.images)
    if isinstance(suite, Outcome):
        outcome = suite
    else:
        chosen = suite or SUITES[usual_suite(attacked.model)](radius)
        outcome = attack(
            attacked, chosen, limit=samples, resume=True, seed=seed, batch_size=batch_size, budget=budget, doubts=doubts,
            progress=progress,
        )  # fmt: skip
    return audit_model(
        attacked.model, whole.test, attacks=outcome, eps=radius, audits=audits, samples=None, out=place, resume=resume,
        seed=seed, batch_size=batch_size, estimator=estimator, options=options, budget=budget,
        model_name=outcome.header.model, data_name=outcome.header.data, class_names=whole.class_names,
        training=recorded(attacked.folder).model_dump(), progress=progress,
    )  # fmt: skip


def usual_suite(model: nn.Module) -> str:
    """The name of the suite for a network for which none is asked for: one without spiking layers has no estimators.

    Example:
        >>> usual_suite(digits_cnn(time_steps=2)), usual_suite(nn.Linear(2, 2))
        ('standard', 'autoattack')
    """
    return "standard" if spiking_layers(model) else "autoattack"


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
