"""robustspike train | demo."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from robustspike.cli.flags import Config, Out, Progress, Resume, takes_experiment
from robustspike.cli.sentences import say
from robustspike.experiment import Experiment, default_eps, held_out, read_experiment
from robustspike.experiment import train as train_run
from robustspike.train import Epoch

Recipe = Annotated[
    str | None,
    typer.Option(help="Start from a published row; see `robustspike list recipes`.", rich_help_panel="Run"),
]
Scale = Annotated[
    str | None,
    typer.Option(
        help="How large a published row is run: smoke, short or paper.", show_default="paper", rich_help_panel="Run"
    ),
]


@takes_experiment
def train_command(
    settings: dict[str, Any],
    recipe: Recipe = None,
    scale: Scale = None,
    out: Out = None,
    resume: Resume = False,
    config: Config = None,
    progress: Progress = True,
) -> None:
    """Train a network with a defence, into a folder that knows how it was made.

    What is not given comes from the data's recipe: for digits a run of about a minute, for CIFAR the papers' settings.

    [bold]Examples[/bold]

    robustspike train --data digits --model digits-cnn --defence sr-star --out runs/b

    robustspike train --data cifar10 --model vgg11 --defence at --epochs 20 --out runs/at

    robustspike train --defence sr:0.1+trades:6 --validation-attack pgd --ema 0.999 --out runs/both

    robustspike train --recipe liu2024-cifar10-vgg11-sr-star --scale short --out runs/c

    robustspike train --out runs/b --resume   (goes on after a kill, to the same weights)
    """
    check_scale(recipe, scale)
    if resume and recipe is None and out is not None and (out / "experiment.yaml").is_file():
        experiment = Experiment.of(**read_experiment(out).model_dump() | settings)
    else:
        experiment = make_experiment(recipe, scale, settings)
    out = out or Path("runs") / _slug(Path(experiment.data).stem, experiment.model, experiment.defence, experiment.seed)
    log = train_run(experiment, out, resume=resume, progress=progress)
    accuracies = [row.validation_accuracy or 0.0 for row in log]
    epochs = f"{len(log)} epoch{'s' if len(log) > 1 else ''}"
    say(
        f"Trained {experiment.model} with {experiment.defence} for {epochs}: validation accuracy "
        f"{100 * accuracies[-1]:.1f} % (best {100 * max(accuracies):.1f} %){_robust(experiment, log)}. It is in {out}."
    )
    say(f"Next: robustspike attack {shlex.quote(str(out))}")


def _robust(experiment: Experiment, log: list[Epoch]) -> str:
    """The accuracy under the cheap attack that chose best.safetensors, with what it was measured under."""
    if (robust := log[-1].validation_robust) is None:
        return ""
    n, attack = held_out(experiment), {"fgsm": "FGSM", "pgd": "PGD-10"}[experiment.validation_attack]
    return (
        f", under {attack} at ε = {default_eps(experiment.data)} {100 * robust:.1f} % (best "
        f"{100 * max(row.validation_robust or 0.0 for row in log):.1f} %; n = {n}, seed {experiment.seed})"
    )


def make_experiment(recipe: str | None, scale: str | None, settings: dict[str, Any]) -> Experiment:
    """A published row at a scale, or what the data's recipe makes of the settings.

    Raises:
        ValueError: for a scale without a recipe, and unfit settings.
    """
    check_scale(recipe, scale)
    return Experiment.published(recipe, scale or "paper", **settings) if recipe else Experiment.of(**settings)


def check_scale(recipe: str | None, scale: str | None) -> None:
    """Refuse a scale of nothing.

    Raises:
        ValueError: for a scale without a recipe.
    """
    if scale is not None and recipe is None:
        raise ValueError(f"--scale {scale} belongs to a published row; name one with --recipe, or leave it out")


def demo_command(
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.", rich_help_panel="Run")] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, help="Of everything.", rich_help_panel="Run")] = 0,
    quick: Annotated[bool, typer.Option("--quick", hidden=True, help="A toy run, to test that it runs.")] = False,
    config: Config = None,
    progress: Progress = True,
) -> None:
    """Train vanilla, AT, SR and SR* on embedded digits, attack each, and compare: minutes on two CPU cores.

    Prints a table in the shape of Liu 2024, Table 3; writes results.json and report.html with the ε-curves. Run again, it
    goes on where it was stopped.

    [bold]Example[/bold]

    robustspike demo --out demo
    """
    from robustspike.demo import QUICK, demo

    demo(out, seed=seed, progress=progress, **(QUICK if quick else {}))


def _slug(*parts: object) -> str:
    *words, seed = parts
    return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(map(str, words)) + (f"-seed{seed}" if seed else ""))
