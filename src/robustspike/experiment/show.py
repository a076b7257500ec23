"""Tables on a terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from robustspike.results import Table


def show(table: Table, console: Console | None = None) -> None:
    """Print a table; where it would be too wide, intervals go to a line of their own."""
    console = console or Console()
    for stacked in (False, True):
        grid = _grid(table, stacked)
        if grid.__rich_measure__(console, console.options.update(max_width=10_000)).maximum <= console.width:
            break
    console.print(Text(table.title, style="bold"))
    console.print(grid)
    if table.note:
        console.print(Text(table.note, style="dim"))


def _grid(table: Table, stacked: bool) -> Grid:
    grid = Grid(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    for k, name in enumerate(table.columns):
        grid.add_column(Text(name), justify="left" if k < 2 and _in_words(table, k) else "right")
    for row in table.rows:
        grid.add_row(*(Text(cell.replace(" [", "\n[") if stacked else cell) for cell in row))
    return grid


def _in_words(table: Table, column: int) -> bool:
    return any(row[column][:1].isalpha() for row in table.rows)
