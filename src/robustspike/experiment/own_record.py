"""What a folder says of a network that was made by a user's file, and its tensors, so that figures can be verified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from robustspike.checkpoints import CheckpointError, architecture, fingerprint, tensors_of, write_tensors
from robustspike.experiment.networks import is_adapted
from robustspike.experiment.recipes import read_yaml
from robustspike.experiment.record import NETWORK, RECORD, Experiment, read_experiment
from robustspike.experiment.user_code import code_of, parse_target
from robustspike.processes import launched
from robustspike.train import WEIGHTS
from robustspike.writing import write_text


class OwnNetwork(BaseModel):
    """A network that was made by a file.

    Attributes:
        target: the file's name and the name in it.
        weights: the name of the file that its weights were read from; None: they are those that it was made with.
        code: a hash of what the file does, and what it imports from beside it.
        architecture: the name of its class.
        time_steps: None where there are none.
        fingerprint: of its modules and tensors, see :func:`robustspike.checkpoints.fingerprint`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str
    weights: str | None
    code: str
    architecture: str
    time_steps: int | None
    fingerprint: str

    @property
    def label(self) -> str:
        """What tables call it."""
        return self.target

    @property
    def title(self) -> str:
        """What pages call it."""
        return f"{self.target} (weights {self.fingerprint[:8]})"

    @property
    def defence(self) -> str:
        """How it was trained, which is not known."""
        return ""


def recorded(run: str | Path) -> Experiment | OwnNetwork:
    """What a folder says of its network: how it was trained, or which file made it.

    Raises:
        CheckpointError: if there is no such folder, or it says nothing.
        ValueError: if what it says cannot be read.
    """
    return _read(Path(run) / NETWORK) if (Path(run) / NETWORK).is_file() else read_experiment(run)


def _read(path: Path) -> OwnNetwork:
    try:
        return OwnNetwork.model_validate(read_yaml(path))
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(map(str, fault["loc"]))
        raise ValueError(f"{path}: {field}: {fault['msg'].lower()}; delete it and attack the network again") from None


def keep(folder: Path, model: nn.Module, target: str, weights: Path | None, image: Tensor) -> None:
    """Write into a folder which network its figures are of, and that network's tensors.

    Args:
        folder: a new one, or one that holds figures of the same network.
        model: the network; executing ``target`` made it.
        target, weights: see :func:`robustspike.experiment.own_network`.
        image: [1, ...] in [0, 1], to see how many classes there are.

    Raises:
        CheckpointError: if the folder holds something else.
    """
    (file, name), time_steps = parse_target(target), getattr(model, "time_steps", None)
    record = OwnNetwork(
        target=f"{file.name}:{name}",
        weights=None if weights is None else weights.name,
        code=code_of(file),
        architecture=type(model.model if is_adapted(model) else model).__name__,
        time_steps=time_steps if isinstance(time_steps, int) else None,
        fingerprint=fingerprint(model),
    )
    with launched() as processes:
        processes.first(lambda: _keep(folder, model, record, image))


def _keep(folder: Path, model: nn.Module, record: OwnNetwork, image: Tensor) -> None:
    """Write the record and the tensors, unless they are there."""
    if (folder / NETWORK).exists():
        theirs = _read(folder / NETWORK)
        differing = [
            f"{what} {getattr(theirs, field)} (not {getattr(record, field)})"
            for field, what in (
                ("target", "it is"),
                ("fingerprint", "weights"),
                ("code", "the file's code"),
                ("time_steps", "time steps"),
            )
            if getattr(theirs, field) != getattr(record, field)
        ]
        if differing:
            raise CheckpointError(
                f"{folder} holds figures of another network: {', '.join(differing)}; choose another folder (--out)"
            )
        if (folder / WEIGHTS).exists():
            return
    elif (folder / RECORD).exists() or (folder / WEIGHTS).exists():
        raise CheckpointError(f"{folder} holds a training run; choose another folder (--out)")
    _write(folder, model, record, image)


def _write(folder: Path, model: nn.Module, record: OwnNetwork, image: Tensor) -> None:
    with torch.no_grad():
        classes = model(image).shape[1]
    said: dict[str, Any] = {
        "target": record.target, "architecture": record.architecture, "modules": architecture(model),
        "time_steps": record.time_steps, "classes": classes, "parameters": sum(p.numel() for p in model.parameters()),
    }  # fmt: skip
    write_tensors(folder / WEIGHTS, tensors_of(model), {"network": said})
    write_text(folder / NETWORK, yaml.safe_dump(record.model_dump(), sort_keys=False, allow_unicode=True))
