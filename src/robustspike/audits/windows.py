"""Which outputs of a convolution or a pooling read a position of its input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
MAX_POOLINGS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
MEAN_POOLINGS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
ADAPTIVE_MAX = (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)
ADAPTIVE_MEAN = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
_FAMILIES = (CONVOLUTIONS, MAX_POOLINGS, MEAN_POOLINGS, ADAPTIVE_MAX, ADAPTIVE_MEAN)
_BEYOND = {"circular": "wrap", "reflect": "reflect", "replicate": "edge"}


def dimensions(module: nn.Module) -> int:
    """1, 2 or 3: the spatial axes of a convolution or a pooling.

    Example:
        >>> from robustspike.audits.windows import dimensions
        >>> dimensions(nn.MaxPool2d(2))
        2
    """
    return next(k for family in _FAMILIES for k, cls in enumerate(family, 1) if isinstance(module, cls))


@dataclass(frozen=True)
class Windows:
    """The windows of one module at one size: along each axis whether output o reads position i, 0 or 1, [size, out].

    Example:
        >>> from robustspike.audits.windows import Windows
        >>> Windows.of(nn.MaxPool1d(2, stride=1), (3,), (2,)).axes[0].tolist()
        [[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
    """

    axes: tuple[Tensor, ...]

    @classmethod
    def of(cls, module: nn.Module, size: tuple[int, ...], out: tuple[int, ...]) -> Windows:
        """Of a convolution or pooling that turns the spatial size [*size] into [*out]."""
        axis = _adaptive if isinstance(module, (*ADAPTIVE_MAX, *ADAPTIVE_MEAN)) else _sliding
        return cls(tuple(axis(module, k, s, o) for k, (s, o) in enumerate(zip(size, out, strict=True))))

    def over(self, values: Tensor) -> Tensor:
        """The sum, at each input position, of the values [..., *out] of the outputs that read it; [..., *size]."""
        for k, axis in enumerate(reversed(self.axes)):
            values = (values.movedim(-1 - k, -1) @ axis.to(values).T).movedim(-1, -1 - k)
        return values

    def areas(self) -> Tensor:
        """How many positions each output reads, [*out]."""
        area = torch.ones(())
        for axis in self.axes:
            area = area[..., None] * axis.sum(0)
        return area


def _each(value: Any, k: int) -> Any:
    return value[k] if isinstance(value, tuple) else value


def _sliding(module: Any, k: int, size: int, out: int) -> Tensor:
    kernel, dilation = _each(module.kernel_size, k), _each(getattr(module, "dilation", 1), k)
    stride = _each(module.stride, k)
    if isinstance(module.padding, str):
        both = dilation * (kernel - 1) * (module.padding == "same")
        left, right = both // 2, both - both // 2
    else:
        left = right = _each(module.padding, k)
    mode = _BEYOND.get(getattr(module, "padding_mode", "zeros"))
    beyond = {} if mode else {"constant_values": -1}
    places = np.pad(np.arange(size), (left, right), mode or "constant", **beyond)  # type: ignore[call-overload]
    reads = torch.zeros(size, out)
    for o in range(out):
        for m in range(kernel):
            at = o * stride + m * dilation
            if at < len(places) and places[at] >= 0:
                reads[places[at], o] = 1
    return reads


def _adaptive(module: nn.Module, k: int, size: int, out: int) -> Tensor:
    reads = torch.zeros(size, out)
    for o in range(out):
        reads[o * size // out : math.ceil((o + 1) * size / out), o] = 1
    return reads
