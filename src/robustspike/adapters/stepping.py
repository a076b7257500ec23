"""Estimators for neurons that are called once per time step, in a loop of the user's.

An estimator wants the currents of all steps at once, which a loop does not have. So, for as long as one forward pass lasts,
every neuron's results are cut from the graph; afterwards each estimator is given the whole sequence, and the backward pass
goes from the last layer to the first: what arrives at the spikes of all steps, through the estimator, to the currents of all
steps, and on through the user's own graph. A network with connections back to earlier layers or to the layer itself needs as
many rounds as it has steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from robustspike.adapters.framework import AdaptError
from robustspike.adapters.layer import AdaptedLayer, Start, apart, mapped, tensors_in


class Chain:
    """The calls of one neuron, one per time step, that continue each other's state."""

    def __init__(self, layer: AdaptedLayer, start: Start) -> None:
        self.layer, self.start = layer, start
        self.inputs: list[Tensor] = []  # with the user's graph
        self.spikes: list[Tensor] = []  # cut from it, as are the states
        self.states: list[list[Tensor]] = []
        self.returned: list[Tensor] = []  # the last results, as the user got them
        self.currents: Tensor | None = None
        self.fired: Tensor | None = None

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
        self.returned = list(tensors_in(apart(given)[1]))
        return given

    def continues(self, args: tuple[Any, ...]) -> bool:
        """Whether these arguments are the state that this chain's last call returned, or the neuron keeps it itself."""
        given = list(tensors_in(args))
        return all(any(one is other for other in self.returned) for one in given)

    def estimate(self) -> None:
        """Give the estimator the currents of all steps."""
        with self.layer.starting(self.start):
            self.currents = torch.stack([x.detach() for x in self.inputs]).requires_grad_(torch.is_grad_enabled())
            self.fired = self.layer.gradient_rule(self.layer, self.currents)

    @property
    def cuts(self) -> list[Tensor]:
        return [*self.spikes, *(state for states in self.states for state in states)]

    def pull(self, gradients: Sequence[Tensor | None]) -> Tensor | None:
        """The gradient of the currents [T, N, ...] for gradients of what was cut, in that order."""
        assert self.currents is not None
        assert self.fired is not None
        of_spikes, of_states = gradients[: len(self.spikes)], gradients[len(self.spikes) :]
        pulled = None
        if any(g is not None for g in of_spikes) and self.fired.requires_grad:
            whole = torch.stack(
                [torch.zeros_like(s) if g is None else g for s, g in zip(self.spikes, of_spikes, strict=True)]
            )
            (pulled,) = torch.autograd.grad(self.fired, self.currents, whole, retain_graph=True, allow_unused=True)
        if any(g is not None for g in of_states):
            through = self._through_states(of_states)
            pulled = through if pulled is None else pulled if through is None else pulled + through
        return pulled

    def _through_states(self, gradients: Sequence[Tensor | None]) -> Tensor | None:
        """Where a membrane is read out: the neuron's own gradient."""
        assert self.currents is not None
        with torch.enable_grad(), self.layer.starting(self.start):
            states = list(tensors_in(self.layer.replay(self.currents).states))
        pairs = [(s, g) for s, g in zip(states, gradients, strict=True) if g is not None and s.requires_grad]
        if not pairs:
            return None
        outputs, given = zip(*pairs, strict=True)
        return torch.autograd.grad(outputs, self.currents, given, allow_unused=True)[0]


class Unrolled:
    """One forward pass of a user's loop: its chains in the order of their first calls, and what was only noted."""

    def __init__(self) -> None:
        self.chains: list[Chain] = []
        self.noted: dict[AdaptedLayer, list[Tensor]] = {}
        self.logits: Tensor | None = None
        self.inputs: list[Tensor] = []

    def call(self, layer: AdaptedLayer, x: Tensor, args: tuple[Any, ...]) -> Any:
        """One step of a neuron, cut from the graph."""
        own = [chain for chain in self.chains if chain.layer is layer]
        chain = next((chain for chain in own if chain.continues(args)), None)
        if chain is None:
            chain = Chain(layer, Start(layer.neuron, args))
            self.chains.append(chain)
        return chain.call(x, args)

    def note(self, layer: AdaptedLayer, x: Tensor) -> None:
        """One call of a neuron whose gradient is its own."""
        self.noted.setdefault(layer, []).append(x)

    def finish(self) -> None:
        """Evaluate the estimators, take the notes.

        Raises:
            AdaptError: if the user's loop changes a neuron's state between steps.
        """
        longest = max((len(chain.inputs) for chain in self.chains), default=0)
        for chain in self.chains:
            if len(chain.inputs) == 1 < longest:
                raise AdaptError(
                    f"the state of {chain.layer} is not passed on as it was returned: the network changes it between "
                    "steps, and only BPTT() follows that; pass it on unchanged, or use BPTT(surrogate)"
                )
            chain.estimate()
        for layer, inputs in self.noted.items():
            whole = inputs[0] if layer.covers_time and len(inputs) == 1 else torch.stack(inputs)
            layer.gradient_rule.note(layer, whole)

    def backward(self, gradient: Tensor) -> list[Tensor | None]:
        """Gradients of the inputs for that of the logits.

        Raises:
            AdaptError: if the estimator has no answer for a recurrent network.
        """
        users = self._users()
        recurrent = any(user <= i for i, found in enumerate(users) for user in found)
        pulled: list[Tensor | None] = [None] * len(self.chains)
        for _ in range(1 + max(map(len, (chain.inputs for chain in self.chains)), default=0) if recurrent else 1):
            before = list(pulled)
            for i in reversed(range(len(self.chains))):
                cuts = self.chains[i].cuts
                arriving = self._gradients(gradient, {user: pulled[user] for user in users[i]}, cuts)
                pulled[i] = self.chains[i].pull(arriving)
            if not recurrent or all(map(_same, before, pulled)):
                return self._gradients(gradient, dict(enumerate(pulled)), self.inputs)
        rule = self.chains[0].layer.gradient_rule
        raise AdaptError(
            f"{rule.estimator if rule else 'the estimator'} has no gradient here: the network is recurrent and it "
            "passes gradients to earlier steps without end; use BPTT(surrogate), BPTR, RGA, PDSG or ASSG"
        )

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


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other or (one is not None and other is not None and torch.equal(one, other))


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
