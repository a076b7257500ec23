"""Looking through a model's neurons with an estimator, for as long as a block lasts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from robustspike.draws import Draws, sampling
from robustspike.gradients.adaptive import Memory
from robustspike.gradients.estimators import BPTT, Estimator
from robustspike.neurons import spiking_layers


@contextlib.contextmanager
def estimating(model: nn.Module, estimator: Estimator, memory: Memory | None = None) -> Iterator[None]:
    """Within the block, gradients pass through the model's neurons by ``estimator``; afterwards all is as before.

    Args:
        model: a network with spiking layers; with none, only ``BPTT()`` (the model's own gradient) is possible.
        estimator: one of :data:`ESTIMATORS`, or any callable of (layer, currents [T, N, ...]) to spikes [T, N, ...], which
            may have the attributes of :class:`Estimator` (taken as False where missing).
        memory: what an estimator such as ASSG remembers from the blocks before; None: it starts anew at every forward pass.

    Raises:
        ValueError: if the model has no spiking layer that could carry the estimator.

    Example:
        >>> model = digits_cnn(time_steps=2).eval()
        >>> with estimating(model, RGA()):
        ...     logits = model(torch.rand(1, 1, 8, 8))
    """
    if isinstance(estimator, type):
        raise ValueError(
            f"estimator must be an instance such as {estimator.__name__}(), got the class {estimator.__name__}"
        )
    layers: list[Any] = list(spiking_layers(model).values())
    if not layers and estimator != BPTT():
        raise ValueError(
            f"found no spiking layer in {type(model).__name__} that could carry {estimator}; "
            "use BPTT(), the model's own gradient, a network of robustspike's neurons, or rs.adapt(model) for those of "
            "SpikingJelly, snnTorch and Norse"
        )
    timed: list[Any] = [m for m in model.modules() if hasattr(m, "time_collapsed")]
    before = [(layer, "gradient_rule", layer.gradient_rule) for layer in layers]
    before += [(m, "time_collapsed", m.time_collapsed) for m in timed]
    try:
        for layer in layers:
            layer.gradient_rule = None if estimator == BPTT() else Rule(estimator, memory)
        for m in timed:
            m.time_collapsed = getattr(estimator, "without_time", False)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


@dataclass(frozen=True)
class Rule:
    """What a spiking layer holds as its ``gradient_rule``: an estimator, and notes to be taken of what it is given.

    Called with the layer and its currents [T, N, ...] it gives spikes; without an estimator, the layer's own.
    """

    estimator: Any = None
    memory: Memory | None = None
    notes: tuple[list[tuple[Any, Tensor]], ...] = ()

    def __call__(self, layer: Any, currents: Tensor) -> Tensor:
        self.note(layer, currents)
        if self.estimator is None:
            return layer.fire(currents)
        if self.memory is not None and getattr(self.estimator, "remembers", False):
            return self.estimator(layer, currents, self.memory)
        return self.estimator(layer, currents)

    @property
    def exact(self) -> bool:
        """Whether the spikes are the layer's own."""
        return self.estimator is None or bool(getattr(self.estimator, "exact", False))

    def note(self, layer: Any, currents: Tensor) -> None:
        for notes in self.notes:
            notes.append((layer, currents))


@contextlib.contextmanager
def recording(model: nn.Module) -> Iterator[list[tuple[Any, Tensor]]]:
    """Within the block every forward pass notes each spiking layer and the currents [T, N, ...] that it gets, in order.

    What a layer does with them is not changed, nor is an estimator in force.

    Example:
        >>> model = digits_cnn(time_steps=2)
        >>> with gradients.recording(model) as layers:
        ...     logits = model(torch.rand(3, 1, 8, 8))
        >>> [tuple(currents.shape) for _, currents in layers]
        [(2, 3, 32, 8, 8), (2, 3, 64, 8, 8), (2, 3, 64, 4, 4)]
    """
    layers: list[Any] = list(spiking_layers(model).values())
    before = [layer.gradient_rule for layer in layers]
    notes: list[tuple[Any, Tensor]] = []
    try:
        for layer, rule in zip(layers, before, strict=True):
            known = rule if isinstance(rule, Rule) else Rule(rule)
            layer.gradient_rule = replace(known, notes=(*known.notes, notes))
        yield notes
    finally:
        for layer, rule in zip(layers, before, strict=True):
            layer.gradient_rule = rule


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Within the block the model is in evaluation mode and its parameters take no gradient; then all is as before."""
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(p, p.requires_grad) for p in model.parameters()]
    try:
        model.eval()
        for p, _ in wanted:
            p.requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for p, requires_grad in wanted:
            p.requires_grad_(requires_grad)


def is_stochastic(model: nn.Module, x: Tensor | None = None) -> bool:
    """Whether two calls may differ: as the model or a module of it declares; else as two calls of images like x show.

    These are grey and noise, the same for every x of a shape, so that the verdict does not depend on the samples.
    """
    if any(getattr(module, "stochastic", False) for module in model.modules()):
        return True
    if hasattr(model, "stochastic") or x is None or len(x) == 0:
        return False
    probe = Draws.of(0, torch.arange(2, device=x.device)).uniform(x.shape[1:], x.dtype)
    probe[0] = 0.5
    devices = [x.device] if x.device.type == "cuda" else []
    logits = []
    with frozen(model), torch.no_grad(), torch.random.fork_rng(devices=devices):
        for seed in (1, 2):
            torch.manual_seed(seed)
            with sampling(Draws.of(seed, torch.arange(2, device=x.device))):
                logits.append(model(probe))
    return not torch.equal(logits[0].nan_to_num(), logits[1].nan_to_num())


def errs(logits: Tensor, y: Tensor) -> Tensor:
    """Whether an answer is wrong, [N] bool; logits that are not finite are no answer."""
    return chosen_class(logits) != y


def chosen_class(logits: Tensor) -> Tensor:
    """The class that logits [N, K] give, [N]; −1 where they are not finite, which is no answer."""
    return torch.where(logits.isfinite().all(1), logits.argmax(1), -1)


def majority(classes: Tensor) -> Tensor:
    """The class that more than half of some calls [calls, N] give, [N]; −1 where there is none.

    Example:
        >>> gradients.majority(torch.tensor([[0, 1, 2], [0, 1, 0], [0, 2, 1]])).tolist()
        [0, 1, -1]
    """
    answer = classes.mode(0).values
    return torch.where(2 * (classes == answer).sum(0) > len(classes), answer, -1)


def device_of(model: nn.Module) -> torch.device:
    """Where a model computes: the device of its parameters, the CPU where it has none."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def check_labels(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Refuse labels that the model has no class for; costs one forward pass of one image and no global random number.

    Raises:
        ValueError: naming the largest label and the number of classes.
    """
    device = device_of(model)
    with frozen(model), sampling(Draws.of(0, torch.zeros(1, dtype=torch.int64, device=device))), torch.no_grad():
        classes = model(images[:1].to(device)).shape[1]
    if int(labels.max()) >= classes:
        raise ValueError(f"labels go up to {int(labels.max())}, but the model has only {classes} classes")
