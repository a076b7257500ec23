"""Peak memory of a training step, ours against the plain loop: ``python -m benchmarks.memory [--quick] [--out FILE]``."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor, nn

import robustspike as rs
from benchmarks import command
from benchmarks.comparisons import TrainingStep
from benchmarks.networks import MEAN, STD
from benchmarks.plain import PlainVGG

SIDES = ("plain", "ours")
STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Scale:
    """The size of a run; ``limit`` in GB is what one process may take before its step counts as too large."""

    network: str = "vgg11"
    time_steps: int = 8
    image_size: int = 32
    batches: tuple[int, ...] = (16, 32, 64)
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    limit: float = 14.0


QUICK = Scale("digits-cnn", time_steps=2, image_size=8, batches=(2, 64), dtypes=("float32",))


@dataclass(frozen=True)
class Point:
    """One side at one batch size and number type."""

    side: str
    network: str
    time_steps: int
    image_size: int
    batch: int
    dtype: str
    limit: float


@dataclass(frozen=True)
class Usage:
    """Bytes: the most that a step took beyond what the process held before it, and what autograd kept for backward."""

    peak: float
    kept: float


def make_step(point: Point, device: torch.device) -> TrainingStep:
    """A training step on random images with fresh weights."""
    channels = 1 if point.network == "digits-cnn" else 3
    mean, std = MEAN[:channels], STD[:channels]
    if point.side == "plain":
        model: nn.Module = PlainVGG(point.network, point.time_steps, point.image_size, mean, std)
    else:
        options = {"time_steps": point.time_steps, "image_size": point.image_size, "mean": mean, "std": std}
        model = rs.MODELS[point.network](**options)
    x = torch.rand(point.batch, channels, point.image_size, point.image_size, device=device)
    y = torch.arange(point.batch, device=device) % 10
    return TrainingStep(model.to(device), x, y, fused=point.side == "ours")


def kept_for_backward(model: nn.Module, call: Callable[[], Any]) -> int:
    """Bytes of the memory that ``call`` makes autograd hold on to, each block once, weights not counted."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    blocks: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            blocks[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        held = call()  # until its result is gone, none of its blocks can be another's
    del held
    return sum(blocks.values())


def _resident(field: str) -> int:
    """VmRSS (now) or VmHWM (the most so far) of this process, in bytes."""
    lines = STATUS.read_text().splitlines() if STATUS.exists() else []
    found = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    if not found:
        raise RuntimeError(
            f"this benchmark reads {field} from {STATUS}, which only Linux has; run it there or on a GPU"
        )
    return 1024 * int(found[0])


def measure(point: Point, device: torch.device) -> Usage:
    """Two steps in this process, which should have done nothing before: the second has the optimiser's state besides."""
    dtype = getattr(torch, point.dtype)
    step = make_step(point, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    else:
        resource.setrlimit(resource.RLIMIT_DATA, (int(point.limit * 1e9),) * 2)
        before = _resident("VmRSS")
    for _ in range(2):
        step(dtype)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _resident("VmHWM")
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        kept = kept_for_backward(step.model, lambda: step.model(step.x))
    return Usage(peak - before, kept)


def in_a_process_of_its_own(point: Point) -> Usage | None:
    """The same in a fresh process; None where it needed more than the limit."""
    arguments = [sys.executable, "-m", "benchmarks.memory", "--point", json.dumps(asdict(point))]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)
    if done.returncode != 0 and "allocate" in done.stderr:
        return None
    if done.returncode != 0:
        raise RuntimeError(f"the process that measured {point} failed:\n{done.stderr}")
    return Usage(**json.loads(done.stdout))


Found = dict[tuple[str, int, str], Usage | None]

_READING = """\
*Peak*: two training steps (forward, backward, SGD with momentum) in a fresh process; the most memory that the process
held, less what it held before the first step, so that weights, images and the libraries do not count, gradients and
momentum do. *Kept*: what autograd holds at the end of the forward pass in order to go back, each block of memory once,
weights not counted. *Plain* (`benchmarks/plain.py`): a loop over time under autograd. *Ours*: `robustspike` as installed.
bfloat16 is `torch.autocast` on either side. On a CPU the peak is that of the resident set (VmHWM), on a GPU that of
PyTorch's allocator."""


def page(scale: Scale, found: Found) -> str:
    """The table and its notes as Markdown."""
    lines = [
        "| Step | Plain, MB | Ours, MB | Ours / plain | Wanted | Plain: kept, MB | Ours: kept, MB | Kept, ours / plain |",
        "|---|---|---|---|---|---|---|---|",
    ]
    notes = []
    for dtype in scale.dtypes:
        for batch in scale.batches:
            plain, ours = (found[side, batch, dtype] for side in SIDES)
            wanted = "≤ 0.5" if (batch, dtype) == (scale.batches[-1], "float32") else ""
            cells = [f"batch {batch}, {dtype}", *_compared(plain, ours, "peak", scale), wanted]
            kept = _compared(plain, ours, "kept", scale)
            lines.append(f"| {' | '.join([*cells, *kept])} |")
        slopes = {side: _slope(scale, found, side, dtype) for side in SIDES}
        if all(slopes.values()):
            share = slopes["ours"] / slopes["plain"]
            notes.append(
                f"* {dtype}: each further image costs {slopes['plain'] / 1e6:.1f} MB in the plain loop, "
                f"{slopes['ours'] / 1e6:.1f} MB in ours, {share:.2f} of it."
            )
    return "\n".join([*lines, "", _READING, "", *notes, ""])


def _compared(plain: Usage | None, ours: Usage | None, field: str, scale: Scale) -> list[str]:
    """Plain, ours and their ratio, as cells."""
    over = f"over {1000 * scale.limit:.0f}"
    values = [None if usage is None else float(getattr(usage, field)) for usage in (plain, ours)]
    cells = [over if value is None else f"{value / 1e6:.0f}" for value in values]
    known = None not in values and values[0]
    return [*cells, f"**{values[1] / values[0]:.2f}**" if known else ""]  # type: ignore[operator]


def _slope(scale: Scale, found: Found, side: str, dtype: str) -> float:
    """Bytes of the peak for each image, between the smallest and the largest batch that fitted; 0 where there is no such."""
    fitted = [(batch, usage.peak) for batch in scale.batches if (usage := found[side, batch, dtype]) is not None]
    if len(fitted) < 2:
        return 0.0
    (few, low), (many, high) = fitted[0], fitted[-1]
    return (high - low) / (many - few)


def run(scale: Scale, device: torch.device, progress: Progress) -> str:
    """Measure everything, one process after the other; the page."""
    facts = command.facts("benchmarks.memory", scale == QUICK, device)
    what = f"{scale.network}, T = {scale.time_steps}, {scale.image_size} × {scale.image_size} pixels"
    found: Found = {}
    task = progress.add_task("memory", total=len(SIDES) * len(scale.batches) * len(scale.dtypes))
    advance = partial(progress.advance, task)
    for dtype in scale.dtypes:
        for batch in scale.batches:
            for side in SIDES:
                point = Point(side, scale.network, scale.time_steps, scale.image_size, batch, dtype, scale.limit)
                found[side, batch, dtype] = in_a_process_of_its_own(point)
                advance()
    title = command.heading("Memory of a training step", scale == QUICK, device)
    listed = [f"* {label}: {value}" for label, value in (facts | {"Network": what}).items()]
    return "\n".join([f"# {title}\n", *listed, "", page(scale, found)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line; measure, print and write the table, or measure the one point that a parent asks for."""
    parser = command.parser("benchmarks.memory", "Compare the memory of training steps.")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.point is not None:
        sys.stdout.write(json.dumps(asdict(measure(Point(**json.loads(options.point)), command.device()))))
        return 0
    return command.carry_out(options, run, QUICK, Scale())


if __name__ == "__main__":
    sys.exit(main())
