"""What every audit's record has: on how many samples, what it says in words, and what it shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from robustspike.results.rates import Rate, Record
from robustspike.results.tables import Table
from robustspike.results.views import View


class Audited(Record):
    """The record of one audit.

    ``title`` is the question it answers, ``about`` one sentence on what is measured and how, ``page`` its page in the
    documentation.

    Attributes:
        n: samples that the figures are of.
        seed: of all random draws.
        under: what the figures hold under, such as the attack, ε and the gradient estimator; in words.
        gradients: gradient evaluations spent, over all samples.
        seconds: spent.
    """

    title: ClassVar[str]
    about: ClassVar[str]
    page: ClassVar[str]

    n: int
    seed: int
    under: str
    gradients: int = 0
    seconds: float = 0.0

    def answer(self) -> str:
        """What was found, in one or two sentences with figures."""
        raise NotImplementedError

    def headline(self) -> dict[str, str]:
        """The figures that compare networks, by the name of their column."""
        raise NotImplementedError

    def views(self) -> tuple[View, ...]:
        """Tables, charts and pictures of one network."""
        raise NotImplementedError

    def left_standing(self) -> Rate | None:
        """The accuracy under the audit's own attack, to be held against that of an evaluation; None where it has none."""
        return None

    @classmethod
    def compared(cls, found: Mapping[str, Self]) -> tuple[View, ...]:
        """What several networks show side by side, by their names: at least a table with a row for each."""
        return (headlines(cls.title, found),)

    def conditions(self) -> str:
        """Under what, of how many samples and with which seed."""
        return f"{self.under}, n = {self.n}, seed {self.seed}"


def headlines(title: str, found: Mapping[str, Any]) -> Table:
    """One row for each network with the figures that compare them, and under what they were measured."""
    rows = {name: one.headline() for name, one in found.items()}
    columns = tuple(dict.fromkeys(column for row in rows.values() for column in row))
    conditions = dict.fromkeys(one.conditions() for one in found.values())
    return Table(
        title=title,
        columns=("network", *columns),
        rows=tuple((name, *(row.get(column, "·") for column in columns)) for name, row in rows.items()),
        note="; ".join(conditions) + ".",
    )
