"""robustspike audit: what an accuracy does not say, for one network or several side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from robustspike.audits import AUDITS, AuditReport, side_by_side
from robustspike.cli.attacking import (
    Accelerator,
    BatchSize,
    Checkpoint,
    DataName,
    DoubtSamples,
    ImageSize,
    Run,
    Seed,
    TimeSteps,
    Weights,
)
from robustspike.cli.flags import Config, Progress, Resume
from robustspike.cli.reporting import write_comparison
from robustspike.cli.sentences import say, say_table
from robustspike.experiment import (
    attackable,
    default_eps,
    make_suite,
    near,
    parse_estimator,
    usual_suite,
)
from robustspike.experiment import audit as audit_run
from robustspike.experiment.compare import distinctly_named
from robustspike.experiment.index import PAGE
from robustspike.results import Budget, comparison_table, parse_budget

Audits = Annotated[
    list[str] | None,
    typer.Option("--audit", help="One of the audits, see `robustspike list audits`; repeatable.", show_default="all"),
]
Compare = Annotated[
    list[Path] | None,
    typer.Option(help="Another run, audited alike and shown beside the first; repeatable.", show_default=False),
]
Samples = Annotated[int, typer.Option(min=1, help="So many test samples, stratified by class.")]
Radius = Annotated[str | None, typer.Option(help="L∞ radius in pixel units, such as 8/255.", show_default="recipe")]
SuiteName = Annotated[
    str | None, typer.Option(help="What the robust accuracy is measured under.", show_default="standard")
]
EstimatorName = Annotated[
    str | None,
    typer.Option(help="How gradients pass through the neurons: rga, bptt:arctan:2, …", show_default="the model's own"),
]
BudgetText = Annotated[
    str | None,
    typer.Option(help='For the evaluation so many gradients and queries per sample ("2000"), for all a time ("10min"), or '
                      'both ("2000,10min"); --resume does the rest.', show_default="none"),
]  # fmt: skip
Page = Annotated[
    Path | None,
    typer.Option("--out", help="The page, PAGE.html; or a folder for it, of your own network for all results.",
                 show_default="report.html in the run", rich_help_panel="Run"),
]  # fmt: skip


def audit_command(
    run: Run,
    compare: Compare = None,
    audit: Audits = None,
    suite: SuiteName = None,
    eps: Radius = None,
    samples: Samples = 100,
    estimator: EstimatorName = None,
    checkpoint: Checkpoint = None,
    data: DataName = None,
    weights: Weights = None,
    time_steps: TimeSteps = None,
    image_size: ImageSize = None,
    budget: BudgetText = None,
    doubts: DoubtSamples = 32,
    seed: Seed = 0,
    batch_size: BatchSize = 64,
    accelerator: Accelerator = "auto",
    out: Page = None,
    resume: Resume = False,
    config: Config = None,
    progress: Progress = True,
) -> None:
    """Audit a network: its worst case, its gradients, what they hide, and a page that shows it all.

    Records go to RUN/audits, the evaluation to RUN/attacks. With --resume what is there is used, and other audits are added.

    [bold]Examples[/bold]

    robustspike audit runs/b --eps 8/255

    robustspike audit runs/sr-star --compare runs/vanilla --compare runs/at --out compared.html

    robustspike audit runs/b --audit gradients --audit heatmaps --budget 10min

    robustspike audit runs/b --budget 10min --resume   (goes on)

    robustspike audit my_net.py:make_model --weights best.pt --data images/
    """
    for name in audit or ():
        if name not in AUDITS:
            raise ValueError(f"there is no audit {name!r}; {near(name, AUDITS)}")
    spend = parse_budget(budget) if budget else Budget()
    page, folder = (out, None) if out is not None and out.suffix == ".html" else (None, out)
    first = attackable(
        run, checkpoint=checkpoint, data=data, weights=weights, time_steps=time_steps, image_size=image_size, out=folder,
        accelerator=accelerator,
    )  # fmt: skip
    others = [attackable(o, checkpoint=checkpoint, data=data, accelerator=accelerator) for o in compare or ()]
    reports = {}
    for network in (first, *others):
        radius = default_eps(network.source) if eps is None else eps
        reports[network.folder] = audit_run(
            network, audits=audit, suite=make_suite(radius, suite or usual_suite(network.model)), eps=radius,
            samples=samples, estimator=None if estimator is None else parse_estimator(estimator), resume=resume, seed=seed,
            batch_size=batch_size, budget=spend, doubts=doubts, progress=progress,
        )  # fmt: skip
        _tell(reports[network.folder])
    _write(reports, page or (folder or first.folder) / PAGE)


def _tell(report: AuditReport) -> None:
    """Every audit's answer, and what is missing."""
    say_table(comparison_table(report.comparison()))
    for name, record in report.records.items():
        say(f"{name}: {record.answer()} ({record.conditions()})")
    for note in report.notes:
        say(note)
    say("")


def _write(reports: Mapping[Path, AuditReport], page: Path) -> None:
    networks = distinctly_named({folder: report.network for folder, report in reports.items()})
    named = [dataclasses.replace(report, network=n) for report, n in zip(reports.values(), networks, strict=True)]
    found = side_by_side(named)
    write_comparison(found, page)
    if len(reports) > 1:
        say_table(comparison_table(found))
    say(f"Page: {page}   Figures: {page.with_suffix('.json')}")
