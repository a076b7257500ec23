"""The whole story in minutes: four small networks, trained, attacked and compared on embedded digits."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from robustspike.attacks import Suite
from robustspike.attacks.suites import liu2024
from robustspike.experiment import Experiment, attack, audit, comparison, default_eps, evaluation_name, show, train
from robustspike.results import Comparison, Rate, comparison_table
from robustspike.writing import write_text

DEFENCES = ("vanilla", "at", "sr", "sr-star")
# Pairs of networks of which the second should withstand more: vanilla < SR, AT < SR*.
ORDER = (("vanilla", "SR"), ("vanilla", "AT"), ("SR", "SR*"), ("AT", "SR*"))
CURVE_EPS = (0.05, 0.1, 0.15, 0.2, 0.3)
AUDITS = ("gradients", "heatmaps", "examples", "confusion", "noise", "operations", "energy", "surface")

# A toy run that says nothing about robustness: it shows that the demo runs.
QUICK: dict[str, Any] = {
    "train_limit": 64, "test_limit": 20, "epochs": 1, "time_steps": 2, "train_steps": 1,
    "curve_eps": (0.1, 0.2), "curve_limit": 10, "doubts": 0, "audits": ("gradients", "heatmaps"), "audit_samples": 5,
}  # fmt: skip


def main_suite(eps: float | str) -> Suite:
    """FGSM, R-FGSM and PGD-10 of Liu 2024, each under the four estimators: the columns of its Table 3."""
    return liu2024(eps, steps=(10,), apgd_steps=0)


def pgd_suite(eps: float) -> Suite:
    """Liu's PGD-10 under the four estimators, without the one-step attacks."""
    whole = main_suite(eps)
    return Suite("PGD-10 of liu2024", whole.ball, tuple(a for a in whole.attacks if a.name == "PGD-10"))


def demo(
    out: str | Path = "demo",
    *,
    seed: int = 0,
    eps: float | str | None = None,
    curve_eps: Sequence[float] = CURVE_EPS,
    curve_limit: int = 200,
    doubts: int = 32,
    audits: Sequence[str] = AUDITS,
    audit_samples: int = 50,
    batch_size: int = 256,
    progress: bool = True,
    **settings: Any,
) -> Comparison:
    """Train vanilla, AT, SR and SR* on digits, attack each with one-step attacks and PGD-10 of Liu 2024, audit, compare.

    Writes one folder per network, ``results.json`` and ``report.html``; run again, it goes on where it was stopped.

    Args:
        out: the folder.
        seed: of everything.
        eps: of the main evaluation; None: the recipe's.
        curve_eps: radii of the curve, PGD-10 under the four estimators.
        curve_limit: samples of the curve, stratified by class.
        doubts: samples of the main evaluation of each network that are probed for gradient masking; 0: none.
        audits: what else is measured of each network, names in :data:`robustspike.AUDITS`.
        audit_samples: on so many test digits, stratified by class.
        batch_size: samples attacked at a time.
        progress: show progress bars on a terminal.
        settings: other fields of :class:`robustspike.experiment.Experiment`, for all four networks.

    Raises:
        ValueError, TrainingError: see :func:`robustspike.experiment.train` and :func:`robustspike.experiment.attack`.
    """
    out = Path(out)
    console = Console()
    experiments = [Experiment.of(data="digits", defence=name, seed=seed, **settings) for name in DEFENCES]
    main = main_suite(default_eps("digits") if eps is None else eps)
    options: dict[str, Any] = {"resume": True, "seed": seed, "batch_size": batch_size, "progress": progress}
    for number, experiment in enumerate(experiments, 1):
        console.print(Text(f"{number} of {len(DEFENCES)}: {experiment.defence}", style="bold"))
        run = out / experiment.defence
        train(experiment, run, resume=True, progress=progress)
        outcome = attack(run, main, survivors_only=False, doubts=doubts, **options)
        limit = min(curve_limit, experiment.test_limit or curve_limit)
        for radius in curve_eps:
            attack(run, pgd_suite(radius), limit=limit, doubts=0, **options)
        audit(run, audits=audits, suite=outcome, eps=main.ball.eps, samples=audit_samples, **options)
    found = comparison(
        [out / experiment.defence for experiment in experiments],
        evaluation=evaluation_name(main, seed=seed, survivors_only=False),
        notes=_notes(experiments[-1], curve_limit),
    )
    found = found.model_copy(update={"notes": (f"{verdict(found)} {masking(found)}", *found.notes)})
    _write(found, out, console)
    return found


def _notes(experiment: Experiment, curve_limit: int) -> tuple[str, ...]:
    return (
        f"Trained on {os.cpu_count()} CPU core(s) with the settings of recipes/digits.yaml: {experiment.epochs} epochs, "
        f"T = {experiment.time_steps}, AT and SR* with PGD-{experiment.train_steps} at ε = {experiment.train_eps}, "
        f"λ = {experiment.weight:g}, seed {experiment.seed}.",
        f"ε-curves: PGD-10 under four estimators, worst case per sample, at most {curve_limit} test digits.",
    )


def _words(name: str, rate: Rate) -> str:
    return f"{name} {100 * rate.value:.1f}"


def verdict(found: Comparison) -> str:
    """Whether the order vanilla < SR, AT < SR* in worst-case accuracy came out, from the figures."""
    robust = {network.name: network.summary.robust for network in found.networks}
    figures = ", ".join(_words(name, rate) for name, rate in robust.items())
    wrong = [(a, b) for a, b in ORDER if not robust[a].value < robust[b].value]
    if wrong:
        pairs = "; ".join(f"{_words(b, robust[b])} is not above {_words(a, robust[a])}" for a, b in wrong)
        return f"The order vanilla < SR, AT < SR* did NOT come out in worst-case accuracy (%): {pairs} ({figures})."
    close = [f"{a} and {b}" for a, b in ORDER if robust[a].high >= robust[b].low]
    apart = (
        f"the 95 % intervals of {', '.join(close)} overlap"
        if close
        else "in each of these pairs the 95 % intervals lie apart"
    )
    return f"The order vanilla < SR, AT < SR* came out in worst-case accuracy (%): {figures}; {apart}."


def masking(found: Comparison) -> str:
    """Which checks for gradient masking failed, for which network, in one sentence."""
    doubts = {network.name: network.summary.doubts for network in found.networks}
    if any(one is None for one in doubts.values()):
        return "Gradient masking was not checked for."
    failed = [f"{name}: {', '.join(one.failed)}" for name, one in doubts.items() if one and one.failed]
    if failed:
        return (
            f"Checks for gradient masking FAILED ({'; '.join(failed)}): the page says what they found and what to do."
        )
    return "No check for gradient masking failed."


def _write(found: Comparison, out: Path, console: Console) -> None:
    from robustspike.report import write_curves, write_html  # draws with matplotlib: loaded when needed

    results, page = out / "results.json", out / "report.html"
    write_text(results, found.model_dump_json(indent=1) + "\n")
    write_html(found, page)
    write_curves(found, out / "curves.svg")
    console.print()
    show(comparison_table(found), console)
    console.print()
    console.print(Text(found.notes[0]))
    console.print(Text(f"Figures: {results}   Page with table and ε-curves: {page}"), soft_wrap=True)
