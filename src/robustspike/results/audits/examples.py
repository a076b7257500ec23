"""What adversarial examples look like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from robustspike.results.audits.audited import Audited, headlines
from robustspike.results.audits.classes import class_name
from robustspike.results.rates import Record, rate
from robustspike.results.tables import Table
from robustspike.results.views import Picture, PictureRow, Pictures, View


class Example(Record):
    """One sample before and after an attack.

    Attributes:
        sample: its number.
        label: its class, which the network gives without attack.
        after: the class given after the attack; −1: no answer.
        before_confidence, after_confidence: the softmax's value for these classes, in [0, 1].
        broken: whether the attack broke it; if not, what is shown is an attempt that failed.
        by: the attack that broke it, or that came last.
        distance: ‖x_adv − x‖ in the norm of the attack's ball (L∞ where it has none), pixel units.
        gradients: gradient evaluations spent on it.
        image, adversarial: in [0, 1]; of frames their mean.
        perturbation: x_adv − x, signed; mean over channels and frames.
    """

    sample: int
    label: int
    after: int
    before_confidence: float
    after_confidence: float
    broken: bool
    by: str
    distance: float
    gradients: int
    image: Picture
    perturbation: Picture
    adversarial: Picture


class Examples(Audited):
    """Adversarial examples of the first samples that the network classifies correctly.

    Attributes:
        classes: their names.
        examples: one for each sample shown; none where the network classifies no sample correctly.
        searched: samples looked at to find them.
        scale: the perturbation in full colour, pixel units.
        scale_is_eps: whether that is ε of an L∞ ball, or else the largest perturbation shown.
    """

    title: ClassVar[str] = "What do adversarial examples look like?"
    about: ClassVar[str] = (
        "The first samples that the network classifies correctly, what an attack adds to them, magnified, and what the "
        "network then says. Samples that withstand the attack are shown too."
    )
    page: ClassVar[str] = "docs/audits/examples.md"

    classes: tuple[str, ...]
    examples: tuple[Example, ...]
    searched: int
    scale: float
    scale_is_eps: bool = True

    @property
    def broken(self) -> tuple[Example, ...]:
        """Those that the attack broke."""
        return tuple(one for one in self.examples if one.broken)

    def answer(self) -> str:
        if not self.examples:
            return f"Nothing to attack: the network classifies none of {self.searched} samples correctly."
        texts = [
            f"{self.under} breaks {len(self.broken)} of the first {self.n} samples that are classified correctly "
            f"({self.searched} were looked at to find them)."
        ]
        if self.broken:
            before = sum(one.before_confidence for one in self.broken) / len(self.broken)
            after = sum(one.after_confidence for one in self.broken) / len(self.broken)
            texts.append(
                f"On these the network was {100 * before:.0f} % sure of the true class and is {100 * after:.0f} % sure of a "
                "wrong one, on average."
            )
        texts.append(f"{self.n} pictures are no robustness figure, and what one attack failed on another may break.")
        return " ".join(texts)

    def headline(self) -> dict[str, str]:
        if not self.examples:
            return {"broken": "nothing to attack"}
        return {
            "broken": f"{len(self.broken)} of {self.n}",
            "broken, % [95 % interval]": str(rate(len(self.broken), self.n)),
            "full colour of the perturbation": f"{self.scale:.4g}",
        }

    def views(self) -> tuple[View, ...]:
        if not self.examples:
            return (headlines(self.title, {"this network": self}),)
        rows = tuple(
            PictureRow(
                label=self._heading(one),
                pictures=(
                    self._captioned(one.image, one.label, one.before_confidence),
                    one.perturbation,
                    self._after(one),
                ),
            )
            for one in self.examples
        )
        pictures = Pictures(
            title=f"Under {self.conditions()}",
            columns=("image", "perturbation", "after the attack"),
            rows=rows,
            note=self._note(),
        )
        return pictures, self._table()

    def _note(self) -> str:
        of = "ε" if self.scale_is_eps else "the largest perturbation shown"
        factor = f", {1 / self.scale:.3g} times magnified against the pixels' range" if self.scale > 0 else ""
        return (
            f"Perturbation: full colour is {of} = {self.scale:.4g}{factor}; the mean over colour channels (and frames) is "
            "shown. An attack that stops at the first error leaves examples just beyond the boundary."
        )

    def _table(self) -> Table:
        rows = tuple(
            (
                str(one.sample), self.classes[one.label], f"{100 * one.before_confidence:.0f}",
                class_name(self.classes, one.after), f"{100 * one.after_confidence:.0f}",
                one.by if one.broken else "withstood", f"{one.distance:.5f}", str(one.gradients),
            )
            for one in self.examples
        )  # fmt: skip
        return Table(
            title=f"The examples that are shown: {self.conditions()}",
            columns=("sample", "class", "sure, %", "after", "sure, %", "broken by", "distance", "gradients"),
            rows=rows,
        )

    def _heading(self, one: Example) -> str:
        return f"sample {one.sample}: {f'broken by {one.by}' if one.broken else 'withstood'}"

    def _captioned(self, picture: Picture, k: int, confidence: float) -> Picture:
        caption = f"{class_name(self.classes, k)}, {100 * confidence:.0f} % sure"
        return picture.model_copy(update={"caption": caption})

    def _after(self, one: Example) -> Picture:
        picture = self._captioned(one.adversarial, one.after, one.after_confidence)
        return picture if one.broken else picture.model_copy(update={"caption": f"withstood: {picture.caption}"})

    @classmethod
    def compared(cls, found: Mapping[str, Examples]) -> tuple[View, ...]:
        table = headlines(cls.title, found)
        by_sample = {name: {one.sample: one for one in record.examples} for name, record in found.items()}
        samples = sorted({sample for examples in by_sample.values() for sample in examples})
        if not samples:
            return (table,)
        rows = []
        for sample in samples:
            shown = [(found[name], examples.get(sample)) for name, examples in by_sample.items()]
            first = next(one for _, one in shown if one is not None)
            after = tuple(None if one is None else record._after(one) for record, one in shown)
            label = f"sample {sample}: {next(iter(found.values())).classes[first.label]}"
            rows.append(PictureRow(label=label, pictures=(first.image, *after)))
        pictures = Pictures(
            title="After the attack",
            columns=("image", *found),
            rows=tuple(rows),
            note="Empty: the network misclassifies the sample without attack, or found enough samples before it.",
        )
        return table, pictures
