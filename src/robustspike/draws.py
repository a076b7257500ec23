"""Random numbers that belong to samples, not to batches.

A counter-based generator: every number is a hash of (key of the sample, position), so the same sample gets the
same numbers whatever batch, order, device or process it is computed in.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift(z: Tensor, bits: int) -> Tensor:
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _hash(z: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014) on int64 tensors, wrapping around."""
    z = z + _GOLDEN
    z = (z ^ _shift(z, 30)) * _MIX_1
    z = (z ^ _shift(z, 27)) * _MIX_2
    return z ^ _shift(z, 31)


@dataclass(frozen=True)
class Draws:
    """One stream of random numbers per sample.

    Args:
        keys: [N] int64, one key per sample; make them with :meth:`of` or :meth:`fresh`.

    Example:
        >>> whole = Draws.of(seed=0, samples=torch.arange(4))
        >>> part = Draws.of(seed=0, samples=torch.tensor([2]))
        >>> bool((whole.uniform((3,))[2] == part.uniform((3,))[0]).all())
        True
    """

    keys: Tensor

    @classmethod
    def of(cls, seed: int, samples: Tensor) -> Draws:
        """The streams of these samples (their numbers in the data set, [N] integers) under one seed."""
        return cls(_hash(_hash(torch.tensor(seed, dtype=torch.int64, device=samples.device)) + samples.to(torch.int64)))

    @classmethod
    def fresh(cls, n: int, device: torch.device | str = "cpu") -> Draws:
        """The streams in force, forked, where they are for n samples; else some seeded from PyTorch's global generator."""
        current = _current.get()
        if current is not None and len(current) == n:
            return current.fork("fresh")
        seed = int(torch.randint(2**62, ()).item())
        return cls.of(seed, torch.arange(n, device=device))

    def fork(self, label: int | str) -> Draws:
        """Independent streams for the same samples, named by a label (an attack, a restart, a step)."""
        number = zlib.crc32(label.encode()) + (1 << 32) if isinstance(label, str) else label
        return Draws(_hash(self.keys ^ _hash(torch.full_like(self.keys, number))))

    def __getitem__(self, which: Tensor) -> Draws:
        """The streams of some of the samples: a mask or indices, [N] or [M]."""
        return Draws(self.keys[which])

    def __len__(self) -> int:
        return len(self.keys)

    def bits(self, shape: Sequence[int]) -> Tensor:
        """Hashed 64-bit integers, [N, *shape]."""
        positions = torch.arange(math.prod(shape), device=self.keys.device)
        return _hash(self.keys[:, None] + _GOLDEN * positions[None]).reshape(len(self.keys), *shape)

    def uniform(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform on [0, 1) with 24 bits, equal in float32 and float64 (8 and 11 in the 16-bit types); [N, *shape]."""
        bits = {torch.bfloat16: 8, torch.float16: 11}.get(dtype, 24)
        return (_shift(self.bits(shape), 64 - bits).to(torch.float64) * 2.0**-bits).to(dtype)

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal by Box and Muller's transform; [N, *shape]."""
        radius = self.fork("radius").uniform(shape, torch.float64)
        angle = self.fork("angle").uniform(shape, torch.float64)
        return ((-2 * torch.log1p(-radius)).sqrt() * torch.cos(2 * math.pi * angle)).to(dtype)

    def integers(self, high: int, shape: Sequence[int] = ()) -> Tensor:
        """Integers 0 … high − 1, [N, *shape] int64."""
        return (self.uniform(shape, torch.float64) * high).to(torch.int64)


_current: contextvars.ContextVar[Draws | None] = contextvars.ContextVar("robustspike_draws", default=None)


@contextlib.contextmanager
def sampling(draws: Draws | None) -> Iterator[None]:
    """Within the block, stochastic layers of a model draw from these streams (None: PyTorch's generator)."""
    token = _current.set(draws)
    try:
        yield
    finally:
        _current.reset(token)


def uniform_per_step(x: Tensor, time_steps: int) -> Tensor:
    """Uniform float32 numbers [T, N, ...] for x [N, ...]: from the streams in force, else from PyTorch's generator."""
    draws = _current.get()
    if draws is None:
        return torch.rand((time_steps, *x.shape), device=x.device)
    return draws.uniform((time_steps, *x.shape[1:])).transpose(0, 1)
