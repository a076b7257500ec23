"""The trail of the gradient: what arrives at the input of every operation, and which of its zeros are made there."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from robustspike.audits.batches import Batch
from robustspike.audits.windows import (
    ADAPTIVE_MAX,
    ADAPTIVE_MEAN,
    CONVOLUTIONS,
    MAX_POOLINGS,
    MEAN_POOLINGS,
    Windows,
    dimensions,
)
from robustspike.draws import sampling
from robustspike.neurons import spiking_layers

KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "convolution": CONVOLUTIONS,
    "linear": (nn.Linear,),
    "BatchNorm": (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    "max pooling": (*MAX_POOLINGS, *ADAPTIVE_MAX),
    "average pooling": (*MEAN_POOLINGS, *ADAPTIVE_MEAN),
}


def kind_of(module: nn.Module) -> str | None:
    """Which operation a module is; None for one that is not followed.

    Example:
        >>> from robustspike.audits.trail import kind_of
        >>> kind_of(LIF()), kind_of(nn.AvgPool2d(2)), kind_of(nn.Flatten())
        ('spiking', 'average pooling', None)
    """
    if hasattr(module, "gradient_rule"):
        return "spiking"
    return next((kind for kind, classes in KINDS.items() if isinstance(module, classes)), None)


def operations_of(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """The operations that are followed, by path, each with its kind; another framework's neurons are spiking ones."""
    adapted = {layer.neuron for layer in spiking_layers(model).values() if not isinstance(layer, nn.Module)}
    kinds = (
        (path, module, "spiking" if module in adapted else kind_of(module)) for path, module in model.named_modules()
    )
    return {path: (module, kind) for path, module, kind in kinds if kind is not None}


@dataclass(frozen=True)
class Layout:
    """Where the samples are in a tensor: on ``axis``, with ``steps`` entries each, step after step or sample after sample.

    Found by comparing the same call with one and with two samples, of which the first is that one.
    """

    axis: int
    steps: int
    time_first: bool

    @classmethod
    def between(cls, one: Tensor, two: Tensor) -> Layout | None:
        """From a tensor of one sample and that of two of which it is the first; None where no axis grows."""
        pairs = enumerate(zip(one.shape, two.shape, strict=True))
        axis = next((k for k, (a, b) in pairs if b == 2 * a and a > 0), None)
        if axis is None:
            return None
        steps = one.shape[axis]
        by_step = two.unflatten(axis, (steps, 2)).select(axis + 1, 0)
        by_sample = two.narrow(axis, 0, steps)
        return cls(axis, steps, bool((by_step - one).abs().sum() <= (by_sample - one).abs().sum()))

    def rows(self, tensor: Tensor, n: int) -> Tensor:
        """[n, entries of a sample]."""
        sizes = (self.steps, n) if self.time_first else (n, self.steps)
        return tensor.unflatten(self.axis, sizes).movedim(self.axis + self.time_first, 0).flatten(1)


@dataclass
class Tally:
    """One operation in one batch of n samples, over all its calls; counts are of entries.

    Attributes:
        entries: of one sample.
        nonzero: entries of the gradient at its input that are not exactly 0, [n].
        made: zeros although the gradient is not 0 at some output that the entry leads to, [n].
        unread: zeros of entries that lead to no output, [n].
        squares: Σ of the squares of finite entries, [n].
        broken: whether an entry was not finite, [n].
    """

    entries: int
    nonzero: Tensor
    made: Tensor
    unread: Tensor
    squares: Tensor
    broken: Tensor

    @classmethod
    def of(cls, n: int, device: torch.device) -> Tally:
        """Nothing counted yet."""
        none = torch.zeros(n, dtype=torch.float64, device=device)
        counts = [none.clone() for _ in range(4)]
        return cls(0, counts[0], counts[1], counts[2], counts[3], torch.zeros(n, dtype=torch.bool, device=device))

    def add(self, g: Tensor) -> None:
        """A gradient at the input, [n, entries]."""
        self.nonzero += (g != 0).sum(1)
        self.squares += g.double().masked_fill(~g.isfinite(), 0.0).square().sum(1)
        self.broken |= ~g.isfinite().all(1)


@dataclass(frozen=True)
class Zeros:
    """Which zeros of the gradient at an operation's input come about there, in the shape of the input.

    Attributes:
        made: the gradient is not 0 at some output that the entry leads to.
        unread: the entry leads to no output.
    """

    made: Tensor
    unread: Tensor


def zeros(module: nn.Module, g: Tensor, g_out: Tensor) -> Zeros:
    """From the gradients at an operation's input and at its output.

    An entry leads to the outputs whose window covers it (convolution, pooling), to all of its sample (linear layer), to its
    own place (BatchNorm), and to its neuron's spikes of this and of all later steps (spiking layer with a leak above 0; of
    another framework: of this step).

    Example:
        >>> from robustspike.audits.trail import zeros
        >>> found = zeros(nn.MaxPool1d(2), torch.tensor([[[0.0, 5.0, 0.0]]]), torch.tensor([[[5.0]]]))
        >>> found.made.tolist(), found.unread.tolist()
        ([[[True, False, False]]], [[[False, False, True]]])
    """
    some = g_out != 0
    kind, nowhere = kind_of(module) or "spiking", torch.zeros((), dtype=torch.bool, device=g.device)
    if kind == "spiking" and getattr(module, "leak", 0) != 0:
        some = some.flip(0).cumsum(0).flip(0) > 0
    elif kind == "linear":
        some = some.any(-1, keepdim=True)
    elif kind not in ("spiking", "BatchNorm"):
        some, nowhere = _led_to(module, g, some)
    return Zeros((g == 0) & some, ((g == 0) & nowhere).expand_as(g))


def _led_to(module: Any, g: Tensor, some: Tensor) -> tuple[Tensor, Tensor]:
    """Which inputs of a convolution or pooling lead to one of ``some`` outputs, and which to none at all."""
    d = dimensions(module)
    windows = Windows.of(module, tuple(g.shape[-d:]), tuple(some.shape[-d:]))
    if isinstance(module, CONVOLUTIONS):  # every channel of a group leads to every output of the group
        some = some.unflatten(-1 - d, (module.groups, -1)).any(-1 - d, keepdim=True)
        some = some.expand(*some.shape[: -1 - d], g.shape[-1 - d] // module.groups, *some.shape[-d:])
        some = some.flatten(-2 - d, -1 - d)
    nothing = windows.over(torch.ones(some.shape[-d:], device=g.device)) == 0
    return windows.over(some.float()) > 0, nothing


@dataclass
class Trail:
    """Hears the gradient at every operation of a model for one batch.

    Attributes:
        layouts: of the input of each call of each operation, by (path, call).
        n: samples.
        asks_why: whether the zeros made at an operation are told from those it hands on.
        tallies: one for each operation, by its path, in the order of the forward pass.
        loose: inputs that nothing differentiable leads to.
    """

    layouts: dict[tuple[str, int], Layout | None]
    n: int
    asks_why: bool
    tallies: dict[str, Tally] = field(default_factory=dict)
    loose: list[Tensor] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)

    @contextlib.contextmanager
    def heard(self, model: nn.Module) -> Iterator[None]:
        """Within the block forward passes are followed, and what their backward passes bring is counted."""
        handles = []
        try:
            for path, (module, _) in operations_of(model).items():
                running: list[list[Tensor]] = []  # what each call under way will hear at its output
                handles.append(module.register_forward_pre_hook(self._before(path, running)))
                handles.append(module.register_forward_hook(_after(running)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _before(self, path: str, running: list[list[Tensor]]) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            layout = self.layouts.get((path, self.calls[path]))
            self.calls[path] += 1
            running.append([])
            if layout is None:
                return None
            x, at_output = args[0], running[-1]
            tally = self.tallies.setdefault(path, Tally.of(self.n, x.device))
            tally.entries += x.numel() // self.n
            if x.requires_grad:
                x = x.view_as(x)  # an edge of its own: the gradient through this operation alone
            else:
                x = x.detach().requires_grad_()
                self.loose.append(x)
            x.register_hook(lambda g: self._count(tally, layout, module, g, at_output))
            return (x, *args[1:])

        return hook

    def _count(self, tally: Tally, layout: Layout, module: nn.Module, g: Tensor, at_output: list[Tensor]) -> None:
        tally.add(layout.rows(g, self.n))
        if self.asks_why and at_output:
            why = zeros(module, g, at_output.pop())
            tally.made += layout.rows(why.made, self.n).sum(1)
            tally.unread += layout.rows(why.unread, self.n).sum(1)


def _after(running: list[list[Tensor]]) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        heard = running.pop()
        if isinstance(out, Tensor) and out.requires_grad:
            out.register_hook(heard.append)

    return hook


def unlike(x: Tensor) -> Tensor:
    """The numbers of the first image of x [n, ...] and of the one most unlike it, which tell layouts apart, [2]."""
    other = (x - x[:1]).abs().flatten(1).sum(1).argmax()
    return torch.stack([torch.zeros_like(other), other])


def layouts_of(model: nn.Module, batch: Batch) -> dict[tuple[str, int], Layout | None]:
    """Where the samples are at the input of each call of each operation, from passes of the first one and of two."""
    seen: list[dict[tuple[str, int], Tensor]] = []
    for n in (1, 2):
        rows = unlike(batch.x)[:n]
        inputs: dict[tuple[str, int], Tensor] = {}
        calls: Counter[str] = Counter()
        handles = [
            module.register_forward_pre_hook(_noting(path, inputs, calls))
            for path, (module, _) in operations_of(model).items()
        ]
        try:
            with torch.no_grad(), sampling(batch.draws[rows]):
                model(batch.x[rows])
        finally:
            for handle in handles:
                handle.remove()
        seen.append(inputs)
    one, two = seen
    return {key: Layout.between(one[key], two[key]) if key in two else None for key in one}


def _noting(path: str, inputs: dict[tuple[str, int], Tensor], calls: Counter[str]) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        inputs[path, calls[path]] = args[0]
        calls[path] += 1

    return hook
