"""Tables on a terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from robustspike.results import Table


def show(table: Table, console: Console | None = None, keep: int | None = None) -> None:
    """Print a table as wide as the terminal allows.

    Where it is too wide, intervals and words go to lines of their own; then the last columns are left out and named.

    Args:
        table: figures.
        console: None: standard output.
        keep: so many first columns are always shown; None: all.
    """
    console = console or Console()
    total = len(table.columns)
    unlimited = console.options.update(max_width=10_000)
    for shown in range(total, min(keep or total, total) - 1, -1):
        for stacked in (False, True):
            grid = _grid(table, shown, stacked)
            if grid.__rich_measure__(console, unlimited).maximum <= console.width:
                break
        else:
            continue
        break
    console.print(Text(table.title, style="bold"))
    console.print(grid)
    if shown < total:
        left_out = ", ".join(table.columns[shown:])
        console.print(Text(f"Left out for lack of width: {left_out}.", style="dim"))
    if table.note:
        console.print(Text(table.note, style="dim"))


def _grid(table: Table, shown: int, stacked: bool) -> Grid:
    grid = Grid(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for k, name in enumerate(table.columns[:shown]):
        words = all(not row[k].lstrip("+-")[:1].isdigit() for row in table.rows)
        text = Text(name.replace(" ", "\n") if stacked else name)
        grid.add_column(text, justify="left" if words else "right", overflow="fold")
    for row in table.rows:
        cells = (cell.replace(" [", "\n[").replace(" per ", "\nper ") if stacked else cell for cell in row[:shown])
        grid.add_row(*map(Text, cells))
    return grid
