"""What is compared with what, at which size, and the ratio wanted."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import robustspike as rs
from benchmarks import plain
from benchmarks.networks import Contest, Pair, images
from benchmarks.timing import Call, Candidate, operations, rounds
from robustspike.surrogates import Surrogate


@dataclass(frozen=True)
class Scale:
    """The size of a run: the issue's own, or a quick one that only shows that everything works."""

    network: str = "vgg11"
    batch: int = 16
    time_steps: int = 8
    image_size: int = 32
    neuron_shape: tuple[int, ...] = (8, 8, 64, 32, 32)
    neuron_rounds: int = 40
    step_rounds: int = 7
    pgd_rounds: int = 3
    peak_size: int = 2048
    steps: int = 10
    eps: float = 2 / 255

    @property
    def step_size(self) -> float:
        return 2.5 * self.eps / self.steps


QUICK = Scale("digits-cnn", 8, 2, 8, (2, 2, 4, 8, 8), neuron_rounds=3, step_rounds=2, pgd_rounds=1, peak_size=256)


@dataclass(frozen=True)
class Claim:
    """A row of the table: two candidates by name, and how many times faster the second should be."""

    what: str
    plain: str
    ours: str
    wanted: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Candidates that take turns, and the rows made of them.

    ``units`` says what each candidate's rate is counted in; ``traffic`` is its bytes where that is "bytes".
    """

    calls: dict[str, Call]
    claims: list[Claim]
    repetitions: int
    units: dict[str, str] = field(default_factory=dict)
    traffic: float = 0.0

    def measure(self, device: torch.device, advance: Callable[[], object]) -> list[Row]:
        """Run every candidate once to warm it up and count its work, then in rounds."""
        units = {name: self.units.get(name, "float32") for name in self.calls}
        work = {name: float(operations(call)) or self.traffic for name, call in self.calls.items()}
        advance()
        seconds: dict[str, list[float]] = {name: [] for name in self.calls}
        for times in rounds(self.calls, self.repetitions, device):
            for name, value in times.items():
                seconds[name].append(value)
            advance()
        found = {name: Candidate(seconds[name], work[name], units[name]) for name in self.calls}
        return [Row(claim.what, found[claim.plain], found[claim.ours], claim.wanted) for claim in self.claims]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    plain: Candidate
    ours: Candidate
    wanted: float | None


SURROGATES: dict[str, Surrogate] = {"triangle": rs.Triangle(), "sigmoid": rs.Sigmoid(4.0), "arctan": rs.ArcTan(2.0)}


def neurons(scale: Scale, device: torch.device) -> Iterator[Comparison]:
    """Forward and backward of one spiking layer, for each surrogate. Both sides are checked against each other first."""
    generator = torch.Generator().manual_seed(2)
    currents, grad = (torch.randn(scale.neuron_shape, generator=generator).to(device) for _ in range(2))
    for name, surrogate in SURROGATES.items():
        pair: dict[str, nn.Module] = {"plain": plain.PlainLIF(name), "ours": rs.LIF(surrogate=surrogate)}
        outputs = {key: _there_and_back(layer, currents, grad) for key, layer in pair.items()}
        torch.testing.assert_close(outputs["ours"][0], outputs["plain"][0], rtol=0, atol=0)
        torch.testing.assert_close(outputs["ours"][1], outputs["plain"][1], rtol=1e-4, atol=1e-4)
        yield Comparison(
            {key: partial(_there_and_back, layer, currents, grad) for key, layer in pair.items()},
            [Claim(f"neuron forward + backward, {name}", "plain", "ours", wanted=3.0)],
            scale.neuron_rounds,
            units=dict.fromkeys(pair, "bytes"),
            traffic=5 * currents.nbytes,  # read currents, write spikes; read gradient and currents, write gradient
        )


def _there_and_back(layer: nn.Module, currents: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    currents = currents.detach().requires_grad_()
    spikes = layer(currents)
    return spikes.detach(), torch.autograd.grad(spikes, currents, grad)[0]


class TrainingStep:
    """Cross-entropy, backward and a step of SGD with momentum on one batch.

    ``fused`` is PyTorch's own option of the optimiser, which :func:`robustspike.fit` sets.
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, fused: bool) -> None:
        self.model, self.x, self.y = model.train(), x, y
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9, fused=fused)

    def __call__(self, dtype: torch.dtype) -> None:
        self.optimizer.zero_grad()
        with torch.autocast(self.x.device.type, dtype, enabled=dtype != torch.float32):
            loss = F.cross_entropy(self.model(self.x), self.y)
        loss.backward()
        self.optimizer.step()


def training(pair: Pair, scale: Scale) -> Comparison:
    """One training step, float32 and bfloat16 on either side, all four in turn."""
    x, y = batch(pair, scale)
    ours, plain_one = copy.deepcopy(pair.ours), copy.deepcopy(pair.plain)
    steps = {"plain": TrainingStep(plain_one, x, y, fused=False), "ours": TrainingStep(ours, x, y, fused=True)}
    calls: dict[str, Call] = {}
    for dtype in (torch.float32, torch.bfloat16):
        for side, step in steps.items():
            calls[f"{side} {dtype}"] = partial(step, dtype)
    single, half = "torch.float32", "torch.bfloat16"
    return Comparison(
        calls,
        [
            Claim("training step, float32", f"plain {single}", f"ours {single}", wanted=1.3),
            Claim("training step, ours bfloat16, plain float32", f"plain {single}", f"ours {half}", wanted=2.0),
            Claim("training step, both bfloat16", f"plain {half}", f"ours {half}"),
        ],
        scale.step_rounds,
        units={f"plain {half}": "bfloat16", f"ours {half}": "bfloat16"},
    )


def attack_step(pair: Pair, scale: Scale) -> Comparison:
    """One PGD step on the whole batch: gradient of the pixels, sign, projection."""
    x, y = batch(pair, scale)
    ball = rs.Linf(scale.eps)
    return Comparison(
        {
            "plain": lambda: plain.pgd_step(pair.plain, x, x, y, scale.eps, scale.step_size),
            "lean": lambda: plain.pgd_step(pair.plain, x, x, y, scale.eps, scale.step_size, weight_gradients=False),
            "ours": lambda: ball.project(ball.ascend(x, rs.input_gradient(pair.ours, x, y), scale.step_size), x),
        },
        [
            Claim("PGD step", "plain", "ours"),
            Claim("PGD step, plain without weight gradients", "lean", "ours"),
        ],
        scale.step_rounds,
    )


def our_pgd(scale: Scale) -> rs.PGD:
    """The attack that runs on the contest."""
    return rs.PGD(rs.Linf(scale.eps), steps=scale.steps, step_size=scale.step_size, random_start=False, early_stop=True)


def attack(pair: Pair, contest: Contest, scale: Scale) -> Comparison:
    """All steps of PGD on the contest's batch."""
    x, y = contest.x, contest.y
    return Comparison(
        {
            "plain": lambda: plain.pgd(pair.plain, x, y, scale.eps, scale.steps, scale.step_size),
            "ours": lambda: our_pgd(scale)(pair.ours, x, y),
        },
        [Claim(f"PGD-{scale.steps}, half of the batch falls early", "plain", "ours", wanted=1.5)],
        scale.pgd_rounds,
    )


def batch(pair: Pair, scale: Scale) -> tuple[Tensor, Tensor]:
    """Random images and labels of the run's size."""
    x = images(scale.batch, pair.ours)
    return x, torch.arange(scale.batch, device=x.device) % 10
