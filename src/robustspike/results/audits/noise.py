"""Accuracy under noise and under attack against ε."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar

from robustspike.results.audits.audited import Audited, headlines
from robustspike.results.audits.tried import nothing_learned
from robustspike.results.rates import Rate, Record, rate, with_interval
from robustspike.results.tables import Table
from robustspike.results.views import Chart, Line, View


class AtNoise(Record):
    """One radius.

    Attributes:
        eps: ε in pixel units.
        right: of how many draws of noise each sample is classified correctly, [n].
        attacked: the places in the data, from 0, of the samples that the attack broke, of those that are right without
            attack; None where only noise was tried.
    """

    eps: float
    right: tuple[int, ...]
    attacked: tuple[int, ...] | None


class Noise(Audited):
    """Accuracy under uniform noise and under an attack of the same size (Liu 2024, Fig. 1).

    Attributes:
        eps: the radius that headlines are given at.
        tries: draws of noise per sample and ε.
        classes: of the network.
        norm: of the balls, "Linf" or "L2".
        correct: the places in the data, from 0, of the samples that are classified correctly without either.
        radii: what was measured at each ε, ascending.
    """

    title: ClassVar[str] = "How much harder is an attack than noise of the same size?"
    about: ClassVar[str] = (
        "Accuracy under uniform noise (mean over draws, and each sample's worst draw) and under an attack in the same ball, "
        "on the same samples, against ε; and the ε at which noise does as much harm as the attack."
    )
    page: ClassVar[str] = "docs/audits/noise.md"

    eps: float
    tries: int
    classes: int
    norm: str
    correct: tuple[int, ...]
    radii: tuple[AtNoise, ...]

    @property
    def clean(self) -> Rate:
        """The accuracy without noise and attack."""
        return rate(len(self.correct), self.n)

    def mean(self, at: AtNoise) -> Rate:
        """The accuracy under noise, mean over the draws; its interval, of n samples, is a little too wide."""
        return with_interval(sum(at.right) / self.tries, self.n)

    def worst(self, at: AtNoise) -> Rate:
        """The share of samples that are classified correctly under every draw of noise."""
        return rate(sum(right == self.tries for right in at.right), self.n)

    def under_attack(self, at: AtNoise) -> Rate | None:
        """The accuracy under attack, an upper bound of the robust accuracy."""
        return None if at.attacked is None else rate(len(self.correct) - len(at.attacked), self.n)

    def as_harmful(self, at: AtNoise) -> float | None:
        """The ε at which noise lowers the mean accuracy as far as the attack at ``at`` does.

        Between the radii the accuracy is taken as a straight line. None where no noise that was tried does, where the
        attack was not run, or where it lowers nothing.
        """
        harmed = self.under_attack(at)
        if harmed is None or harmed.value >= self.clean.value:
            return None
        points = [(0.0, self.clean.value), *((one.eps, self.mean(one).value) for one in self.radii)]
        for (e, a), (e_next, a_next) in pairwise(points):
            if a_next <= harmed.value:
                return e + (e_next - e) * (a - harmed.value) / (a - a_next)
        return None

    def missed(self, at: AtNoise) -> int:
        """Samples that some draw of noise breaks and the attack at the same ε does not; 0 where it was not run."""
        if at.attacked is None:
            return 0
        return sum(at.right[sample] < self.tries for sample in set(self.correct) - set(at.attacked))

    def headline_radius(self) -> AtNoise:
        """What was measured at the radius nearest to ``eps``, of those that were attacked."""
        return min((at for at in self.radii if at.attacked is not None), key=lambda at: abs(at.eps - self.eps))

    def answer(self) -> str:
        at = self.headline_radius()
        harmed = self.under_attack(at)
        assert harmed is not None
        text = (
            f"At ε = {at.eps:.3g} uniform noise leaves {self.mean(at)} % of {self.n} samples right (every one of "
            f"{self.tries} draws: {self.worst(at)} %), the attack {harmed} %, an upper bound; without either it is "
            f"{self.clean} %. {self._says_how_much_larger(at, harmed)}"
        )
        return text + self._says_missed(at) + self._says_rising() + nothing_learned(self.clean, self.classes)

    def _says_how_much_larger(self, at: AtNoise, harmed: Rate) -> str:
        if harmed.value >= self.clean.value:
            return "The attack lowers nothing: there is nothing to compare noise with, or the attack is blind."
        noise, farthest = self.as_harmful(at), self.radii[-1].eps
        if noise is None:
            return (
                f"No noise up to ε = {farthest:.3g}, {farthest / at.eps:.3g} times as large, does as much harm: as in Liu's "
                "observation 1, noise says little about attacks."
            )
        times = f"Noise does as much harm at ε = {noise:.3g}, {noise / at.eps:.2g} times as large"
        if noise <= at.eps:
            return f"{times}: on average noise harms at least as much as the attack; the two are not told apart here."
        if noise < 2 * at.eps:
            return f"{times}: against Liu's observation 1, noise is nearly as harmful, or the attack is weak."
        return f"{times}, as in Liu's observation 1."

    def _says_missed(self, at: AtNoise) -> str:
        missed = self.missed(at)
        if not missed:
            return ""
        return (
            f" Of the {len(self.correct)} samples that are right without either, {missed} are broken by a draw of noise at "
            f"ε = {at.eps:.3g} and not by the attack: it does not find what is there; its gradients are masked or its steps "
            "too few."
        )

    def _says_rising(self) -> str:
        """Where the accuracy under attack is higher in a larger ball than in a smaller one, which it cannot truly be."""
        rates = [(at.eps, found) for at in self.radii if (found := self.under_attack(at)) is not None]
        for (e, one), (e_next, other) in pairwise(rates):
            if other.value - one.value >= 0.05:
                return (
                    f" Under attack the accuracy rises from {one} % at ε = {e:.3g} to {other} % at {e_next:.3g}, although "
                    "the larger ball holds the smaller one: the attack does not find what is there."
                )
        return ""

    def headline(self) -> dict[str, str]:
        at = self.headline_radius()
        noise = self.as_harmful(at)
        farthest = self.radii[-1].eps / at.eps
        return {
            "clean, %": str(self.clean),
            f"noise at ε = {at.eps:.3g}, %": str(self.mean(at)),
            "every draw, %": str(self.worst(at)),
            "attack (upper bound), %": str(self.under_attack(at)),
            "noise as harmful at": f"{noise / at.eps:.3g} ε" if noise is not None else self._none_found(at, farthest),
        }

    def _none_found(self, at: AtNoise, farthest: float) -> str:
        harmed = self.under_attack(at)
        return "–" if harmed is None or harmed.value >= self.clean.value else f"> {farthest:.3g} ε"

    def views(self) -> tuple[View, ...]:
        rows = []
        for at in self.radii:
            harmed, noise = self.under_attack(at), self.as_harmful(at)
            ratio = f"{noise:.3g} ({noise / at.eps:.3g} ε)" if noise is not None else "–"
            if harmed is not None and noise is None:
                ratio = self._none_found(at, self.radii[-1].eps / at.eps)
            rows.append((
                f"{at.eps:.4g}", str(self.mean(at)), str(self.worst(at)), str(harmed) if harmed is not None else "–", ratio
            ))  # fmt: skip
        table = Table(
            title=f"Accuracy in % [95 % interval] under noise and under attack: {self.conditions()}",
            columns=(
                "ε",
                "noise, mean",
                f"noise, all {self.tries} draws",
                "attack",
                "noise as harmful as the attack at",
            ),
            rows=tuple(rows),
            note=f"Without either: {self.clean} %. An accuracy under attack is an upper bound. –: not attacked, or nothing "
            "lowered.",
        )
        return table, _chart({"": self})

    @classmethod
    def compared(cls, found: Mapping[str, Noise]) -> tuple[View, ...]:
        return headlines(cls.title, found), _chart(found)


def _chart(found: Mapping[str, Noise]) -> Chart:
    lines = []
    for name, one in found.items():
        x = [at.eps for at in one.radii]
        lines.append(Line.of_rates(f"{name} noise".strip(), x, [one.mean(at) for at in one.radii]))
        if len(found) == 1:
            label = f"{name} noise, all {one.tries} draws".strip()
            lines.append(Line.of_rates(label, x, [one.worst(at) for at in one.radii]))
        pairs = [(at.eps, harmed) for at in one.radii if (harmed := one.under_attack(at)) is not None]
        lines.append(Line.of_rates(f"{name} attack".strip(), [e for e, _ in pairs], [harmed for _, harmed in pairs]))
        if len(found) == 1:
            ends = (x[0], x[-1])
            lines.append(Line(label="without either", x=ends, y=(100 * one.clean.value,) * 2, dashed=True))
    return Chart(
        title="Noise against attack",
        x="ε in pixel units",
        y="accuracy in %",
        x_log=True,
        percent=True,
        lines=tuple(lines),
        note="Bands: 95 % intervals. An accuracy under attack is an upper bound (Liu 2024, Fig. 1).",
    )
