"""Zeros and norm of the gradient at every operation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustspike.attacks.suites import describe_estimator
from robustspike.audits.batches import Batch, Stopwatch, Watch, batches
from robustspike.audits.probability import usual
from robustspike.audits.trail import KINDS, Layout, Tally, Trail, layouts_of, operations_of
from robustspike.audits.windows import Windows, dimensions
from robustspike.data import Split
from robustspike.draws import sampling
from robustspike.gradients import Estimator, cross_entropy, estimating, frozen
from robustspike.neurons import spiking_layers
from robustspike.results.audits.operations import Operation, Operations
from robustspike.surrogates import with_slope

PIXELS = "pixels"
AS_IT_IS, SPREAD, OPEN = "as it is", "pooling spread", "spikes open"


def operations(
    model: nn.Module,
    data: Split,
    *,
    estimator: Estimator | None = None,
    seed: int = 0,
    batch_size: int = 64,
    watch: Watch | None = None,
) -> Operations:
    """Share of exact zeros and norm of the loss's gradient at the input of every operation, and what makes the zeros.

    Operations are convolutions, linear layers, BatchNorm, pooling and spiking layers, and the pixels. Where an operation's
    input goes to other places too, only the gradient through this operation counts.

    Args:
        model: x [N, ...] in [0, 1] to logits [N, K]; in evaluation mode meanwhile, left as it was.
        data: the samples.
        estimator: how the gradient passes through the neurons; None: the model's own.
        seed: of an encoder's draws.
        batch_size: samples at a time; no figure depends on it beyond rounding.
        watch: hears how much is done.

    Raises:
        ValueError: for an empty split, or a model that cannot carry the estimator.

    Example:
        >>> found = audits.operations(digits_cnn(time_steps=2), load("digits").test.subset(4))
        >>> [one.kind for one in found.operations][:4]
        ['pixels', 'convolution', 'BatchNorm', 'spiking']

    Source: Luu 2025, section 4.3.1, Figs. 3 and 5. Differs from the paper: architectural and natural sparsity are what goes
    away when pooling, and then the spikes too, pass every gradient on, not a reading of the two kinds of layers.
    """
    clock, estimator = Stopwatch(), usual(estimator)
    ways = _ways(model, estimator)
    tallies: dict[str, list[dict[str, Tally]]] = {name: [] for name in ways}
    first = next(batches(model, data.subset(min(64, len(data))), "operations", seed, 64))
    with frozen(model):
        with estimating(model, estimator):
            layouts = layouts_of(model, first)
        for batch in batches(model, data, "operations", seed, batch_size, watch):
            for name, way in ways.items():
                tallies[name].append(_followed(model, batch, way, layouts, asks_why=name == AS_IT_IS))
    found, operations = [], operations_of(model)
    for path in tallies[AS_IT_IS][0]:
        joined = {name: _joined([batch[path] for batch in parts]) for name, parts in tallies.items()}
        found.append(_operation(path, PIXELS if path == PIXELS else operations[path][1], joined))
    return Operations(
        n=len(data), seed=seed, under=f"gradient of the cross-entropy, {describe_estimator(estimator)}",
        gradients=len(ways) * len(data), seconds=clock.seconds, operations=tuple(found),
    )  # fmt: skip


@dataclass(frozen=True)
class _Way:
    """How a gradient is to pass: through which estimator, and whether max pooling spreads it over the window."""

    estimator: Any
    spreads: bool


@dataclass(frozen=True)
class _PassesAll:
    """The estimator's spikes with a derivative of 1 with respect to every current that came before them."""

    estimator: Any

    @property
    def without_time(self) -> bool:
        return getattr(self.estimator, "without_time", False)

    def __call__(self, layer: Any, currents: Tensor) -> Tensor:
        with torch.no_grad():
            spikes = self.estimator(layer, currents)
        led = currents.cumsum(0) if getattr(layer, "leak", 1) != 0 else currents
        return with_slope(spikes, led, torch.ones_like(spikes))


def _ways(model: nn.Module, estimator: Any) -> dict[str, _Way]:
    """The gradient as it is; pooling made dense; the spikes, too. Each only where the model has such layers."""
    pools = any(isinstance(m, KINDS["max pooling"]) for m in model.modules())
    ways = {AS_IT_IS: _Way(estimator, False)}
    if pools:
        ways[SPREAD] = _Way(estimator, True)
    if spiking_layers(model):
        ways[OPEN] = _Way(_PassesAll(estimator), pools)
    return ways


def _followed(
    model: nn.Module, batch: Batch, way: _Way, layouts: dict[tuple[str, int], Layout | None], asks_why: bool
) -> dict[str, Tally]:
    trail, point = Trail(layouts, len(batch.x), asks_why), batch.x.detach().requires_grad_()
    pixels = trail.tallies.setdefault(PIXELS, Tally.of(len(batch.x), batch.x.device))
    pixels.entries = point[0].numel()
    spread = spreading(model) if way.spreads else contextlib.nullcontext()
    with estimating(model, way.estimator), spread, trail.heard(model), sampling(batch.draws.fork(0)):
        with torch.enable_grad():
            loss = cross_entropy(model(point), batch.y).sum()
        found = torch.autograd.grad(loss, [point, *trail.loose], allow_unused=True) if loss.requires_grad else [None]
    pixels.add((torch.zeros_like(point) if found[0] is None else found[0]).flatten(1))
    return trail.tallies


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, x: Tensor, windows: Windows) -> Tensor:
        ctx.windows = windows
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:
        return None, ctx.windows.over(grads[0] / ctx.windows.areas().to(grads[0])), None


@contextlib.contextmanager
def spreading(model: nn.Module) -> Iterator[None]:
    """Within the block max pooling gives its gradient to the whole window in equal parts, as average pooling does."""

    def hook(module: nn.Module, args: tuple[Any, ...], out: Any) -> Any:
        if not isinstance(out, Tensor):
            return out
        d = dimensions(module)
        return _Spread.apply(
            out.detach(), args[0], Windows.of(module, tuple(args[0].shape[-d:]), tuple(out.shape[-d:]))
        )

    handles = [m.register_forward_hook(hook) for m in model.modules() if isinstance(m, KINDS["max pooling"])]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _joined(parts: list[Tally]) -> Tally:
    names = ("nonzero", "made", "unread", "squares", "broken")
    return Tally(parts[0].entries, *(torch.cat([getattr(part, name) for part in parts]).cpu() for name in names))


def _operation(path: str, kind: str | None, ways: dict[str, Tally]) -> Operation:
    own = ways[AS_IT_IS]
    zero = {name: float(((way.entries - way.nonzero) / way.entries).mean()) for name, way in ways.items()}
    norms = own.squares.sqrt()
    low, high = norms.quantile(torch.tensor([0.1, 0.9], dtype=norms.dtype)).tolist()
    spread = zero.get(SPREAD, zero[AS_IT_IS])
    return Operation(
        path=path, kind=str(kind), entries=own.entries, zero=zero[AS_IT_IS],
        made=float((own.made / own.entries).mean()), unread=float((own.unread / own.entries).mean()),
        zero_spread=spread, zero_open=zero.get(OPEN, spread), norm=float(norms.mean()), low=low, high=high,
        not_finite=int(own.broken.sum()),
    )  # fmt: skip
