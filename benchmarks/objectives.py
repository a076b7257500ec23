"""What each training objective costs beside plain training: ``python -m benchmarks.objectives [--quick] [--out FILE]``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from rich.progress import Progress
from torch import Tensor, nn

import robustspike as rs
from benchmarks import command, networks
from benchmarks.timing import Candidate, operations, ratio, rounds
from robustspike.defences import Mixed, Objective, Perturb

PUBLISHED = {"vanilla": 65, "at": 459, "rat": 134, "sr": 193, "sr-star": 583}  # seconds per epoch, Liu 2024, Table 7

_BALL = rs.Linf("2/255")
_MIXED_FGSM = ("FGSM, BPTT or BPTR", Mixed((rs.fgsm(_BALL), rs.fgsm(_BALL, rs.BPTR()))))
_PGD5 = ("PGD-5", rs.PGD(_BALL, steps=5, step_size=0.01))
_PGD10 = rs.PGD(rs.Linf(0.031), steps=10, step_size=0.007)
_PGD10_KL = rs.PGD(rs.Linf(0.031), steps=10, step_size=0.007, loss=rs.FromClean())

# The attack of each objective's paper; PGD-5 for those that are not here and need one.
ATTACKS: dict[str, tuple[str, Perturb]] = {
    "rat": _MIXED_FGSM,
    "rat-penalty": _MIXED_FGSM,
    "trades": ("PGD-10", _PGD10_KL),
    "mart": ("PGD-10", _PGD10),
    "mppd": ("FGSM", rs.fgsm(rs.Linf("4/255"))),
}


@dataclass(frozen=True)
class Scale:
    """The size of a run."""

    rounds: int = 3
    digits: int | None = None
    vgg: str = "vgg11"
    vgg_size: int = 32
    time_steps: int = 8
    digits_batch: int = 64
    vgg_batch: int = 16


QUICK = Scale(rounds=1, digits=16, vgg="digits-cnn", vgg_size=8, time_steps=2, digits_batch=8, vgg_batch=2)


@dataclass(frozen=True)
class Case:
    """An objective, and in words the attack in it."""

    objective: Objective
    attack: str


def cases() -> dict[str, Case]:
    """Every entry of DEFENCES by name, with its paper's attack where it cannot do without one, and the exact forms."""
    made = {}
    for name, build in rs.DEFENCES.items():
        parameter = inspect.signature(build).parameters.get("attack")
        if parameter is None or parameter.default is None:
            made[name] = Case(build(), "")
        else:
            attack, perturb = ATTACKS.get(name, _PGD5)
            made[name] = Case(build(attack=perturb), attack)
    for name in ("sr", "gr"):
        if name in rs.DEFENCES:
            made[f"{name}, exact"] = Case(rs.DEFENCES[name](form="exact"), "")
    return made


class Trainee:
    """A network that all objectives train in turn, and the batches of what counts as one epoch."""

    def __init__(self, what: str, unit: str, model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.what, self.unit, self.model, self.batches = what, unit, model.train(), batches
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4, fused=True)

    def step(self, objective: Objective, x: Tensor, y: Tensor) -> None:
        """One step as :func:`robustspike.fit` takes it, in the middle of the training."""
        self.optimizer.zero_grad()
        objective(self.model, x, y, progress=0.5).backward()
        self.optimizer.step()
        objective.after_step(self.model)

    def epoch(self, objective: Objective) -> None:
        """A step on each batch."""
        for x, y in self.batches:
            self.step(objective, x, y)


def trainees(scale: Scale, device: torch.device) -> list[Trainee]:
    """All digits with the small network, and one batch of random images with a VGG."""
    digits = rs.data.load("digits", train_limit=scale.digits).train.to(device)
    small = networks.make_pair("digits-cnn", scale.time_steps, 8, device).ours
    pieces = torch.arange(len(digits), device=device).split(scale.digits_batch)
    batches = [(digits.images[piece], digits.labels[piece]) for piece in pieces]
    what = f"digits-cnn, {len(digits)} digits, batch {scale.digits_batch}"
    vgg = networks.make_pair(scale.vgg, scale.time_steps, scale.vgg_size, device).ours
    x = networks.images(scale.vgg_batch, vgg)
    y = torch.arange(len(x), device=device) % 10
    pixels = f"{scale.vgg_size} × {scale.vgg_size}"
    return [
        Trainee(what, "s per epoch", small, batches),
        Trainee(f"{scale.vgg}, {pixels}, batch {len(x)}", "s per step", vgg, [(x, y)]),
    ]


def measure(
    trainee: Trainee, cases: dict[str, Case], repetitions: int, device: torch.device, advance: Callable[[], object]
) -> dict[str, Candidate]:
    """Seconds of an epoch under each objective, which take turns in every round, and the operations of one step.

    The step that is counted warms each objective up.
    """
    work = {}
    for name, case in cases.items():
        work[name] = operations(partial(trainee.step, case.objective, *trainee.batches[0]))
        advance()
    calls = {name: partial(trainee.epoch, case.objective) for name, case in cases.items()}
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for times in rounds(calls, repetitions, device):
        for name, value in times.items():
            seconds[name].append(value)
        advance()
    return {name: Candidate(seconds[name], work[name], "float32") for name in cases}


_READING = """\
One process; the objectives take turns within each round, all on the same network and batches, and ratios to vanilla are
taken within each round: medians with [quartiles]. A step is loss, backward, SGD with momentum and what the objective does
after it (RAT: retraction), in float32, without loading or augmenting data. *Work*: operations of matrix products and
convolutions in one step, divided by those of vanilla; it does not depend on the machine's load. Attacks are those of each
objective's paper, PGD-5 where it names none; what works without an attack has none."""


def page(
    scale: Scale,
    measured: Sequence[tuple[Trainee, dict[str, Candidate]]],
    cases: dict[str, Case],
    facts: dict[str, str],
) -> str:
    """Facts, table and notes as Markdown, without the title."""
    head = ["Objective", "Attack"]
    for trainee, _ in measured:
        network = trainee.what.split(",")[0]
        head += [f"{network}: {trainee.unit}", f"{network}: × vanilla", f"{network}: work"]
    head.append("Liu 2024: × vanilla")
    lines = [_line(head), "|" + "---|" * len(head)]
    for name, case in cases.items():
        cells = [name, case.attack]
        for _, found in measured:
            vanilla, own = found["vanilla"], found[name]
            times, slower = own.milliseconds, ratio(own, vanilla)
            cells += [
                f"{times.median / 1e3:.3g}",
                f"**{slower.median:.2f}** [{slower.low:.2f}–{slower.high:.2f}]",
                f"{own.work / vanilla.work:.2f}",
            ]
        cells.append(f"{PUBLISHED[name] / PUBLISHED['vanilla']:.2f}" if name in PUBLISHED else "")
        lines.append(_line(cells))
    seconds = ", ".join(f"{name} {value} s" for name, value in PUBLISHED.items())
    notes = [
        f"* {'; '.join(trainee.what for trainee, _ in measured)}; T = {scale.time_steps}, {scale.rounds} round(s).",
        f"* Liu 2024, Table 7: seconds of an epoch of CIFAR-10 with VGG-11 on a GPU ({seconds}).",
        "* A step of the larger network stands for an epoch of it: all steps of an epoch cost the same.",
    ]
    listed = [f"* {label}: {value}" for label, value in facts.items()]
    return "\n".join([*listed, "", *lines, "", _READING, "", *notes, ""])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def run(scale: Scale, device: torch.device, progress: Progress) -> str:
    """Measure everything; the page."""
    facts, found, all_cases = command.facts("benchmarks.objectives", scale == QUICK, device), [], cases()
    for trainee in trainees(scale, device):
        task = progress.add_task(trainee.what, total=len(all_cases) + scale.rounds)
        found.append((trainee, measure(trainee, all_cases, scale.rounds, device, partial(progress.advance, task))))
    title = command.heading("Cost of the training objectives", scale == QUICK, device)
    return f"# {title}\n\n" + page(scale, found, all_cases, facts)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, measure, print, write."""
    options = command.parser("benchmarks.objectives", "Time every training objective.").parse_args(arguments)
    return command.carry_out(options, run, QUICK, Scale())


if __name__ == "__main__":
    sys.exit(main())
