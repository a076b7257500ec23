"""Where transferred examples come from: another run, or a stand-in of the attacked network, trained once and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustspike.checkpoints import CheckpointError, architecture, load_model, read_tensors, save_model
from robustspike.data import Split
from robustspike.experiment.attackable import Attackable, attackable
from robustspike.experiment.names import near
from robustspike.experiment.record import RECORD, Experiment
from robustspike.gradients import device_of
from robustspike.models import SNN
from robustspike.processes import launched
from robustspike.stand_ins import relu_network, relu_twin, undefended_twin
from robustspike.train import WEIGHTS

STAND_INS = "stand-ins"

SOURCES = {
    "twin": "the same architecture, trained anew without defence",
    "relu-twin": "the same architecture as a ReLU network, trained anew without defence",
    "relu": "the same weights run as a ReLU network",
}


def sources(
    run: str | Path | Attackable,
    names: Sequence[str],
    *,
    checkpoint: str | None = None,
    data: str | None = None,
    accelerator: str = "auto",
    progress: bool = True,
) -> list[nn.Module]:
    """Networks to make adversarial examples on for the network of a run, in the order of their names.

    Twins are trained on the run's own training data, for as many epochs and with the same schedule, and kept in
    ``run/stand-ins``; asked for again, they are read from there.

    Args:
        run: the folder of the attacked run, or what :func:`attackable` returned, which has a checkpoint, data and device.
        names: "twin", "relu-twin", "relu" (see :mod:`robustspike.stand_ins`), or the folder of another run.
        checkpoint: of the attacked run, "last" (None: that) or "best".
        data: where its data is now, if no longer where the record says.
        accelerator: "auto", "cpu", "cuda", …
        progress: show a progress bar while a twin is trained.

    Raises:
        ValueError: for a name that is none of these, a network for other images or classes, or a twin of a network that
            was not trained here.
        CheckpointError: if weights are missing, damaged or foreign.
    """
    if not names:
        return []
    for name in names:
        if name not in SOURCES and not (Path(name) / RECORD).is_file():
            raise ValueError(f"nothing to transfer from at {name!r}: it is no folder of a run; {near(name, SOURCES)}")
    attacked = attackable(run, checkpoint=checkpoint, data=data, accelerator=accelerator)
    model, twins = attacked.model, {"twin", "relu-twin"} & set(names)
    train = _training_data(attacked, sorted(twins)) if twins else None

    def source(name: str) -> nn.Module:
        if name == "relu":
            return relu_network(model)
        if name not in SOURCES or train is None:
            return _other_run(Path(name), model)
        path = attacked.folder / STAND_INS / f"{name}.safetensors"
        with launched() as processes:  # one trains, all read
            processes.first(lambda: _kept(path, name, model, *train, accelerator, progress))
        twin = load_model(path).to(device_of(model))
        return relu_network(twin) if name == "relu-twin" else twin

    return [source(name) for name in names]


def _training_data(attacked: Attackable, twins: Sequence[str]) -> tuple[Split, Experiment]:
    """What twins are trained on, and how."""
    if attacked.experiment is None:
        raise ValueError(
            f"--transfer-from {twins[0]}: how {attacked.name} was trained is not known, so no twin can be; take "
            "relu, or the folder of a run on the same data"
        )
    return attacked.data(None).train, attacked.experiment


def _other_run(folder: Path, model: nn.Module) -> SNN:
    other = load_model(folder / WEIGHTS)
    for name in ("num_classes", "in_channels", "image_size") if isinstance(model, SNN) else ():
        theirs, mine = getattr(other.settings, name), getattr(model.settings, name)
        if theirs != mine:
            raise ValueError(
                f"cannot transfer from {folder}: {name} is {theirs} there and {mine} here; take a run on the same data"
            )
    return other.to(device_of(model))


def _kept(
    path: Path, name: str, model: nn.Module, train: Split, experiment: Experiment, accelerator: str, progress: bool
) -> None:
    """Train a twin into a file, unless the file holds just this twin."""
    options = {
        field: getattr(experiment, field)
        for field in (
            "epochs", "batch_size", "optimizer", "lr", "momentum", "schedule", "crop_padding", "flip", "precision", "seed",
        )
    }  # fmt: skip
    what = options | {"stand_in": name, "architecture": architecture(model), "data": train.fingerprint()}
    if path.exists() and read_tensors(path)[1].get("history") == what:
        return
    build: Callable[..., Any] = relu_twin if name == "relu-twin" else undefended_twin
    twin = build(model, train, accelerator=accelerator, progress=progress, **options)
    network = twin.network if name == "relu-twin" else twin
    if not isinstance(network, SNN):
        raise CheckpointError(f"{name} of {type(model).__name__} cannot be kept: it is none of robustspike's networks")
    with torch.no_grad():
        save_model(network, path, **what)
