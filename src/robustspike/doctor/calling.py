"""How a network is called: images or sequences, one step or all; and what an attack of its owner's would see."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustspike.adapters import FRAMEWORKS, READOUTS, Framework
from robustspike.doctor.keeping import untouched
from robustspike.gradients import BPTT, Estimator, estimating


@dataclass(frozen=True)
class Way:
    """How a network is called.

    Attributes:
        takes: "images" [N, ...] at once, "sequence" [T, N, ...], or "step": [N, ...] once for each step.
        time_steps: T, how often an image is repeated for "sequence" and "step".
        batch: which dimension of the answer, of one call, is that of samples.
        readout: which of the tensors that it returns are the logits: "spikes", the first, or "membrane", the last.
    """

    takes: str
    time_steps: int
    batch: int = 0
    readout: str = "spikes"

    def __str__(self) -> str:
        return {
            "images": "images [N, …]",
            "sequence": f"sequences [T, N, …] (T = {self.time_steps})",
            "step": f"one time step per call ({self.time_steps} calls)",
        }[self.takes]


@dataclass(frozen=True)
class Patient:
    """A network as its owner runs it, and images to try it on.

    Attributes:
        images: [n, ...] of the network's type and on its device; labels: [n].
        real: whether they were given; else they are random numbers in [0, 1].
        labelled: whether the labels were given; else each is the class that the network finds second most likely.
        time_steps: as given; None: not given.
        estimator: what gradients pass through; None: the network's own.
        defects: known ones that modules of the network carry, and the modules' paths.
    """

    model: nn.Module
    way: Way
    images: Tensor
    labels: Tensor
    real: bool
    labelled: bool
    time_steps: int | None = None
    seed: int = 0
    estimator: Estimator | None = None
    defects: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return len(self.images)

    def logits(self, x: Tensor) -> Tensor:
        """[N, K] for x [N, ...] in the state and mode that the network is in, as its owner would call it.

        Given a copy: some networks write into their input.
        """
        return answer(self.model, self.way, x.clone())

    @contextlib.contextmanager
    def trial(self, *, seed: int | None = None, training: bool = False) -> Iterator[None]:
        """Calls within the block start from the state of a reset, in one mode; afterwards the network is as it was."""
        with untouched(self.model):
            self.model.train(training)
            for module in self.model.modules():
                start_anew(module)
            reseed(self.seed if seed is None else seed)
            yield

    def once(self, x: Tensor | None = None, *, seed: int | None = None, training: bool = False) -> Tensor:
        """Logits [N, K] of one call from fresh state, without gradient."""
        with self.trial(seed=seed, training=training), torch.no_grad():
            return self.logits(self.images if x is None else x).clone()

    def gradient(self) -> Tensor | None:
        """∇_x of the cross-entropy [n, ...] as the network stands now; None where the graph is cut."""
        with torch.enable_grad(), estimating(self.model, self.estimator or BPTT()):
            x = self.images.detach().clone().requires_grad_()
            logits = answer(self.model, self.way, x).float()
            if not logits.requires_grad:
                return None
            loss = F.cross_entropy(logits, self.labels, reduction="sum")
            return torch.autograd.grad(loss, x, allow_unused=True)[0]


def reseed(seed: int) -> None:
    """Seed every generator that a network may draw from."""
    torch.default_generator.manual_seed(seed)  # torch.manual_seed takes milliseconds for GPUs that are not there
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    np.random.seed(seed)
    random.seed(seed)


def answer(model: nn.Module, way: Way, x: Tensor) -> Tensor:
    """Logits [N, K] for x [N, ...]: the mean over time of what is read out of a network."""
    if way.takes == "images":
        return _mean_over_time(read(model(x), way.readout), way.batch)
    if way.takes == "sequence":
        return _mean_over_time(read(model(repeated(x, way.time_steps)), way.readout), way.batch)
    state: tuple[Any, ...] = ()
    steps = []
    for _ in range(way.time_steps):
        out = model(x, *state)
        if passes_state(model) and isinstance(out, tuple) and len(out) == 2:
            state = (out[1],)
        steps.append(_mean_over_time(read(out, way.readout), way.batch))
    return torch.stack(steps).mean(0)


def repeated(x: Tensor, time_steps: int) -> Tensor:
    """[T, N, ...] from [N, ...]."""
    return x.repeat(time_steps, *[1] * x.dim())


def read(out: Any, readout: str) -> Tensor:
    """The first or last tensor of what a network returned.

    Raises:
        ValueError: if there is none.
    """
    found = READOUTS[readout](out)
    if not isinstance(found, Tensor):
        raise ValueError(f"the network returns no tensor to read out {readout} from, but a {type(out).__name__}")
    return found


def _mean_over_time(out: Tensor, batch: int) -> Tensor:
    return out.mean(1 - batch) if out.dim() == 3 else out


def spiking(model: nn.Module) -> dict[str, tuple[nn.Module, Framework]]:
    """Spiking modules of other frameworks by path, and whose they are."""
    found = {}
    for path, module in model.named_modules():
        framework = next((f for f in FRAMEWORKS.values() if f.is_neuron(module)), None)
        if framework is not None:
            found[path or type(model).__name__] = (module, framework)
    return found


def passes_state(model: nn.Module) -> bool:
    """Whether a network's neurons get their state with each call."""
    return any(framework.passes_state for _, framework in spiking(model).values())


def start_anew(module: nn.Module) -> None:
    """Give a stateful module, without its children, the state of a reset."""
    for framework in FRAMEWORKS.values():
        if framework.is_neuron(module) or framework.is_stateful(module):
            framework.reset(module)
            return
