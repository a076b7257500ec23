"""Gradient estimators: how an attack sees through the neurons, and the input gradient under one of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustspike.draws import Draws, sampling
from robustspike.neurons import SpikingLayer, spiking_layers
from robustspike.surrogates import Surrogate, with_slope

Loss = Callable[[Tensor, Tensor], Tensor]


class Estimator(Protocol):
    """A rule that turns a layer's currents [T, N, ...] into its spikes with a chosen derivative.

    ``exact`` says whether the logits stay those of the spiking network, bit for bit; ``without_time`` whether the network
    is passed once, without a time axis.
    """

    exact: ClassVar[bool]
    without_time: ClassVar[bool]

    def __call__(self, layer: SpikingLayer, currents: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class BPTT:
    """Back-propagation through time with a surrogate derivative; None: the surrogate that the model was trained with.

    Source: Ding 2022, section 4; Liu 2024, section 3.

    Example:
        >>> BPTT(ArcTan(2.0))
        BPTT(surrogate=ArcTan(sharpness=2.0))
    """

    exact: ClassVar[bool] = True
    without_time: ClassVar[bool] = False
    surrogate: Surrogate | None = None

    def __call__(self, layer: SpikingLayer, currents: Tensor) -> Tensor:
        return layer.fire(currents, self.surrogate)


@dataclass(frozen=True)
class BPTR:
    """Back-propagation through rate: ∂s[t]/∂I[t] := 1 where the neuron fired at least once in the window, else 0.

    No temporal path. Source: Ding 2022, section 4.

    Beware: some released code calls RGA "bptr".

    Example:
        >>> neuron, currents = LIF(), torch.tensor([[0.6, 0.1], [0.6, 0.1]], requires_grad=True)
        >>> BPTR()(neuron, currents).sum().backward()
        >>> currents.grad.tolist()
        [[1.0, 0.0], [1.0, 0.0]]
    """

    exact: ClassVar[bool] = True
    without_time: ClassVar[bool] = False

    def __call__(self, layer: SpikingLayer, currents: Tensor) -> Tensor:
        with torch.no_grad():
            spikes = layer.fire(currents)
            fired = spikes.amax(0) > 0
        return with_slope(spikes, currents, fired.to(spikes.dtype).expand_as(spikes))


@dataclass(frozen=True)
class RGA:
    """Rate gradient approximation, a function of the mean input x̄ = mean_t I[t]/θ only.

    ∂s[t]/∂I[t] := γ for 0 ≤ x̄ ≤ 1 − λ, plus (1 − γ + γλ)/(λ + 1) for 1 − λ ≤ x̄ ≤ 2, else 0; the same for every t.

    Args:
        gamma: γ, the slope below the firing rate's knee.

    Source: Bu et al. 2023; used by Liu 2024, appendix E.

    Example:
        >>> RGA().slope(torch.tensor([-0.1, 0.25, 1.0, 2.5]), leak=0.5).tolist()
        [0.0, 0.20000000298023224, 0.6000000238418579, 0.0]
    """

    exact: ClassVar[bool] = True
    without_time: ClassVar[bool] = False
    gamma: float = 0.2

    def slope(self, mean_input: Tensor, leak: float) -> Tensor:
        """The derivative at mean inputs x̄, elementwise."""
        below = (mean_input >= 0) & (mean_input <= 1 - leak)
        above = (mean_input >= 1 - leak) & (mean_input <= 2)
        rising = (1 - self.gamma + self.gamma * leak) / (leak + 1)
        return self.gamma * below.to(mean_input.dtype) + rising * above.to(mean_input.dtype)

    def __call__(self, layer: SpikingLayer, currents: Tensor) -> Tensor:
        with torch.no_grad():
            spikes = layer.fire(currents)
            slope = self.slope(currents.mean(0) / layer.threshold, layer.leak)
        return with_slope(spikes, currents, slope.expand_as(spikes))


@dataclass(frozen=True)
class CBA:
    """Conversion-based approximation: the same weights as a ReLU network, one pass without a time axis.

    The logits are those of the ReLU network, not of the spiking one. Source: Ding 2022, section 4.

    Example:
        >>> CBA()(LIF(), torch.tensor([[-1.0, 0.5]])).tolist()
        [[0.0, 0.5]]
    """

    exact: ClassVar[bool] = False
    without_time: ClassVar[bool] = True

    def __call__(self, layer: SpikingLayer, currents: Tensor) -> Tensor:
        return F.relu(currents)


ESTIMATORS: dict[str, Callable[..., Estimator]] = {"bptt": BPTT, "bptr": BPTR, "rga": RGA, "cba": CBA}


@contextlib.contextmanager
def estimating(model: nn.Module, estimator: Estimator) -> Iterator[None]:
    """Within the block, gradients pass through the model's neurons by ``estimator``; afterwards all is as before.

    Args:
        model: a network with spiking layers; with none, only ``BPTT()`` (the model's own gradient) is possible.
        estimator: one of :data:`ESTIMATORS`, or any callable of (layer, currents [T, N, ...]) to spikes [T, N, ...], which
            may have the two attributes of :class:`Estimator` (taken as False where missing).

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
            "use BPTT(), the model's own gradient, or a network of robustspike's neurons"
        )
    timed: list[Any] = [m for m in model.modules() if hasattr(m, "time_collapsed")]
    before = [(layer, "gradient_rule", layer.gradient_rule) for layer in layers]
    before += [(m, "time_collapsed", m.time_collapsed) for m in timed]
    try:
        for layer in layers:
            layer.gradient_rule = _as_rule(estimator)
        for m in timed:
            m.time_collapsed = getattr(estimator, "without_time", False)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def _as_rule(estimator: Estimator) -> Callable[[Any, Tensor], Tensor] | None:
    return None if estimator == BPTT() else lambda layer, currents: estimator(layer, currents)


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
    """Whether two calls may differ: as the model or a module of it declares; else, given images x, as two calls show."""
    if any(getattr(module, "stochastic", False) for module in model.modules()):
        return True
    if hasattr(model, "stochastic") or x is None or len(x) == 0:
        return False
    devices = [x.device] if x.device.type == "cuda" else []
    logits = []
    with frozen(model), torch.no_grad(), torch.random.fork_rng(devices=devices):
        for seed in (1, 2):
            torch.manual_seed(seed)
            with sampling(Draws.of(seed, torch.arange(len(x), device=x.device))):
                logits.append(model(x))
    return not torch.equal(logits[0].nan_to_num(), logits[1].nan_to_num())


def errs(logits: Tensor, y: Tensor) -> Tensor:
    """Whether an answer is wrong, [N] bool; logits that are not finite are no answer."""
    return (logits.argmax(1) != y) | ~logits.isfinite().all(1)


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


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy per sample in float32 or wider, [N]."""
    return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), y, reduction="none")


def logits_and_gradient(
    model: nn.Module, x: Tensor, y: Tensor, loss: Loss, samples: int, draws: Draws | None
) -> tuple[Tensor, Tensor]:
    """Mean logits [N, K] and the mean over ``samples`` draws of ∇_x Σ loss [N, ...], the model as it stands."""
    each_logits, each_gradient = [], []
    for k in range(samples):
        with torch.enable_grad(), sampling(None if draws is None else draws.fork(k)):
            point = x.detach().requires_grad_()
            logits = model(point)
            (gradient,) = torch.autograd.grad(loss(logits, y).sum(), point)
        each_logits.append(logits.detach())
        each_gradient.append(gradient)
    if samples == 1:
        return each_logits[0], each_gradient[0]
    return torch.stack(each_logits).mean(0), torch.stack(each_gradient).mean(0)


def input_gradient(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    estimator: Estimator | None = None,
    *,
    loss: Loss = cross_entropy,
    samples: int = 1,
    draws: Draws | None = None,
) -> Tensor:
    """The gradient of the summed loss with respect to the pixels, in evaluation mode, seen through an estimator.

    Args:
        model: x [N, ...] to logits [N, K]; afterwards exactly as before.
        x: [N, ...] in [0, 1].
        y: [N] int64 labels.
        estimator: None: ``BPTT()``.
        loss: of (logits [N, K], y [N]) to [N].
        samples: gradients of so many fresh draws of a stochastic model are averaged (expectation over transformation,
            Athalye et al. 2018), before anything else is done with them.
        draws: the samples' random streams; None: PyTorch's generator.

    Returns:
        [N, ...] like x.

    Raises:
        ValueError: for samples < 1, or a model that cannot carry the estimator.

    Example:
        >>> model, x, y = digits_cnn(time_steps=2), torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
        >>> input_gradient(model, x, y, estimator=BPTR()).shape
        torch.Size([2, 1, 8, 8])
    """
    if samples < 1:
        raise ValueError(f"samples must be ≥ 1, got {samples}")
    with frozen(model), estimating(model, estimator or BPTT()):
        return logits_and_gradient(model, x, y, loss, samples, draws)[1]
