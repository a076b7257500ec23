"""robustspike train | demo."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from robustspike.cli.flags import Config, Out, Progress, Resume, takes_experiment
from robustspike.cli.sentences import say
from robustspike.experiment import Experiment, read_experiment
from robustspike.experiment import train as train_run


@takes_experiment
def train_command(
    settings: dict[str, Any],
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

    robustspike train --out runs/b --resume   (goes on after a kill, to the same weights)
    """
    if resume and out is not None and (out / "experiment.yaml").is_file():
        settings = read_experiment(out).model_dump() | settings
    experiment = Experiment.of(**settings)
    out = out or Path("runs") / _slug(Path(experiment.data).stem, experiment.model, experiment.defence, experiment.seed)
    log = train_run(experiment, out, resume=resume, progress=progress)
    accuracies = [row.validation_accuracy or 0.0 for row in log]
    say(
        f"Trained {experiment.model} with {experiment.defence} for {len(log)} epochs: validation accuracy "
        f"{100 * accuracies[-1]:.1f} % (best {100 * max(accuracies):.1f} %). It is in {out}."
    )
    say(f"Next: robustspike attack {shlex.quote(str(out))}")


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
