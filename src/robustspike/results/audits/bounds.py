"""What a theorem says about the distance of spike trains, and what it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from robustspike.results.audits.audited import Audited, headlines
from robustspike.results.rates import Record
from robustspike.results.tables import Table
from robustspike.results.views import Chart, Line, View


class Operator(Record):
    """W and b in I[t] = W s[t] + b, from the spikes of one layer to the currents of the next.

    Attributes:
        inputs: columns of W: the neurons before.
        sigma: σ_max(W) ≥ Λ = sup ‖Ws‖/‖s‖ over s of −1, 0 and 1 (Proposition 1), approached from below.
        seen: the largest ‖W(s[t] − s̃[t])‖/‖s[t] − s̃[t]‖ of any sample and step, at most Λ where the input is spikes.
        gamma: γ of W alone, max_i Σ_j w⁺ + max_i Σ_j w⁻, as the theorem has it.
        gamma_bias: γ with b as one more input that always fires.
        norm_inf: ‖W‖_∞, the largest Σ_j |w_ij|.
        exact: whether γ and ‖W‖_∞ are exact; else they are upper bounds.
    """

    inputs: int
    sigma: float
    seen: float
    gamma: float
    gamma_bias: float
    norm_inf: float
    exact: bool


class SpikingLayerBound(Record):
    """One call of a spiking layer.

    Attributes:
        path: of the layer in the network.
        neurons: N.
        leak, threshold: λ and θ.
        previous: what its currents are made of directly.
        why: why the theorem does not apply; empty where it does.
        operator: from the one that is before it; None where there is none.
        distance: D₂² = Σ_t ‖s(t) − s̃(t)‖² of each sample, [n].
    """

    path: str
    neurons: int
    leak: float
    threshold: float
    previous: tuple[str, ...]
    why: str
    operator: Operator | None
    distance: tuple[float, ...]

    @property
    def applies(self) -> bool:
        """Whether the theorem applies and says anything finite."""
        return not self.why and self.operator is not None and self.leak > 0

    @property
    def mean(self) -> float:
        """The mean of D₂² over the samples."""
        return sum(self.distance) / len(self.distance)

    def gain(self) -> float:
        """Λ²/θ², with σ_max for Λ."""
        assert self.operator is not None
        return (self.operator.sigma / self.threshold) ** 2

    def constant(self, time_steps: int, with_bias: bool = True) -> float:
        """Γ = N·T(T+1)/λ·(γ/θ + (γ/θ)²), with the bias in γ or as printed without."""
        assert self.operator is not None
        if self.leak == 0:
            return math.inf
        r = (self.operator.gamma_bias if with_bias else self.operator.gamma) / self.threshold
        return self.neurons * time_steps * (time_steps + 1) / self.leak * (r + r * r)


class Bounds(Audited):
    """The distance of spike trains with and without attack, and Ding's bound of it (Ding 2022, appendix, Theorem 1).

    Attributes:
        time_steps: T.
        input_name: what the first layer reads.
        input_distance: D₂² of that, [n].
        layers: in the order of the forward pass.
    """

    title: ClassVar[str] = "How far do an attack's spikes stray, and does the Lipschitz bound hold them?"
    about: ClassVar[str] = (
        "D₂² = Σ_t ‖s(t) − s̃(t)‖² between each layer's spikes with and without attack, beside the bound of Ding's Theorem 1 "
        "and beside N·T, which no two spike trains can exceed."
    )
    page: ClassVar[str] = "docs/audits/bounds.md"

    time_steps: int
    input_name: str
    input_distance: tuple[float, ...]
    layers: tuple[SpikingLayerBound, ...]

    def trivial(self, layer: SpikingLayerBound) -> int:
        """N·T: every spike of the layer at every step."""
        return layer.neurons * self.time_steps

    def before(self, layer: SpikingLayerBound) -> tuple[float, ...]:
        """D₂² of the one train that a layer reads, [n]."""
        found = {self.input_name: self.input_distance} | {one.path: one.distance for one in self.layers}
        (previous,) = layer.previous
        return found[previous]

    def bound(self, layer: SpikingLayerBound, with_bias: bool = True) -> tuple[float, ...]:
        """Λ²/θ²·D₂² of the layer before + Γ, with the measured distance before, [n]; for layers with an operator."""
        constant = layer.constant(self.time_steps, with_bias)
        return tuple(layer.gain() * distance + constant for distance in self.before(layer))

    def slack(self, layer: SpikingLayerBound) -> float:
        """The smallest bound of any sample as a multiple of N·T; above 1 it says nothing."""
        return min(self.bound(layer)) / self.trivial(layer)

    def missed(self, with_bias: bool = True) -> int:
        """Pairs of a layer that the theorem applies to and a sample whose distance exceeds the bound."""
        return sum(
            measured > bound * (1 + 1e-6)
            for layer in self.layers
            if layer.applies
            for measured, bound in zip(layer.distance, self.bound(layer, with_bias), strict=True)
        )

    def share(self, layer: SpikingLayerBound) -> float:
        """The mean of D₂²/(N·T): the share of spikes that differ."""
        return layer.mean / self.trivial(layer)

    def answer(self) -> str:
        bounded = [layer for layer in self.layers if layer.applies]
        first, last = self.layers[0], self.layers[-1]
        text = (
            f"Under the attack {100 * self.share(first):.2g} % of the spikes of the first layer differ and "
            f"{100 * self.share(last):.2g} % of those of the last (n = {self.n}). "
        )
        if not any(layer.mean for layer in self.layers):
            text = (
                f"No spike of any layer differs under the attack (n = {self.n}): it moves nothing, or nothing fires. "
            )
        if not bounded:
            return text + f"Ding's theorem applies to none of the {len(self.layers)} spiking layers: {self._reasons()}."
        useless = [layer for layer in bounded if self.slack(layer) >= 1]
        slacks = [self.slack(layer) for layer in bounded]
        text += f"Ding's theorem applies to {len(bounded)} of {len(self.layers)} spiking layers; "
        if len(useless) == len(bounded):
            text += (
                f"its bound says nothing about {'it' if len(bounded) == 1 else 'any of them'}: it is {_times(min(slacks))}"
                f"{f' to {_times(max(slacks))}' if len(slacks) > 1 else ''} N·T, which no two spike trains exceed. "
                "That is no accident: neurons that can fire at all have γ ≥ θ/T, and then Γ > N·T."
            )
        else:
            text += (
                f"its bound is below N·T, which no two spike trains exceed, for {len(bounded) - len(useless)} of them. That "
                "takes neurons that cannot fire: any others have γ ≥ θ/T, and then Γ > N·T."
            )
        if printed := self.missed(with_bias=False):
            text += f" As printed, without a bias in γ, the theorem is wrong for {printed} pairs of layer and sample."
        if missed := self.missed():
            text += (
                f" For {missed} pairs the distance exceeds the bound, which must not be: read no figure of this audit."
            )
        return text

    def _reasons(self) -> str:
        reasons = dict.fromkeys(layer.why or "λ = 0" for layer in self.layers if not layer.applies)
        return "; ".join(reasons)

    def headline(self) -> dict[str, str]:
        bounded = [layer for layer in self.layers if layer.applies]
        operators = [layer for layer in self.layers if layer.operator]
        return {
            "layers bounded": f"{len(bounded)} of {len(self.layers)}",
            "smallest bound / (N·T)": _times(min(map(self.slack, bounded))) if bounded else "–",
            "largest σ_max/θ": f"{max(layer.gain() for layer in operators) ** 0.5:.3g}" if operators else "–",
            "first layer, spikes changed, %": f"{100 * self.share(self.layers[0]):.2f}",
            "last layer, spikes changed, %": f"{100 * self.share(self.layers[-1]):.2f}",
        }

    def views(self) -> tuple[View, ...]:
        return self._distances(), self._chart(), self._operators()

    def _distances(self) -> Table:
        rows = []
        for layer in self.layers:
            figures = ["–"] * 4
            if layer.operator is not None and layer.leak > 0:
                bounds = self.bound(layer)
                bound = sum(bounds) / len(bounds)
                loose = f"{bound / layer.mean:.3g}" if layer.mean else "∞"
                figures = [f"{layer.gain() ** 0.5:.3g}", f"{bound:.3g}", _times(self.slack(layer)), loose]
            rows.append(
                (
                    layer.path, " + ".join(layer.previous) or "–", f"{layer.mean:.4g}", f"{100 * self.share(layer):.2f}",
                    str(self.trivial(layer)), *figures, layer.why or ("" if layer.leak > 0 else "λ = 0"),
                )
            )  # fmt: skip
        return Table(
            title=f"Distance of spike trains with and without attack, means over the samples: {self.conditions()}",
            columns=(
                "layer", "reads", "D₂²", "% of N·T", "N·T", "σ_max/θ", "bound", "smallest bound / (N·T)", "bound / D₂²",
                "why the theorem does not apply",
            ),
            rows=tuple(rows),
            note="A bound of N·T and more says nothing: spikes are 0 or 1, so that D₂² ≤ N·T anyway. The bound starts from "
            "the distance measured one layer before.",
        )  # fmt: skip

    def _operators(self) -> Table:
        rows = []
        for layer in self.layers:
            if (one := layer.operator) is None:
                continue
            sign = "" if one.exact else "≤ "
            rows.append(
                (
                    layer.path, str(one.inputs), str(layer.neurons), f"{one.sigma:.4g}", f"{one.seen:.4g}",
                    f"{sign}{one.gamma:.4g}", f"{sign}{one.gamma_bias:.4g}", f"{sign}{2 * one.norm_inf:.4g}",
                    f"{2 * math.sqrt(one.inputs) * one.sigma:.4g}", f"{layer.constant(self.time_steps):.3g}",
                    f"{layer.threshold:g}", f"{layer.leak:g}",
                )
            )  # fmt: skip
        return Table(
            title="The operators between spiking layers",
            columns=(
                "layer", "inputs", "N", "σ_max ≥ Λ", "‖WΔs‖/‖Δs‖ seen", "γ", "γ with bias", "2‖W‖_∞", "2√inputs·σ_max", "Γ",
                "θ", "λ",
            ),
            rows=tuple(rows),
            note="Proposition 1: Λ ≤ σ_max. Proposition 2: γ ≤ 2‖W‖_∞ ≤ 2√inputs·‖W‖₂. Γ is that of γ with bias.",
        )  # fmt: skip

    def _chart(self) -> Chart:
        places = tuple(float(k) for k in range(1, len(self.layers) + 1))
        bounds = tuple(
            sum(found) / len(found) if layer.applies and (found := self.bound(layer)) else math.nan
            for layer in self.layers
        )
        return Chart(
            title="Distance of spike trains under attack, layer by layer",
            x="spiking layer",
            y="D₂² (logarithmic)",
            lines=(
                Line(label="measured", x=places, y=tuple(layer.mean for layer in self.layers)),
                Line(label="N·T", x=places, y=tuple(float(self.trivial(layer)) for layer in self.layers), dashed=True),
                Line(label="Ding's bound", x=places, y=bounds, dashed=True),
            ),
            y_log=True,
            note=f"{self.conditions()}. The bound starts from the distance measured one layer before; gaps: it does not "
            "apply.",
        )

    @classmethod
    def compared(cls, found: Mapping[str, Bounds]) -> tuple[View, ...]:
        lines = []
        for name, one in found.items():
            places = tuple(float(k) for k in range(1, len(one.layers) + 1))
            lines.append(Line(label=name, x=places, y=tuple(100 * one.share(layer) for layer in one.layers)))
        table = headlines(cls.title, found)
        chart = Chart(
            title="Spikes that the attack changes, layer by layer",
            x="spiking layer",
            y="share of N·T in %",
            lines=tuple(lines),
            note=table.note,
        )
        return table, chart


def _times(value: float) -> str:
    return f"{value:.3g} ×"
