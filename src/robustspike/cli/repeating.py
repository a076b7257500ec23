"""robustspike sweep | reproduce."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from robustspike.cli.attacking import SUITE, Attacks, DoubtSamples, Estimators, Limit, Norm, Steps
from robustspike.cli.flags import Config, Progress, takes_experiment, whole_numbers
from robustspike.cli.sentences import say, say_table
from robustspike.cli.training import Recipe, Scale, check_scale
from robustspike.experiment import Job, parse_over
from robustspike.experiment import reproduce as reproduce_table
from robustspike.experiment import sweep as sweep_over
from robustspike.experiment.sweep import FIGURES

Over = Annotated[
    list[str] | None,
    typer.Option(
        help="A setting of train and its values, weight=0.001,0.01,0.1; parted by semicolons where values hold commas. "
        "Repeated: every combination; over seed: mean and standard deviation.",
        show_default=False, rich_help_panel="Run",
    ),
]  # fmt: skip
Folder = Annotated[Path, typer.Option("--out", help="Folder to write to.", rich_help_panel="Run")]
Processes = Annotated[int, typer.Option(min=1, help="So many runs at a time.", rich_help_panel="Run")]
Suite = Annotated[str, typer.Option(help="Set of attacks; see `robustspike list suites`.", rich_help_panel=SUITE)]
Radius = Annotated[
    str | None,
    typer.Option(help="Radius in pixel units, such as 8/255.", show_default="recipe", rich_help_panel=SUITE),
]
EachAttack = Annotated[
    bool,
    typer.Option(
        "--each/--survivors",
        help="Run every attack on every sample, so that each has a figure, or only on those still standing.",
        rich_help_panel=SUITE,
    ),
]


@takes_experiment
def sweep_command(
    settings: dict[str, Any],
    over: Over = None,
    out: Folder = Path("sweep"),
    processes: Processes = 1,
    suite: Suite = "standard",
    attack: Attacks = None,
    estimator: Estimators = None,
    eps: Radius = None,
    norm: Norm = "Linf",
    steps: Steps = None,
    limit: Limit = None,
    each: EachAttack = True,
    doubts: DoubtSamples = 0,
    recipe: Recipe = None,
    scale: Scale = None,
    config: Config = None,
    progress: Progress = True,
) -> None:
    """Train and attack a network for every combination of some settings: one table and one curve.

    Run again, it goes on where it was stopped. Writes sweep.json, sweep.md, sweep.csv and, against a number, sweep.svg.

    [bold]Examples[/bold]

    robustspike sweep --over weight=0,0.002,0.004,0.006,0.008 --defence sr --data cifar10 --model wrn16 --suite liu2024
    --limit 1000 --out lambda   (λ of Liu 2024, Fig. 3)

    robustspike sweep --over weight=0.1,0.3,1 --over seed=0,1,2 --defence sr --suite liu2024 --limit 200 --processes 2

    robustspike sweep --over defence=vanilla,at,sr-star --over train_eps=2/255,4/255 --recipe liu2024-cifar10-vgg11-at
    --scale short
    """
    check_scale(recipe, scale)
    found = sweep_over(
        parse_over(over or ()), out, suite=suite, eps=eps, processes=processes, recipe=recipe, scale=scale or "paper",
        evaluation={
            "attacks": tuple(attack or ()), "estimators": tuple(estimator or ()), "norm": norm, "limit": limit,
            "steps": tuple(whole_numbers(steps, "--steps")), "each": each, "doubts": doubts,
        },
        progress=progress, ended=_ended, **settings,
    )  # fmt: skip
    say_table(found.table(), keep=len(found.axes) + 2)
    say(f"Figures: {', '.join(str(out / name) for name in FIGURES if (out / name).is_file())}")
    _refuse([point.name for point in found.failed], len(found.points), out)


@takes_experiment
def reproduce_command(
    settings: dict[str, Any],
    table: Annotated[str, typer.Argument(help="See `robustspike list tables`.", show_default=False)],
    out: Folder = Path("reproduced"),
    scale: Scale = None,
    suites: Annotated[
        str, typer.Option(help="Beside the paper's own, with commas; none for none.", rich_help_panel=SUITE)
    ] = "standard",
    limit: Limit = None,
    black_box: Annotated[
        bool,
        typer.Option(
            "--black-box", help="Also transfer examples from networks trained without defence.", rich_help_panel=SUITE
        ),
    ] = False,
    processes: Processes = 1,
    config: Config = None,
    progress: Progress = True,
) -> None:
    """Train the rows of a published table, attack them as its paper did and with stronger suites, and compare.

    Prints our figures beside the published ones, their differences, and every setting that differs from the paper's. Run
    again, it goes on where it was stopped. Flags of train replace settings of all rows. --data says where the data is: a
    path, or cifar10=c10.npz,cifar100=c100.npz.

    [bold]Examples[/bold]

    robustspike reproduce liu2024-table1 --scale smoke --out table1   (minutes, no download; no comparison)

    robustspike reproduce liu2024-table1 --scale short --data cifar10.npz --processes 2 --out table1

    robustspike reproduce liu2024-table1 --scale paper --epochs 30 --schedule one-cycle --black-box --out table1
    """
    found = reproduce_table(
        table, out, scale=scale or "paper", suites=[] if suites == "none" else [s.strip() for s in suites.split(",")],
        limit=limit, black_box=black_box, processes=processes, progress=progress, ended=_ended, **settings,
    )  # fmt: skip
    if found.made:
        say_table(found.narrow())
    if differing := found.differences():
        say("Settings that differ from the paper's:")
        for text in differing:
            say(f"  {text}")
    for text in found.reasons():
        say(f"No figures for {text}")
    pages = f"   Pages: {', '.join(str(out / name) for name in found.pages)}" if found.pages else ""
    say(f"Figures: {out / 'results.json'}, {out / 'table.md'}{pages}")
    failed = [row.recipe for row in found.skipped if row.folder]
    _refuse(failed or ([row.recipe for row in found.skipped] if not found.made else []), len(found.rows), out)


def _ended(job: Job, error: str | None) -> None:
    """Say that a run has ended, and how."""
    say(f"{job.out.name}: {'done' if error is None else f'failed: {error}'}")


def _refuse(failed: list[str], total: int, out: Path) -> None:
    """End with a sentence where something has no figures."""
    if failed:
        others = f"the others are in {out}; " if len(failed) < total else ""
        raise ValueError(
            f"{len(failed)} of {total} runs failed: {', '.join(failed)}; {others}"
            "see above why, and run the command again to try these again"
        )
