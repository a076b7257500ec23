"""Whether ``torch.compile`` pays for a training step: ``python -m benchmarks.compiling [--quick] [--out FILE]``."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch._inductor.config
from rich.progress import Progress
from torch import nn

from benchmarks import command, networks
from benchmarks.comparisons import TrainingStep
from benchmarks.timing import Candidate, Spread, ratio, rounds, seconds


@dataclass(frozen=True)
class Setting:
    """A network and the size of its batch."""

    network: str
    image_size: int
    batch: int
    time_steps: int


@dataclass(frozen=True)
class Scale:
    """The size of a run."""

    settings: tuple[Setting, ...] = (Setting("digits-cnn", 8, 64, 8), Setting("vgg11", 32, 16, 8))
    rounds: int = 7


QUICK = Scale((Setting("digits-cnn", 8, 2, 2),), rounds=1)


@dataclass(frozen=True)
class Row:
    """One network as it is and compiled: times of a step, and the seconds that the first two compiled steps took."""

    what: str
    eager: Candidate
    compiled: Candidate
    first: float


def compiled_step(model: nn.Module, step: TrainingStep) -> TrainingStep:
    """The same step of a copy whose forward pass is compiled, and with it its backward pass; nothing comes from a cache."""
    made = TrainingStep(copy.deepcopy(model), step.x, step.y, fused=True)
    torch._dynamo.reset()
    torch._inductor.config.force_disable_caches = True
    made.model = torch.compile(made.model)  # type: ignore[assignment]
    return made


def measure(setting: Setting, repetitions: int, device: torch.device, advance: Callable[[], object]) -> list[Row]:
    """Ours and the plain loop, each as it is and compiled, all in turn; the first steps are counted apart."""
    pair = networks.make_pair(setting.network, setting.time_steps, setting.image_size, device)
    x = networks.images(setting.batch, pair.ours)
    y = torch.arange(setting.batch, device=device) % 10
    steps: dict[str, TrainingStep] = {}
    first: dict[str, float] = {}
    for side, model in (("plain", pair.plain), ("ours", pair.ours)):
        steps[side] = TrainingStep(copy.deepcopy(model), x, y, fused=True)
        steps[f"{side} compiled"] = compiled_step(model, steps[side])
    calls = {name: partial(step, torch.float32) for name, step in steps.items()}
    for name, call in calls.items():
        first[name] = sum(seconds(call, device) for _ in range(2))
        advance()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for found in rounds(calls, repetitions, device):
        for name, value in found.items():
            times[name].append(value)
        advance()
    spent = {name: Candidate(values, 0.0, "float32") for name, values in times.items()}
    what = f"{setting.network}, {setting.image_size} × {setting.image_size}, batch {setting.batch}, T = {setting.time_steps}"
    return [
        Row(f"{what}, {side}", spent[side], spent[f"{side} compiled"], first[f"{side} compiled"])
        for side in ("plain", "ours")
    ]


_READING = """\
One training step (cross-entropy, backward, SGD with momentum, float32); the candidates take turns within each round and
the ratio is taken within it: medians with [quartiles]. Compiled: `torch.compile(model)` with its defaults. *Plain*
(`benchmarks/plain.py`): a loop over time under autograd. *Ours*: `robustspike` as installed, whose neurons are one compiled
kernel of their own that `torch.compile` leaves alone. The first two compiled steps include the compilation."""


def page(rows: list[Row]) -> str:
    """The table as Markdown."""
    lines = [
        "| What | As it is, ms | Compiled, ms | Times faster compiled | First two compiled steps, s |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        eager, compiled, gain = row.eager.milliseconds, row.compiled.milliseconds, ratio(row.eager, row.compiled)
        cells = [row.what, _spread(eager), _spread(compiled), f"**{gain.median:.2f}** [{gain.low:.2f}–{gain.high:.2f}]"]
        lines.append(f"| {' | '.join([*cells, f'{row.first:.0f}'])} |")
    return "\n".join([*lines, "", _READING, ""])


def _spread(spread: Spread) -> str:
    return f"{spread.median:.1f} [{spread.low:.1f}–{spread.high:.1f}]"


def run(scale: Scale, device: torch.device, progress: Progress) -> str:
    """Measure everything; the page."""
    facts, rows = command.facts("benchmarks.compiling", scale == QUICK, device), []
    for setting in scale.settings:
        task = progress.add_task(setting.network, total=4 + scale.rounds)
        rows += measure(setting, scale.rounds, device, partial(progress.advance, task))
    title = command.heading("torch.compile for a training step", scale == QUICK, device)
    return "\n".join([f"# {title}\n", *(f"* {label}: {value}" for label, value in facts.items()), "", page(rows)])


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, measure, print, write."""
    options = command.parser("benchmarks.compiling", "Time compiled training steps.").parse_args(arguments)
    return command.carry_out(options, run, QUICK, Scale())


if __name__ == "__main__":
    sys.exit(main())
