"""WideResNet-16-4, pre-activation, with weights that mix the two branches of every block."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from robustspike.models.settings import Settings
from robustspike.models.snn import SNN, initialise
from robustspike.neurons import OverTime, at_every_step


class Mixing(nn.Module):
    """main·w₀ + shortcut·w₁ with trainable w, starting at ½, ½ (RAT keeps w on the simplex)."""

    mixes = True

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((2,), 0.5))

    def forward(self, main: Tensor, shortcut: Tensor) -> Tensor:
        return self.weight[0] * main + self.weight[1] * shortcut


class WideBlock(nn.Module):
    """BatchNorm, neuron, convolution, twice; the shortcut is x, or a 1 × 1 convolution of the first neuron's spikes."""

    over_time = True

    def __init__(self, settings: Settings, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.before = OverTime(nn.BatchNorm2d(channels), settings.make_neuron())
        self.main = OverTime(
            nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            settings.make_neuron(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
        )
        self.shortcut = None if channels == width else nn.Conv2d(channels, width, 1, stride, bias=False)
        self.mixing = Mixing()

    def forward(self, x_seq: Tensor) -> Tensor:
        spikes = self.before(x_seq)
        shortcut = x_seq if self.shortcut is None else at_every_step(self.shortcut, spikes)
        return self.mixing(self.main(spikes), shortcut)


def wrn16(num_classes: int = 10, time_steps: int = 8, **options: Any) -> SNN:
    """WideResNet-16-4: 16 | 64, 64 | 128, 128 | 256, 256 channels, two blocks each, global average pooling, K.

    Args: as in :class:`robustspike.models.Settings`.

    Source: Zagoruyko and Komodakis 2016; Ding 2022, appendix B; the mixing weights are those of Ding's and Liu's code.

    Example:
        >>> wrn16(time_steps=1, image_size=8)(torch.rand(1, 3, 8, 8)).shape
        torch.Size([1, 10])
    """
    settings = Settings("wrn16", num_classes, time_steps, **options)
    layers = OverTime(nn.Conv2d(settings.in_channels, 16, 3, padding=1, bias=False))
    channels = 16
    for width, stride in ((64, 1), (128, 2), (256, 2)):
        layers.extend([WideBlock(settings, channels, width, stride), WideBlock(settings, width, width, 1)])
        channels = width
    layers.extend([nn.BatchNorm2d(channels), settings.make_neuron(), nn.AdaptiveAvgPool2d(1), nn.Flatten()])
    model = SNN(settings, layers, nn.Linear(channels, num_classes))
    initialise(model)
    return model
