"""``python -m benchmarks``: print the table, and with ``--out`` write it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from functools import partial

import torch
from rich.progress import Progress

from benchmarks import command, comparisons, machine, networks
from benchmarks.comparisons import QUICK, Comparison, Row, Scale
from benchmarks.document import document
from benchmarks.networks import Contest, Pair
from benchmarks.timing import ratio


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, measure, print, write."""
    options = command.parser("benchmarks", "Time robustspike against plain code.").parse_args(arguments)
    return command.carry_out(options, measure, QUICK, Scale())


def measure(scale: Scale, device: torch.device, progress: Progress) -> str:
    """Everything in one process; the page."""
    facts = command.facts("benchmarks", scale == QUICK, device)
    bench = Bench(scale, device, progress)
    for comparison in comparisons.neurons(scale, device):
        bench.run(comparison)
    with bench.setup("two equal networks"):
        pair = networks.make_pair(scale.network, scale.time_steps, scale.image_size, device)
        x, y = comparisons.batch(pair, scale)
        networks.check(pair, x[:2], y[:2])
        notes = [_agreement(pair, scale)]
    for make in (comparisons.training, comparisons.attack_step):
        bench.run(make(pair, scale))
    with bench.setup("a batch of which half falls"):
        contest = networks.half_falling(pair, scale.batch, scale.steps, scale.eps, scale.step_size)
        notes.append(_fallen(pair, contest, scale))
    bench.run(comparisons.attack(pair, contest, scale))
    return document(bench.rows, bench.peaks, facts, notes, command.heading("Speed", scale == QUICK, device))


class Bench:
    """Runs comparisons with a progress bar each; the machine's peaks are measured anew after every one, the best kept."""

    def __init__(self, scale: Scale, device: torch.device, progress: Progress) -> None:
        self.scale, self.device, self.progress = scale, device, progress
        self.rows: list[Row] = []
        self.peaks = machine.peaks(device, scale.peak_size, repetitions=5)

    def run(self, comparison: Comparison) -> None:
        """Measure one comparison and keep its rows."""
        task = self.progress.add_task(comparison.claims[0].what, total=comparison.repetitions + 1)
        rows = comparison.measure(self.device, partial(self.progress.advance, task))
        for row in rows:  # at once, so that a run that is stopped has not measured for nothing
            self.progress.console.print(f"{row.what}: {ratio(row.plain, row.ours).median:.2f} times faster")
        self.rows += rows
        again = machine.peaks(self.device, self.scale.peak_size, repetitions=5)
        self.peaks = {name: max(value, again[name]) for name, value in self.peaks.items()}

    @contextlib.contextmanager
    def setup(self, what: str) -> Iterator[None]:
        """Show untimed work as one step."""
        task = self.progress.add_task(what, total=1)
        yield
        self.progress.advance(task)


def _agreement(pair: Pair, scale: Scale) -> str:
    """What the two networks are, and how far apart their float32 logits are."""
    x, y = comparisons.batch(pair, scale)
    logits, gradients = networks.disagreement(pair, x[:2], y[:2])
    with torch.no_grad():
        z, z_plain = pair.ours(x), pair.plain(x)
    size = (
        f"{scale.network}, T = {scale.time_steps}, batch {scale.batch}, {scale.image_size} × {scale.image_size} pixels"
    )
    return (
        f"The network: {size}, random weights, BatchNorm statistics of one batch of random images, the same state_dict on "
        f"both sides. In float64 logits agree within {logits:.1g} and input gradients within {gradients:.1g} of their "
        "largest entry, in training and in evaluation mode (2 images). In float32 rounding may flip a spike: logits of the "
        f"whole batch differ by at most {float((z - z_plain).abs().max()):.1g}, their standard deviation being "
        f"{float(z_plain.std()):.1g}."
    )


def _fallen(pair: Pair, contest: Contest, scale: Scale) -> str:
    """How the batch of PGD was made, and what happened to it in fact."""
    attempt = comparisons.our_pgd(scale).run(pair.ours, contest.x, contest.y)
    with torch.no_grad():
        wrong = pair.ours(attempt.x_adv).argmax(1) != contest.y
        clean = pair.ours(contest.x).argmax(1) == contest.y
    left = sorted(attempt.gradients[wrong].tolist())
    eps, step = (f"{255 * value:g}/255" for value in (scale.eps, scale.step_size))
    return (
        f"PGD-{scale.steps} (L∞, ε = {eps}, step {step}, start at x): the labels are class 0, to which a bias of "
        f"{contest.bias:.3g} was given in both networks so that half of the batch withstands the attack and half does "
        f"not. Before the attack {int(clean.sum())} of {len(clean)} samples are classified correctly. In ours {len(left)} "
        f"fall, after {', '.join(map(str, left)) or 'no'} gradient evaluations, and {int((~wrong).sum())} take all "
        f"{scale.steps}; in all {int(attempt.gradients.sum())} evaluations instead of {scale.steps * len(clean)}."
    )


if __name__ == "__main__":
    sys.exit(main())
