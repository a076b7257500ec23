"""The loss around samples, and whether its gradient leads up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import special

from robustspike.results.audits.audited import Audited, headlines
from robustspike.results.rates import Record
from robustspike.results.tables import Table
from robustspike.results.views import Chart, Line, Matrix, View


class Plane(Record):
    """The loss of one sample on x + a·sign(g) + b·r.

    Attributes:
        sample: its place in the data, from 0.
        label: its class.
        loss: the cross-entropy, [b][a].
        margin: max_{j≠y} z_j − z_y, positive where the network errs, [b][a].
        slopes: ‖g‖₁ and g·r, by which the loss rises with a and with b to first order, per pixel unit.
    """

    sample: int
    label: int
    loss: tuple[tuple[float, ...], ...]
    margin: tuple[tuple[float, ...], ...]
    slopes: tuple[float, float]


class Surface(Audited):
    """Cross-entropy and margin along the gradient's sign and a random direction (Madry et al. 2018, Athalye et al. 2018).

    Attributes:
        eps: ε in pixel units.
        coordinates: the values of a, and of b, in pixel units; the middle one is 0.
        planes: of the first samples.
        along_gradient, along_random: the cross-entropy of each sample on the lines b = 0 and a = 0, [n][points].
        l1, on_random: ‖g‖₁ and g·r of each sample, [n].
        not_finite: samples whose loss or gradient was not finite; all their figures are 0.
    """

    title: ClassVar[str] = "Does the loss rise where its gradient says?"
    about: ClassVar[str] = (
        "Cross-entropy and margin on the plane of the gradient's sign and a random direction around samples, beside the "
        "first-order prediction; and how fast the loss rises along the gradient against a random direction."
    )
    page: ClassVar[str] = "docs/audits/surface.md"

    eps: float
    coordinates: tuple[float, ...]
    planes: tuple[Plane, ...]
    along_gradient: tuple[tuple[float, ...], ...]
    along_random: tuple[tuple[float, ...], ...]
    l1: tuple[float, ...]
    on_random: tuple[float, ...]
    not_finite: int

    def changes(self, plane: Plane) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Measured and predicted changes of the loss from x, of all cells but x itself."""
        loss, middle = np.array(plane.loss), len(self.coordinates) // 2
        c = np.array(self.coordinates)
        predicted = plane.slopes[0] * c[None] + plane.slopes[1] * c[:, None]
        others = np.ones(loss.shape, dtype=bool)
        others[middle, middle] = False
        return (loss - loss[middle, middle])[others], predicted[others]

    def signs_right(self, plane: Plane) -> float:
        """The share of cells, x left out, whose loss changes to the side that is predicted."""
        measured, predicted = self.changes(plane)
        return float(np.mean((np.sign(measured) == np.sign(predicted)) & (predicted != 0)))

    def correlation(self, plane: Plane) -> float | None:
        """Pearson's correlation of measured and predicted changes; None where one of them is constant."""
        measured, predicted = self.changes(plane)
        if np.ptp(measured) == 0 or np.ptp(predicted) == 0:
            return None
        return float(np.corrcoef(measured, predicted)[0, 1])

    def rise(self, lines: Sequence[Sequence[float]], at: int) -> list[float]:
        """How much the loss of each sample rises from x to point ``at`` of its line."""
        middle = len(self.coordinates) // 2
        return [line[at] - line[middle] for line in lines]

    def rises(self) -> tuple[float, float]:
        """The mean rise at the end of the line, along the gradient, and along the random direction (mean of both ways).

        Of the samples whose loss and gradient are finite; the others' figures are 0. Both are 0 where there are none.
        """
        finite = max(self.finite, 1)
        across = (sum(self.rise(self.along_random, at)) / finite for at in (0, -1))
        return sum(self.rise(self.along_gradient, -1)) / finite, fmean(across)

    @property
    def finite(self) -> int:
        """Samples whose loss and gradient are finite."""
        return self.n - self.not_finite

    def steeper(self) -> int:
        """Samples whose loss rises more along the gradient, to the end of the line, than along ±r."""
        ways = (self.rise(self.along_gradient, -1), self.rise(self.along_random, 0), self.rise(self.along_random, -1))
        return sum(up > max(one, other) for up, one, other in zip(*ways, strict=True))

    def by_chance(self) -> float:
        """The probability that as many samples or more are steeper if the gradient is no better than a random direction.

        Of three directions alike, the gradient, r and −r, the first is the steepest with a probability of 1/3 at most.
        """
        return float(special.bdtrc(self.steeper() - 1, self.finite, 1 / 3))

    @property
    def reach(self) -> str:
        """How far the lines go, in ε."""
        return f"{self.coordinates[-1] / self.eps:.3g} ε"

    def answer(self) -> str:
        if self.finite == 0:
            return f"Not finite: the loss or its gradient, for all {self.n} samples; nothing else can be said."
        up, across = self.rises()
        text = ""
        if self.not_finite:
            text = (
                f"Not finite: the loss or its gradient, for {self.not_finite} of {self.n} samples; they are left out. "
            )
        text += (
            f"To {self.reach} along the gradient's sign the cross-entropy rises by {up:.3g} on average over {self.finite} "
            f"samples, along a random direction by {across:.3g}; it rises more along the gradient for {self.steeper()} of "
            f"{self.finite}."
        )
        if all(len(set(line)) == 1 for line in (*self.along_gradient, *self.along_random)):
            text += " Nothing moves the loss on these lines: the network does not answer to its input there."
        else:
            text += self._says_chance(up, across)
        if self.planes:
            signs = fmean(self.signs_right(plane) for plane in self.planes)
            text += (
                f" On the planes of {len(self.planes)} samples the first-order prediction has the right sign in "
                f"{100 * signs:.0f} % of the cells{self._says_correlation()}."
            )
        flat = sum(l1 == 0 for l1 in self.l1) - self.not_finite
        if flat > 0:
            text += f" For {flat} of {self.n} samples the gradient is exactly 0: there is no direction to follow."
        return text

    def _says_chance(self, up: float, across: float) -> str:
        """Whether the gradient is a better guide than a random direction."""
        masked = up <= across or 3 * self.steeper() <= self.finite
        text = ""
        if up <= across:
            text = " On average the loss does not rise more along the gradient than along random directions."
        if (p := self.by_chance()) > 0.05:
            text += (
                f" {self.steeper()} of {self.finite} cannot be told from chance, which gives a third at most (one-sided "
                f"binomial test, p = {p:.2g})."
            )
        return text + (" Suspect that the gradient is masked, and its attacks blind." if masked else "")

    def _says_correlation(self) -> str:
        known = [r for plane in self.planes if (r := self.correlation(plane)) is not None]
        if not known:
            return ", and nothing changes on them"
        return f" and correlates with what is measured at {fmean(known):.2f}"

    def headline(self) -> dict[str, str]:
        up, across = self.rises()
        known = [r for plane in self.planes if (r := self.correlation(plane)) is not None]
        return {
            f"rise to {self.reach} along ∇CE": f"{up:.3g}" if self.finite else "–",
            "along random": f"{across:.3g}" if self.finite else "–",
            "steeper along ∇CE": f"{self.steeper()} of {self.finite}" if self.finite else "–",
            "sign right, %": f"{100 * fmean(map(self.signs_right, self.planes)):.1f}"
            if self.planes and self.finite
            else "–",
            "correlation": f"{fmean(known):.3f}" if known else "–",
        }

    def views(self) -> tuple[View, ...]:
        return (self._table(), self._lines(), *(view for plane in self.planes for view in self._matrices(plane)))

    def _table(self) -> Table:
        rows = tuple(
            (
                str(plane.sample), str(plane.label), f"{100 * self.signs_right(plane):.1f}",
                "–" if (r := self.correlation(plane)) is None else f"{r:.3f}", f"{plane.slopes[0]:.3g}",
                f"{plane.slopes[1]:.3g}",
            )
            for plane in self.planes
        )  # fmt: skip
        return Table(
            title=f"How linear the loss is up to {self.reach}: {self.conditions()}",
            columns=("sample", "class", "sign right, %", "correlation", "‖g‖₁", "g·r"),
            rows=rows,
            note="Of the cells of the plane but x itself: the share where the loss changes to the side that first order "
            "predicts, and the correlation of measured and predicted changes.",
        )

    def _lines(self) -> Chart:
        c, middle = self.coordinates, len(self.coordinates) // 2
        x = tuple(value / self.eps for value in c)
        columns = {
            "along sign(g)": tuple(map(fmean, zip(*self.along_gradient, strict=True))),
            "along random signs": tuple(map(fmean, zip(*self.along_random, strict=True))),
        }
        here, l1, on_random = columns["along sign(g)"][middle], fmean(self.l1), fmean(self.on_random)
        return Chart(
            title=f"The loss along two directions, mean over {self.n} samples",
            x="distance from x in ε",
            y="cross-entropy",
            lines=(
                *(Line(label=label, x=x, y=y) for label, y in columns.items()),
                Line(label="along sign(g), first order", x=x, y=tuple(here + l1 * v for v in c), dashed=True),
                Line(label="random, first order", x=x, y=tuple(here + on_random * v for v in c), dashed=True),
            ),
            note="Where the loss rises no faster along the gradient than along random signs, suspect that it is masked.",
        )

    def _matrices(self, plane: Plane) -> tuple[Matrix, Matrix]:
        labels = tuple(f"{value / self.eps:+.2g}" if value else "0" for value in self.coordinates)
        name = f"sample {plane.sample}, class {plane.label}"
        note = "max z_j − z_y over j ≠ y: positive where the network errs."
        loss = Matrix(
            title=f"Cross-entropy around {name}",
            x="along sign(g), in ε",
            y="along random signs, in ε",
            rows=labels,
            columns=labels,
            values=plane.loss,
        )
        changes = {"title": f"Margin around {name}", "values": plane.margin, "signed": True, "note": note}
        return loss, loss.model_copy(update=changes)

    @classmethod
    def compared(cls, found: Mapping[str, Surface]) -> tuple[View, ...]:
        lines = []
        for name, one in found.items():
            x = tuple(value / one.eps for value in one.coordinates)
            for label, each in (("along sign(g)", one.along_gradient), ("random", one.along_random)):
                y = tuple(fmean(one.rise(each, at)) for at in range(len(x)))
                lines.append(Line(label=f"{name} {label}", x=x, y=y, dashed=label == "random"))
        chart = Chart(
            title="How the loss changes along the gradient and along a random direction",
            x="distance from x in ε",
            y="change of the cross-entropy, mean over the samples",
            lines=tuple(lines),
        )
        return headlines(cls.title, found), chart
