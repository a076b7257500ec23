"""Which classes an attack turns into which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from robustspike.results.audits.audited import Audited, headlines
from robustspike.results.audits.classes import class_name
from robustspike.results.audits.tried import nothing_learned
from robustspike.results.rates import Rate, rate
from robustspike.results.tables import Table
from robustspike.results.views import Bars, Matrix, View

# So many classes at most have their numbers written into the matrix, and a bar each.
WRITTEN, BARS, LISTED = 12, 20, 10


class Confusion(Audited):
    """True and predicted classes without and under attack, sample by sample.

    Attributes:
        classes: their names.
        labels: [n] true classes.
        clean: [n] predicted classes without attack; −1: no answer.
        attacked: [n] predicted classes of what the attack made of samples that it broke, else as without attack.
    """

    title: ClassVar[str] = "Which classes does the attack turn into which?"
    about: ClassVar[str] = (
        "Counts of true and predicted classes without attack and under it, and the accuracy of each class. A sample that "
        "the attack does not break counts with the class that the network gives it without attack."
    )
    page: ClassVar[str] = "docs/audits/confusion.md"

    classes: tuple[str, ...]
    labels: tuple[int, ...]
    clean: tuple[int, ...]
    attacked: tuple[int, ...]

    def matrix(self, which: str) -> NDArray[np.int64]:
        """Counts [true class, predicted class] for "clean" or "attacked"; in a last column, those without an answer."""
        k = len(self.classes)
        counts = np.zeros((k, k + 1), dtype=np.int64)
        np.add.at(counts, (np.array(self.labels), np.array(getattr(self, which))), 1)  # −1 is the last column
        return counts

    def accuracy(self, which: str) -> Rate:
        """The share of the samples that are classified correctly, "clean" or "attacked"."""
        return rate(int(np.trace(self.matrix(which))), self.n)

    def left_standing(self) -> Rate | None:
        return self.accuracy("attacked")

    def by_class(self, which: str) -> dict[int, Rate]:
        """The same for each class that has samples."""
        counts = self.matrix(which)
        return {k: rate(int(row[k]), int(row.sum())) for k, row in enumerate(counts) if row.any()}

    def confusions(self) -> list[tuple[int, int, int, int]]:
        """(true class, predicted class, count under attack, count without), the most frequent first; −1: no answer."""
        under, without = self.matrix("attacked"), self.matrix("clean")
        k = len(self.classes)
        found = [
            (i, j if j < k else -1, int(under[i, j]), int(without[i, j]))
            for i, j in np.argwhere(under).tolist()
            if i != j
        ]
        return sorted(found, key=lambda one: (-one[2], one[0], one[1]))

    def extremes(self) -> tuple[tuple[int, Rate], tuple[int, Rate]]:
        """The classes with the lowest and the highest accuracy under attack; of several, the one with most samples."""
        ranked = self.by_class("attacked").items()
        lowest = min(ranked, key=lambda one: (one[1].value, -one[1].n))
        return lowest, max(ranked, key=lambda one: (one[1].value, one[1].n))

    def answer(self) -> str:
        clean, robust = self.accuracy("clean"), self.accuracy("attacked")
        texts = [f"Accuracy {clean} % without attack, {robust} % under {self.under} (n = {self.n}, an upper bound)."]
        (low, lowest), (high, highest) = self.extremes()
        if lowest.value < highest.value:
            apart = "" if lowest.high < highest.low else "; their intervals overlap"
            texts.append(
                f"The least robust class is {self.classes[low]}, {lowest} % of {lowest.n}, the most robust "
                f"{self.classes[high]}, {highest} % of {highest.n}{apart}."
            )
        if confusions := self.confusions():
            texts.append(f"Most frequent under attack: {self._named(confusions[0])}.")
            texts.append(self._sink())
        return " ".join(text for text in texts if text) + nothing_learned(clean, len(self.classes))

    def _sink(self) -> str:
        """The class that most of the errors under attack go to, where it takes more than half of them."""
        wrong = self.matrix("attacked")
        np.fill_diagonal(wrong, 0)
        into = int(wrong.sum(0).argmax())
        share = wrong[:, into].sum() / wrong.sum()
        name = class_name(self.classes, into if into < len(self.classes) else -1)
        return f"{100 * share:.0f} % of all errors under attack go to {name}." if share > 0.5 else ""

    def _named(self, one: tuple[int, int, int, int]) -> str:
        true, predicted, count, _ = one
        return f"{self.classes[true]} → {class_name(self.classes, predicted)} ({count})"

    def headline(self) -> dict[str, str]:
        (low, lowest), _ = self.extremes()
        confusions = self.confusions()
        return {
            "clean": str(self.accuracy("clean")),
            "under attack": str(self.accuracy("attacked")),
            "least robust class": f"{self.classes[low]}: {lowest}",
            "most frequent confusion": self._named(confusions[0]) if confusions else "–",
        }

    def views(self) -> tuple[View, ...]:
        return (
            self._matrix("attacked", f"Under {self.conditions()}"),
            self._matrix("clean", f"Without attack, n = {self.n}"),
            self._bars(),
            self._most_frequent(),
            self._of_classes(),
        )

    def _matrix(self, which: str, title: str) -> Matrix:
        counts = self.matrix(which)
        answered = not counts[:, -1].any()
        counts = counts[:, :-1] if answered else counts
        return Matrix(
            title=title, x="predicted class", y="true class", rows=self.classes,
            columns=self.classes if answered else (*self.classes, class_name(self.classes, -1)),
            values=tuple(tuple(map(float, row)) for row in counts.tolist()), written=len(self.classes) <= WRITTEN,
            note="Numbers of samples.",
        )  # fmt: skip

    def _bars(self) -> Bars:
        clean, robust = self.by_class("clean"), self.by_class("attacked")
        shown, which = _to_show(robust)
        return Bars(
            title=f"Accuracy by class{which}: {self.conditions()}",
            y="accuracy in %",
            categories=tuple(self.classes[k] for k in shown),
            series={
                "without attack": tuple(100 * clean[k].value for k in shown),
                "under attack": tuple(100 * robust[k].value for k in shown),
            },
            percent=True,
            note="Accuracy under attack is an upper bound; the intervals are in the table.",
        )

    def _most_frequent(self) -> Table:
        found = self.confusions()
        rows = tuple((self._named(one).rsplit(" (", 1)[0], str(one[2]), str(one[3])) for one in found[:LISTED])
        rest = sum(one[2] for one in found[LISTED:])
        return Table(
            title=f"Most frequent confusions under {self.conditions()}",
            columns=("true → predicted", "under attack", "without attack"),
            rows=rows,
            note=f"{rest} further errors under attack are spread over {len(found) - LISTED} other pairs."
            if rest
            else "",
        )

    def _of_classes(self) -> Table:
        clean, robust = self.by_class("clean"), self.by_class("attacked")
        return Table(
            title=f"Accuracy by class in % [95 % interval]: {self.conditions()}",
            columns=("class", "n", "without attack", "under attack"),
            rows=tuple((self.classes[k], str(r.n), str(clean[k]), str(r)) for k, r in robust.items()),
            note="Accuracy under attack is an upper bound.",
        )

    @classmethod
    def compared(cls, found: Mapping[str, Confusion]) -> tuple[View, ...]:
        table = headlines(cls.title, found)
        first = next(iter(found.values()))
        if any((one.classes, one.labels) != (first.classes, first.labels) for one in found.values()):
            return (table,)
        robust = {name: one.by_class("attacked") for name, one in found.items()}
        of_classes = Table(
            title="Accuracy by class under attack in % [95 % interval]",
            columns=("class", "n", *found),
            rows=tuple(
                (first.classes[k], str(r.n), *(str(rates[k]) for rates in robust.values()))
                for k, r in first.by_class("attacked").items()
            ),
            note=f"Upper bounds. {table.note}",
        )
        shown, which = _to_show(next(iter(robust.values())))
        bars = Bars(
            title=f"Accuracy by class under attack{which}",
            y="accuracy in %",
            categories=tuple(first.classes[k] for k in shown),
            series={name: tuple(100 * rates[k].value for k in shown) for name, rates in robust.items()},
            percent=True,
            note=table.note,
        )
        return table, bars, of_classes


def _to_show(robust: Mapping[int, Rate]) -> tuple[list[int], str]:
    """The classes that have a bar, and which these are where not all have one."""
    if len(robust) <= BARS:
        return list(robust), ""
    ranked = sorted(robust, key=lambda k: robust[k].value)
    half = BARS // 2
    return ranked[:half] + ranked[-half:], f", the {half} least and the {half} most robust of {len(robust)}"
