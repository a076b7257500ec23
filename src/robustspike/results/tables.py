"""Figures to read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Figures to read: ``str(table)`` for a terminal, ``markdown()`` for a page."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def __str__(self) -> str:
        lines = [self.columns, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        text = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        return "\n".join([self.title, text[0], "-" * len(text[0]), *text[1:], *([self.note] if self.note else [])])

    def markdown(self) -> str:
        """The table in Markdown, with title and note."""
        rows = ["| " + " | ".join(cells) + " |" for cells in (self.columns, *self.rows)]
        rows.insert(1, "|" + " --- |" * len(self.columns))
        return "\n".join([f"**{self.title}**", "", *rows, *(["", self.note] if self.note else [])])
