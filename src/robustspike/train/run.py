"""One training run: its epochs, what it saves, and what it goes on from."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.progress import Progress
from rich.text import Text
from torch import Tensor, nn

from robustspike.data import Split, augment
from robustspike.data.augment import augmentation
from robustspike.defences import Objective, spectral_norms
from robustspike.draws import Draws
from robustspike.processes import Processes
from robustspike.progress import progress_bar
from robustspike.train.averaging import Average
from robustspike.train.rates import learning_rate_factor
from robustspike.train.saving import STATE, WEIGHTS, Position, claim, put_back, read_state, write_epoch, write_state
from robustspike.train.seeding import generators
from robustspike.train.settings import Epoch, Schedule, TrainingError
from robustspike.train.steps import StepError, Stepper
from robustspike.train.together import as_in_first
from robustspike.train.validation import Validation
from robustspike.train.watching import TENSORBOARD, Events

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Run:
    """One training run in one process."""

    def __init__(
        self, fabric: Fabric, processes: Processes, model: nn.Module, objective: Objective, settings: Schedule
    ) -> None:
        self.device, self.processes, self.settings, self.name = fabric.device, processes, settings, objective.name
        self.model, self.average, self.at = fabric.to_device(model), Average(settings.ema), Position()
        self.out: Path | None = None
        self.save_every: int | None = None
        self.optimizer = _optimizer(model, settings)
        self.stepper = Stepper(
            self.model, objective, self.optimizer, self.average, processes, fabric.autocast, settings.micro_batch,
            settings.clip_norm,
        )  # fmt: skip
        self.steps = math.ceil(settings.n / settings.batch_size)

    def restore(self, resume: bool) -> None:
        """Continue from the state in the folder, if there is one and it belongs to this run."""
        if self.out is not None:
            out = self.out
            self.processes.first(lambda: claim(out, resume))
            found = self.processes.first(lambda: read_state(out, self.settings))
            if found is not None:
                tensors, self.at = found
                put_back(tensors, out / STATE, self.model, self.average, self.optimizer)
                self.stepper.micro_batch = self.at.micro_batch
        as_in_first(self.model, self.processes)

    def complete(self, train: Split, judge: Validation, progress: bool, tensorboard: bool) -> list[Epoch]:
        """Train to the end; the average, where there is one, is left in the model."""
        s, first = self.settings, self.processes.rank == 0
        with contextlib.ExitStack() as stack:
            bar = stack.enter_context(progress_bar(progress and first))
            stack.enter_context(torch.random.fork_rng(devices=generators(self.device)))
            done = len(self.at.log) * self.steps + self.at.step
            events = None
            if tensorboard and first and self.out is not None:
                events = stack.enter_context(contextlib.closing(Events(self.out / TENSORBOARD, done)))
            self.stepper.say = lambda text: bar.console.print(Text(text))
            shown = _shown(bar, self.name, s.epochs * self.steps, done)
            for epoch in range(len(self.at.log), s.epochs):
                self.epoch(train, epoch, shown, events)
                self.finish(epoch, judge, events)
        self.average.put_into(self.model)
        self.model.train()
        return self.at.log

    def epoch(self, train: Split, epoch: int, shown: Callable[[str], object], events: Events | None) -> None:
        """What is left of one pass over the data."""
        s, at, started = self.settings, self.at, time.perf_counter() - self.at.seconds
        self.model.train()
        order = torch.randperm(s.n, generator=torch.Generator().manual_seed((s.seed * 1_000_003 + epoch) % 2**63))
        batches = order.split(s.batch_size)
        for k in range(at.step, self.steps):
            rate = s.lr * learning_rate_factor(
                s.schedule, epoch * self.steps + k, self.steps, s.epochs, s.warmup_epochs
            )
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            loss = self.step(train, batches[k], epoch, k)
            at.total, at.seen, at.step = at.total + loss * len(batches[k]), at.seen + len(batches[k]), k + 1
            shown(f"{self.name} epoch {epoch + 1}/{s.epochs} loss {at.total / at.seen:.3f}")
            done = epoch * self.steps + k + 1
            if events is not None and done % 10 == 0:
                events.note(done, {"train/loss": loss, "train/lr": rate})
            at.seconds = time.perf_counter() - started
            if self.save_every and (k + 1) % self.save_every == 0 and k + 1 < self.steps:
                self.save_state()

    def step(self, train: Split, which: Tensor, epoch: int, k: int) -> float:
        """One step on the samples of these indices; returns the loss before it."""
        s = self.settings
        change = augmentation(s.augmentation)

        def load(part: Tensor) -> tuple[Tensor, Tensor, Draws]:
            part = part.to(self.device)
            x, y, draws = train.images[part], train.labels[part], Draws.of(s.seed, train.ids[part])
            places = draws.fork("augment").fork(epoch)
            if s.crop_padding or s.flip:
                x = augment(x, places, pad=s.crop_padding, flip=s.flip)
            return change(x, places), y, draws.fork("objective").fork(epoch)

        number = Draws.of(s.seed, torch.tensor([epoch])).fork("step").fork(k)
        progress = (epoch * self.steps + k) / (s.epochs * self.steps)
        try:
            return self.stepper(which, load, progress, number)
        except StepError as error:
            raise TrainingError(
                f"{error.what} in epoch {epoch + 1}, step {k + 1}; {self.last_good()}; {error.advice}"
            ) from None

    def finish(self, epoch: int, judge: Validation, events: Events | None) -> None:
        """Judge and save what an epoch has made."""
        self.check_weights()
        as_in_first(self.model, self.processes)
        started, loss, rate = time.perf_counter(), self.at.total / self.at.seen, self.optimizer.param_groups[0]["lr"]
        with self.average.in_place(self.model):
            clean, robust = judge.accuracies(
                self.model, self.processes, self.stepper.micro_batch or self.settings.batch_size
            )
            seconds = self.at.seconds + time.perf_counter() - started
            self.at.finish(Epoch(epoch, loss, rate, clean, seconds, robust))
            if self.out is not None:
                out = self.out
                self.processes.first(lambda: write_epoch(out, self.model, self.settings, self.at.log))
        if events is not None:
            norms = {f"spectral/{name}": norm for name, norm in spectral_norms(self.model).items()}
            values = {"validation/clean": clean, "validation/robust": robust, "seconds": seconds}
            events.note(len(self.at.log) * self.steps, values | norms)
        self.save_state()

    def save_state(self) -> None:
        """Write the state, if its weights are finite."""
        self.check_weights()
        if self.out is not None:
            out, self.at.micro_batch = self.out, self.stepper.micro_batch
            write = (self.model, self.average, self.optimizer, self.settings, self.at)
            self.processes.first(lambda: write_state(out, *write))

    def check_weights(self) -> None:
        for name, t in self.model.state_dict().items():
            if t.is_floating_point() and not bool(t.isfinite().all()):
                epoch, step = len(self.at.log) + 1, self.at.step
                when = f"after epoch {epoch}" if step in (0, self.steps) else f"after epoch {epoch}, step {step}"
                raise TrainingError(f"{name} is not finite {when}; {self.last_good()}; try a lower learning rate")

    def last_good(self) -> str:
        if self.out is None or not (self.out / STATE).exists():
            return "no checkpoint had been written"
        if self.at.log:
            return f"the last good checkpoint is {self.out / WEIGHTS} (epoch {len(self.at.log)})"
        return f"the last good checkpoint is {self.out / STATE} (in epoch 1)"


def _optimizer(model: nn.Module, settings: Schedule) -> torch.optim.Optimizer:
    if settings.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), settings.lr, weight_decay=settings.weight_decay, fused=True)
    sgd = torch.optim.SGD(
        model.parameters(), settings.lr, settings.momentum, weight_decay=settings.weight_decay, fused=True
    )
    if settings.momentum:  # all from the beginning: the fused step fails where only some parameters have one
        for p in (p for p in model.parameters() if p.requires_grad):
            sgd.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return sgd


def _shown(bar: Progress, name: str, total: int, done: int) -> Callable[[str], object]:
    task = bar.add_task(name, total=total, completed=done)
    return lambda text: bar.update(task, advance=1, description=text)
