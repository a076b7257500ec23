"""Encoders give an image a time axis: x [N, ...] in [0, 1] to x_seq [T, N, ...].

Each also declares ``rate(x)``, the time average that it encodes, [N, ...]: what a network without time receives (CBA).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from robustspike.draws import uniform_per_step
from robustspike.neurons import repeat
from robustspike.surrogates import with_slope


class Direct(nn.Module):
    """The same image at every step (direct or constant coding); differentiable, costs no memory.

    Example:
        >>> Direct(3)(torch.full((1, 2), 0.5)).shape
        torch.Size([3, 1, 2])
    """

    stochastic = False

    def __init__(self, time_steps: int) -> None:
        super().__init__()
        self.time_steps = time_steps

    def extra_repr(self) -> str:
        return f"time_steps={self.time_steps}"

    def forward(self, x: Tensor) -> Tensor:
        return repeat(x, self.time_steps)

    def rate(self, x: Tensor) -> Tensor:
        return x


class Poisson(nn.Module):
    """s[t] = 1 with probability x, independently for every step and pixel; straight-through gradient 1 per step.

    Draws come from :func:`robustspike.draws.sampling` where a block is in force, so that they belong to samples.

    Source: Liu 2024's and Ding 2022's released code. Differs from the authors' code: s = 1 where u < x, not u ≤ x, so
    that a black pixel never spikes.

    Example:
        >>> Poisson(4)(torch.ones(1, 2)).sum().item()
        8.0
    """

    stochastic = True

    def __init__(self, time_steps: int) -> None:
        super().__init__()
        self.time_steps = time_steps

    def extra_repr(self) -> str:
        return f"time_steps={self.time_steps}"

    def forward(self, x: Tensor) -> Tensor:
        x_seq = repeat(x, self.time_steps)
        spikes = (uniform_per_step(x.detach(), self.time_steps) < x_seq.detach()).to(x.dtype)  # compared in float32
        return with_slope(spikes, x_seq, torch.ones_like(spikes))

    def rate(self, x: Tensor) -> Tensor:
        return x


class Phase(nn.Module):
    """Weighted phase coding: step t carries bit_t(x)·2^−(1 + (t−1) mod K), most significant bit first.

    x is rounded to K bits, q = round((2^K − 1)·x), and clipped to their range. The differentiable stand-in for step t
    is x·w_t with w_t = 2^−(1 + (t−1) mod K): over one period it sums to x·(1 − 2^−K), which is what the bits sum to up to
    rounding.

    Args:
        time_steps: T.
        phases: K, bits per period (Luu 2025: T = 10, K = 8).

    Source: Kim et al. 2018; Luu 2025, section 3. Differs from the authors' code, whose encoder cuts the graph.

    Example:
        >>> Phase(2, phases=2)(torch.tensor([[1.0]])).flatten().tolist()
        [0.5, 0.25]
    """

    stochastic = False
    weights: Tensor

    def __init__(self, time_steps: int, phases: int = 8) -> None:
        super().__init__()
        if not 1 <= phases <= 16:
            raise ValueError(f"phases must lie in 1 … 16 (8 for 8-bit images), got {phases}")
        self.time_steps, self.phases = time_steps, phases
        phase = torch.arange(time_steps) % phases
        self.register_buffer("weights", 2.0 ** -(1.0 + phase), persistent=False)

    def extra_repr(self) -> str:
        return f"time_steps={self.time_steps}, phases={self.phases}"

    def forward(self, x: Tensor) -> Tensor:
        largest = 2**self.phases - 1
        q = (x.detach() * largest).round().clamp(0, largest).to(torch.int64)
        shifts = [self.phases - 1 - t % self.phases for t in range(self.time_steps)]
        bits = torch.stack([(q >> shift) & 1 for shift in shifts]).to(x.dtype)
        weights = self.weights.to(x.dtype).reshape(-1, *[1] * x.dim())
        return with_slope(bits * weights, repeat(x, self.time_steps), weights.expand_as(bits))

    def rate(self, x: Tensor) -> Tensor:
        return x * self.weights.mean().to(x.dtype)


class Frames(nn.Module):
    """Event frames [N, T, ...] as they are: [T, N, ...].

    Example:
        >>> Frames(3)(torch.rand(2, 3, 1, 4, 4)).shape
        torch.Size([3, 2, 1, 4, 4])
    """

    stochastic = False

    def __init__(self, time_steps: int) -> None:
        super().__init__()
        self.time_steps = time_steps

    def extra_repr(self) -> str:
        return f"time_steps={self.time_steps}"

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 3 or x.shape[1] != self.time_steps:
            raise ValueError(f"frames must be [N, T, ...] with T = {self.time_steps}, got {list(x.shape)}")
        return x.transpose(0, 1)

    def rate(self, x: Tensor) -> Tensor:
        return x.mean(1)


ENCODERS: dict[str, type[Direct] | type[Poisson] | type[Phase] | type[Frames]] = {
    "direct": Direct,
    "poisson": Poisson,
    "phase": Phase,
    "frames": Frames,
}


@contextlib.contextmanager
def presenting(model: nn.Module, time_steps: int) -> Iterator[None]:
    """Within the block the model takes codes [N, T, ...] of so many steps in place of images: its encoder is ``Frames``.

    Example:
        >>> from robustspike.encoders import presenting
        >>> model = digits_cnn(time_steps=8)
        >>> with presenting(model, 3):
        ...     model(torch.rand(2, 3, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    encoder = model.encoder
    model.encoder = Frames(time_steps)
    try:
        yield
    finally:
        model.encoder = encoder
