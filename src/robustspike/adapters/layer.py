"""A neuron of another framework under the contract between spiking layers and gradient estimators."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from robustspike.adapters.framework import AdaptError, Framework, Membrane, preserved, replaced
from robustspike.gradients import BPTT, Rule
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
        self.takes_surrogates = True  # whether it does the same with another surrogate, whatever its fault
        self.fires = True  # whether it calls its spike function at all
        self.knows_drive = self.knows_leak = True  # until real currents show otherwise
        self.alters_state = False  # whether the user's loop changes the state between steps
        self.blind_in_eval = False  # whether its spikes carry a gradient in training mode only
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
        if self._rule is None or self._rule.estimator is None:
            return
        if self.alters_state and not isinstance(self._rule.estimator, BPTT):
            raise AdaptError(
                f"the state of {self} is not passed on as it was returned: the network changes it between steps, or begins "
                "with one that has a gradient, which only BPTT follows, and only as far as nothing detaches it; pass it on "
                "unchanged, or use BPTT(surrogate)"
            )
        if self.fault is not None and not (self.takes_surrogates and isinstance(self._rule.estimator, BPTT)):
            instead = "BPTT(surrogate)" if self.takes_surrogates else "BPTT(), the network's own gradient,"
            raise AdaptError(
                f"{self} cannot carry {self._rule.estimator}: {self.fault}; use {instead} with attacks without gradients "
                "beside it, or put another neuron there"
            )

    def graded(self, spikes: Tensor) -> Tensor:
        """Spikes of 0 and 1, as estimators see them, as they leave the neuron."""
        factor = self.framework.factor(self.neuron)
        return spikes if factor is None else spikes * factor

    def ungraded(self, spikes: Tensor) -> Tensor:
        """Spikes as they leave the neuron, as estimators see them."""
        factor = self.framework.factor(self.neuron)
        return spikes if factor is None else spikes / torch.where(factor == 0, 1.0, factor)

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
        drive = self.membrane.drive
        if drive is None or not self.knows_drive:
            raise AdaptError(
                f"{self} does not say how its input reaches its membrane, which BPTR, RGA, HART and CBA have to know; use "
                "BPTT(surrogate), PDSG or ASSG"
            )
        return drive(currents)

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
                if slope.numel() != d.numel() and self.framework.detaches(self.neuron):
                    return self.spikes(d)  # a reset, of more places than are pooled to spikes
                return with_slope(self.spikes(d), d, slope.reshape(d.shape).to(d.dtype))

        return self._fire(currents, derivative, detach_reset)

    def _fire(self, currents: Tensor, derivative: Derivative | None, detach_reset: bool | None) -> Tensor:
        detaches = self.framework.detaches(self.neuron)
        if detach_reset is False and detaches:
            raise AdaptError(f"{self} always detaches its reset; leave detach_reset at None or True")
        if not detach_reset or detaches:
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

    def slope(self, potentials: Tensor) -> Tensor:
        """∂s/∂u of the neuron's own surrogate at potentials relative to rest, elementwise."""
        with torch.enable_grad():
            d = (potentials - self.threshold).detach().requires_grad_()
            spikes = self.framework.spike_function(self.neuron)(d)
            found = torch.autograd.grad(spikes.sum(), d, allow_unused=True)[0] if spikes.requires_grad else None
        return torch.zeros_like(d) if found is None else found

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
            return Replay(self.ungraded(spikes), [states], watch)
        fired, kept = [], []
        for t, x in enumerate(currents):
            watch.step = t
            out = self.call(x, *args)
            spikes, states = apart(out)
            args = (out[-1],) if self.framework.passes_state else ()
            fired.append(spikes)
            kept.append(states)
        return Replay(self.ungraded(torch.stack(fired)), kept, watch)

    @contextlib.contextmanager
    def starting(self, start: Start) -> Iterator[None]:
        """Within the block runs of the neuron begin with this state."""
        before, self.start = self.start, start
        try:
            yield
        finally:
            self.start = before

    def call(self, *args: Any) -> Any:
        """The neuron's own forward; in training mode, for as long as it lasts, where it has a gradient in no other."""
        forward = self.original or self.neuron.forward
        if not self.blind_in_eval:
            return forward(*args)
        with replaced(self.neuron, "training", True):
            return forward(*args)

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
        self.before = {} if neuron is None else vars(neuron).copy()
        self.before.pop("forward", None)  # what stands in for it knows the pass that holds this state
        if neuron is not None:
            held = {name: value.copy() if isinstance(value, dict) else value for name, value in self.before.items()}
            self.attributes = mapped(held, Tensor.detach)

    def install(self, layer: AdaptedLayer) -> None:
        """Put the state into the neuron; where none was noted, that of a reset."""
        if self.attributes is None:
            layer.framework.reset(layer.neuron)
            return
        own = vars(layer.neuron)
        changed = self._changed(own)
        for name, value in mapped(self.attributes, lambda tensor: tensor).items():  # lists anew: neurons append to them
            if name in ("_buffers", "_memories"):
                own[name].update(value)
            elif name in changed:
                own[name] = value

    def _changed(self, now: dict[str, Any]) -> set[str]:
        """Attributes of a neuron that keeps its state in plain ones, which are others by now."""
        plain = {name for name in self.before if not name.startswith("_") and name not in ("training", "forward")}
        return {name for name in plain if now.get(name) is not self.before[name] or isinstance(now[name], list)}


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
        return torch.stack([function(d, t) for t, d in self.seen.items()]).reshape(self.spikes.shape)


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


def copied_state(model: nn.Module) -> dict[int, Any]:
    """For ``copy.deepcopy``: copies without graph of the tensors that modules keep and that have one, by identity."""
    kept = (value for module in model.modules() for value in tensors_in(vars(module)))
    return {id(value): value.detach().clone() for value in kept if not value.is_leaf}


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
