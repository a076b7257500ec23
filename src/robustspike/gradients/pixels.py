"""The gradient with respect to the pixels, under an estimator."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustspike.draws import Draws, sampling
from robustspike.gradients.adaptive import Memory
from robustspike.gradients.estimators import BPTT, Estimator
from robustspike.gradients.seeing import estimating, frozen

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy per sample in float32 or wider, [N]."""
    return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), y, reduction="none")


def divergence(clean: Tensor, other: Tensor) -> Tensor:
    """KL(softmax(clean) ‖ softmax(other)) of logits [N, K] per sample in float32 or wider, [N].

    Example:
        >>> gradients.divergence(torch.tensor([[0.0, 0.0]]), torch.log(torch.tensor([[0.75, 0.25]])))
        tensor([0.1438])
    """
    kind = torch.promote_types(other.dtype, torch.float32)
    log_p, log_q = clean.to(kind).log_softmax(1), other.to(kind).log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).sum(1)


def look(
    model: nn.Module, x: Tensor, y: Tensor, loss: Loss, samples: int, draws: Draws | None, memory: Memory | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [N, K], losses [N] and ∇_x Σ loss [N, ...], each the mean over ``samples`` draws, the model as it stands.

    What an estimator remembers it learns from the first draw. Where the logits do not depend on x by any path that autograd
    knows, the gradient is 0, as it is where a surrogate is 0: attacks count it, and the masking checks name it.
    """
    seen = []
    for k in range(samples):
        if memory is not None:
            memory.begin(learning=k == 0)
        with torch.enable_grad(), sampling(None if draws is None else draws.fork(k)):
            point = x.detach().requires_grad_()
            logits = model(point)
            losses = loss(logits, y)
            gradient = torch.autograd.grad(losses.sum(), point, allow_unused=True)[0] if losses.requires_grad else None
        seen.append((logits.detach(), losses.detach(), torch.zeros_like(x) if gradient is None else gradient))
    if samples == 1:
        return seen[0]
    logits, losses, gradient = (torch.stack(each).mean(0) for each in zip(*seen, strict=True))
    return logits, losses, gradient


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
        return look(model, x, y, loss, samples, draws)[2]
