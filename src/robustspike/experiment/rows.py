"""Rows of a published table beside ours."""

from __future__ import annotations

from pydantic import Field

from robustspike.results import Rate, Record, Table


class Figure(Record):
    """One figure of a published row, in %, and ours; None where it was not measured."""

    attack: str
    published: float
    ours: Rate | None

    @property
    def difference(self) -> float | None:
        """Ours less the published one, in points."""
        return None if self.ours is None else 100 * self.ours.value - self.published


class Row(Record):
    """A row of a published table.

    Attributes:
        recipe: its recipe's name.
        folder: of the run; "" where it was skipped.
        figures: those of the paper, in its order.
        worst: the worst case under each suite beyond the paper's own.
        under: what ours were measured under, one line for each suite.
        differing: "setting: ours (paper: theirs)" for everything that differs.
        doubts: what the checks for gradient masking found, one sentence for each of these suites.
        skipped: why there are no figures.
    """

    recipe: str
    folder: str = ""
    figures: tuple[Figure, ...] = ()
    worst: dict[str, Rate] = Field(default_factory=dict)
    under: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    skipped: str | None = None


class Reproduction(Record):
    """A published table run again.

    Attributes:
        about: what the table is.
        scale: see ``recipes/scales.yaml``.
        notes: caveats and what was left out.

    Example:
        >>> from robustspike.results import rate
        >>> figure = Figure(attack="PGD-10", published=18.18, ours=rate(20, 100))
        >>> row = Row(recipe="at", figures=(figure,))
        >>> Reproduction(about="a table", scale="paper", rows=(row,)).table().rows[2]
        ('', 'difference', '+1.8')
    """

    about: str
    scale: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def made(self) -> tuple[Row, ...]:
        """The rows with figures."""
        return tuple(row for row in self.rows if row.skipped is None)

    @property
    def skipped(self) -> tuple[Row, ...]:
        """The rows without figures."""
        return tuple(row for row in self.rows if row.skipped is not None)

    def table(self) -> Table:
        """Three lines per row: published, ours, difference."""
        attacks = list(dict.fromkeys(figure.attack for row in self.made for figure in row.figures))
        suites = list(dict.fromkeys(name for row in self.made for name in row.worst))
        under = dict.fromkeys(text for row in self.made for text in row.under)
        return Table(
            title=f"{self.about}; --scale {self.scale}. Accuracy in %, ours with [95 % interval] "
            f"{'; '.join(f'under {text}' for text in under) or 'nowhere: no row has figures'}",
            columns=("row", "", *attacks, *(f"worst case under {name}" for name in suites)),
            rows=tuple(line for row in self.made for line in _lines(row, attacks, suites)),
            note=" ".join(self.notes),
        )

    def differences(self) -> list[str]:
        """Every setting that differs from the paper's, once, with the rows it concerns where these are not all."""
        rows: dict[str, list[str]] = {}
        for row in self.made:
            for text in row.differing:
                rows.setdefault(text, []).append(row.recipe)
        return [
            text if len(names) == len(self.made) else f"{text} in {', '.join(names)}" for text, names in rows.items()
        ]

    def markdown(self) -> str:
        """The table, what differs, what was skipped."""
        parts = [self.table().markdown()]
        if differing := self.differences():
            parts += ["**Settings that differ from the paper's**", "\n".join(f"* {text}" for text in differing)]
        if self.skipped:
            parts += ["**Rows without figures**", "\n".join(f"* {row.recipe}: {row.skipped}" for row in self.skipped)]
        return "\n\n".join(parts) + "\n"


def _lines(row: Row, attacks: list[str], suites: list[str]) -> list[tuple[str, ...]]:
    found = {figure.attack: figure for figure in row.figures}
    here = [found.get(attack) for attack in attacks]
    none = ["·"] * len(suites)
    return [
        (row.recipe, "published", *("·" if f is None else f"{f.published:.2f}" for f in here), *none),
        (
            "", "ours", *("·" if f is None or f.ours is None else str(f.ours) for f in here),
            *(str(row.worst[name]) if name in row.worst else "·" for name in suites),
        ),
        ("", "difference", *("·" if f is None or f.difference is None else f"{f.difference:+.1f}" for f in here), *none),
    ]  # fmt: skip
