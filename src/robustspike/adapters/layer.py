"""A neuron of another framework under the contract between spiking layers and gradient estimators."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from robustspike.adapters.framework import AdaptError, Framework, Membrane, preserved
from robustspike.gradients import Rule
from robustspike.surrogates import Surrogate, spike, with_slope


class AdaptedLayer:
    """Fulfils :class:`robustspike.neurons.SpikingLayer`: runs the framework's own neuron, from the state of the start.

    Currents are what the neuron is called with, [T, N, ...]; potentials are relative to the potential at rest.

    Args:
        neuron: the framework's module; never changed but for as long as a call lasts.
        framework: what is known of it.
        path: where the neuron is in the user's model.
    """

    def __init__(self, neuron: nn.Module, framework: Framework, path: str) -> None:
        self.neuron, self.framework, self.path = neuron, framework, path
        self.original: Callable[..., Any] | None = None  # its forward, while another stands in its place
        self.start = Start()
        self.fault: str | None = None  # why it can carry no estimator
        self.knows_drive = self.knows_leak = True  # until real currents show otherwise
        self.blind_in_eval = any(name.startswith("jit_eval") for name in dir(neuron))
        self._rule: Rule | None = None

    def __repr__(self) -> str:
        return f"{type(self.neuron).__name__} of {self.framework.name} at {self.path}"

    @property
    def gradient_rule(self) -> Any:
        return self._rule

    @gradient_rule.setter
    def gradient_rule(self, rule: Any) -> None:
        self._rule = rule if rule is None or isinstance(rule, Rule) else Rule(rule)
        self.check()

    def check(self) -> None:
        """Refuse a rule that this neuron cannot carry.

        Raises:
            AdaptError: naming the layer, the estimator, and what to use instead.
        """
        if self.fault is not None and self._rule is not None and self._rule.estimator is not None:
            raise AdaptError(
                f"{self} cannot carry {self._rule.estimator}: {self.fault}; use BPTT(), the network's own gradient, with "
                "attacks without gradients beside it, or put another neuron there"
            )

    @property
    def covers_time(self) -> bool:
        return self.framework.covers_time(self.neuron)

    @property
    def membrane(self) -> Membrane:
        return self.framework.membrane(self.neuron)

    @property
    def threshold(self) -> float | Tensor:
        return self.membrane.threshold

    @property
    def leak(self) -> float | Tensor:
        """λ; an AdaptError where the neuron has none."""
        leak = self.membrane.leak
        if leak is None or not self.knows_leak:
            raise AdaptError(
                f"{self} is no leaky integrate-and-fire neuron, its potential is not λ·v[t−1] + I[t]: it has no leak that "
                "RGA could use; use BPTT(surrogate), BPTR, HART, PDSG or ASSG"
            )
        return leak

    def drive(self, currents: Tensor) -> Tensor:
        """The current I[t] that reaches the membrane, differentiable; an AdaptError where it is not known."""
        if not self.knows_drive:
            raise AdaptError(
                f"{self} does not say how its input reaches its membrane, which BPTR, RGA, HART and CBA have to know; use "
                "BPTT(surrogate), PDSG or ASSG"
            )
        return self.membrane.drive(currents)

    def fire(
        self,
        currents: Tensor,
        surrogate: Surrogate | None = None,
        slopes: Tensor | None = None,
        detach_reset: bool | None = None,
    ) -> Tensor:
        """Spikes of the framework's own neuron, differentiated through it with another derivative of the spike."""
        if surrogate is not None and slopes is not None:
            raise ValueError(f"fire takes a surrogate or slopes, got both: {surrogate} and {list(slopes.shape)}")
        derivative = None
        if surrogate is not None:
            derivative = self.with_surrogate(surrogate)
        elif slopes is not None:
            constants = slopes.detach()

            def derivative(d: Tensor, t: int | None) -> Tensor:
                slope = constants if t is None else constants[t]
                return with_slope(self.spikes(d), d, slope.reshape(d.shape).to(d.dtype))

        return self._fire(currents, derivative, detach_reset)

    def _fire(self, currents: Tensor, derivative: Derivative | None, detach_reset: bool | None) -> Tensor:
        detaches = self.framework.detaches(self.neuron)
        if detach_reset is False and detaches:
            raise AdaptError(f"{self} always detaches its reset; leave detach_reset at None or True")
        if not detach_reset or detaches:
            return self.replay(currents, derivative).spikes
        if self.framework.detached is not None:
            with self.framework.detached(self.neuron):
                return self.replay(currents, derivative).spikes
        if derivative is None:
            own = self.framework.spike_function(self.neuron)
            derivative = lambda d, t: own(d)  # noqa: E731
        return self.replay(currents, lambda d, t: self.spikes(d.detach())).again(derivative)

    def with_surrogate(self, surrogate: Surrogate) -> Derivative:
        """Spikes of u − θ with a surrogate's derivative."""

        def fire(d: Tensor, t: int | None) -> Tensor:
            spikes = spike(d, surrogate)
            return spikes + (self.spikes(d.detach()) - spikes.detach()) if self.framework.strict else spikes

        return fire

    def spikes(self, d: Tensor) -> Tensor:
        """0 or 1 for u − θ, without gradient."""
        return ((d > 0) if self.framework.strict else (d >= 0)).to(d.dtype)

    def potentials(self, currents: Tensor) -> Tensor:
        """u before firing [T, N, ...], relative to rest; differentiable as the neuron is by itself."""
        own = self.framework.spike_function(self.neuron)
        return self.replay(currents, lambda d, t: own(d)).again(lambda d, t: d) + self.threshold

    def replay(self, currents: Tensor, derivative: Derivative | None = None) -> Replay:
        """Run the neuron over currents from its start; with ``derivative``, firing by it in place of its own function."""
        with preserved([self.neuron]):
            self.start.install(self)
            watch = Watch(derivative, currents, self.covers_time)
            with self.framework.firing(self.neuron, watch) if derivative else contextlib.nullcontext():
                return self._run(currents, watch)

    def _run(self, currents: Tensor, watch: Watch) -> Replay:
        args = self.start.args
        if self.covers_time:
            spikes, states = apart(self.call(currents, *args))
            return Replay(spikes, [states], watch)
        fired, kept = [], []
        for t, x in enumerate(currents):
            watch.step = t
            out = self.call(x, *args)
            spikes, states = apart(out)
            args = (out[-1],) if self.framework.passes_state else ()
            fired.append(spikes)
            kept.append(states)
        return Replay(torch.stack(fired), kept, watch)

    @contextlib.contextmanager
    def starting(self, start: Start) -> Iterator[None]:
        """Within the block runs of the neuron begin with this state."""
        self.start = start
        try:
            yield
        finally:
            self.start = Start()

    def call(self, *args: Any) -> Any:
        """The neuron's own forward."""
        return (self.original or self.neuron.forward)(*args)

    def firing_by(self, surrogate: Surrogate) -> contextlib.AbstractContextManager[None]:
        """Within the block the neuron's own forward fires with this surrogate's derivative."""
        fire = self.with_surrogate(surrogate)
        return self.framework.firing(self.neuron, lambda d: fire(d, None))


Derivative = Callable[[Tensor, "int | None"], Tensor]


class Start:
    """The state that a run of a neuron begins with: the module's own, and what it is called with besides currents."""

    def __init__(self, neuron: nn.Module | None = None, args: tuple[Any, ...] = ()) -> None:
        self.attributes: dict[str, Any] | None = None
        self.args = mapped(args, Tensor.detach)
        if neuron is not None:
            held = {name: value.copy() if isinstance(value, dict) else value for name, value in vars(neuron).items()}
            self.attributes = mapped(held, Tensor.detach)

    def install(self, layer: AdaptedLayer) -> None:
        """Put the state into the neuron; where none was noted, that of a reset."""
        if self.attributes is None:
            layer.framework.reset(layer.neuron)
            return
        own = vars(layer.neuron)
        for name in ("_buffers", "_memories"):
            if name in self.attributes:
                own[name].update(self.attributes[name])


class Watch:
    """Stands in for a neuron's spike function, and keeps u − θ of every step: of the last call in a step, if several."""

    def __init__(self, derivative: Derivative | None, currents: Tensor, covers_time: bool) -> None:
        self.derivative, self.covers_time = derivative, covers_time
        self.length, self.dims, self.size = len(currents), currents.dim(), currents.numel()
        self.step: int | None = None
        self.seen: dict[int | None, Tensor] = {}

    def __call__(self, d: Tensor) -> Tensor:
        assert self.derivative is not None
        step = self.step
        if self.covers_time:
            whole = len(d) == self.length and (d.dim() == self.dims or d.numel() == self.size)
            step = None if whole else len(self.seen)
        self.seen[step] = d
        return self.derivative(d, step)


class Replay:
    """What one run of a neuron gave: spikes [T, N, ...], its other results of each call, and u − θ as the watch saw it."""

    def __init__(self, spikes: Tensor, states: list[Any], watch: Watch) -> None:
        self.spikes, self.states, self.seen = spikes, states, watch.seen

    def again(self, function: Derivative) -> Tensor:
        """A function of u − θ at every step, [T, N, ...]."""
        if None in self.seen:
            return function(self.seen[None], None).reshape(self.spikes.shape)
        return torch.stack([function(d, t) for t, d in self.seen.items()])


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Tuples, lists and dictionaries, nested, with every tensor in them changed."""
    if isinstance(value, nn.Parameter | nn.Module):
        return value
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(each, change) for each in value))
    if isinstance(value, tuple | list):
        return type(value)(mapped(each, change) for each in value)
    if isinstance(value, dict):
        return {key: mapped(each, change) for key, each in value.items()}
    return value


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists and dictionaries, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from tensors_in(each)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))


def apart(out: Any) -> tuple[Tensor, Any]:
    """(spikes, the rest) of what a neuron returned."""
    return (out[0], out[1:]) if isinstance(out, tuple) else (out, ())
