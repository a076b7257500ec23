"""Rows of a published table beside ours."""

from __future__ import annotations

from pydantic import Field

from robustspike.results import Rate, Record, Table

# Between our value of a setting and the paper's.
PAPER = " (paper: "


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
        pages: file names of the reports.

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
    pages: tuple[str, ...] = ()

    @property
    def made(self) -> tuple[Row, ...]:
        """The rows with figures."""
        return tuple(row for row in self.rows if row.skipped is None)

    @property
    def skipped(self) -> tuple[Row, ...]:
        """The rows without figures."""
        return tuple(row for row in self.rows if row.skipped is not None)

    def table(self) -> Table:
        """Three lines per row: published, ours, difference; wide, for a page."""
        attacks = list(dict.fromkeys(figure.attack for row in self.made for figure in row.figures))
        suites = list(dict.fromkeys(name for row in self.made for name in row.worst))
        return Table(
            title=self._title(),
            columns=("row", "", *attacks, *(f"worst case under {name}" for name in suites)),
            rows=tuple(line for row in self.made for line in _lines(row, attacks, suites)),
            note=" ".join(self.notes),
        )

    def narrow(self) -> Table:
        """One line per figure: narrow, for a terminal."""
        return Table(
            title=self._title(),
            columns=("row", "published", "ours", "difference"),
            rows=tuple(line for row in self.made for line in _below_each_other(row)),
            note=" ".join(self.notes),
        )

    def _title(self) -> str:
        under = dict.fromkeys(text for row in self.made for text in row.under)
        return (
            f"{self.about}; --scale {self.scale}. Accuracy in %, ours with [95 % interval] "
            f"{'; '.join(f'under {text}' for text in under) or 'nowhere: no row has figures'}"
        )

    def differences(self) -> list[str]:
        """Every setting that differs from the paper's, once, with the rows it concerns where these are not all."""
        settings: dict[str, dict[str, list[str]]] = {}
        for row in self.made:
            for text in row.differing:
                ours, _, theirs = text.partition(PAPER)
                settings.setdefault(ours, {}).setdefault(theirs.removesuffix(")"), []).append(row.recipe)
        return [text for ours, theirs in settings.items() for text in _said(ours, theirs, len(self.made))]

    def reasons(self) -> list[str]:
        """Why rows have no figures, each reason once with its rows."""
        rows: dict[str, list[str]] = {}
        for row in self.skipped:
            rows.setdefault(str(row.skipped), []).append(row.recipe)
        return [f"{', '.join(names)}: {reason}" for reason, names in rows.items()]

    def markdown(self) -> str:
        """The table, what differs, what was skipped."""
        parts = [self.table().markdown()]
        if differing := self.differences():
            parts += ["**Settings that differ from the paper's**", "\n".join(f"* {text}" for text in differing)]
        if self.skipped:
            parts += ["**Rows without figures**", "\n".join(f"* {text}" for text in self.reasons())]
        return "\n\n".join(parts) + "\n"


def _said(ours: str, theirs: dict[str, list[str]], total: int) -> list[str]:
    """One line where a setting differs in all rows, else one for each of the paper's values."""
    if len(theirs) > 1 and sum(map(len, theirs.values())) == total:
        counted = [f"{value} in {len(names)} of {total} rows" for value, names in theirs.items()]
        return [f"{ours}{PAPER}{', '.join(counted)})"]
    return [
        f"{ours}{PAPER}{value})" + ("" if len(names) == total else f" in {', '.join(names)}")
        for value, names in theirs.items()
    ]


def _below_each_other(row: Row) -> list[tuple[str, ...]]:
    figures = [
        (f"  {f.attack}", f"{f.published:.2f}", "·" if f.ours is None else str(f.ours), _signed(f)) for f in row.figures
    ]
    worst = [(f"  worst case under {name}", "·", str(rate), "·") for name, rate in row.worst.items()]
    return [(row.recipe, "", "", ""), *figures, *worst]


def _signed(figure: Figure | None) -> str:
    return "·" if figure is None or figure.difference is None else f"{figure.difference:+.1f}"


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
        ("", "difference", *map(_signed, here), *none),
    ]  # fmt: skip
