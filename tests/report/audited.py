"""Audits' records made by hand, with every kind of view, for the tests of the report."""

from typing import ClassVar

import numpy as np

from robustspike.results import (
    Audited,
    Bars,
    Chart,
    Line,
    Matrix,
    Picture,
    PictureRow,
    Pictures,
    Table,
    rate,
)
from robustspike.results.audits import Gradients, Norms, Spread, headlines

LAYERS = ("encoder", "conv1", "bn1", "lif1", "conv2", "bn2", "lif2", "pool", "linear")
NAN = float("nan")


def chart(title="Robust accuracy against T", names=("vanilla", "AT"), **options):
    """One falling line for each name, with a band, a gap and a dashed bound."""
    lines = [
        Line.of_rates(name, (1, 2, 4, 8, 16), [rate(20 - 2 * k - i % 9, 20) for k in range(5)])
        for i, name in enumerate(names)
    ]
    gap = Line(label="bound", x=(1, 2, 4, 8, 16), y=(90.0, NAN, 70.0, NAN, NAN), dashed=True)
    return Chart(**{"title": title, "x": "T, time steps", "y": "accuracy in %", "lines": (*lines, gap), "percent": True}
                 | options)  # fmt: skip


def scatter(n=300):
    """Points on logarithmic axes, some of them where a logarithm has no value."""
    draw = np.random.default_rng(0)
    x = 10 ** draw.uniform(-3, 2, n)
    y = x**0.7 * 10 ** draw.normal(0, 0.3, n)
    y[:3] = 0
    return Chart(
        title="Vulnerability of each sample", x="ρ_rand, under random noise of radius ε", y="ρ_adv, under attack",
        lines=(Line(label="samples", x=tuple(x), y=tuple(y), points=True),
               Line(label="3‖g‖₁² / ‖g‖₂²", x=(1e-3, 100.0), y=(8e-3, 25.0), dashed=True)),
        x_log=True, y_log=True, note="Each point is one sample.",
    )  # fmt: skip


def bars(stacked=False, categories=("conv1", "conv2", "pool"), names=("vanilla", "AT"), **options):
    """Shares by category; the last of the first series is missing."""
    values = {n: tuple(10.0 + 7 * k + 3 * i for k in range(len(categories))) for i, n in enumerate(names)}
    if not stacked:
        values[names[0]] = (*values[names[0]][:-1], NAN)
    return Bars(**{"title": "Gradients that are exactly 0", "y": "share in %", "categories": categories,
                   "series": values, "stacked": stacked, "percent": True} | options)  # fmt: skip


def matrix(rows=5, columns=5, **options):
    """Numbers on both sides of 0, one of them missing."""
    values = np.random.default_rng(1).normal(0, 1, (rows, columns)).round(2)
    values[0, 0] = NAN
    labels = [f"layer {k}" for k in range(max(rows, columns))]
    return Matrix(**{"title": "Agreement of the estimators", "x": "attacked through", "y": "measured through",
                     "rows": tuple(labels[:rows]), "columns": tuple(labels[:columns]),
                     "values": tuple(map(tuple, values.tolist())), "signed": True, "written": True} | options)  # fmt: skip


def pictures(side=8, samples=3):
    """An image, its gradient and the size of the gradient, row by row; one place is empty."""
    draw = np.random.default_rng(2)
    rows = []
    for k in range(samples):
        image, gradient = draw.random((3, side, side)), draw.normal(0, 0.1, (3, side, side))
        row = [
            Picture.of(image, "image", f"sample {k}, a 7", caption="a 7"),
            Picture.of(gradient, "signed", f"gradient of sample {k}", scale=0.4),
            Picture.of(gradient, "magnitude", f"size of the gradient of sample {k}"),
        ]
        rows.append(PictureRow(label=f"sample {k}", pictures=tuple(row) if k else (*row[:2], None)))
    return Pictures(title="Where the gradient points", columns=("image", "gradient", "its size"), rows=tuple(rows),
                    note="The first samples of the data.")  # fmt: skip


def table(rows=(("first", "9.5 [1.0, 20.0]", "8/255"), ("second", "–", "16/255"), ("third", "80.0", "4/255"))):
    """Words, numbers with a gap, and fractions."""
    return Table("Figures by kind", ("kind", "accuracy in %", "ε"), rows, "A note below the table.")


class Everything(Audited):
    """A record that shows one view of every kind."""

    title: ClassVar[str] = "Does everything get drawn?"
    about: ClassVar[str] = "One view of every kind, from numbers made by hand."
    page: ClassVar[str] = "docs/audits/everything.md"

    name: str = "vanilla"
    figure: float = 12.5
    side: int = 8

    def answer(self):
        return f"For {self.name} the figure is {self.figure} % on {self.n} samples, an upper bound."

    def headline(self):
        return {"figure in %": f"{self.figure}"}

    def views(self):
        return (table(), chart(names=(self.name,)), scatter(), bars(), bars(True), matrix(), pictures(self.side))

    @classmethod
    def compared(cls, found):
        return (headlines(cls.title, found), chart(names=tuple(found)), bars(names=tuple(found)))


def everything(name="vanilla", **changes):
    """Such a record."""
    return Everything(**{"n": 20, "seed": 7, "under": "PGD-10, L∞ ε = 8/255", "name": name, "gradients": 400,
                         "seconds": 1.5} | changes)  # fmt: skip


def gradients(k=0, n=30):
    """The record of the audit of gradients."""
    draw = np.random.default_rng(k)
    norms = Norms(l0=tuple(draw.random(n)), l1=tuple(draw.random(n) / (k + 1)), l2=tuple(draw.random(n) / 10))
    edges = np.linspace(-1, 1, 42)
    shares = np.exp(-((edges[:-1] + edges[1:]) ** 2) * (4 + 3 * k))
    spread = Spread(edges=tuple(edges), shares=tuple(shares / shares.sum()))
    return Gradients(
        n=n, seed=7, under="the network's own gradient", of_probability=norms, of_loss=norms, spread=spread
    )
