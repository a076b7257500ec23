"""Synaptic operations: how many accumulates the spikes of a network cost at its real connectivity."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from robustspike.audits.trail import Layout, unlike
from robustspike.audits.trains import encoder_of, encoding
from robustspike.audits.windows import CONVOLUTIONS, dimensions
from robustspike.draws import Draws, sampling
from robustspike.encoders import Phase, Poisson
from robustspike.gradients import estimating, frozen

WEIGHTED = (*CONVOLUTIONS, nn.Linear)
Key = tuple[str, int]  # path of a module, number of the call
Driven = Literal["spikes", "code", "analog"]


def fan_out(module: Any, size: tuple[int, ...]) -> Tensor:
    """How many outputs each position of one input reaches through weights that are not 0.

    Args:
        module: a convolution or a linear layer.
        size: [C, *spatial] of a convolution's input, [features] of a linear layer's.

    Returns:
        [*size] float64.

    Example:
        >>> from robustspike.audits.synapses import fan_out
        >>> fan_out(nn.Conv1d(1, 2, kernel_size=3, padding=1), (1, 4)).tolist()
        [[4.0, 6.0, 6.0, 4.0]]
    """
    there = (module.weight.detach() != 0).double()
    if isinstance(module, nn.Linear):
        return there.sum(0)
    with torch.enable_grad():
        x = torch.zeros((1, *size), dtype=torch.float64, device=there.device, requires_grad=True)
        return torch.autograd.grad(module._conv_forward(x, there, None).sum(), x)[0][0]


@dataclass(frozen=True)
class Synapses:
    """One call of a convolution or linear layer.

    Attributes:
        path: of the module.
        driven: by "spikes", by the spikes of a "code", or "analog".
        layout: where the samples are in its input.
        reach: the fan-out of each entry of a sample's input, [1, entries].
        unit: what one spike adds to an entry of its input ("spikes").
        rest: its input where the encoder sends nothing, [1, entries] ("code").
        repeats: how often a sample's input is passed where a network without time passes it once.
    """

    path: str
    driven: Driven
    layout: Layout
    reach: Tensor
    unit: float
    rest: Tensor
    repeats: int

    def accumulates(self, z: Tensor, n: int) -> Tensor:
        """Synaptic operations of each of n samples, [n] float64, from the input z; 0 for an analog one."""
        if self.driven == "analog":
            return torch.zeros(n, dtype=torch.float64, device=z.device)
        rows = self.layout.rows(z.detach(), n)
        arrived = rows.double() / self.unit if self.driven == "spikes" else (rows != self.rest).double()
        return (arrived * self.reach).sum(1)

    @property
    def dense(self) -> int:
        """Products of an input and a weight of one sample, as the network computes them."""
        return int(self.reach.sum())


@contextlib.contextmanager
def noting(
    model: nn.Module, note: Callable[[Key, Any, Tensor], None], cut: Callable[[Tensor], Tensor]
) -> Iterator[None]:
    """Within the block ``note`` hears the input of each call of a weighted module, and ``cut`` replaces its output."""
    calls: Counter[str] = Counter()

    def before(path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            note((path, calls[path]), module, args[0])
            calls[path] += 1

        return hook

    handles = []
    try:
        for path, module in model.named_modules():
            if isinstance(module, WEIGHTED):
                handles.append(module.register_forward_pre_hook(before(path)))
                handles.append(module.register_forward_hook(lambda _, args, out: cut(out)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def synapses(model: nn.Module, x: Tensor, draws: Draws) -> dict[Key, Synapses]:
    """All calls of convolutions and linear layers, and what drives them, seen at two of some images x [n, ...].

    One is driven by spikes if every entry of its input is a whole number of equal units that come from spikes alone: spikes,
    sums of spikes, or averages of them by pooling or over time. One behind a Poisson or phase code, but for a normalisation,
    is driven by the code's spikes. All others are analog.
    """
    both = unlike(x)
    first = both[:1]
    one, two = (_Probe.of(model, x[rows], draws[rows]) for rows in (first, both))
    silent = None
    if isinstance(encoder_of(model), (Poisson, Phase)):
        silent = _Probe.of(model, x[first], draws[first], silent=True)
    calls, found = Counter(path for path, _ in one.inputs), {}
    for key, z in one.inputs.items():
        layout = Layout.between(z.detach(), two.inputs[key].detach()) if key in two.inputs else None
        if layout is None:
            continue
        driven, unit = _driven(one.sources(z), z, silent is not None)
        rest = silent.inputs[key].detach() if silent is not None and driven == "code" else torch.zeros_like(z)
        reach = fan_out(one.modules[key], tuple(z.shape[-_own_axes(one.modules[key]) :])).expand_as(z)
        repeated = one.time_steps in (calls[key[0]], z.shape[0])
        found[key] = Synapses(
            key[0], driven, layout, layout.rows(reach, 1), unit, layout.rows(rest, 1), one.time_steps if repeated else 1
        )
    return found


def _own_axes(module: nn.Module) -> int:
    """How many of the last axes of its input a weighted module reads as one: features, or channels and space."""
    return 1 if isinstance(module, nn.Linear) else 1 + dimensions(module)


def _driven(sources: _Sources, z: Tensor, coded: bool) -> tuple[Driven, float]:
    """What drives an input z made of these sources, and what one spike adds to it."""
    alone = sources.spikes and not (sources.encoded or sources.weighted)
    if alone and sources.unit and _whole(z / sources.unit):
        return "spikes", sources.unit
    if coded and sources.encoded and not (sources.spikes or sources.weighted):
        return "code", 1.0
    return "analog", 1.0


def _whole(values: Tensor) -> bool:
    values = values.detach().double()
    return bool(((values - values.round()).abs() <= 1e-3).all()) and bool((values > -0.5).all())


@dataclass(frozen=True)
class _Sources:
    """What an input is made of: spikes, the encoded image, outputs of other weighted modules.

    ``unit``: what one spike adds to an entry of it; 0 where spikes of different layers add different amounts.
    """

    spikes: bool
    encoded: bool
    weighted: bool
    unit: float


@dataclass
class _Probe:
    """One pass in which encoder, weighted modules and spiking layers are the starts of the graph."""

    inputs: dict[Key, Tensor]
    modules: dict[Key, Any]
    spikes: list[Tensor]
    encoded: list[Tensor]
    weighted: list[Tensor]

    @property
    def time_steps(self) -> int:
        return len(self.spikes[0])

    @classmethod
    def of(cls, model: nn.Module, x: Tensor, draws: Draws, silent: bool = False) -> _Probe:
        found = cls({}, {}, [], [], [])

        def starting(kept: list[Tensor]) -> Callable[[Tensor], Tensor]:
            def start(out: Tensor) -> Tensor:
                kept.append(out.detach().requires_grad_())
                return kept[-1]

            return start

        spikes, encoded = starting(found.spikes), starting(found.encoded)

        def note(key: Key, module: Any, z: Tensor) -> None:
            found.inputs[key], found.modules[key] = z, module

        def fire(layer: Any, currents: Tensor) -> Tensor:
            with torch.no_grad():
                sent = layer.fire(currents)
            return spikes(sent)

        def code(out: Tensor) -> Tensor:
            return encoded(torch.zeros_like(out) if silent else out)

        with (
            frozen(model), torch.enable_grad(), sampling(draws), estimating(model, fire),  # type: ignore[arg-type]
            encoding(model, code), noting(model, note, starting(found.weighted)),
        ):  # fmt: skip
            model(x if encoder_of(model) is not None else encoded(x))
        return found

    def sources(self, z: Tensor) -> _Sources:
        if not z.requires_grad:
            return _Sources(False, False, False, 0.0)
        starts = [*self.spikes, *self.encoded, *self.weighted]
        slopes = torch.autograd.grad(z.sum(), starts, retain_graph=True, allow_unused=True)
        known = [slope is not None for slope in slopes]
        a, b = len(self.spikes), len(self.spikes) + len(self.encoded)
        sizes = [float(slope.abs()[slope != 0].min()) for slope in slopes[:a] if slope is not None and slope.any()]
        equal = not sizes or max(sizes) <= min(sizes) * (1 + 1e-5)
        unit = min(sizes, default=1.0) if equal else 0.0
        return _Sources(any(known[:a]), any(known[a:b]), any(known[b:]), unit)


def measured(model: nn.Module, x: Tensor, draws: Draws, known: dict[Key, Synapses]) -> tuple[Tensor, Tensor]:
    """(synaptic operations [n, calls of weighted modules], rates [n, calls of spiking layers]) for images x [n, ...]."""
    counts: dict[Key, Tensor] = {}
    rates: list[Tensor] = []

    def note(key: Key, module: Any, z: Tensor) -> None:
        if key in known:
            counts[key] = known[key].accumulates(z, len(x))

    def fire(layer: Any, currents: Tensor) -> Tensor:
        spikes: Tensor = layer.fire(currents)
        rates.append(spikes.double().transpose(0, 1).flatten(1).mean(1))
        return spikes

    with (
        frozen(model), torch.no_grad(), sampling(draws), estimating(model, fire),  # type: ignore[arg-type]
        noting(model, note, lambda out: out),
    ):  # fmt: skip
        model(x)
    return torch.stack([counts[key] for key in known], 1), torch.stack(rates, 1)
