"""The training loop: any objective, seeded by epoch, resumable to the same weights."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from robustspike.checkpoints import (
    CheckpointError,
    architecture,
    load_weights,
    read_tensors,
    settings_text,
    write_tensors,
    write_text,
)
from robustspike.data import Split, augment
from robustspike.defences import Objective
from robustspike.draws import Draws, sampling
from robustspike.gradients import check_labels, frozen
from robustspike.models import SNN
from robustspike.progress import progress_bar

WEIGHTS, BEST, STATE, LOG = "weights.safetensors", "best.safetensors", "state.safetensors", "log.jsonl"
PRECISIONS = ("32-true", "bf16-mixed")


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the last good checkpoint."""


@dataclass(frozen=True)
class Epoch:
    """One line of log.jsonl: ``loss`` is the mean objective, accuracies are in [0, 1]."""

    epoch: int
    loss: float
    lr: float
    validation_accuracy: float | None
    seconds: float


@dataclass(frozen=True)
class Schedule:
    """How one training run goes; two runs with equal schedules, data and weights end with equal weights (CPU)."""

    objective: str
    architecture: str
    epochs: int
    batch_size: int
    optimizer: str
    lr: float
    momentum: float
    weight_decay: float
    schedule: str
    crop_padding: int
    flip: bool
    precision: str
    seed: int
    n: int
    data_fingerprint: str


def fit(
    model: nn.Module,
    train: Split,
    objective: Objective,
    *,
    epochs: int = 200,
    out: str | Path | None = None,
    validation: Split | None = None,
    batch_size: int = 64,
    optimizer: Literal["sgd", "adam"] = "sgd",
    lr: float | None = None,
    momentum: float = 0.9,
    weight_decay: float | None = None,
    schedule: Literal["cosine", "one-cycle", "constant"] = "cosine",
    crop_padding: int = 4,
    flip: bool = True,
    precision: str = "32-true",
    accelerator: str = "auto",
    seed: int = 0,
    resume: bool = False,
    progress: bool = True,
) -> list[Epoch]:
    """Train a model in place, and leave it in training mode.

    Args:
        model: x [N, ...] in [0, 1] to logits [N, K]; moved to the accelerator.
        train: training images and labels; kept as one tensor on the device.
        objective: one of ``robustspike.defences``.
        epochs: passes over the data.
        out: folder for weights.safetensors (the last epoch), best.safetensors (the best validation accuracy),
            state.safetensors (to resume) and log.jsonl (one line per epoch); None writes nothing.
        validation: held-out images for choosing best.safetensors; never the test set.
        batch_size: images per step.
        optimizer: "sgd" (the papers) or "adam".
        lr: None: 0.1 for SGD, 1e-3 for Adam.
        momentum: of SGD.
        weight_decay: None: the one published with the objective.
        schedule: "cosine" to 0, stepping once per epoch as in the papers; "one-cycle" over steps; "constant".
        crop_padding: random crop after padding by so many pixels, 0 for none.
        flip: random horizontal flip.
        precision: "32-true" or "bf16-mixed" (activations in bfloat16; potentials and weights stay float32).
        accelerator: of Lightning Fabric: "auto", "cpu", "cuda", …
        seed: of shuffling, augmentation and attacks.
        resume: continue from ``out``/state.safetensors where it exists.
        progress: show a progress bar on a terminal.

    Returns:
        One record per epoch.

    Raises:
        ValueError: for an empty split or settings out of range.
        TrainingError: when the loss is not finite; the last good checkpoint stays and is named.
        CheckpointError: if ``out`` holds another run, or one is there and ``resume`` is False.

    Example:
        >>> data = load("digits", train_limit=64)
        >>> log = fit(digits_cnn(time_steps=2), data.train, vanilla(), epochs=1, flip=False, progress=False)
        >>> len(log)
        1

    Source: Ding 2022, appendix B; Liu 2024, Table 5 (the defaults).
    """
    settings = Schedule(
        objective=settings_text(objective), architecture=architecture(model), epochs=epochs, batch_size=batch_size,
        optimizer=optimizer,
        lr=lr if lr is not None else {"sgd": 0.1, "adam": 1e-3}.get(optimizer, 0.0), momentum=momentum,
        weight_decay=objective.weight_decay if weight_decay is None else weight_decay, schedule=schedule,
        crop_padding=crop_padding, flip=flip, precision=precision, seed=seed, n=len(train),
        data_fingerprint=train.fingerprint(),
    )  # fmt: skip
    _check(settings)
    for split in (train, *(() if validation is None else (validation,))):
        if len(split) == 0:
            raise ValueError("the validation split is empty; give it an image, or pass validation=None")
        check_labels(model, split.images, split.labels)
    fabric = Fabric(accelerator=accelerator, devices=1, precision=precision)  # type: ignore[arg-type]
    run = _Run(fabric, model, objective, settings, None if out is None else Path(out))
    run.restore(resume)
    train = train.to(fabric.device)
    with progress_bar(progress) as bar:
        steps = math.ceil(len(train) / batch_size)
        task = bar.add_task(objective.name, total=epochs * steps, completed=len(run.log) * steps)
        for epoch in range(len(run.log), epochs):
            started = time.perf_counter()
            loss = run.epoch(train, epoch, lambda text: bar.update(task, advance=1, description=text))
            accuracy = None if validation is None else clean_accuracy(run.model, validation.to(fabric.device))
            run.log.append(
                Epoch(epoch, loss, run.optimizer.param_groups[0]["lr"], accuracy, time.perf_counter() - started)
            )
            run.save()
    return run.log


def clean_accuracy(model: nn.Module, data: Split, batch_size: int = 256) -> float:
    """The share of images classified correctly in evaluation mode; a stochastic model gets the same draws every time."""
    correct = 0
    with frozen(model), torch.no_grad():
        for which in torch.arange(len(data), device=data.images.device).split(batch_size):
            with sampling(Draws.of(0, data.ids[which]).fork("validation")):
                correct += int((model(data.images[which]).argmax(1) == data.labels[which]).sum())
    return correct / len(data)


def _check(settings: Schedule) -> None:
    if settings.n == 0:
        raise ValueError("the training split is empty; give it at least one image")
    if settings.epochs < 1 or settings.batch_size < 1:
        raise ValueError(f"epochs and batch_size must be ≥ 1, got {settings.epochs} and {settings.batch_size}")
    if settings.optimizer not in ("sgd", "adam"):
        raise ValueError(f'optimizer must be "sgd" or "adam", got {settings.optimizer!r}')
    if settings.precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {settings.precision!r}")
    if settings.schedule not in ("cosine", "one-cycle", "constant"):
        raise ValueError(f'schedule must be "cosine", "one-cycle" or "constant", got {settings.schedule!r}')
    if not (settings.lr > 0 and settings.weight_decay >= 0 and settings.crop_padding >= 0):
        raise ValueError(f"lr must be positive, weight_decay and crop_padding ≥ 0; got {settings}")


def learning_rate_factor(schedule: str, step: int, steps_per_epoch: int, epochs: int) -> float:
    """The learning rate at a step, relative to its peak.

    Example:
        >>> [round(learning_rate_factor("cosine", epoch * 10, 10, 2), 3) for epoch in range(3)]
        [1.0, 0.5, 0.0]
    """
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (step // steps_per_epoch) / epochs))
    if schedule == "one-cycle":
        progress, peak = step / (steps_per_epoch * epochs), 0.3
        if progress < peak:
            return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * progress / peak))
        return 0.5 * (1 + math.cos(math.pi * (progress - peak) / (1 - peak)))
    return 1.0


class _Run:
    """The state of one training run: what a checkpoint holds."""

    def __init__(
        self, fabric: Fabric, model: nn.Module, objective: Objective, settings: Schedule, out: Path | None
    ) -> None:
        self.model, self.objective, self.settings, self.out = fabric.to_device(model), objective, settings, out
        self.log: list[Epoch] = []
        if settings.optimizer == "sgd":
            made: torch.optim.Optimizer = torch.optim.SGD(
                model.parameters(), settings.lr, settings.momentum, weight_decay=settings.weight_decay, fused=True
            )
        else:
            made = torch.optim.Adam(model.parameters(), settings.lr, weight_decay=settings.weight_decay, fused=True)
        self.fabric, self.optimizer = fabric, made

    def epoch(self, train: Split, epoch: int, advance: Callable[[str], object]) -> float:
        """One pass over the data; returns the mean loss."""
        s = self.settings
        total, seen = 0.0, 0
        self.model.train()
        with torch.random.fork_rng(devices=[self.fabric.device] if self.fabric.device.type == "cuda" else []):
            torch.manual_seed((s.seed * 1_000_003 + epoch) % 2**63)
            steps = math.ceil(len(train) / s.batch_size)
            for k, which in enumerate(torch.randperm(len(train)).split(s.batch_size)):
                factor = learning_rate_factor(s.schedule, epoch * steps + k, steps, s.epochs)
                for group in self.optimizer.param_groups:
                    group["lr"] = s.lr * factor
                x, y = self._batch(train, which.to(self.fabric.device), epoch)
                loss = self.step(x, y)
                if not math.isfinite(loss):
                    raise TrainingError(
                        f"the loss became {loss} in epoch {epoch + 1}, step {k + 1}; {self._last_good()}"
                    )
                total, seen = total + loss * len(y), seen + len(y)
                advance(f"{self.objective.name} epoch {epoch + 1}/{s.epochs} loss {total / seen:.3f}")
        self._check_weights(epoch)
        return total / seen

    def _check_weights(self, epoch: int) -> None:
        for name, t in self.model.state_dict().items():
            if t.is_floating_point() and not bool(t.isfinite().all()):
                raise TrainingError(f"{name} is not finite after epoch {epoch + 1}; {self._last_good()}")

    def step(self, x: Tensor, y: Tensor) -> float:
        """One optimiser step; returns the loss before it. Nothing is stepped if the loss is not finite."""
        self.optimizer.zero_grad()
        with self.fabric.autocast():
            loss = self.objective(self.model, x, y)
        value = float(loss.detach())
        if math.isfinite(value):
            loss.backward()
            self.optimizer.step()
        return value

    def _batch(self, train: Split, which: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        s = self.settings
        x, y = train.images[which], train.labels[which]
        if s.crop_padding or s.flip:
            draws = Draws.of(s.seed, train.ids[which]).fork("augment").fork(epoch)
            x = augment(x, draws, pad=s.crop_padding, flip=s.flip)
        return x, y

    def _last_good(self) -> str:
        if self.out is None or not self.log:
            return "no checkpoint had been written; try a lower learning rate"
        return f"the last good checkpoint is {self.out / WEIGHTS} (epoch {len(self.log)}); try a lower learning rate"

    def save(self) -> None:
        """Write weights, best weights, log and, last, the state that a resumed run starts from."""
        if self.out is None:
            return
        rows = [asdict(row) for row in self.log]
        history = {"schedule": asdict(self.settings), "epochs_done": len(self.log)}
        record = {"history": history}
        if isinstance(self.model, SNN):
            record["model"] = self.model.settings.record()
        weights = self.model.state_dict()
        accuracies = [row.validation_accuracy for row in self.log]
        if accuracies[-1] is not None and accuracies[-1] > max(
            (a for a in accuracies[:-1] if a is not None), default=-1.0
        ):
            write_tensors(self.out / BEST, weights, record)
        write_tensors(self.out / WEIGHTS, weights, record)
        write_text(self.out / LOG, "".join(json.dumps(row) + "\n" for row in rows))
        state = {f"model.{name}": t for name, t in weights.items()} | dict(self._optimizer_tensors())
        write_tensors(self.out / STATE, state, {"schedule": asdict(self.settings), "log": rows})

    def _optimizer_tensors(self) -> Iterator[tuple[str, Tensor]]:
        for index, state in self.optimizer.state_dict()["state"].items():
            for name, value in state.items():
                if value is not None:
                    yield f"optimizer.{index}.{name}", torch.as_tensor(value)

    def restore(self, resume: bool) -> None:
        """Continue from the state in ``out``, if there is one and it belongs to this run."""
        if self.out is None:
            return
        path = self.out / STATE
        if not resume and any((self.out / name).exists() for name in (WEIGHTS, BEST, STATE, LOG)):
            raise CheckpointError(
                f"{self.out} holds a training run already; resume it (--resume), or choose another folder"
            )
        if not path.exists():
            return
        tensors, record = read_tensors(path)
        mine, found = asdict(self.settings), record.get("schedule", {})
        if differing := [name for name in mine if found.get(name) != mine[name]]:
            raise CheckpointError(
                f"{path} belongs to another run: {', '.join(differing)} differ; choose another folder"
            )
        load_weights(self.model, _part(tensors, "model."), path)
        states: dict[int, dict[str, Any]] = {}
        for key, value in _part(tensors, "optimizer.").items():
            index, name = key.split(".", 1)
            states.setdefault(int(index), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": states, "param_groups": groups})
        for parameter, state in self.optimizer.state.items():  # laid out as the parameter: else sums round differently
            for name, value in state.items():
                if torch.is_tensor(value) and value.shape == parameter.shape:
                    state[name] = torch.empty_like(parameter).copy_(value)
        self.log = [Epoch(**row) for row in record["log"]]


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
