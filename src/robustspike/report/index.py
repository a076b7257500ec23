"""The page of a leaderboard: tables that can be sorted and filtered, plain tables where scripts do not run."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote

from robustspike.report.colours import DARK, LIGHT
from robustspike.report.page import environment, span
from robustspike.report.words import epsilon, norm_symbol
from robustspike.results.leaderboard import Entry, Leaderboard, masking


def ball(entry: Entry) -> str:
    """The ball of an entry, such as ``L∞ 8/255 (0.03137)``."""
    return f"{norm_symbol(entry.header.norm)} {epsilon(entry.header.eps, entry.header.norm)}"


def choices(board: Leaderboard) -> dict[str, tuple[str, list[str]]]:
    """What can be chosen: for each filter its label and values, those of all entries."""
    entries = board.entries
    balls = {ball(entry): (entry.header.norm, entry.header.eps) for entry in entries}
    return {
        "data": ("Data set", _values(entry.header.data for entry in entries)),
        "architecture": ("Architecture", _values(entry.architecture for entry in entries)),
        "eps": ("ε", sorted(balls, key=lambda name: balls[name])),
        "suite": ("Suite", _values(entry.suite for entry in entries)),
    }


def _values(found: Iterable[str]) -> list[str]:
    return sorted(set(found) - {""})


def grouped(number: int | None) -> str:
    """A whole number with narrow spaces between its thousands; a dash for None."""
    return "–" if number is None else f"{number:,}".replace(",", "\u202f")


def index_html(board: Leaderboard) -> str:
    """One self-contained page: no script, font, style or image from elsewhere; equal records give equal text.

    Example:
        >>> from robustspike.results.leaderboard import Leaderboard
        >>> "<h1>Mine</h1>" in index_html(Leaderboard(title="Mine", groups=()))
        True
    """
    template = environment().get_template("index.html.jinja")
    page = template.render(
        board=board, choices=choices(board), runs={entry.run for entry in board.entries}, ball=ball, grouped=grouped,
        masking=masking, span=span, link=quote, colours=list(zip(LIGHT, DARK, strict=True)),
    )  # fmt: skip
    return page + "\n"
