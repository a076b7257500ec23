"""What is probed: a model and the samples that it classifies correctly."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from robustspike.attacks.attempt import calls_for, error_rate
from robustspike.balls import Ball
from robustspike.data import Split
from robustspike.doubts.probed import Missing
from robustspike.draws import Draws, sampling
from robustspike.gradients import device_of, frozen
from robustspike.neurons import spiking_layers
from robustspike.results import Outcome

Value = TypeVar("Value")


@dataclass(frozen=True)
class Subject:
    """A model, and samples that it classifies correctly.

    Attributes:
        x, y, draws: [n] images in [0, 1] on the model's device, labels, random streams.
        ball: the threat model.
        calls: how many calls judge an example: one, or ten for a stochastic model.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    draws: Draws
    ball: Ball
    calls: int

    @property
    def stochastic(self) -> bool:
        return self.calls > 1

    @property
    def spiking(self) -> bool:
        return bool(spiking_layers(self.model))

    def logits(self, x: Tensor) -> Tensor:
        """Logits [n, K] at x [n, ...]; the same draws in every call."""
        return logits(self.model, x, self.draws)

    def errs_on(self, x: Tensor) -> Tensor:
        """Which of the samples the model gets wrong at x [n, ...], in most of its calls, [n] bool."""
        return error_rate(self.model, x, self.y, self.draws.fork("judge"), self.calls) > 0.5


def logits(model: nn.Module, x: Tensor, draws: Draws, seed: int = 0) -> Tensor:
    """Logits [n, K] in evaluation mode, with these streams and this seed of PyTorch's generator."""
    torch.manual_seed(seed)
    with frozen(model), torch.no_grad(), sampling(draws):
        answer: Tensor = model(x)
    return answer


def choose(
    model: nn.Module, data: Split, ball: Ball, outcome: Outcome | None, samples: int, seed: int
) -> Subject | Missing:
    """The first ``samples`` samples of the split that the model classifies correctly; by the outcome, where it is given."""
    device, double = device_of(model), any(p.dtype == torch.float64 for p in model.parameters())

    def subject(part: Split) -> Subject:
        x = part.images.to(device, torch.float64 if double else part.images.dtype)
        draws = Draws.of(seed, part.ids.to(device)).fork("doubts")
        return Subject(model, x, part.labels.to(device), draws, ball, calls_for(model, x))

    if outcome is not None:
        correct = torch.isin(data.ids.cpu(), torch.from_numpy(outcome.samples[outcome.correct]))
        chosen = data.subset(correct.nonzero().flatten()[:samples])
    else:
        found: list[Tensor] = []
        for block in torch.arange(len(data)).split(max(samples, 1)):
            part = subject(data.subset(block))
            found.append(block[~part.errs_on(part.x).cpu()])
            if sum(map(len, found)) >= samples:
                break
        chosen = data.subset(torch.cat([*found, torch.arange(0)])[:samples])
    return subject(chosen) if len(chosen) else Missing("no sample is classified correctly", failed=False)


def measured(probe: Callable[[], Value]) -> Value | Missing:
    """What a probe measures; what it says, should it raise."""
    try:
        return probe()
    except Exception as error:
        return missing(error)


def missing(error: Exception) -> Missing:
    """An error's own sentence in place of a figure."""
    first = (str(error).strip().splitlines() or [""])[0]
    return Missing(f"could not be measured: {type(error).__name__}: {first}")


def every_tensor(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, those that are not saved included, and tensors that modules hold otherwise, by their path."""
    found = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for path, module in model.named_modules():
        plain = {name: value for name, value in vars(module).items() if isinstance(value, Tensor)}
        found |= {f"{path}.{name}".lstrip("."): value for name, value in plain.items()}
    return found


@contextlib.contextmanager
def as_it_was(model: nn.Module, device: torch.device) -> Iterator[dict[str, Tensor]]:
    """Whatever happens within the block, the model's tensors and attributes and PyTorch's generators end as they began.

    Yields copies of the model's tensors, by their path.
    """
    modules = list(model.modules())
    attributes = [dict(vars(module)) for module in modules]
    tables = [{name: dict(kept[name]) for name in ("_parameters", "_buffers", "_modules")} for kept in attributes]
    tensors = every_tensor(model)
    copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield copies
    finally:
        for module, kept, owned in zip(modules, attributes, tables, strict=True):
            _put_back(vars(module), kept)
            for name, table in owned.items():
                _put_back(vars(module)[name], table)
        with torch.no_grad():
            for name, tensor in tensors.items():
                if not same(tensor, copies[name]):
                    tensor.copy_(copies[name])


def _put_back(mapping: dict[str, Any], kept: dict[str, Any]) -> None:
    mapping.clear()
    mapping.update(kept)


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal bit for bit, NaN included."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(((a == b) | ((a != a) & (b != b))).all())
