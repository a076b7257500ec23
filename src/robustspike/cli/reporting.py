"""Pages of runs: one for a run, an index over many, and a comparison of those that were evaluated alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from robustspike.cli.sentences import say, say_table
from robustspike.experiment.index import PAGE, Run, compared, find_runs, leaderboard, own_comparison, read_run
from robustspike.results import Comparison, Table, comparison_table
from robustspike.results.leaderboard import Leaderboard, Missing
from robustspike.writing import write_text

INDEX = "index.html"
BESIDE = (".json", ".md", ".tex")


def report(paths: Sequence[Path], evaluation: str | None, title: str | None, out: Path | None) -> None:
    """The page of the only run there is; of several, an index, a page for each, and one that compares them.

    Raises:
        ValueError: if the page would overwrite what is written beside it, or there is nothing to show.
    """
    if out is not None and out.suffix in BESIDE:
        raise ValueError(f"--out {out}: expected a page such as {PAGE}; {', '.join(BESIDE)} are written beside it")
    found, missing = find_runs(paths)
    if len(found) > 1:
        report_several(found, missing, evaluation, title, place_of(paths, found) / PAGE if out is None else out)
        return
    page = (paths[0] if len(paths) == 1 else found[0]) / PAGE if out is None else out
    shown = own_comparison(read_run(found[0], page.parent), evaluation=evaluation, title=title)
    write_comparison(shown, page)
    say_comparison(shown, page)
    for one in missing:
        say(f"What is missing: {one.where}: {one.what}")


def report_several(
    found: Sequence[Path], missing: Sequence[Missing], evaluation: str | None, title: str | None, page: Path
) -> None:
    """The index of several runs, a page for each that has a finished evaluation, and their comparison."""
    runs = [read_run(folder, page.parent) for folder in found]
    leaderboard(runs)
    shown = compared(runs, evaluation=evaluation, title=title)
    runs, written, unwritten = own_pages(runs, page)
    board = leaderboard(runs, title=title, missing=(*missing, *unwritten))
    index = page.with_name(INDEX)
    write_index(board, index)
    for table in board.tables():
        say_table(table)
    if shown is not None:
        write_comparison(shown, page)
        say_comparison(shown, page)
    say(f"Index: {index}   Figures: {index.with_suffix('.json')}   Pages of runs: {written} written, others up to date")


def place_of(paths: Sequence[Path], found: Sequence[Path]) -> Path:
    """Where an index goes: into the first folder that holds runs, or beside it where that is a run itself."""
    first = next(path for path in paths if any(run == path or path in run.parents for run in found))
    return first.parent if first in found else first


def own_pages(runs: Sequence[Run], taken: Path) -> tuple[list[Run], int, list[Missing]]:
    """Write the page of each run that has a finished evaluation, unless it is there and shows the same.

    Returns:
        the runs, without a page where none could be written; how many were written; why others were not.
    """
    kept, written, unwritten = [], 0, []
    for run in runs:
        page = run.folder / PAGE
        if run.finished and page.resolve() != taken.resolve():
            shown = own_comparison(run, title=title_of(page))
            try:
                if not is_fresh(shown, page):
                    write_comparison(shown, page)
                    written += 1
            except OSError as error:
                where = run.entries[0].run
                unwritten.append(Missing(where=where, what=f"its page cannot be written: {error.strerror or error}"))
                run = dataclasses.replace(run, entries=tuple(e.model_copy(update={"page": ""}) for e in run.entries))
        kept.append(run)
    return kept, written, unwritten


def title_of(page: Path) -> str | None:
    """The title that a run's own page was given; None where there is no such page."""
    try:
        shown = Comparison.model_validate_json(page.with_suffix(".json").read_bytes())
    except (OSError, ValueError):
        return None
    return shown.title if len(shown.networks) == 1 else None


def is_fresh(shown: Comparison, page: Path) -> bool:
    """Whether a page and what lies beside it are there and show this."""
    if not all(page.with_suffix(kind).is_file() for kind in (page.suffix, *BESIDE)):
        return False
    return page.with_suffix(".json").read_text(encoding="utf-8") == as_json(shown)


def as_json(shown: Comparison) -> str:
    """All figures of a page."""
    return shown.model_dump_json(indent=1) + "\n"


def write_comparison(shown: Comparison, page: Path) -> None:
    """The page, its main table in Markdown and LaTeX, and last, since it tells that all is done, its figures as JSON."""
    from robustspike.report import write_html  # draws with matplotlib: loaded when needed

    write_html(shown, page)
    write_tables([comparison_table(shown)], page)
    write_text(page.with_suffix(".json"), as_json(shown))


def write_index(board: Leaderboard, index: Path) -> None:
    """The page of a leaderboard, and beside it all its figures as JSON and its tables in Markdown and LaTeX."""
    from robustspike.report.index import index_html

    write_text(index.with_suffix(".json"), board.model_dump_json(indent=1) + "\n")
    write_tables(board.tables(), index)
    write_text(index, index_html(board))


def write_tables(tables: Sequence[Table], page: Path) -> None:
    """The tables of a page in Markdown and LaTeX, beside it."""
    write_text(page.with_suffix(".md"), "\n\n".join(table.markdown() for table in tables) + "\n")
    write_text(page.with_suffix(".tex"), "\n\n".join(table.latex() for table in tables) + "\n")


def say_comparison(shown: Comparison, page: Path) -> None:
    """Print the main table, what has to be said of it, and where it is."""
    say_table(comparison_table(shown))
    for note in shown.notes:
        say(note)
    say(f"Page: {page}   Figures: {page.with_suffix('.json')}   Tables: {page.with_suffix('.md')}, {page.stem}.tex")
