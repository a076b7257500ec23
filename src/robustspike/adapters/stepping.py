"""Estimators for neurons that are called once per time step, in a loop of the user's.

An estimator wants the currents of all steps at once, which a loop does not have. So, for as long as one forward pass lasts,
every neuron's results are cut from the graph; afterwards each estimator is given the whole sequence, and the backward pass
goes from the last layer to the first: what arrives at the spikes of all steps, through the estimator, to the currents of all
steps, and on through the user's own graph. A network with connections back to earlier layers or to the layer itself needs as
many rounds as it has steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from robustspike.adapters.framework import AdaptError, preserved
from robustspike.adapters.layer import AdaptedLayer, Start, apart, mapped, tensors_in


class Chain:
    """The calls of one neuron, one per time step, that continue each other's state."""

    def __init__(self, layer: AdaptedLayer, start: Start) -> None:
        self.layer, self.start = layer, start
        self.estimator = layer.gradient_rule.estimator  # the backward pass may come when it is in force no more
        self.inputs: list[Tensor] = []  # with the user's graph
        self.spikes: list[Tensor] = []  # cut from it, as are the states
        self.states: list[list[Tensor]] = []
        self.returned: list[Tensor] = []  # the last results, as the user got them
        self.kept: list[tuple[Any, int]] = []  # what the neuron itself held then
        self.currents: Tensor | None = None
        self.fired: Tensor | None = None
        self.parameters = [p for p in layer.neuron.parameters() if p.requires_grad]
        self.of_parameters: list[Tensor | None] = [None] * len(self.parameters)  # their gradients

    def call(self, x: Tensor, args: tuple[Any, ...]) -> Any:
        """One step: the neuron's own values, cut from the graph."""
        with torch.no_grad():
            out = self.layer.call(x.detach(), *mapped(args, Tensor.detach))
        cut = mapped(out, lambda value: value.detach().clone().requires_grad_(torch.is_grad_enabled()))
        spikes, states = apart(cut)
        self.inputs.append(x)
        self.spikes.append(spikes)
        self.states.append(list(tensors_in(states)))
        given = mapped(cut, Tensor.clone)  # what users may change in place
        self.returned, self.kept = list(tensors_in(given)), _held(self.layer.neuron)
        return given

    def continues(self, args: tuple[Any, ...]) -> bool:
        """Whether these arguments are the state that this chain's last call returned, or the neuron kept it itself."""
        given = list(tensors_in(args))
        if given:
            return all(any(one is other and not _version(one) for other in self.returned) for one in given)
        now = _held(self.layer.neuron)
        return not self.layer.framework.passes_state and all(
            one is other and version == later for (one, version), (other, later) in zip(self.kept, now, strict=True)
        )

    def estimate(self) -> None:
        """Give the estimator the currents of all steps."""
        with self.layer.starting(self.start):
            self.currents = torch.stack([x.detach() for x in self.inputs]).requires_grad_(torch.is_grad_enabled())
            fired = self.layer.gradient_rule(self.layer, self.currents)
            self.fired = self.layer.graded(fired)
        if not self.layer.gradient_rule.exact:
            own = torch.stack([s.detach() for s in self.spikes])
            if not torch.equal(self.fired.detach(), own) or (fired.is_leaf and fired.requires_grad):
                raise AdaptError(
                    f"{self.layer} takes one time step per call, so an estimator comes too late to send spikes of its own "
                    "through the network; this needs layers that take whole sequences, such as SpikingJelly's in step mode m"
                )

    @property
    def passes_back(self) -> bool:
        """Whether the estimator lets the currents of later steps answer for spikes of earlier ones."""
        return bool(getattr(self.estimator, "acausal", False))

    @property
    def cuts(self) -> list[Tensor]:
        return [*self.spikes, *(state for states in self.states for state in states)]

    def pull(self, gradients: Sequence[Tensor | None]) -> Tensor | None:
        """The gradient of the currents [T, N, ...] for gradients of what was cut, in that order; parameters' is kept."""
        assert self.currents is not None
        assert self.fired is not None
        of_spikes, of_states = gradients[: len(self.spikes)], gradients[len(self.spikes) :]
        wanted = [self.currents, *self.parameters]
        pulled: list[Tensor | None] = [None] * len(wanted)
        if any(g is not None for g in of_spikes) and self.fired.requires_grad:
            whole = torch.stack(
                [torch.zeros_like(s) if g is None else g for s, g in zip(self.spikes, of_spikes, strict=True)]
            )
            pulled = list(torch.autograd.grad(self.fired, wanted, whole, retain_graph=True, allow_unused=True))
        if any(g is not None for g in of_states):
            pulled = list(map(_sum, pulled, self._through_states(of_states, wanted)))
        self.of_parameters = pulled[1:]
        return pulled[0]

    def _through_states(self, gradients: Sequence[Tensor | None], wanted: list[Tensor]) -> Sequence[Tensor | None]:
        """Where a membrane is read out: the neuron's own gradient."""
        assert self.currents is not None
        with torch.enable_grad(), self.layer.starting(self.start):
            states = list(tensors_in(self.layer.replay(self.currents).states))
        pairs = [(s, g) for s, g in zip(states, gradients, strict=True) if g is not None and s.requires_grad]
        if not pairs:
            return [None] * len(wanted)
        outputs, given = zip(*pairs, strict=True)
        return torch.autograd.grad(outputs, wanted, given, allow_unused=True)


class Noted:
    """The currents of one neuron in one place of the network, a call each, and the state that the last call returned."""

    def __init__(self, layer: AdaptedLayer) -> None:
        self.layer = layer
        self.inputs: list[Tensor] = []
        self.returned: list[Tensor] = []


class Unrolled:
    """One forward pass of a user's loop: its chains in the order of their first calls, and what was only noted."""

    def __init__(self) -> None:
        self.lock: AbstractContextManager[Any] = contextlib.nullcontext()  # held by the backward pass
        self.chains: list[Chain] = []
        self.noted: list[Noted] = []
        self.logits: Tensor | None = None
        self.inputs: list[Tensor] = []

    def call(self, layer: AdaptedLayer, x: Tensor, args: tuple[Any, ...]) -> Any:
        """One step of a neuron, cut from the graph."""
        own = [chain for chain in self.chains if chain.layer is layer]
        chain = next((chain for chain in own if chain.continues(args)), None)
        if chain is None:
            layer.alters_state |= _is_altered(layer, args, again=bool(own))
            chain = Chain(layer, Start(layer.neuron, args))
            self.chains.append(chain)
        return chain.call(x, args)

    def note(self, layer: AdaptedLayer, args: tuple[Any, ...], out: Any) -> None:
        """One call of a neuron whose gradient is its own, to the calls that it continues."""
        given = list(tensors_in(args[1:]))
        own = [noted for noted in self.noted if noted.layer is layer]
        found = [noted for noted in own if any(one is other for one in given for other in noted.returned)]
        goes_on = any(bool(value.any()) for value in given) if given else not layer.framework.passes_state
        if not found and goes_on and len(own) == 1:
            found = own
        if not found:
            found = [Noted(layer)]
            self.noted += found
        found[0].inputs.append(args[0])
        found[0].returned = list(tensors_in(apart(out)[1]))

    def finish(self) -> None:
        """Evaluate the estimators, take the notes.

        Raises:
            AdaptError: if the user's loop changes a neuron's state between steps, or gives it one with a gradient.
        """
        for chain in self.chains:
            chain.estimate()
        for noted in self.noted:
            for whole in noted.inputs if noted.layer.covers_time else [torch.stack(noted.inputs)]:
                noted.layer.gradient_rule.note(noted.layer, whole)
        for chain in self.chains:
            chain.layer.check()

    def backward(self, gradient: Tensor) -> list[Tensor | None]:
        """Gradients of the inputs for that of the logits.

        Raises:
            AdaptError: if the estimator has no answer for a recurrent network.
        """
        with self.lock, _without_hooks(self.inputs):
            return self._of_inputs(self._backward(gradient))

    def _backward(self, gradient: Tensor) -> list[Tensor | None]:
        users = self._users()
        recurrent = any(user <= i for i, found in enumerate(users) for user in found)
        if recurrent and any(chain.passes_back for chain in self.chains):
            raise self._no_end()
        pulled: list[Tensor | None] = [None] * len(self.chains)
        for _ in range(1 + sum(len(chain.inputs) for chain in self.chains) if recurrent else 1):
            before = list(pulled)
            for i in reversed(range(len(self.chains))):
                cuts = self.chains[i].cuts
                arriving = self._gradients(gradient, {user: pulled[user] for user in users[i]}, cuts)
                pulled[i] = self.chains[i].pull(arriving)
            if not recurrent or all(map(_same, before, pulled)):
                break
        if not recurrent or all(map(_near, before, pulled)):
            return self._gradients(gradient, dict(enumerate(pulled)), self.inputs)
        raise self._no_end()

    def _no_end(self) -> AdaptError:
        return AdaptError(
            f"{self.chains[0].estimator} has no gradient here: the network is recurrent and it "
            "passes gradients on to later steps, which pass them back, without end; use BPTT(surrogate), BPTR or PDSG"
        )

    def _of_inputs(self, found: list[Tensor | None]) -> list[Tensor | None]:
        """With what arrives at the neurons' own parameters; 0 where hooks of a parameter wait for a gradient."""
        place = {id(value): i for i, value in enumerate(self.inputs)}
        for chain in self.chains:
            for parameter, gradient in zip(chain.parameters, chain.of_parameters, strict=True):
                found[place[id(parameter)]] = _sum(found[place[id(parameter)]], gradient)
        return [
            torch.zeros_like(value) if gradient is None and value._backward_hooks is not None else gradient
            for value, gradient in zip(self.inputs, found, strict=True)
        ]

    def _gradients(
        self, of_logits: Tensor, pulled: dict[int, Tensor | None], wanted: Sequence[Tensor]
    ) -> list[Tensor | None]:
        """From the logits and the currents of some chains to tensors of the user's graph."""
        assert self.logits is not None
        pairs = [(self.logits, of_logits)]
        for i, whole in pulled.items():
            if whole is not None:
                pairs += zip(self.chains[i].inputs, whole, strict=True)
        pairs = [(output, given) for output, given in pairs if output.requires_grad]
        if not pairs or not wanted:
            return [None] * len(wanted)
        outputs, given = zip(*pairs, strict=True)
        return list(torch.autograd.grad(outputs, wanted, given, retain_graph=True, allow_unused=True))

    def _users(self) -> list[set[int]]:
        """Of each chain, the chains whose currents depend on it by the user's graph."""
        owner = {id(cut): i for i, chain in enumerate(self.chains) for cut in chain.cuts}
        users: list[set[int]] = [set() for _ in self.chains]
        for i, chain in enumerate(self.chains):
            for leaf in _leaves(chain.inputs):
                if id(leaf) in owner:
                    users[owner[id(leaf)]].add(i)
        return users


def _held(neuron: nn.Module) -> list[tuple[Any, int]]:
    """What a neuron itself holds, and how often each tensor was changed in place."""
    values = [value for name in ("_buffers", "_memories") for value in vars(neuron).get(name, {}).values()]
    return [(value, _version(value)) for value in values]


def _version(value: Any) -> int:
    return value._version if isinstance(value, Tensor) and not value.is_inference() else 0


def _is_altered(layer: AdaptedLayer, args: tuple[Any, ...], again: bool) -> bool:
    """Whether a state that continues no other has a gradient or, for a neuron that has run, is not that of the start."""
    given = list(tensors_in(args))
    if any(value.grad_fn is not None or isinstance(value, nn.Parameter) for value in given):
        return True
    if layer.framework.passes_state or not again:
        return False
    if given:
        return any(bool(value.any()) for value in given)
    now = _held(layer.neuron)
    with preserved([layer.neuron]):
        layer.framework.reset(layer.neuron)
        return any(bool(torch.as_tensor(a != b).any()) for (a, _), (b, _) in zip(now, _held(layer.neuron), strict=True))


def _leaves(tensors: Iterable[Tensor]) -> Iterable[Tensor]:
    """Every leaf of the graph behind these tensors."""
    seen: set[Node] = set()
    waiting = []
    for tensor in tensors:
        if tensor.grad_fn is None:
            yield tensor
        else:
            waiting.append(tensor.grad_fn)
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        waiting += [following for following, _ in node.next_functions if following is not None]


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return other if one is None else one if other is None else one + other


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other or (one is not None and other is not None and torch.equal(one, other))


def _near(one: Tensor | None, other: Tensor | None) -> bool:
    """The same up to rounding, which on GPUs is another at every call."""
    if one is None or other is None:
        return one is other
    one, other = one.nan_to_num(), other.nan_to_num()
    return torch.allclose(one, other, rtol=0, atol=1000 * torch.finfo(one.dtype).eps * float(other.abs().amax()))


@contextlib.contextmanager
def _without_hooks(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Within the block hooks of these tensors do not run: they will, once, on the gradient that is returned."""
    hooks = [(value._backward_hooks, dict(value._backward_hooks)) for value in tensors if value._backward_hooks]
    try:
        for held, _ in hooks:
            held.clear()
        yield
    finally:
        for held, before in hooks:
            held.update(before)


class Joined(torch.autograd.Function):
    """The logits of an unrolled forward pass, connected again with what they were made from."""

    @staticmethod
    def forward(ctx: Any, unrolled: Unrolled, *inputs: Tensor) -> Tensor:
        ctx.unrolled = unrolled
        assert unrolled.logits is not None
        return unrolled.logits.detach().clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise AdaptError(
                "second derivatives through an estimator are not to be had of a network that takes one step at a time; "
                "use BPTT() or BPTT(surrogate), whose gradient is the framework's own"
            )
        return None, *ctx.unrolled.backward(grads[0])
