"""robustspike list | report | compare."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from robustspike.attacks import ATTACKS, LOSSES, SUITES
from robustspike.audits import AUDITS
from robustspike.cli.flags import Config
from robustspike.cli.reporting import report
from robustspike.cli.sentences import say, say_table
from robustspike.data import DATA
from robustspike.data.augment import AUGMENTATIONS
from robustspike.defences import DEFENCES
from robustspike.encoders import ENCODERS
from robustspike.experiment import SOURCES, evaluation_folders, near, published, scales, tables
from robustspike.gradients import ESTIMATORS
from robustspike.models import MODELS
from robustspike.results import load_outcome, mcnemar, under
from robustspike.results.files import reading_once
from robustspike.surrogates import SURROGATES

SECTIONS: dict[str, Mapping[str, Any]] = {
    "attacks": ATTACKS,
    "audits": AUDITS,
    "estimators": ESTIMATORS,
    "defences": DEFENCES,
    "models": MODELS,
    "data": DATA,
    "suites": SUITES,
    "losses": LOSSES,
    "sources": SOURCES,
    "surrogates": SURROGATES,
    "encoders": ENCODERS,
    "augmentations": AUGMENTATIONS,
    "recipes": published(),
    "scales": scales(),
    "tables": {name: table["about"] for name, table in tables().items()},
}


def list_command(
    what: Annotated[str | None, typer.Argument(help=" | ".join(SECTIONS), show_default="everything")] = None,
    config: Config = None,
) -> None:
    """Print the names that the other commands take, and what each is.

    [bold]Examples[/bold]

    robustspike list

    robustspike list estimators
    """
    if what is not None and what not in SECTIONS:
        raise ValueError(f"nothing called {what!r} to list; {near(what, SECTIONS)}")
    for section, table in SECTIONS.items():
        if what in (None, section):
            say(section)
            width = max(16, *map(len, table))
            for name, thing in table.items():
                say(f"  {name:<{width}} {first_line(thing)}")


def report_command(
    runs: Annotated[list[Path], typer.Argument(help="Runs, or folders that hold runs.", show_default=False)],
    evaluation: Annotated[
        str | None, typer.Option(help="Which one, a folder's name in RUN/attacks.", show_default="the fullest")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Of the page.", show_default="networks and data")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The page; all else is written beside it.", show_default="report.html there")
    ] = None,
    config: Config = None,
) -> None:
    """Show attacked runs: tables here, and self-contained HTML pages with JSON, Markdown and LaTeX beside them.

    One run gets a page of its own. Several get an index, in which those evaluated alike are ranked once their rows and
    weights check out; a page for each, where missing or out of date; and one page that compares the most that are alike.

    [bold]Examples[/bold]

    robustspike report runs/b

    robustspike report runs/

    robustspike report runs/vanilla runs/b --evaluation liu2024-Linf-0.03137 --out compared.html
    """
    with reading_once():
        report(runs, evaluation, title, out)


def compare_command(
    a: Annotated[Path, typer.Argument(help="Folder of an evaluation, or of a run.", show_default=False)],
    b: Annotated[Path, typer.Argument(help="The other one.", show_default=False)],
    evaluation: Annotated[
        str | None, typer.Option(help="Of runs: which one, a folder's name in RUN/attacks.", show_default="the fullest")
    ] = None,
    config: Config = None,
) -> None:
    """Compare two evaluations of the same samples, sample by sample: McNemar's exact test.

    They may be of two networks, of one network under different attacks, or of different seeds.

    [bold]Examples[/bold]

    robustspike compare runs/at runs/sr-star

    robustspike compare runs/b/attacks/liu2024-Linf-0.03137 runs/b/attacks/assg-Linf-0.03137
    """
    folders = evaluation_folders([a, b], evaluation)
    one, other = map(load_outcome, folders)
    found = mcnemar(one, other)
    for which, folder, outcome in (("First", folders[0], one), ("Second", folders[1], other)):
        say(f"{which}: {outcome.header.model}, {outcome.header.data}, {under(outcome.header)} ({folder})")
    say(str(found))
    differing = [
        name for name in ("suite", "norm", "eps", "budget") if getattr(one.header, name) != getattr(other.header, name)
    ]
    if differing:
        say(f"Note: not under the same attacks ({', '.join(differing)} differ).")
    if one.cut.any() or other.cut.any():
        say("Note: a budget kept attacks away from samples that stand.")
    say_table(found.table())


def first_line(thing: object) -> str:
    """The first line of a docstring without its markup; a text as it is."""
    if isinstance(thing, str):
        return thing
    return re.sub(r":\w+:|`", "", (inspect.getdoc(thing) or "").partition("\n")[0])
