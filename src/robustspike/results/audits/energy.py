"""What a network's spikes cost, and whether an attack makes them cost more."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from scipy import special

from robustspike.results.audits.audited import Audited, headlines
from robustspike.results.audits.tried import nothing_learned
from robustspike.results.rates import Rate, Record, rate
from robustspike.results.tables import Table
from robustspike.results.views import Bars, Chart, Line, View


class LayerRate(Record):
    """Spikes per neuron and time step of one call of a spiking layer, in [0, 1], means over the attacked samples.

    Attributes:
        path: of the layer in the network.
        neurons: N.
        clean, attacked: without and with attack.
    """

    path: str
    neurons: int
    clean: float
    attacked: float


class LayerCost(Record):
    """One call of a convolution or linear layer; counts are per sample.

    Attributes:
        path: of the layer in the network.
        driven: by "spikes", by the spikes of a "code" of the image, or "analog": by other numbers.
        fan_out: outputs that an entry of its input reaches, mean.
        products: of an input and a weight, as the network computes them: the multiply-accumulates of an analog layer.
        repeats: how often a sample passes it where a network without time passes it once.
        clean, attacked: synaptic operations without and with attack, means over the attacked samples; 0 for an analog layer.
    """

    path: str
    driven: Literal["spikes", "code", "analog"]
    fan_out: float
    products: int
    repeats: int
    clean: float
    attacked: float


class Energy(Audited):
    """Firing rates, synaptic operations and estimated energy with and without attack, beside accuracy.

    Attributes:
        classes: how many the model has.
        time_steps: T.
        accumulate, multiply: pJ of an accumulate and of a multiply-accumulate.
        rates: of each spiking layer.
        costs: of each convolution and linear layer.
        clean_operations, operations: synaptic operations of each sample without and with attack, [n]; equal where the sample
            was not attacked.
        correct: whether the sample is classified correctly without attack, [n]; only these were attacked.
        broken: whether the attack broke it, [n].
    """

    title: ClassVar[str] = "What do the spikes cost, and does an attack make them cost more?"
    about: ClassVar[str] = (
        "Firing rates, synaptic operations (spikes × fan-out) and an estimate of the energy of their arithmetic, with and "
        "without attack, beside accuracy and beside the multiply-accumulates of the same network without spikes."
    )
    page: ClassVar[str] = "docs/audits/energy.md"

    classes: int
    time_steps: int
    accumulate: float
    multiply: float
    rates: tuple[LayerRate, ...]
    costs: tuple[LayerCost, ...]
    clean_operations: tuple[float, ...]
    operations: tuple[float, ...]
    correct: tuple[bool, ...]
    broken: tuple[bool, ...]

    @property
    def clean(self) -> Rate:
        """Accuracy without attack."""
        return rate(sum(self.correct), self.n)

    @property
    def robust(self) -> Rate:
        """Accuracy under the attack, an upper bound."""
        return rate(sum(self.correct) - sum(self.broken), self.n)

    @property
    def products(self) -> int:
        """Multiply-accumulates of a sample in the layers that are not driven by spikes."""
        return sum(cost.products for cost in self.costs if cost.driven == "analog")

    @property
    def twin_products(self) -> int:
        """Multiply-accumulates of a sample in the same network without time and spikes."""
        return sum(cost.products // cost.repeats for cost in self.costs)

    @property
    def mean_operations(self) -> float:
        """Synaptic operations of a sample without attack, mean over all."""
        return float(np.mean(self.clean_operations))

    def picojoules(self, operations: float) -> float:
        """The energy of a sample with so many synaptic operations."""
        return self.accumulate * operations + self.multiply * self.products

    def change(self) -> tuple[float, float, float] | None:
        """The mean change of synaptic operations by the attack and its 95 % interval (paired t), as shares of the mean.

        None for fewer than two attacked samples, or none of whose operations is known.
        """
        which = np.array(self.correct)
        before, after = np.array(self.clean_operations)[which], np.array(self.operations)[which]
        if len(before) < 2 or before.mean() == 0:
            return None
        difference = after - before
        half = float(special.stdtrit(len(before) - 1, 0.975) * difference.std(ddof=1) / math.sqrt(len(before)))
        middle, scale = float(difference.mean()), float(before.mean())
        return middle / scale, (middle - half) / scale, (middle + half) / scale

    def answer(self) -> str:
        spiking, twin = self.picojoules(self.mean_operations), self.multiply * self.twin_products
        text = (
            f"A sample takes {_count(self.mean_operations)} synaptic operations and {_count(self.products)} "
            f"multiply-accumulates, about {_energy(spiking)}; without spikes the same network takes "
            f"{_count(self.twin_products)} multiply-accumulates, {_energy(twin)}"
        )
        text += f" ({spiking / twin:.2f} ×). " if twin else ". "
        if (found := self.change()) is None:
            text += f"{sum(self.correct)} of {self.n} samples could be attacked: too few to say what an attack costs. "
        else:
            text += f"An attack changes the operations by {_change(found)}: {_verdict(found)} "
        text += f"Accuracy {self.clean} % without attack, {self.robust} % under it (n = {self.n}, upper bound). "
        if self.mean_operations == 0:
            return text + "No spike arrives anywhere: the network is silent, and no figure of cost means anything."
        text += "Arithmetic only: memory and communication, most of a chip's energy, are not counted."
        return text + nothing_learned(self.clean, self.classes)

    def headline(self) -> dict[str, str]:
        found = self.change()
        return {
            "accuracy": str(self.clean),
            "under attack": str(self.robust),
            "SynOps": _count(self.mean_operations),
            "MACs": _count(self.products),
            "energy": _energy(self.picojoules(self.mean_operations)),
            "without spikes": _energy(self.multiply * self.twin_products),
            "SynOps under attack": "–" if found is None else _change(found),
            "mean rate": f"{self._mean_rate():.3f}",
        }

    def _mean_rate(self) -> float:
        neurons = sum(one.neurons for one in self.rates)
        return sum(one.clean * one.neurons for one in self.rates) / neurons

    def views(self) -> tuple[View, ...]:
        bars = Bars(
            title="Firing rates with and without attack",
            y="spikes per neuron and step",
            categories=tuple(one.path for one in self.rates),
            series={
                "without attack": tuple(one.clean for one in self.rates),
                "under attack": tuple(one.attacked for one in self.rates),
            },
            note=f"Means over {self._of()}: {self.conditions()}.",
        )
        return self._summary(), bars, self._rates(), self._costs()

    def _of(self) -> str:
        return f"{sum(self.correct)} attacked samples" if any(self.correct) else f"{self.n} samples, none attacked"

    def _summary(self) -> Table:
        which = np.array(self.correct) if any(self.correct) else ~np.array(self.correct)
        rows = []
        for name, values in (("without attack", self.clean_operations), ("under attack", self.operations)):
            operations = float(np.array(values)[which].mean())
            accuracy = self.clean if name == "without attack" else self.robust
            energy = _energy(self.picojoules(operations))
            rows.append((name, str(accuracy), _count(operations), _count(self.products), energy))
        twin = self.twin_products
        rows.append(("same network without spikes", "–", "0", _count(twin), _energy(self.multiply * twin)))
        return Table(
            title=f"Cost of a sample, means over {self._of()}: {self.conditions()}",
            columns=("", "accuracy, %", "SynOps", "MACs", "energy"),
            rows=tuple(rows),
            note=f"{self.accumulate:g} pJ for a synaptic operation, {self.multiply:g} pJ for a multiply-accumulate; "
            "arithmetic only. Accuracy of all samples; under attack an upper bound.",
        )

    def _rates(self) -> Table:
        rows = tuple((one.path, str(one.neurons), f"{one.clean:.4f}", f"{one.attacked:.4f}") for one in self.rates)
        return Table(
            title=f"Firing rates, means over {self._of()}: {self.conditions()}",
            columns=("layer", "neurons", "spikes per neuron and step", "under attack"),
            rows=rows,
        )

    def _costs(self) -> Table:
        rows = tuple(
            (
                one.path, one.driven, f"{one.fan_out:.1f}", _count(one.clean) if one.driven != "analog" else "–",
                _count(one.attacked) if one.driven != "analog" else "–", _count(one.products), str(one.repeats),
            )
            for one in self.costs
        )  # fmt: skip
        return Table(
            title=f"Operations of each layer and sample, means over {self._of()}: {self.conditions()}",
            columns=("layer", "driven by", "fan-out", "SynOps", "under attack", "products", "passes"),
            rows=rows,
            note="Products: input times weight, what a layer driven by other numbers than spikes costs. An image that is "
            "the same at every step passes the first layer once; hardware that repeats it needs T times as many.",
        )

    @classmethod
    def compared(cls, found: Mapping[str, Energy]) -> tuple[View, ...]:
        table = headlines(cls.title, found)
        chart = Chart(
            title="Accuracy under attack against synaptic operations",
            x="synaptic operations per sample",
            y="accuracy in %",
            lines=tuple(
                Line.of_rates(name, (one.mean_operations,), (one.robust,), points=True) for name, one in found.items()
            ),
            x_log=True,
            percent=True,
            note=f"Upper bounds with 95 % intervals. {table.note}",
        )
        bars = Bars(
            title="Synaptic operations with and without attack",
            y="synaptic operations per sample",
            categories=tuple(found),
            series={
                "without attack": tuple(sum(cost.clean for cost in one.costs) for one in found.values()),
                "under attack": tuple(sum(cost.attacked for cost in one.costs) for one in found.values()),
            },
            note="Means over the samples that were attacked.",
        )
        return table, chart, bars


def _count(value: float) -> str:
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _energy(picojoules: float) -> str:
    for size, unit in ((1e9, "mJ"), (1e6, "µJ"), (1e3, "nJ")):
        if picojoules >= size:
            return f"{picojoules / size:.3g} {unit}"
    return f"{picojoules:.3g} pJ"


def _change(found: tuple[float, float, float]) -> str:
    middle, low, high = (100 * value for value in found)
    return f"{middle:+.1f} % [{low:+.1f}, {high:+.1f}]"


def _verdict(found: tuple[float, float, float]) -> str:
    _, low, high = found
    if low > 0:
        return "adversarial inputs cost more."
    return "adversarial inputs cost less." if high < 0 else "no difference beyond chance."
