"""robustspike attack: what is run, and what is said of it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import nn

from robustspike.attacks import LOSSES
from robustspike.cli.flags import Config, Out, Progress, Resume, number, whole_numbers
from robustspike.cli.sentences import say, say_table
from robustspike.experiment import (
    Attackable,
    attackable,
    curve_of,
    default_eps,
    evaluation_name,
    is_target,
    make_suite,
    sources,
    usual_suite,
)
from robustspike.experiment import attack as attack_run
from robustspike.results import Doubts, Outcome, parse_budget

SUITE = "Suites and attacks"
OWN = "A network of your own"
Run = Annotated[
    Path,
    typer.Argument(
        help="Folder of a training run, or a network of your own: my_net.py:make_model.", show_default=False
    ),
]
SuiteName = Annotated[
    str | None,
    typer.Option(help="Published set of attacks; see `robustspike list suites`.", show_default="standard",
                 rich_help_panel=SUITE),
]  # fmt: skip
Attacks = Annotated[
    list[str] | None,
    typer.Option(help="Single attacks in place of a suite; see `robustspike list attacks`; repeatable.",
                 rich_help_panel=SUITE),
]  # fmt: skip
Estimators = Annotated[
    list[str] | None,
    typer.Option(help="rga, bptt, bptt:arctan:2, …; repeatable. For single attacks, and for autoattack.",
                 rich_help_panel=SUITE),
]  # fmt: skip
Radii = Annotated[
    str | None,
    typer.Option(help="Radius in pixel units, such as 8/255; with commas, one evaluation each and a curve.",
                 show_default="recipe", rich_help_panel=SUITE),
]  # fmt: skip
Norm = Annotated[str, typer.Option(help="Linf or L2.", rich_help_panel=SUITE)]
Steps = Annotated[
    str | None,
    typer.Option(help="Gradient steps; for single attacks and liu2024 such as 10,30,50: one attack for each.",
                 rich_help_panel=SUITE),
]  # fmt: skip
StepSize = Annotated[str | None, typer.Option(help="For single attacks; default 2.5·ε/steps.", rich_help_panel=SUITE)]
Restarts = Annotated[
    int | None, typer.Option(min=1, help="For single attacks: random restarts.", rich_help_panel=SUITE)
]
Samples = Annotated[
    int | None,
    typer.Option(min=1, help="For single attacks and standard: draws averaged per gradient.",
                 show_default="1; 20 for standard on a stochastic network", rich_help_panel=SUITE),
]  # fmt: skip
LossName = Annotated[str | None, typer.Option(help=f"For single attacks: {', '.join(LOSSES)}.", rich_help_panel=SUITE)]
Targets = Annotated[
    int | None,
    typer.Option(min=0, help="For single attacks (apgd, sapgd, fab): so many other classes.", rich_help_panel=SUITE),
]
Queries = Annotated[
    int | None, typer.Option(min=1, help="Of the square attack, alone or in autoattack.", rich_help_panel=SUITE)
]
TransferFrom = Annotated[
    list[str] | None,
    typer.Option(help="Also transfer examples from: twin, relu-twin (trained once, kept in RUN/stand-ins), relu, or the "
                      "folder of another run; repeatable.", rich_help_panel=SUITE),
]  # fmt: skip
Split = Annotated[str, typer.Option(help="test or validation.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Attack only so many samples.", show_default="all")]
Checkpoint = Annotated[
    str | None, typer.Option(help="Of a run: last, or best by validation accuracy.", show_default="last")
]
DataName = Annotated[
    str | None,
    typer.Option(help="Of a run: where its data is now. Of your own network: digits, my.npz, images/, …",
                 show_default="as trained"),
]  # fmt: skip
Weights = Annotated[
    Path | None,
    typer.Option(help="Its weights: .safetensors, .pt, .pth, .ckpt; no code in the file is executed.",
                 show_default="as made", rich_help_panel=OWN),
]  # fmt: skip
TimeSteps = Annotated[
    int | None,
    typer.Option(min=1, help="T, where it takes one step per call or a sequence.", show_default="its own",
                 rich_help_panel=OWN),
]  # fmt: skip
ImageSize = Annotated[
    int | None,
    typer.Option(min=1, help="Pixels to which images of a folder are resized.", show_default="as they are",
                 rich_help_panel=OWN),
]  # fmt: skip
Each = Annotated[
    bool, typer.Option("--each", help="Run every attack on every sample, not only on those still standing.")
]
BudgetText = Annotated[
    str | None,
    typer.Option(help='Start no further attack on a sample after so many gradients and queries ("2000"), no further batch '
                      'after a time ("30min"), or both ("2000,2h").', show_default="none"),
]  # fmt: skip
DoubtSamples = Annotated[int, typer.Option(min=0, help="Probe so many samples for gradient masking; 0: none.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Samples attacked at a time.", rich_help_panel="Run")]
Accelerator = Annotated[str, typer.Option(help="auto, cpu or cuda.", rich_help_panel="Run")]
Seed = Annotated[int, typer.Option(min=0, help="Of all random draws.", rich_help_panel="Run")]


def attack_command(
    run: Run,
    suite: SuiteName = None,
    attack: Attacks = None,
    estimator: Estimators = None,
    eps: Radii = None,
    norm: Norm = "Linf",
    steps: Steps = None,
    step_size: StepSize = None,
    restarts: Restarts = None,
    samples: Samples = None,
    loss: LossName = None,
    targets: Targets = None,
    queries: Queries = None,
    transfer_from: TransferFrom = None,
    split: Split = "test",
    limit: Limit = None,
    checkpoint: Checkpoint = None,
    data: DataName = None,
    weights: Weights = None,
    time_steps: TimeSteps = None,
    image_size: ImageSize = None,
    each: Each = False,
    budget: BudgetText = None,
    doubts: DoubtSamples = 32,
    batch_size: BatchSize = 256,
    accelerator: Accelerator = "auto",
    seed: Seed = 0,
    out: Out = None,
    resume: Resume = False,
    config: Config = None,
    progress: Progress = True,
) -> None:
    """Attack a network: every attack under every estimator, and the worst case per sample.

    It is one that `train` left in a folder, or one that a function in a file of yours returns, of PyTorch, SpikingJelly,
    snnTorch or Norse.

    [bold]Examples[/bold]

    robustspike attack runs/b --eps 8/255

    robustspike attack runs/b --suite liu2024 --eps 2/255,4/255,8/255 --transfer-from twin

    robustspike attack runs/b --attack pgd --estimator rga --estimator bptt:arctan:2 --steps 10,20,50,100 --each

    robustspike attack runs/b --eps 8/255 --resume   (goes on after a kill)

    robustspike attack my_net.py:make_model --weights best.pt --data images/ --suite standard

    torchrun --nproc-per-node 2 -m robustspike.cli attack runs/b --eps 8/255   (two processes share the work)
    """
    own = is_target(run)
    attacked = attackable(
        run, checkpoint=checkpoint, data=data, weights=weights, time_steps=time_steps, image_size=image_size,
        out=out if own else None, accelerator=accelerator,
    )  # fmt: skip
    (suite, samples), radii = _suite_and_draws(attacked, suite, attack, samples), _radii(eps, attacked, norm)
    how: dict[str, Any] = {
        "attacks": attack or (), "estimators": estimator or (), "norm": norm, "steps": whole_numbers(steps, "--steps"),
        "step_size": number(step_size, "--step-size"), "restarts": restarts, "samples": samples, "loss": loss,
        "targets": targets, "queries": queries,
    }  # fmt: skip
    spend = parse_budget(budget) if budget else None
    for radius in radii:  # what cannot be is refused before a twin is trained
        make_suite(radius, suite, sources=[nn.Identity() for _ in transfer_from or ()], **how)
    models = sources(attacked, transfer_from or (), progress=progress)
    outcomes: dict[Path, Outcome] = {}
    for radius in radii:
        chosen = make_suite(radius, suite, sources=models, **how)
        name = evaluation_name(chosen, split, limit, attacked.checkpoint, seed, not each, spend)
        place = attacked.folder / "attacks" / name if own or out is None else out / name if len(radii) > 1 else out
        outcomes[place] = attack_run(
            attacked, chosen, split=split, limit=limit, out=place, resume=resume, seed=seed, batch_size=batch_size,
            survivors_only=not each, budget=spend, doubts=doubts, progress=progress,
        )  # fmt: skip
    tell(list(outcomes.values()))
    _tell_where(attacked.folder, outcomes, transfer_from or (), maker=str(run) if own and weights is None else None)


def _tell_where(
    run: Path, outcomes: Mapping[Path, Outcome], transfer_from: Sequence[str], maker: str | None = None
) -> None:
    """Where weights and examples came from, where the rows are, and what to do next."""
    if maker is not None:
        say(f"No --weights were given: these figures are of the weights that {maker} gives the network itself.")
    if transfer_from:
        say(f"Transferred from, in this order: {', '.join(transfer_from)}.")
    finished = all(outcome.finished for outcome in outcomes.values())
    then = f"Next: robustspike report {shlex.quote(str(run))}" if finished else "Go on with --resume."
    say(f"Every sample's outcome is in {', '.join(map(str, outcomes))}. {then}")


def _suite_and_draws(
    attacked: Attackable, suite: str | None, attack: Sequence[str] | None, samples: int | None
) -> tuple[str, int | None]:
    """The suite's name, and the draws for each gradient: 20 where the default suite meets a stochastic network."""
    if suite is not None and attack:
        raise ValueError(f"--suite {suite} and --attack {attack[0]} exclude each other: leave one out")
    suite = suite or usual_suite(attacked.model)
    if samples is None and suite == "standard" and not attack and attacked.stochastic():
        samples = 20
    return suite, samples


def _radii(text: str | None, attacked: Attackable, norm: str) -> list[str]:
    """The radii with commas between them; the recipe's, which are of L∞ balls, where none is given."""
    if text is None and norm != "Linf":
        raise ValueError(f"--norm {norm} needs --eps: the recipes' radii are of L∞ balls")
    text = default_eps(attacked.source) if text is None else text
    return list(dict.fromkeys(part.strip() for part in text.split(",")))


def tell(outcomes: Sequence[Outcome]) -> None:
    """Print what was found: of one evaluation all that there is to say, of several their tables and the curve."""
    for outcome in outcomes:
        say_table(outcome.table(), keep=6)
    if len(outcomes) > 1:
        summaries = [outcome.summary() for outcome in outcomes if outcome.finished]
        if summaries and summaries[0].has_worst_case:
            say_table(curve_of(summaries[0].header.model, summaries).table())
        return
    [outcome] = outcomes
    if (breaks := outcome.breaks().table()).rows:
        say_table(breaks, keep=5)
    if _by_estimator_tells_more(outcome):
        say_table(outcome.by_estimator())
    if (curve := outcome.against_steps()) is not None:
        say_table(curve.table())
    if outcome.doubts is not None:
        tell_doubts(outcome.doubts)


def _by_estimator_tells_more(outcome: Outcome) -> bool:
    """Whether several attacks met every sample under several estimators; else the first table says it all."""
    members = outcome.header.members
    several = min(len({m.attack for m in members}), len({m.estimator for m in members})) > 1
    return several and not outcome.header.survivors_only


def tell_doubts(doubts: Doubts) -> None:
    """Print each failed check with what to do, then how many passed."""
    for one in doubts.findings:
        if one.passed is False:
            say(f"✗ {one.check}: {one.evidence.rstrip('.')}. {one.remedy} See {one.page}.")
    if doubts.checklist is not None:
        say_table(doubts.checklist.marks())
    applied = [one.passed for one in doubts.findings if one.passed is not None]
    rest = len(doubts.findings) - len(applied)
    say(
        f"{sum(applied)} of {len(applied)} masking checks passed"
        f"{f', {rest} not applicable' if rest else ''} ({doubts.samples} samples probed, seed {doubts.seed}, "
        f"{doubts.gradients} gradient evaluations, {doubts.seconds:.0f} s)."
    )
