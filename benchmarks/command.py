"""What the commands of this folder share: their options, their progress bar, where their page goes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import machine

S = TypeVar("S")


def parser(module: str, description: str) -> argparse.ArgumentParser:
    """Of ``python -m module [--quick] [--out FILE]``."""
    made = argparse.ArgumentParser(f"python -m {module}", description=description)
    made.add_argument("--quick", action="store_true", help="tiny sizes, few rounds: shows only that it works")
    made.add_argument("--out", type=Path, metavar="FILE", help="also write the table here, as Markdown")
    return made


def device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def progress_bar() -> Progress:
    """On stderr, so that stdout holds the page alone."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True))


def facts(module: str, quick: bool, where: torch.device) -> dict[str, str]:
    """When, by which command and on what a page was measured."""
    command = f"python -m {module}" + " --quick" * quick
    return {"Measured": f"{date.today():%Y-%m-%d}, `{command}`"} | machine.description(where)


def heading(title: str, quick: bool, where: torch.device) -> str:
    """The title, which says where a quick run means nothing."""
    warning = " (quick run: sizes too small to mean anything)" if quick else ""
    return f"{title} on one {where.type.upper()}{warning}"


def deliver(page: str, out: Path | None) -> None:
    """Print the page, and write it where that was asked for."""
    sys.stdout.write(page)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8")


def carry_out(options: argparse.Namespace, run: Callable[[S, torch.device, Progress], str], quick: S, full: S) -> int:
    """Measure at the size that was asked for, print, write; the exit status."""
    with progress_bar() as progress:
        page = run(quick if options.quick else full, device(), progress)
    deliver(page, options.out)
    return 0
