"""The files of a training run: weights, best weights, log, and the state that a resumed run starts from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustspike.checkpoints import CheckpointError, load_weights, read_tensors, write_tensors
from robustspike.models import SNN
from robustspike.train.averaging import Average
from robustspike.train.settings import Epoch, Schedule
from robustspike.train.validation import better
from robustspike.writing import write_text

WEIGHTS, BEST, STATE, LOG = "weights.safetensors", "best.safetensors", "state.safetensors", "log.jsonl"


@dataclass
class Position:
    """How far a run is: its finished epochs, and what is known of the one it is in.

    Attributes:
        log: the finished epochs.
        step: steps done in the running epoch.
        total, seen: the sum of the loss over the samples of these steps, and their number.
        seconds: what these steps took.
        micro_batch: samples at a time.
    """

    log: list[Epoch] = field(default_factory=list)
    step: int = 0
    total: float = 0.0
    seen: int = 0
    seconds: float = 0.0
    micro_batch: int | None = None

    def finish(self, epoch: Epoch) -> None:
        """Begin the next epoch."""
        self.log.append(epoch)
        self.step, self.total, self.seen, self.seconds = 0, 0.0, 0, 0.0


def claim(out: Path, resume: bool) -> None:
    """Refuse a folder that holds a run, unless it is to be resumed.

    Raises:
        CheckpointError: saying so.
    """
    if not resume and any((out / name).exists() for name in (WEIGHTS, BEST, STATE, LOG)):
        raise CheckpointError(f"{out} holds a training run already; resume it (--resume), or choose another folder")


def write_epoch(out: Path, model: nn.Module, settings: Schedule, log: list[Epoch]) -> None:
    """Write best weights (where these are), weights and log."""
    record: dict[str, Any] = {"history": {"schedule": asdict(settings), "epochs_done": len(log)}}
    if isinstance(model, SNN):
        record["model"] = model.settings.record()
    *before, now = [(row.validation_accuracy, row.validation_robust) for row in log]
    if now != (None, None) and all(better(now, old) for old in before):
        write_tensors(out / BEST, model.state_dict(), record)
    write_tensors(out / WEIGHTS, model.state_dict(), record)
    write_text(out / LOG, "".join(json.dumps(asdict(row)) + "\n" for row in log))


def write_state(
    out: Path, model: nn.Module, average: Average, optimizer: torch.optim.Optimizer, settings: Schedule, at: Position
) -> None:
    """Write all that a resumed run needs."""
    tensors = {f"model.{name}": t for name, t in model.state_dict().items()}
    tensors |= {f"average.{name}": t for name, t in average.tensors.items()}
    tensors |= dict(_optimizer_tensors(optimizer))
    write_tensors(out / STATE, tensors, {"schedule": asdict(settings), "position": asdict(at)})


def read_state(out: Path, settings: Schedule) -> tuple[dict[str, Tensor], Position] | None:
    """What :func:`write_state` wrote; None where there is nothing.

    Raises:
        CheckpointError: if the state is damaged or of another run.
    """
    path = out / STATE
    if not path.exists():
        return None
    tensors, record = read_tensors(path)
    mine, found = asdict(settings), record.get("schedule", {})
    if differing := [name for name in mine if name not in found or found[name] != mine[name]]:
        raise CheckpointError(f"{path} belongs to another run: {', '.join(differing)} differ; choose another folder")
    at = Position(**record["position"])
    at.log = [Epoch(**row) for row in record["position"]["log"]]
    return tensors, at


def put_back(
    tensors: Mapping[str, Tensor], source: Path, model: nn.Module, average: Average, optimizer: torch.optim.Optimizer
) -> None:
    """Give network, average and optimiser the tensors of a state."""
    load_weights(model, _part(tensors, "model."), source)
    own = model.state_dict()
    average.tensors = {
        name: torch.empty_like(own[name]).copy_(t) for name, t in _part(tensors, "average.").items() if name in own
    }
    states: dict[int, dict[str, Any]] = {}
    for key, value in _part(tensors, "optimizer.").items():
        index, name = key.split(".", 1)
        states.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})
    for parameter, state in optimizer.state.items():  # laid out as the parameter: else sums round differently
        for name, value in state.items():
            if torch.is_tensor(value) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(value)


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if value is not None:
                yield f"optimizer.{index}.{name}", torch.as_tensor(value)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
