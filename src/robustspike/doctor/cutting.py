"""Whether a part of the gradient is cut: autograd's against differences of the network between its neurons."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robustspike.adapters.framework import replaced
from robustspike.adapters.layer import copied_state, mapped, tensors_in
from robustspike.doctor.calling import Patient, spiking
from robustspike.doctor.checks import NotApplicableError, Verdict, sentence
from robustspike.neurons import spiking_layers

IMAGES, LOGITS = "the images", "the logits"
FEW = 2  # images
DIRECTIONS, WEIGHTS = 3, 4
OFF = 0.1  # how far from 0 and 1, where max pooling has ties and rectifiers their kinks
MORE = 0.5  # below this share of autograd's, differences tell of a function that is passed straight through
Values = dict[str, list[Tensor]]


class Precision(NamedTuple):
    """The step of the differences, and the relative disagreement that is allowed."""

    step: float
    tolerance: float


PRECISIONS = {torch.float64: Precision(1e-8, 1e-3), torch.float32: Precision(1e-4, 5e-2)}


def cut_gradient(patient: Patient) -> Verdict:
    """Derivatives of currents and logits by images and neurons' outputs, which are held: autograd's and differences."""
    if not _neurons(patient.model):
        raise NotApplicableError("no neurons of a known framework")
    try:
        try:
            found, dtype = _measured(_in_double(patient)), torch.float64
        except Exception:
            dtype = patient.images.dtype
            if dtype not in PRECISIONS:
                raise
            found = _measured(patient)
    except Exception as error:
        raise NotApplicableError(f"cannot run with its neurons' outputs held: {sentence(error)}") from error
    return _verdict(found, PRECISIONS[dtype].tolerance, str(dtype).removeprefix("torch."))


def _verdict(found: list[Gap], tolerance: float, dtype: str) -> Verdict:
    worst = max(found, key=lambda gap: gap.relative)
    said = f"with the neurons' outputs held, in {dtype}, autograd and differences disagree by at most"
    if worst.relative <= tolerance:
        return Verdict(True, f"{said} {worst.relative:.1e}, relative, in {worst.target}")
    missing = [gap for gap in found if gap.relative > tolerance and gap.steady and not gap.is_more]
    if not missing:
        why = (
            "autograd has more than there is, as of a straight-through function" if worst.steady else "a kink or a jump"
        )
        return Verdict(True, f"{said} {worst.relative:.1e}, relative, from {worst.source} to {worst.target}: {why}")
    worst = max(missing, key=lambda gap: gap.relative)
    return Verdict(
        False, f"with the neurons' outputs held, in {dtype}, autograd and differences disagree by {worst.relative:.2g}, "
        f"relative, from {worst.source} to {worst.target}; {tolerance:g} is allowed",
        f"Find the detach(), no_grad() or .data between {worst.source} and {worst.target} and take it out, or attack a "
        "version without it: attacks through gradients see only the paths that are left. A straight-through function, "
        "such as a rounding of activations on purpose, is the other possible reason.",
    )  # fmt: skip


@dataclass(frozen=True)
class Gap:
    """How far autograd and differences are apart from one source (None: all together) to one target.

    Attributes:
        relative: to the derivative of the target by everything.
        steady: whether differences with twice the step agree better with each other than with autograd.
        is_more: whether autograd's is clearly the larger one.
    """

    source: str | None
    target: str
    relative: float
    steady: bool = True
    is_more: bool = False


def _neurons(model: nn.Module) -> dict[str, nn.Module]:
    return {path: module for path, (module, _) in spiking(model).items()} or dict(spiking_layers(model))


def _in_double(patient: Patient) -> Patient:
    """The same with a copy of the network in float64; state that holds a graph is copied without it."""
    model = copy.deepcopy(patient.model, copied_state(patient.model)).double()
    return replace(patient, model=model, images=patient.images.double())


def _measured(patient: Patient) -> list[Gap]:
    """All sources together; where these disagree, each source by itself.

    Raises:
        ValueError: if passes with other numbers call the neurons in another way, or give no finite numbers.
    """
    held = _Held(patient)
    step, tolerance = PRECISIONS[patient.images.dtype]
    generator = torch.Generator().manual_seed(patient.seed)
    base = held.recorded(generator)
    slopes = _Slopes(held, base, generator)
    directions = [_like(base, generator) for _ in range(DIRECTIONS)]
    scale, joint = slopes.gaps(None, directions, step, {})
    if max(gap.relative for gap in joint) <= tolerance:
        return joint
    apart = []
    for source in base:
        alone = [
            {name: v if name == source else [torch.zeros_like(t) for t in v] for name, v in direction.items()}
            for direction in directions
        ]
        apart += slopes.gaps(source, alone, step, scale)[1]
    return apart


def _like(values: Values, generator: torch.Generator) -> Values:
    return {name: [_normal(value, generator) for value in each] for name, each in values.items()}


def _normal(value: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)


class _Held:
    """A network whose neurons return what they are told, and note what they are given."""

    def __init__(self, patient: Patient) -> None:
        self.patient, self.x = patient, patient.images[:FEW].detach()
        self.given: Values = {}

    def recorded(self, generator: torch.Generator) -> Values:
        """Images and every neuron's outputs, by path, all a little off their values; and what a call looks like."""
        self.outs: dict[str, list[Any]] = {path: [] for path in _neurons(self.patient.model)}
        inside: list[str] = []

        def record(path: str, own: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                inside.append(path)
                out = mapped(own(*args, **kwargs), self._typed)  # some spike functions make float32 of all
                inside.pop()
                if not inside:  # a neuron in a neuron is part of it
                    self.outs[path].append(mapped(out, lambda t: t.detach().clone()))
                return out

            return forward

        with torch.no_grad(), self._standing_in(record):
            self.patient.logits(self.x)
        noise = torch.rand(self.x.shape, generator=generator, dtype=torch.float64).to(self.x)
        base = {IMAGES: [(1 - OFF) * self.x + OFF * noise]}
        for path, outs in self.outs.items():
            floating = [value for value in tensors_in(outs) if value.is_floating_point()]
            base[path] = [value + OFF * _normal(value, generator) for value in floating]
        return {name: values for name, values in base.items() if values}

    def run(self, values: Values) -> Values:
        """What the neurons are given, and the logits, where images and neurons' outputs are these."""
        calls = {path: iter(outs) for path, outs in self.outs.items()}
        numbers = {path: iter(each) for path, each in values.items()}
        given: Values = {}

        def hold(path: str, own: Callable[..., Any]) -> Callable[..., Any]:
            def told(value: Tensor) -> Tensor:
                return (next(numbers[path]) if value.is_floating_point() else value).clone()

            def forward(*args: Any, **kwargs: Any) -> Any:
                floating = [t for t in tensors_in([*args, *kwargs.values()]) if t.is_floating_point()]
                given.setdefault(f"what {path} is given", []).extend(t.clone() for t in floating)
                return mapped(next(calls[path]), told)

            return forward

        with self._standing_in(hold):
            given[LOGITS] = [self.patient.logits(values[IMAGES][0])]
        return given

    def _typed(self, value: Tensor) -> Tensor:
        return value.to(self.x.dtype) if value.is_floating_point() else value

    @contextlib.contextmanager
    def _standing_in(self, make: Callable[[str, Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
        with self.patient.trial(), contextlib.ExitStack() as stack:
            for path, neuron in _neurons(self.patient.model).items():
                stack.enter_context(replaced(neuron, "forward", make(path, neuron.forward)))
            yield


class _Slopes:
    """Derivatives at one point, of sums of each target's numbers with random weights."""

    def __init__(self, held: _Held, base: Values, generator: torch.Generator) -> None:
        self.held, self.base = held, base
        leaves = {name: [value.clone().requires_grad_() for value in each] for name, each in base.items()}
        with torch.enable_grad():
            given = held.run(leaves)
        self.weights = {name: [_like({"": v}, generator)[""] for _ in range(WEIGHTS)] for name, v in given.items()}
        self.gradients = {
            name: [_gradient(given[name], each, leaves) for each in weights] for name, weights in self.weights.items()
        }

    def gaps(
        self, source: str | None, directions: list[Values], step: float, scale: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], list[Gap]]:
        """The size of each target's derivative, and its gap relative to ``scale`` (none: to this size)."""
        near = [self._differences(d, step) for d in directions]
        far = [self._differences(d, 2 * step) for d in directions] if source is not None else near
        sizes, found = {}, []
        for name, gradients in self.gradients.items():
            own = torch.stack([torch.stack([_product(g, d) for g in gradients]) for d in directions])
            first, second = (torch.stack([each[name] for each in by]) for by in (near, far))
            if not bool(own.isfinite().all() and first.isfinite().all()):
                raise ValueError(f"{name} is not finite, or its gradient is not")
            sizes[name] = torch.maximum(_size(own), _size(first))
            gap, size = _size(own - first), scale.get(name, sizes[name]).clamp(min=1e-9)
            steady = source is None or float(_size(first - second)) < 0.3 * float(gap)
            is_more = float(_size(first)) < MORE * float(_size(own))
            found.append(Gap(source, name, float(gap / size), steady, is_more))
        return sizes, found

    def _differences(self, direction: Values, step: float) -> dict[str, Tensor]:
        """Of each target, for each of the weights, [WEIGHTS]."""
        with torch.no_grad():
            up, down = (self.held.run(_moved(self.base, direction, sign * step)) for sign in (1, -1))
        if {n: [t.shape for t in v] for n, v in up.items()} != {
            n: [t.shape for t in v[0]] for n, v in self.weights.items()
        }:
            raise ValueError("its neurons are called in another way when numbers change a little")
        slope = {
            name: [(a - b).double() / (2 * step) for a, b in zip(up[name], down[name], strict=True)] for name in up
        }
        return {
            name: torch.stack([_sum(each, slope[name]) for each in weights]) for name, weights in self.weights.items()
        }


def _gradient(given: list[Tensor], weights: list[Tensor], leaves: Values) -> Values:
    """Of the weighted sum, by every leaf; 0 where autograd knows of no path."""
    pairs = [(value, weight) for value, weight in zip(given, weights, strict=True) if value.requires_grad]
    flat = [leaf for each in leaves.values() for leaf in each]
    found: list[Tensor | None] = [None] * len(flat)
    if pairs:
        outputs, seeds = zip(*pairs, strict=True)
        found = list(torch.autograd.grad(outputs, flat, seeds, retain_graph=True, allow_unused=True))
    waiting = iter(torch.zeros_like(leaf) if g is None else g for leaf, g in zip(flat, found, strict=True))
    return {name: [next(waiting) for _ in each] for name, each in leaves.items()}


def _moved(base: Values, direction: Values, step: float) -> Values:
    return {name: [v + step * d for v, d in zip(each, direction[name], strict=True)] for name, each in base.items()}


def _sum(weights: list[Tensor], values: list[Tensor]) -> Tensor:
    return torch.stack([(w.double() * v.double()).sum() for w, v in zip(weights, values, strict=True)]).sum()


def _product(gradient: Values, direction: Values) -> Tensor:
    return torch.stack([_sum(gradient[name], direction[name]) for name in gradient]).sum()


def _size(slopes: Tensor) -> Tensor:
    """Root mean square over the weights, median over the directions, of [DIRECTIONS, WEIGHTS]."""
    return slopes.square().mean(1).sqrt().median()
