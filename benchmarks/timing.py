"""Interleaved timing: every round runs each candidate once, so that whatever else the machine does hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

Call = Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of some values."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass(frozen=True)
class Candidate:
    """What one candidate did: seconds of each round, and its work per call.

    Attributes:
        seconds: one entry per round.
        work: of one call, in ``unit``: floating-point operations of matrix products and convolutions, or bytes.
        unit: "float32" or "bfloat16" (operations, by the type they run in) or "bytes" (memory traffic).
    """

    seconds: list[float]
    work: float
    unit: str

    @property
    def milliseconds(self) -> Spread:
        return Spread.of([1e3 * s for s in self.seconds])

    @property
    def rate(self) -> float:
        """Work per second at the median."""
        return self.work / statistics.median(self.seconds)


def ratio(slow: Candidate, fast: Candidate) -> Spread:
    """How many times faster ``fast`` is, from the two calls of each round."""
    return Spread.of([a / b for a, b in zip(slow.seconds, fast.seconds, strict=True)])


def seconds(call: Call, device: torch.device) -> float:
    """The time of one call, including what it left running on the device."""
    _synchronize(device)
    started = time.perf_counter()
    call()
    _synchronize(device)
    return time.perf_counter() - started


def rounds(calls: Mapping[str, Call], repetitions: int, device: torch.device) -> Iterator[dict[str, float]]:
    """Seconds of each call, round after round; the candidates take turns within a round. Call each once before."""
    for _ in range(repetitions):
        yield {name: seconds(call, device) for name, call in calls.items()}


def operations(call: Call) -> int:
    """Floating-point operations of the matrix products and convolutions in one call, which is run."""
    with _OperationCounter() as counter:
        call()
    return counter.total


class _OperationCounter(TorchDispatchMode):
    """Sums PyTorch's own formulas; its FlopCounterMode cannot be used, since it refuses ``autograd.grad`` on an input."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
