"""Where in the image the gradient lies that an attack sees."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from robustspike.results.audits.audited import Audited, headlines
from robustspike.results.audits.classes import class_name
from robustspike.results.rates import Record
from robustspike.results.tables import Table
from robustspike.results.views import Picture, PictureRow, Pictures, View

IMAGE, SIGNED, MAGNITUDE = "image", "∇f_y", "|∇f_y|"


class Heatmap(Record):
    """g = ∇_x f_y of one sample beside its image.

    Attributes:
        sample: its number.
        label, predicted: classes; −1 where the network gives no answer.
        f_y: the probability of the true class against its strongest rival.
        image: in [0, 1]; of frames their mean.
        signed: g, summed over channels, its own largest value in full colour.
        magnitude: |g|, summed over channels; the largest value of all samples in full colour.
        l0: share of the entries of g that are not exactly 0, in [0, 1].
        l1: ‖g‖₁, per pixel unit.
        tenth: share of ‖g‖₁ that lies on the tenth of the entries where |g| is largest, in [0.1, 1]; 0 for g = 0.
        finite: whether every entry of g is; those that are not are shown and counted as 0.
    """

    sample: int
    label: int
    predicted: int
    f_y: float
    image: Picture
    signed: Picture
    magnitude: Picture
    l0: float
    l1: float
    tenth: float
    finite: bool = True


class Heatmaps(Audited):
    """∇_x f_y beside the images (Liu 2024, Fig. 5).

    Attributes:
        classes: their names.
        maps: one for each sample shown.
        spiking: whether the network has spiking layers, so that its gradient is an estimator's.
    """

    title: ClassVar[str] = "Where does the attack's gradient lie?"
    about: ClassVar[str] = (
        "The input gradient of f_y, the probability of the true class against its strongest rival, beside a few images: "
        "signed, each on its own scale, which shows structure; and its magnitude on one scale, which shows size."
    )
    page: ClassVar[str] = "docs/audits/heatmaps.md"

    classes: tuple[str, ...]
    maps: tuple[Heatmap, ...]
    spiking: bool = True

    def mean(self, name: str) -> float:
        """The mean of "l0", "l1" or "tenth" over the samples whose gradient is finite; NaN where none is."""
        values = [float(getattr(one, name)) for one in self.maps if one.finite]
        return sum(values) / len(values) if values else math.nan

    def answer(self) -> str:
        finite = [one for one in self.maps if one.finite]
        if not finite:
            return (
                f"Not finite: under {self.under} the gradient of all {self.n} samples; it cannot be said where it lies."
            )
        texts = []
        if broken := self.n - len(finite):
            texts.append(f"Not finite: the gradients of {broken} of {self.n} samples, which are left out.")
        if not any(one.l1 for one in finite):
            which = f"the other {len(finite)}" if broken else f"all {self.n}"
            zeros = f"under {self.under} the gradient of {which} samples is exactly zero; an attack is blind."
            return " ".join([*texts, f"Nowhere: {zeros}"])
        zero = 100 - 100 * self.mean("l0")
        texts += [
            f"On {len(finite)} samples ‖∇f_y‖₁ = {self.mean('l1'):.3g} on average, {zero:.1f} % of the entries are exactly "
            f"zero, and the tenth of the entries with the largest magnitude holds {100 * self.mean('tenth'):.0f} % of the "
            "norm (10 %: spread evenly)."
        ]
        if zero < 1:
            texts.append("The gradient is small or large, not sparse in the sense of zeros.")
        if self.spiking:
            texts.append(
                f"What is shown is the attack's view under {self.under}: through spikes the network's own derivative is "
                "zero almost everywhere."
            )
        return " ".join(texts)

    def headline(self) -> dict[str, str]:
        figures = {
            "‖∇f_y‖₁": f"{self.mean('l1'):.3g}",
            "exactly 0, %": f"{100 - 100 * self.mean('l0'):.1f}",
            "held by the largest tenth, %": f"{100 * self.mean('tenth'):.0f}",
            "full colour of |∇f_y|": f"{self.scale:.3g}",
        }
        broken = sum(not one.finite for one in self.maps)
        if broken == len(self.maps):
            figures = dict.fromkeys(figures, "–")
        return figures | ({"not finite": str(broken)} if broken else {})

    @property
    def scale(self) -> float:
        """The magnitude in full colour, the same for all samples."""
        return self.maps[0].magnitude.scale

    def views(self) -> tuple[View, ...]:
        signed = tuple(_captioned(one.signed, one) for one in self.maps)
        magnitude = tuple(one.magnitude for one in self.maps)
        pictures = Pictures(
            title=f"∇f_y under {self.conditions()}",
            columns=self._headings(),
            rows=(
                PictureRow(label=IMAGE, pictures=tuple(one.image for one in self.maps)),
                PictureRow(label=SIGNED, pictures=signed),
                PictureRow(label=MAGNITUDE, pictures=magnitude),
            ),
            note=f"{SIGNED}: each on its own scale. {MAGNITUDE}: one scale, full "
            f"colour is {self.scale:.3g}. Both are summed over the colour channels; of frames the mean is shown.",
        )
        rows = tuple(
            (
                str(one.sample), self.classes[one.label], class_name(self.classes, one.predicted), f"{one.f_y:.3f}",
                f"{one.l1:.4g}", f"{100 - 100 * one.l0:.1f}", f"{100 * one.tenth:.0f}", "yes" if one.finite else "no",
            )
            for one in self.maps
        )  # fmt: skip
        table = Table(
            title="The gradients that are shown",
            columns=(
                "sample",
                "class",
                "predicted",
                "f_y",
                "ℓ1",
                "exactly 0, %",
                "held by the largest tenth, %",
                "finite",
            ),
            rows=rows,
            note="Where f_y is near 0 or 1 the gradient is small because the sigmoid is flat there.",
        )
        return pictures, table

    def _headings(self) -> tuple[str, ...]:
        return tuple(f"{self.classes[one.label]} (sample {one.sample})" for one in self.maps)

    @classmethod
    def compared(cls, found: Mapping[str, Heatmaps]) -> tuple[View, ...]:
        table = headlines(cls.title, found)
        first = next(iter(found.values()))
        shown = {name: tuple((m.sample, m.label, m.image) for m in one.maps) for name, one in found.items()}
        if len(set(shown.values())) > 1:
            return (table,)
        images = PictureRow(label=IMAGE, pictures=tuple(one.image for one in first.maps))
        signed = tuple(
            PictureRow(label=name, pictures=tuple(_captioned(m.signed, m) for m in one.maps))
            for name, one in found.items()
        )
        scale = max(one.scale for one in found.values())
        sized = tuple(
            PictureRow(label=name, pictures=tuple(_on_scale(m.magnitude, scale) for m in one.maps))
            for name, one in found.items()
        )
        return (
            table,
            Pictures(
                title="Structure of ∇f_y",
                columns=first._headings(),
                rows=(images, *signed),
                note="Each on its own scale: compare structure, not size.",
            ),
            Pictures(
                title="Size of ∇f_y",
                columns=first._headings(),
                rows=(images, *sized),
                note=f"All networks on one scale: full colour is |∇f_y| = {scale:.3g}, summed over the colour channels.",
            ),
        )


def _captioned(picture: Picture, one: Heatmap) -> Picture:
    caption = f"ℓ1 {one.l1:.3g}, {100 - 100 * one.l0:.0f} % zero" if one.finite else "not finite"
    return picture.model_copy(update={"caption": caption})


def _on_scale(picture: Picture, scale: float) -> Picture:
    """The same magnitudes on another scale."""
    values = np.moveaxis(picture.values(), -1, 0)
    return Picture.of(values, "magnitude", picture.alt, scale=scale, caption=picture.caption)
