"""Evaluations in folders: a network attacked on its data, under a name that tells evaluations apart."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Literal

from robustspike.attacks import SUITES, Suite
from robustspike.checkpoints import settings_text
from robustspike.evaluate import evaluate
from robustspike.experiment.attackable import Attackable, attackable
from robustspike.experiment.runs import EVALUATIONS
from robustspike.gradients import estimating
from robustspike.results import Budget, Outcome


def evaluation_name(
    suite: Suite, split: str = "test", limit: int | None = None, checkpoint: str = "last", seed: int = 0,
    survivors_only: bool = True, budget: Budget | None = None,
) -> str:  # fmt: skip
    """A folder name that tells evaluations apart: suite, norm, ε, and whatever is not the usual.

    Attacks other than those of the published suite are named, the first three of them, with a hash of all settings.

    Example:
        >>> evaluation_name(suites.ding2022("8/255"), limit=100)
        'ding2022-Linf-0.03137-n100'
        >>> evaluation_name(suites.liu2024("8/255", steps=(20,)))[:15]
        'liu2024-PGD-20-'
    """
    ball = suite.ball
    unusual = {
        split: split != "test",
        f"n{limit}": limit is not None,
        checkpoint: checkpoint != "last",
        f"seed{seed}": seed != 0,
        "each": not survivors_only,
        f"budget{budget.gradients if budget else None}": budget is not None and budget.gradients is not None,
    }
    parts = [suite.name, *_changed(suite), ball.norm, f"{ball.eps:.4g}"]
    return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join([*parts, *(name for name, shown in unusual.items() if shown)]))


def _changed(suite: Suite) -> list[str]:
    """In what a suite's attacks are not those of the published one of its name: nothing, or some names and a hash."""
    usual = SUITES[suite.name](suite.ball).attacks if suite.name in SUITES else ()
    if settings_text(suite.attacks) == settings_text(usual):
        return []
    known = {member.name for member in usual}
    names = list(dict.fromkeys(member.name for member in suite.attacks))
    shown = [name for name in names if name not in known] or names if usual else []
    more = [f"{len(shown) - 3} more"] if len(shown) > 3 else []
    return [*shown[:3], *more, hashlib.sha256(settings_text(suite.attacks).encode()).hexdigest()[:6]]


def attack(
    run: str | Path | Attackable,
    suite: Suite,
    *,
    split: Literal["test", "validation"] | str = "test",
    limit: int | None = None,
    checkpoint: str | None = None,
    data: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    seed: int = 0,
    batch_size: int = 256,
    survivors_only: bool = True,
    budget: Budget | None = None,
    doubts: int = 32,
    accelerator: str = "auto",
    progress: bool = True,
) -> Outcome:
    """Attack a network on its data.

    Args:
        run: the folder of a training run, or what :func:`attackable` returned, which has a checkpoint, data and device.
        suite: attacks on one ball, see :func:`make_suite`.
        split: "test", or "validation" of a training run.
        limit: so many samples of the split, for the test split stratified by class; None: all.
        checkpoint: "last" (None: that), or "best" by validation accuracy.
        data: where the data is now, if no longer where the record says.
        out: folder of the evaluation; None: ``run/attacks/<suite>-<norm>-<eps>``.
        resume, seed, batch_size, survivors_only, budget, doubts, progress: see :func:`robustspike.evaluate`.
        accelerator: "auto", "cpu", "cuda", …

    Raises:
        CheckpointError: if the run or its weights are missing, damaged or foreign.
        ResultError: if ``out`` holds another evaluation, or one is there and ``resume`` is False.
        ValueError: data that does not fit the network, an empty split.
    """
    attacked = attackable(run, checkpoint=checkpoint, data=data, accelerator=accelerator)
    if split not in ("test", "validation"):
        raise ValueError(f'split must be "test" or "validation", got {split!r}')
    if split not in attacked.splits:
        raise ValueError(f'split must be "test": {attacked.name} may have been trained on what would be held out here')
    _check_carried(attacked, suite)
    of_test = split == "test"
    whole = attacked.data(limit if of_test else None)
    samples = getattr(whole, split)
    if limit is not None and not of_test:
        samples = samples.subset(limit)
    attacked.claim(samples.images)
    name = evaluation_name(suite, split, limit, attacked.checkpoint, seed, survivors_only, budget)
    return evaluate(
        attacked.model, samples, suite, out=attacked.folder / EVALUATIONS / name if out is None else out, resume=resume,
        seed=seed, batch_size=batch_size, survivors_only=survivors_only, budget=budget, doubts=doubts, progress=progress,
        model_name=attacked.name, data_name=f"{whole.name} {split}",
    )  # fmt: skip


def _check_carried(attacked: Attackable, suite: Suite) -> None:
    """Refuse estimators that the network cannot carry, before anything is written."""
    for estimator in (member.estimator for member in suite.attacks if hasattr(member, "estimator")):
        try:
            with estimating(attacked.model, estimator):
                pass
        except ValueError as error:
            raise ValueError(f"suite {suite.name} of {attacked.name}: {error}") from error
