"""How large and how sparse the gradients are that an attack sees."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar

from robustspike.results.audits.audited import Audited, headlines
from robustspike.results.rates import Record
from robustspike.results.tables import Table
from robustspike.results.views import Chart, Line, View


class Norms(Record):
    """The norms of each sample's input gradient of one quantity, [n] each.

    Attributes:
        l0: share of pixels whose gradient is not exactly 0, in [0, 1].
        l1, l2: the norms, per pixel unit.
        not_finite: samples with a gradient that is not finite; the entries that are not count as 0.
    """

    l0: tuple[float, ...]
    l1: tuple[float, ...]
    l2: tuple[float, ...]
    not_finite: int = 0

    def mean(self, name: str) -> float:
        """The mean over the samples of "l0", "l1" or "l2"."""
        values: tuple[float, ...] = getattr(self, name)
        return sum(values) / len(values)

    def shown(self, name: str, form: str, unit: float = 1) -> str:
        """The mean as printed; a dash where no sample's gradient is finite."""
        return "–" if self.not_finite == len(self.l1) else format(unit * self.mean(name), form)


class Spread(Record):
    """How the entries of all gradients are distributed: shares of those between neighbouring ``edges``, sum 1.

    Entries that are not finite are left out; without any other all shares are 0.
    """

    edges: tuple[float, ...]
    shares: tuple[float, ...]


class Gradients(Audited):
    """Norms and distribution of the input gradients of f_y and of the cross-entropy (Liu 2024, Figs. 3 and 4).

    Attributes:
        of_probability: of ∇_x f_y, the true class's probability against its strongest rival (Liu 2024, eq. 9).
        of_loss: of ∇_x of the cross-entropy.
        spread: of the entries of ∇_x f_y; every network has the same edges, so that spreads compare.
    """

    title: ClassVar[str] = "How large and how sparse is the gradient?"
    about: ClassVar[str] = (
        "Input gradients of f_y, the probability of the true class against its strongest rival, and of the cross-entropy: "
        "share of pixels that are not exactly zero, ℓ1 and ℓ2 norms, and how the entries are distributed."
    )
    page: ClassVar[str] = "docs/audits/gradients.md"

    of_probability: Norms
    of_loss: Norms
    spread: Spread

    def answer(self) -> str:
        p = self.of_probability
        if p.not_finite == self.n:
            return f"Not finite: ∇f_y of all {self.n} samples; nothing can be said of its size."
        return self._says_not_finite() + (
            f"{100 * p.mean('l0'):.1f} % of the entries of ∇f_y are not exactly zero; on average ‖∇f_y‖₁ = "
            f"{p.mean('l1'):.3g} and ‖∇f_y‖₂ = {p.mean('l2'):.3g}. A small gradient can also be a hidden one: read it "
            "beside the masking checks."
        )

    def _says_not_finite(self) -> str:
        broken = {"∇f_y": self.of_probability.not_finite, "the cross-entropy's gradient": self.of_loss.not_finite}
        told = [f"{name} of {count} of {self.n} samples" for name, count in broken.items() if count]
        return f"Not finite: {', '.join(told)}; there the entries that are not count as 0. " if told else ""

    def headline(self) -> dict[str, str]:
        p, loss = self.of_probability, self.of_loss
        return {
            "∇f_y not 0, %": p.shown("l0", ".1f", 100),
            "‖∇f_y‖₁": p.shown("l1", ".3g"),
            "‖∇f_y‖₂": p.shown("l2", ".3g"),
            "‖∇CE‖₁": loss.shown("l1", ".3g"),
            "‖∇CE‖₂": loss.shown("l2", ".3g"),
            "not finite": str(p.not_finite + loss.not_finite),
        }

    def views(self) -> tuple[View, ...]:
        rows = tuple(
            (name, norms.shown("l0", ".2f", 100), norms.shown("l1", ".4g"), norms.shown("l2", ".4g"), str(norms.not_finite))
            for name, norms in (("∇ f_y", self.of_probability), ("∇ cross-entropy", self.of_loss))
        )  # fmt: skip
        table = Table(
            title=f"Input gradients, means over the samples: {self.conditions()}",
            columns=("gradient", "not 0, %", "ℓ1", "ℓ2", "samples not finite"),
            rows=rows,
        )
        return table, _spread_chart({"∇ f_y": self})

    @classmethod
    def compared(cls, found: Mapping[str, Gradients]) -> tuple[View, ...]:
        return headlines(cls.title, found), _spread_chart(found)


def _spread_chart(found: Mapping[str, Gradients]) -> Chart:
    lines = []
    for name, one in found.items():
        edges = one.spread.edges
        middles = tuple((a + b) / 2 for a, b in pairwise(edges))
        lines.append(Line(label=name, x=middles, y=tuple(100 * share for share in one.spread.shares)))
    return Chart(
        title="Distribution of the entries of ∇f_y",
        x="value of an entry, per pixel unit (values beyond the ends are counted in them)",
        y="share of entries in % (logarithmic)",
        lines=tuple(lines),
        y_log=True,
        note="A narrow peak at 0 is a sparse, flat gradient (Liu 2024, Fig. 4).",
    )
