"""VGG-5 and VGG-11 in Ding's layout, and the small network for 8 × 8 digits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustspike.models.settings import Settings
from robustspike.models.snn import SNN, initialise
from robustspike.neurons import OverTime

_POOL = 0
_DIGITS = (32, 64, _POOL, 64, _POOL)
_VGG5 = (64, _POOL, 128, 128, _POOL)
_VGG11 = (64, _POOL, 128, 256, _POOL, 512, 512, 512, _POOL, 512, 512)


class _Flattened(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        return x.flatten(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0].view(ctx.shape).contiguous(memory_format=torch.channels_last)


class Flatten(nn.Module):
    """[N, C, H, W] to [N, C·H·W]; the gradient comes back channels-last, as the pooling before it likes it."""

    def forward(self, x: Tensor) -> Tensor:
        return _Flattened.apply(x)


class _Halved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.odd = (0, x.shape[-1] % 2, 0, x.shape[-2] % 2)
        return F.avg_pool2d(x, 2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = F.interpolate(grads[0] * 0.25, scale_factor=2.0)
        return F.pad(grad, ctx.odd) if any(ctx.odd) else grad


class AvgPool2d(nn.AvgPool2d):
    """Average pooling of 2 × 2 that keeps nothing for the way back, where PyTorch's keeps its whole input."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, x: Tensor) -> Tensor:
        return _Halved.apply(x)


def _vgg(settings: Settings, layout: Sequence[int], hidden: Sequence[int]) -> SNN:
    layers = OverTime()
    channels, size = settings.in_channels, settings.image_size
    for width in layout:
        if width == _POOL:
            layers.append(AvgPool2d())
            size //= 2
        else:
            layers.extend([nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), settings.make_neuron()])
            channels = width
    if size < 1:
        raise ValueError(
            f"{settings.name} needs images of {2 ** layout.count(_POOL)} pixels or more, got {settings.image_size}"
        )
    layers.append(Flatten())
    features = channels * size * size
    for width in hidden:
        layers.extend([nn.Linear(features, width), settings.make_neuron()])
        features = width
    model = SNN(settings, layers, nn.Linear(features, settings.num_classes))
    initialise(model)
    return model


def digits_cnn(
    num_classes: int = 10, time_steps: int = 8, in_channels: int = 1, image_size: int = 8, **options: Any
) -> SNN:
    """32 | 64, P | 64, P | K: convolution, BatchNorm and neuron, average pooling; for 8 × 8 digits.

    Args: as in :class:`robustspike.models.Settings`.

    Example:
        >>> digits_cnn(time_steps=4)(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    return _vgg(
        Settings("digits-cnn", num_classes, time_steps, in_channels=in_channels, image_size=image_size, **options),
        _DIGITS,
        (),
    )


def vgg5(num_classes: int = 10, time_steps: int = 8, **options: Any) -> SNN:
    """64, P | 128, 128, P | 4096, 4096, K: average pooling, convolution with bias, BatchNorm, neuron; for small machines.

    Args: as in :class:`robustspike.models.Settings`.

    Source: Liu 2024's released code.

    Example:
        >>> vgg5(time_steps=1, image_size=8)(torch.rand(1, 3, 8, 8)).shape
        torch.Size([1, 10])
    """
    return _vgg(Settings("vgg5", num_classes, time_steps, **options), _VGG5, (4096, 4096))


def vgg11(num_classes: int = 10, time_steps: int = 8, **options: Any) -> SNN:
    """64, P | 128, 256, P | 512, 512, 512, P | 512, 512 | 4096, 4096, K: the VGG-11 of Ding 2022 and Liu 2024.

    Args: as in :class:`robustspike.models.Settings`.

    Source: Ding 2022, appendix B.

    Example:
        >>> vgg11(time_steps=1, image_size=8)(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """
    return _vgg(Settings("vgg11", num_classes, time_steps, **options), _VGG11, (4096, 4096))
