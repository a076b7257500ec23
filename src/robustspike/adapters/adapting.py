"""A network of another framework as one of ours: images in, logits out, every estimator through ``estimating()``."""

from __future__ import annotations

import contextlib
import copy
import inspect
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robustspike.adapters.framework import AdaptError, Framework, preserved, replaced
from robustspike.adapters.layer import AdaptedLayer, Start, apart, copied_state, mapped
from robustspike.adapters.parity import prepare
from robustspike.adapters.readout import Readout, logits_of, stacked
from robustspike.adapters.stepping import Joined, Unrolled
from robustspike.checkpoints import settings_text
from robustspike.encoders import Direct
from robustspike.gradients import BPTT, Rule
from robustspike.neurons import at_every_step, repeat
from robustspike.surrogates import with_slope

_locks: weakref.WeakKeyDictionary[nn.Module, threading.RLock] = weakref.WeakKeyDictionary()
_locks_lock = threading.Lock()


class Adapted(nn.Module):
    """x [N, ...] in [0, 1] to logits [N, K] by a user's network, ``model``; made by :func:`robustspike.adapt`.

    The network is changed for as long as a forward pass lasts and never longer. ``adapted_layers`` are its neurons by path.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self, model: nn.Module, frameworks: Sequence[Framework], time_steps: int | None, takes: str | None,
        encoder: nn.Module | None, mean: Sequence[float] | None, std: Sequence[float] | None, readout: str | Readout,
    ) -> None:  # fmt: skip
        super().__init__()
        self.model, self.encoder = model, encoder
        self.time_steps, self.takes, self.readout = time_steps, takes, readout
        self.said = {"time_steps": time_steps, "takes": takes, "readout": readout if isinstance(readout, str) else None}
        self.time_collapsed = False  # set by an estimator without a time axis
        self.prepared = False
        self.straight_through: tuple[str, ...] = ()  # paths of encoders that cut the graph
        self.frameworks = tuple(frameworks)
        self.adapted_layers: dict[str, AdaptedLayer] = {}
        # Neurons of which only the potential is read: no estimator is for them.
        self.readouts: dict[str, AdaptedLayer] = {}
        for path, module in model.named_modules():
            framework = next((known for known in frameworks if known.is_neuron(module)), None)
            if framework is not None:
                layer = AdaptedLayer(module, framework, path or "network")
                if (why := framework.refusal(module)) is not None:
                    raise AdaptError(f"{layer} {why}")
                self.adapted_layers[layer.path] = layer
        for name, value in (("mean", mean), ("std", std)):
            self.register_buffer(name, None if value is None else torch.tensor(value), persistent=False)

    def extra_repr(self) -> str:
        said = {
            name: value
            for name, value in {**self.said, "mean": self.mean, "std": self.std}.items()
            if value is not None
        }
        return ", ".join(
            f"{name}={value.tolist() if isinstance(value, Tensor) else value}" for name, value in said.items()
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Adapted:
        """Copied even where the neurons' state holds a graph, as after a training loop of the user's."""
        memo |= copied_state(self.model)
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__setstate__(copy.deepcopy(vars(self), memo))
        for layer in copied.adapted_layers.values():
            layer.gradient_rule = None  # a copy made while an estimator is in force is not seen through
        copied.time_collapsed = False
        return copied

    @property
    def transient(self) -> list[str]:
        """Names of buffers that are state of the network's neurons, not part of what it is."""
        neurons = {path: layer.neuron for path, layer in (self.adapted_layers | self.readouts).items()}
        names = [(path, name) for path, neuron in neurons.items() for name in neuron._non_persistent_buffers_set]
        return [f"model.{name}" if path == "network" else f"model.{path}.{name}" for path, name in names]

    @property
    def adapted_constants(self) -> str:
        """What tells this network from others of equal modules and tensors: its neurons' settings, the read-out."""
        kinds = (bool, int, float, str)
        texts = [settings_text(self.readout)]
        for path, layer in sorted((self.adapted_layers | self.readouts).items()):
            own = {name: value for name, value in vars(layer.neuron).items() if isinstance(value, kinds)}
            plain = {name: value for name, value in own.items() if not name.startswith("_") and name != "training"}
            texts.append(f"{path} {plain} {settings_text(layer.framework.spike_function(layer.neuron))}")
        return "; ".join(texts)

    @property
    def lock(self) -> threading.RLock:
        """Held while the network's modules are not its own: one thread at a time, whatever adapts it."""
        with _locks_lock:
            return _locks.setdefault(self.model, threading.RLock())

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            if not self.prepared:
                prepare(self, x)
            self._check_neurons()
            return self.run(x)

    def _check_neurons(self) -> None:
        known = {layer.neuron for layer in (self.adapted_layers | self.readouts).values()}
        for path, module in self.model.named_modules():
            if module not in known and any(framework.is_neuron(module) for framework in self.frameworks):
                raise AdaptError(f"the network has another neuron at {path} than when it was adapted; adapt it again")
        for layer in self.adapted_layers.values():
            layer.check()

    def run(self, x: Tensor) -> Tensor:
        """One forward pass from fresh state, without the checks."""
        if not torch.is_grad_enabled() or not any(map(self._is_unrolled, self.adapted_layers.values())):
            return self._pass(x, Unrolled())
        unrolled, inner = Unrolled(), x.detach().requires_grad_(x.requires_grad)
        unrolled.lock, unrolled.logits = self.lock, self._pass(inner, unrolled)
        parameters = [p for p in self.parameters() if p.requires_grad]
        unrolled.inputs = [value for value in (inner, *parameters) if value.requires_grad]
        if not unrolled.inputs:
            return unrolled.logits.detach()
        return Joined.apply(unrolled, *(x if value is inner else value for value in unrolled.inputs))

    def _pass(self, x: Tensor, unrolled: Unrolled) -> Tensor:
        with self.patched(unrolled):
            logits = self.answer(x)
            unrolled.finish()
        return logits

    def answer(self, x: Tensor) -> Tensor:
        """Encode, normalise, call the network as it is to be called, read out; neither fresh state nor estimators."""
        if self.takes == "images":
            return logits_of(self.model(self._normalised(x)), self.readout, len(x))
        encoder: Any = self.encoder or Direct(self.time_steps or 1)
        x_seq = encoder.rate(x)[None] if self.time_collapsed else encoder(x)
        x_seq = at_every_step(self._normalised, x_seq)
        out = self.model(x_seq.contiguous()) if self.takes == "sequence" else self._looped(x_seq)
        return logits_of(out, self.readout, len(x))

    def _looped(self, x_seq: Tensor) -> Any:
        """One call for each step; a network that takes and returns state is given what it returned."""
        outs: list[Any] = []
        state: tuple[Any, ...] = ()
        for x in x_seq:
            out = self.model(x.contiguous(), *state)
            state = out[1:] if self.passes_state(out) else ()
            outs.append(mapped(out, lambda value: value))  # the network may go on filling its list of states
        return stacked(outs)

    def passes_state(self, out: Any) -> bool:
        """Whether what one step of the network returned beside its output goes into the next."""
        if not isinstance(out, tuple) or not any(framework.passes_state for framework in self.frameworks):
            return False
        try:
            inspect.signature(self.model.forward).bind(*out)
        except TypeError:
            return False
        return len(out) > 1

    def _normalised(self, x: Tensor) -> Tensor:
        if self.mean is None or self.std is None:
            return x
        shape = (-1, *[1] * (x.dim() - 2))
        return (x - self.mean.to(x.dtype).reshape(shape)) / self.std.to(x.dtype).reshape(shape)

    @contextlib.contextmanager
    def patched(self, unrolled: Unrolled) -> Iterator[None]:
        """Within the block state is fresh and estimators are in force; afterwards the network is as before."""
        with self.lock, self.afresh(), contextlib.ExitStack() as stack:
            for layer in (*self.adapted_layers.values(), *self.readouts.values()):
                layer.original = layer.neuron.forward
                stack.enter_context(replaced(layer.neuron, "forward", self._stand_in(layer, unrolled)))
                stack.callback(setattr, layer, "original", None)
            for path in self.straight_through:
                module = self.model.get_submodule(path)
                stack.enter_context(replaced(module, "forward", _straight_through(module.forward)))
            yield

    @contextlib.contextmanager
    def afresh(self) -> Iterator[None]:
        """Within the block every module, neuron or not, goes on from fresh state; afterwards from what it had before."""
        keeping = [
            (module, framework)
            for module in self.model.modules()
            for framework in self.frameworks
            if framework.is_neuron(module) or framework.is_stateful(module)
        ]
        with preserved(dict.fromkeys(module for module, _ in keeping)):
            for module, framework in keeping:
                framework.reset(module)
            yield

    def _is_unrolled(self, layer: AdaptedLayer) -> bool:
        """Whether an estimator is in force that needs all steps of a neuron that is called for each."""
        rule = layer.gradient_rule
        return not (self.time_collapsed or layer.covers_time or rule is None or _is_own(rule))

    def _stand_in(self, layer: AdaptedLayer, unrolled: Unrolled) -> Callable[..., Any]:
        """What a neuron's forward is for as long as a pass lasts."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            if kwargs:
                bound = inspect.signature(layer.original or layer.neuron.forward).bind(*args, **kwargs)
                bound.apply_defaults()
                args = bound.args
            rule: Rule | None = None if layer.path in self.readouts else layer.gradient_rule
            if rule is None:
                return layer.call(*args)
            if _is_own(rule):
                out = _with_surrogate(layer, rule.estimator, args)
                unrolled.note(layer, args, out)
                return out
            if layer.covers_time:
                return _whole(layer, rule, args)
            return _collapsed(layer, rule, args) if self.time_collapsed else unrolled.call(layer, args[0], args[1:])

        return forward


def _is_own(rule: Rule) -> bool:
    """Whether the gradient is the framework's, through time, perhaps with another surrogate."""
    return rule.estimator is None or isinstance(rule.estimator, BPTT)


def _with_surrogate(layer: AdaptedLayer, estimator: BPTT | None, args: tuple[Any, ...]) -> Any:
    if estimator is None or estimator.surrogate is None:
        return layer.call(*args)
    with layer.firing_by(estimator.surrogate):
        return layer.call(*args)


def _whole(layer: AdaptedLayer, rule: Rule, args: tuple[Any, ...]) -> Any:
    """A call with all steps at once: the neuron's own values, where they are to be exact, the estimator's derivative."""
    if not (rule.exact or layer.framework.returns_state):
        return layer.graded(rule(layer, args[0]))
    start = Start(layer.neuron, args[1:])
    with torch.set_grad_enabled(torch.is_grad_enabled() and layer.framework.returns_state):
        out = layer.call(*args)
    with layer.starting(start):
        fired = layer.graded(rule(layer, args[0]))
    spikes, states = apart(out)
    if rule.exact:
        fired = with_slope(spikes, fired, torch.ones_like(fired))
    return (fired, *states) if isinstance(out, tuple) else fired


def _collapsed(layer: AdaptedLayer, rule: Rule, args: tuple[Any, ...]) -> Any:
    """One step that stands for all; what is read out of the membrane is the current that it gets."""
    with torch.no_grad():
        out = layer.call(*mapped(args, Tensor.detach))
    x = args[0][None]
    fired, current = layer.graded(rule(layer, x))[0], layer.drive(x)[0]
    states = mapped(apart(out)[1], lambda state: current if state.shape == current.shape else state)
    return (fired, *states) if isinstance(out, tuple) else fired


def _straight_through(original: Callable[..., Any]) -> Callable[..., Any]:
    """An encoder's spikes with slope 1 at every step."""

    def forward(x: Tensor, *args: Any) -> Tensor:
        spikes = original(x, *args)
        source = x if spikes.shape == x.shape else repeat(x, len(spikes))
        return with_slope(spikes, source, torch.ones_like(spikes))

    return forward
