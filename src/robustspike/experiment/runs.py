"""Training as folders: a run is a folder that knows how it was made."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from robustspike.attacks import PGD, fgsm
from robustspike.balls import Linf
from robustspike.checkpoints import CheckpointError
from robustspike.data import DataError, DataSet, load
from robustspike.defences import Perturb
from robustspike.experiment.names import parse_surrogate
from robustspike.experiment.objectives import make_objective
from robustspike.experiment.recipes import default_eps
from robustspike.experiment.record import NO_DIFFERENCE, OF_NETWORKS, RECORD, Experiment, read_experiment
from robustspike.models import MODELS, SNN
from robustspike.processes import several, speaks
from robustspike.train import BEST, STATE, WEIGHTS, Epoch, fit
from robustspike.writing import write_text

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
