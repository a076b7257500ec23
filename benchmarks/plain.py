"""The yardstick: spiking networks and attacks written the plain way, as research code publishes them.

A loop over time under autograd, the image repeated T times and merged into the batch, contiguous NCHW, weight gradients
kept in an attack, fooled samples kept in the batch. Nothing here uses robustspike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TriangleSpike(torch.autograd.Function):
    """Heaviside forward, max(0, 1 − |d|) backward."""

    @staticmethod
    def forward(ctx: Any, d: Tensor) -> Tensor:
        ctx.save_for_backward(d)
        return (d >= 0).to(d.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (d,) = ctx.saved_tensors
        return grads[0] * (1 - d.abs()).clamp(min=0)


class SigmoidSpike(torch.autograd.Function):
    """Heaviside forward, the derivative of sigmoid(4·d) backward."""

    @staticmethod
    def forward(ctx: Any, d: Tensor) -> Tensor:
        ctx.save_for_backward(d)
        return (d >= 0).to(d.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (d,) = ctx.saved_tensors
        s = torch.sigmoid(4 * d)
        return grads[0] * 4 * s * (1 - s)


class ArcTanSpike(torch.autograd.Function):
    """Heaviside forward, 1 / (1 + (π·d)²) backward: the arctan surrogate of sharpness 2."""

    @staticmethod
    def forward(ctx: Any, d: Tensor) -> Tensor:
        ctx.save_for_backward(d)
        return (d >= 0).to(d.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (d,) = ctx.saved_tensors
        return grads[0] / (1 + (math.pi * d) ** 2)


SPIKES: dict[str, type[torch.autograd.Function]] = {
    "triangle": TriangleSpike,
    "sigmoid": SigmoidSpike,
    "arctan": ArcTanSpike,
}


class PlainLIF(nn.Module):
    """Charge, fire, hard reset over [T, N, ...], one step after another under autograd."""

    def __init__(self, surrogate: str = "triangle", leak: float = 1.0, threshold: float = 1.0) -> None:
        super().__init__()
        self.spike, self.leak, self.threshold = SPIKES[surrogate], leak, threshold

    def forward(self, currents: Tensor) -> Tensor:
        potential = torch.zeros_like(currents[0])
        spikes = []
        for t in range(currents.shape[0]):
            potential = self.leak * potential + currents[t]
            spike: Tensor = self.spike.apply(potential - self.threshold)
            potential = potential * (1 - spike)
            spikes.append(spike)
        return torch.stack(spikes)


# Widths of the convolutions with "P" for average pooling, then those of the hidden linear layers.
LAYOUTS: dict[str, tuple[Sequence[int | str], Sequence[int]]] = {
    "vgg11": ((64, "P", 128, 256, "P", 512, 512, 512, "P", 512, 512), (4096, 4096)),
    "digits-cnn": ((32, 64, "P", 64, "P"), ()),
}


class PlainVGG(nn.Module):
    """VGG in Ding's layout; its state_dict has the keys of the robustspike model of that name."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, name: str, time_steps: int, image_size: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.time_steps = time_steps
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1), persistent=False)
        self.layers = nn.ModuleList()
        layout, hidden = LAYOUTS[name]
        channels, size = len(mean), image_size
        for width in layout:
            if isinstance(width, str):
                self.layers.append(nn.AvgPool2d(2))
                size //= 2
            else:
                self.layers.extend([nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), PlainLIF()])
                channels = width
        self.layers.append(nn.Flatten())
        features = channels * size * size
        for width in hidden:
            self.layers.extend([nn.Linear(features, width), PlainLIF()])
            features = width
        self.head = nn.Linear(features, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / self.std
        x = x.unsqueeze(0).repeat(self.time_steps, 1, 1, 1, 1).flatten(0, 1)
        for layer in self.layers:
            spiking = isinstance(layer, PlainLIF)
            x = layer(x.unflatten(0, (self.time_steps, -1))).flatten(0, 1) if spiking else layer(x)
        return self.head(x).unflatten(0, (self.time_steps, -1)).mean(0)


def pgd_step(
    model: nn.Module,
    x: Tensor,
    start: Tensor,
    y: Tensor,
    eps: float,
    step_size: float,
    weight_gradients: bool = True,
) -> Tensor:
    """One step of L∞ PGD from ``start``; ``loss.backward()`` also fills the gradients of all weights, unless told not to."""
    start = start.detach().clone().requires_grad_()
    loss = F.cross_entropy(model(start), y, reduction="sum")
    if weight_gradients:
        model.zero_grad()
        loss.backward()
        gradient = start.grad
    else:
        (gradient,) = torch.autograd.grad(loss, start)
    assert gradient is not None
    moved = start.detach() + step_size * gradient.sign()
    return torch.min(torch.max(moved, x - eps), x + eps).clamp(0, 1)


def pgd(model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int, step_size: float) -> Tensor:
    """L∞ PGD from x itself, every step on every sample."""
    x_adv = x
    for _ in range(steps):
        x_adv = pgd_step(model, x, x_adv, y, eps, step_size)
    return x_adv
