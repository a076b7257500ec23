"""A network of another framework as one of ours: images in, logits out, every estimator through ``estimating()``."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robustspike.adapters.framework import Framework, preserved, replaced
from robustspike.adapters.layer import AdaptedLayer, Start, apart, mapped
from robustspike.adapters.parity import prepare
from robustspike.adapters.readout import Readout, logits_of, stacked
from robustspike.adapters.stepping import Joined, Unrolled
from robustspike.gradients import BPTT, Rule
from robustspike.neurons import at_every_step, repeat
from robustspike.surrogates import with_slope


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
        self.time_collapsed = False  # set by an estimator without a time axis
        self.prepared = False
        self.straight_through: tuple[str, ...] = ()  # paths of encoders that cut the graph
        self.frameworks = tuple(frameworks)
        self.adapted_layers: dict[str, AdaptedLayer] = {}
        for path, module in model.named_modules():
            framework = next((known for known in frameworks if known.is_neuron(module)), None)
            if framework is not None:
                self.adapted_layers[path or "network"] = AdaptedLayer(module, framework, path or "network")
        for name, value in (("mean", mean), ("std", std)):
            self.register_buffer(name, None if value is None else torch.tensor(value), persistent=False)

    def extra_repr(self) -> str:
        through = f", straight through {', '.join(self.straight_through)}" if self.straight_through else ""
        return f"time_steps={self.time_steps}, takes={self.takes!r}, readout={self.readout!r}{through}"

    def forward(self, x: Tensor) -> Tensor:
        if not self.prepared:
            prepare(self, x)
        for layer in self.adapted_layers.values():
            layer.check()
        return self.run(x)

    def run(self, x: Tensor) -> Tensor:
        """One forward pass from fresh state, without the checks."""
        if not torch.is_grad_enabled() or not any(map(self._is_unrolled, self.adapted_layers.values())):
            return self._pass(x, Unrolled())
        unrolled, inner = Unrolled(), x.detach().requires_grad_(x.requires_grad)
        unrolled.logits = self._pass(inner, unrolled)
        parameters = [p for p in self.model.parameters() if p.requires_grad]
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
        encoder: Any = self.encoder
        x_seq = encoder.rate(x)[None] if self.time_collapsed else encoder(x)
        x_seq = at_every_step(self._normalised, x_seq)
        out = self.model(x_seq) if self.takes == "sequence" else self._looped(x_seq)
        return logits_of(out, self.readout, len(x))

    def _looped(self, x_seq: Tensor) -> Any:
        """One call for each step; a network that takes and returns state is given what it returned."""
        passes = any(framework.passes_state for framework in self.frameworks)
        outs: list[Any] = []
        state: tuple[Any, ...] = ()
        for x in x_seq:
            out = self.model(x, *state)
            if passes and isinstance(out, tuple) and len(out) == 2:
                state = (out[1],)
            outs.append(out)
        return stacked(outs)

    def _normalised(self, x: Tensor) -> Tensor:
        if self.mean is None or self.std is None:
            return x
        shape = (-1, *[1] * (x.dim() - 2))
        return (x - self.mean.to(x.dtype).reshape(shape)) / self.std.to(x.dtype).reshape(shape)

    @contextlib.contextmanager
    def patched(self, unrolled: Unrolled) -> Iterator[None]:
        """Within the block state is fresh and estimators are in force; afterwards the network is as before."""
        layers = self.adapted_layers.values()
        stateful = [m for m in self.model.modules() if any(f.is_neuron(m) or f.is_stateful(m) for f in self.frameworks)]
        with preserved(stateful), contextlib.ExitStack() as stack:
            self.refresh()
            for layer in layers:
                layer.original = layer.neuron.forward
                stack.enter_context(replaced(layer.neuron, "forward", self._stand_in(layer, unrolled)))
                stack.callback(setattr, layer, "original", None)
                if layer.blind_in_eval:
                    layer.neuron.training = True
            for path in self.straight_through:
                module = self.model.get_submodule(path)
                stack.enter_context(replaced(module, "forward", _straight_through(module.forward)))
            yield

    def refresh(self) -> None:
        """Fresh state in every module, neurons or not."""
        for module in self.model.modules():
            for framework in self.frameworks:
                if framework.is_neuron(module) or framework.is_stateful(module):
                    framework.reset(module)

    def _is_unrolled(self, layer: AdaptedLayer) -> bool:
        """Whether an estimator is in force that needs all steps of a neuron that is called for each."""
        rule = layer.gradient_rule
        return not (self.time_collapsed or layer.covers_time or rule is None or _is_own(rule))

    def _stand_in(self, layer: AdaptedLayer, unrolled: Unrolled) -> Callable[..., Any]:
        """What a neuron's forward is for as long as a pass lasts."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            if kwargs:
                args = inspect.signature(layer.original or layer.neuron.forward).bind(*args, **kwargs).args
            rule: Rule | None = layer.gradient_rule
            if rule is None:
                return layer.call(*args)
            if _is_own(rule):
                unrolled.note(layer, args[0])
                return _with_surrogate(layer, rule.estimator, args)
            if layer.covers_time:
                return _whole(layer, rule, args, exact=not self.time_collapsed)
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


def _whole(layer: AdaptedLayer, rule: Rule, args: tuple[Any, ...], exact: bool) -> Any:
    """A call with all steps at once: the neuron's own values, where they are to be exact, the estimator's derivative."""
    if not (exact or layer.framework.passes_state):
        return rule(layer, args[0])
    start = Start(layer.neuron, args[1:])
    with torch.set_grad_enabled(torch.is_grad_enabled() and layer.framework.passes_state):
        out = layer.call(*args)
    with layer.starting(start):
        fired = rule(layer, args[0])
    spikes, states = apart(out)
    if exact:
        fired = with_slope(spikes, fired, torch.ones_like(fired))
    return (fired, *states) if isinstance(out, tuple) else fired


def _collapsed(layer: AdaptedLayer, rule: Rule, args: tuple[Any, ...]) -> Any:
    """One step that stands for all; what is read out of the membrane is the current that it gets."""
    with torch.no_grad():
        out = layer.call(*mapped(args, Tensor.detach))
    x = args[0][None]
    fired, current = rule(layer, x)[0], layer.drive(x)[0]
    states = mapped(apart(out)[1], lambda state: current if state.shape == current.shape else state)
    return (fired, *states) if isinstance(out, tuple) else fired


def _straight_through(original: Callable[..., Any]) -> Callable[..., Any]:
    """An encoder's spikes with slope 1 at every step."""

    def forward(x: Tensor, *args: Any) -> Tensor:
        spikes = original(x, *args)
        source = x if spikes.shape == x.shape else repeat(x, len(spikes))
        return with_slope(spikes, source, torch.ones_like(spikes))

    return forward
