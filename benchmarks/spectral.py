"""What each part of RAT does to spectral norms and to robustness: ``python -m benchmarks.spectral [--quick] [--out FILE]``.

Every variant is trained on the embedded digits with the settings of recipes/digits.yaml and otherwise differs from the one
before it in one part only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import nn

import robustspike as rs
from benchmarks import command
from robustspike.defences import Mixed, Objective, spectral_norms
from robustspike.experiment import Experiment
from robustspike.experiment.runs import load_data, make_model

BALL = rs.Linf("0.05")
BPTT_ONLY = rs.fgsm(BALL)
MIXED = Mixed((rs.fgsm(BALL), rs.fgsm(BALL, rs.BPTR())))


def variants() -> dict[str, Objective]:
    """From adversarial training to RAT, part by part."""
    decayed = rs.defences.at(MIXED)
    plain = replace(decayed, weight_decay=0.0)
    return {
        "vanilla": rs.defences.vanilla(),
        "FGSM through BPTT": rs.defences.at(BPTT_ONLY),
        "FGSM, mixed": decayed,
        "… without weight decay": plain,
        "… and retraction, β = 5e-4": rs.defences.rat(MIXED, beta=5e-4),
        "… and retraction, β = 4e-3": rs.defences.rat(MIXED, beta=4e-3),
        "… and retraction, β = 2e-2": rs.defences.rat(MIXED, beta=2e-2),
        "… and row sums, weight 1e-3": rs.defences.rat_penalty(MIXED, weight=1e-3),
        "… and row sums, weight 1e-2": rs.defences.rat_penalty(MIXED, weight=1e-2),
    }


@dataclass
class Watch:
    """Notes the spectral norms after the first step and at the end of some epochs; changes nothing."""

    steps: set[int]
    taken: int = 0
    norms: dict[int, dict[str, float]] = field(default_factory=dict)

    def __call__(self, model: nn.Module) -> None:
        self.taken += 1
        if self.taken in self.steps:
            self.norms[self.taken] = spectral_norms(model, iterations=200)


def measure(quick: bool, advance: Callable[[], object]) -> tuple[list[list[str]], list[str]]:
    """The rows of the table, and its columns."""
    few = {"train_limit": 64, "test_limit": 20, "epochs": 2, "time_steps": 2}
    few = few if quick else {"test_limit": 100, "time_steps": 4}
    experiment = Experiment.of(data="digits", accelerator="cpu", **few)
    data = load_data(experiment)
    steps = -(-len(data.train) // experiment.batch_size)
    epochs = sorted({1, experiment.epochs // 3 or 1, 2 * experiment.epochs // 3 or 1, experiment.epochs})
    suite = rs.suites.liu2024(0.15, steps=(2,)) if quick else rs.suites.standard(0.15)
    rows, columns = [], ["training", "layer", "start", *(f"epoch {epoch}" for epoch in epochs), "clean", "robust"]
    for name, objective in variants().items():
        model = make_model(experiment, data)
        start, watch = spectral_norms(model, iterations=200), Watch({epoch * steps for epoch in epochs})
        rs.fit(
            model, data.train, replace(objective, retract=(*objective.retract, watch)), epochs=experiment.epochs,
            schedule="one-cycle", crop_padding=0, flip=False, accelerator="cpu", progress=False,
        )  # fmt: skip
        outcome = rs.evaluate(model.eval(), data.test, suite, doubts=0, progress=False)
        figures = [f"{100 * value:.1f}" for value in (outcome.clean_accuracy, outcome.robust_accuracy)]
        for k, layer in enumerate(start):
            cells = [f"{watch.norms[epoch * steps][layer]:.2f}" for epoch in epochs]
            rows.append([name * (k == 0), layer, f"{start[layer]:.2f}", *cells, *(f * (k == 0) for f in figures)])
        advance()
    return rows, columns


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, train, attack, print, write."""
    options = command.parser("benchmarks.spectral", __doc__ or "").parse_args(arguments)
    with command.progress_bar() as bar:
        task = bar.add_task("variants of RAT", total=len(variants()))
        rows, columns = measure(options.quick, lambda: bar.advance(task))
    where = torch.device("cpu")
    suite = "PGD-2 of liu2024, 20 test digits" if options.quick else "`standard`, 100 test digits, T = 4"
    page = "\n".join(
        [
            f"# {command.heading('RAT part by part', options.quick, where)}\n",
            *(
                f"* {label}: {value}"
                for label, value in command.facts("benchmarks.spectral", options.quick, where).items()
            ),
            f"* σ_max of each weight as a matrix [out, rest]; accuracy in % under {suite}, L∞ ε = 0.15, seed 0\n",
            f"| {' | '.join(columns)} |",
            "|" + "---|" * len(columns),
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
        ]
    )
    command.deliver(page, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
