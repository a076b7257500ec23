"""Training and attacking as folders: a run is a folder that knows how it was made."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Literal

import torch

from robustspike.attacks import PGD, SUITES, Suite, fgsm
from robustspike.balls import Linf
from robustspike.checkpoints import CheckpointError, load_model, settings_text, write_text
from robustspike.data import DataError, DataSet, load
from robustspike.defences import Perturb
from robustspike.evaluate import evaluate
from robustspike.experiment.names import chosen, parse_surrogate
from robustspike.experiment.objectives import make_objective
from robustspike.experiment.recipes import default_eps
from robustspike.experiment.record import NO_DIFFERENCE, OF_NETWORKS, RECORD, Experiment, read_experiment
from robustspike.models import MODELS, SNN
from robustspike.processes import several, speaks
from robustspike.results import Budget, Outcome
from robustspike.train import BEST, STATE, WEIGHTS, Epoch, fit

CHECKPOINTS = {"last": WEIGHTS, "best": BEST}
EVALUATIONS = "attacks"

# Fields of a record that are settings of the training loop under the same names.
PASSED_ON = (
    "epochs", "batch_size", "optimizer", "lr", "momentum", "weight_decay", "schedule", "warmup_epochs", "clip_norm",
    "ema", "crop_padding", "flip", "augmentation", "seed", "validation_limit", "save_every", "tensorboard",
    "micro_batch", "precision", "accelerator",
)  # fmt: skip


def load_data(experiment: Experiment, source: str | None = None, test_limit: int | None = None) -> DataSet:
    """The data of an experiment, the same samples every time; ``source`` and ``test_limit`` replace the record's."""
    return load(
        source or experiment.data,
        train_limit=experiment.train_limit,
        test_limit=experiment.test_limit if test_limit is None else test_limit,
        validation_share=experiment.validation_share,
        seed=experiment.seed,
        image_size=experiment.image_size,
    )


def make_model(experiment: Experiment, data: DataSet) -> SNN:
    """The untrained network; the same weights for the same seed.

    Raises:
        DataError: if images are not square.
    """
    height, width = data.image_size
    if height != width:
        raise DataError(
            f"{data.name}: expected square images, got {height} × {width}; resize them, for a folder with --image-size"
        )
    given = {name: getattr(experiment, name) for name in OF_NETWORKS if getattr(experiment, name) is not None}
    if experiment.normalise:
        given |= {"mean": data.mean, "std": data.std}
    torch.manual_seed(experiment.seed)
    return MODELS[experiment.model](
        num_classes=data.num_classes, time_steps=experiment.time_steps, in_channels=data.channels, image_size=height,
        encoder=experiment.encoder, leak=experiment.leak, threshold=experiment.threshold, reset=experiment.reset,
        detach_reset=experiment.detach_reset, phases=experiment.phases, readout=experiment.readout,
        surrogate=parse_surrogate(experiment.surrogate), neuron=experiment.neuron, **given,
    )  # fmt: skip


def validation_attack(experiment: Experiment) -> Perturb | None:
    """The cheap attack on held-out images that decides which checkpoint is the best one; None: clean accuracy decides."""
    if experiment.validation_attack == "none":
        return None
    ball = Linf(default_eps(experiment.data))
    return fgsm(ball, early_stop=True) if experiment.validation_attack == "fgsm" else PGD(ball, 10, early_stop=True)


def held_out(experiment: Experiment) -> int:
    """How many held-out images that attack is made on."""
    n = len(load_data(experiment).validation)
    return n if experiment.validation_limit is None else min(n, experiment.validation_limit)


def device(accelerator: str) -> torch.device:
    """The device that Lightning Fabric picks for "auto", "cpu", "cuda", …; under ``torchrun``, each process its own GPU.

    Raises:
        ValueError: if there is no such device here.
    """
    from lightning_fabric import Fabric  # takes seconds to load

    index = int(os.environ.get("LOCAL_RANK", 0)) if several() else 0
    try:
        if accelerator in ("auto", "cuda", "gpu") and index > 0 and torch.cuda.is_available():
            own = torch.device("cuda", index % torch.cuda.device_count())
            torch.cuda.set_device(own)
            return own
        return Fabric(accelerator=accelerator, devices=1).device
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"accelerator {accelerator!r} cannot be used here ({error}); use auto or cpu") from None


def _claim(experiment: Experiment, out: Path, resume: bool) -> None:
    """Refuse a folder that holds another run, or this run unless it is to be resumed."""
    if not any((out / name).exists() for name in (WEIGHTS, STATE)):
        return
    if not resume:
        raise CheckpointError(
            f"{out} holds a training run already; go on with it (--resume), or choose another folder (--out)"
        )
    theirs, mine = (e.model_dump(exclude=NO_DIFFERENCE) for e in (read_experiment(out), experiment))
    differing = [f"{name} {theirs[name]} (not {mine[name]})" for name in mine if mine[name] != theirs[name]]
    if differing:
        raise CheckpointError(f"{out} holds a run with {', '.join(differing)}; choose another folder (--out)")


def train(experiment: Experiment, out: str | Path, *, resume: bool = False, progress: bool = True) -> list[Epoch]:
    """Train a network and leave its folder: experiment.yaml, weights, log (see :func:`robustspike.fit`).

    Args:
        experiment: the whole run as one record.
        out: its folder.
        resume: go on with the run that is there, if it is the same.
        progress: show a progress bar on a terminal.

    Returns:
        One record per epoch.

    Raises:
        ValueError: unfit data or settings.
        CheckpointError: if the folder holds another run, or this one and ``resume`` is False.
        TrainingError: when the loss is not finite; the last good checkpoint stays and is named.
    """
    out = Path(out)
    _claim(experiment, out, resume)
    data, objective = load_data(experiment), make_objective(experiment)
    device(experiment.accelerator)
    model = make_model(experiment, data)
    if speaks():
        write_text(out / RECORD, experiment.yaml())
    settings = {name: getattr(experiment, name) for name in PASSED_ON}
    return fit(
        model, data.train, objective, out=out, validation=data.validation, resume=resume, progress=progress,
        validation_attack=validation_attack(experiment), **settings,
    )  # fmt: skip


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
    run: str | Path,
    suite: Suite,
    *,
    split: Literal["test", "validation"] | str = "test",
    limit: int | None = None,
    checkpoint: str = "last",
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
    """Attack a trained network on its own data.

    Args:
        run: the folder of a training run.
        suite: attacks on one ball, see :func:`make_suite`.
        split: "test" or "validation".
        limit: so many samples of the split, for the test split stratified by class; None: all.
        checkpoint: "last", or "best" by validation accuracy.
        data: where the data is now, if no longer where the record says.
        out: folder of the evaluation; None: ``run/attacks/<suite>-<norm>-<eps>``.
        resume, seed, batch_size, survivors_only, budget, doubts, progress: see :func:`robustspike.evaluate`.
        accelerator: "auto", "cpu", "cuda", …

    Raises:
        CheckpointError: if the run or its weights are missing, damaged or foreign.
        ResultError: if ``out`` holds another evaluation, or one is there and ``resume`` is False.
        ValueError: data that does not fit the network, an empty split.
    """
    experiment = read_experiment(run)
    if split not in ("test", "validation"):
        raise ValueError(f'split must be "test" or "validation", got {split!r}')
    weights = Path(run) / chosen("checkpoint", checkpoint, CHECKPOINTS)
    model = load_model(weights).to(device(accelerator))
    of_test = split == "test"
    whole = load_data(experiment, data, limit if of_test else None)
    samples = getattr(whole, split)
    if limit is not None and not of_test:
        samples = samples.subset(limit)
    name = evaluation_name(suite, split, limit, checkpoint, seed, survivors_only, budget)
    return evaluate(
        model, samples, suite, out=Path(run) / EVALUATIONS / name if out is None else out, resume=resume, seed=seed,
        batch_size=batch_size, survivors_only=survivors_only, budget=budget, doubts=doubts, progress=progress,
        model_name=f"{experiment.model} {make_objective(experiment).name}", data_name=f"{whole.name} {split}",
    )  # fmt: skip
