"""One step of training: micro-batches, gradients, the optimiser, and what to do when memory runs out."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from robustspike.defences import Objective
from robustspike.draws import Draws
from robustspike.gradients import device_of
from robustspike.processes import Processes
from robustspike.train.averaging import Average
from robustspike.train.seeding import seed
from robustspike.train.together import add_up, synchronised

# x, y and the random streams of the samples with these indices.
Load = Callable[[Tensor], tuple[Tensor, Tensor, Draws]]


class StepError(Exception):
    """No step can be made: what happened, and what to try."""

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(what)
        self.what, self.advice = what, advice


@dataclass
class Stepper:
    """Makes steps.

    The mini-batch is cut into micro-batches of ``micro_batch`` samples per process or a little fewer, as equal as can be,
    and each micro-batch is shared among the processes; gradients are summed with weights n_i/n. A micro-batch of fewer
    samples than there are processes is computed whole by each.

    Args:
        precision: a context to compute the loss in.
        micro_batch: samples at a time per process; None: all. Halved for good when memory runs out (one process only).
        clip_norm: the largest ℓ2 norm of the whole gradient; None: any.
        say: takes a sentence for the user.
    """

    model: nn.Module
    objective: Objective
    optimizer: torch.optim.Optimizer
    average: Average
    processes: Processes = field(default_factory=Processes)
    precision: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext
    micro_batch: int | None = None
    clip_norm: float | None = None
    say: Callable[[str], object] = print

    def __call__(self, which: Tensor, load: Load, progress: float, number: Draws) -> float:
        """The loss of the samples ``which`` [n] before the step; all that is not drawn per sample is drawn from ``number``.

        Raises:
            StepError: if the loss is not finite or memory ran out; the weights are as before.
        """
        loss = self._gradients(which, load, progress, number)
        if not math.isfinite(loss):
            raise StepError(f"the loss became {loss}", "try a lower learning rate")
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        self._seed(number.fork("after the step"))
        self.objective.after_step(self.model)
        self.average.update(self.model)
        return loss

    def _gradients(self, which: Tensor, load: Load, progress: float, number: Draws) -> float:
        """Leaves the gradient of the mini-batch's loss in the parameters; tries again with less where memory runs out."""
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        while True:
            self.optimizer.zero_grad()
            try:
                return self._accumulated(which, load, progress, number)
            except (RuntimeError, MemoryError) as error:
                if not _memory_ran_out(error):
                    raise
            for buffer, before in buffers:
                buffer.copy_(before)
            self._halve(len(which))

    def _accumulated(self, which: Tensor, load: Load, progress: float, number: Draws) -> float:
        n, world = len(which), self.processes.world
        at_once = world * (self.micro_batch or n)
        losses = []
        for micro in which.tensor_split(math.ceil(n / at_once)):
            shared = len(micro) >= world > 1
            part = micro.tensor_split(world)[self.processes.rank] if shared else micro
            weight = len(part) / n if shared else len(part) / n / world
            x, y, draws = load(part)
            self._seed(number)
            together = synchronised(self.model, self.processes) if shared else contextlib.nullcontext()
            with together, self.precision():
                loss = self.objective(self.model, x, y, progress=progress, draws=draws)
            (loss if weight == 1 else loss * weight).backward()
            losses.append((weight, loss.detach()))
        total = sum(weight * float(loss) for weight, loss in losses)
        return total if world == 1 else self._of_all(total)

    def _of_all(self, loss: float) -> float:
        """Add up loss and gradients of all processes; a parameter may have got a gradient in some of them only."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        sums = torch.tensor([loss, *(p.grad is not None for p in parameters)], dtype=torch.float64)
        add_up([sums], self.processes)
        whole, *reached = sums.tolist()
        gradients = []
        for p in (p for p, times in zip(parameters, reached, strict=True) if times):
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            gradients.append(p.grad)
        add_up(gradients, self.processes)
        return float(whole)

    def _seed(self, number: Draws) -> None:
        """Seed PyTorch's generators, for choices made once per mini-batch: alike in all micro-batches and processes."""
        seed(int(number.keys), device_of(self.model))

    def _halve(self, n: int) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        world = self.processes.world
        size = min(self.micro_batch or n, math.ceil(n / world))
        if size == 1:
            raise StepError("memory ran out with one image at a time", "use a smaller network or fewer time steps")
        if world > 1:
            raise StepError(
                f"memory ran out in process {self.processes.rank + 1} of {world}", f"set micro_batch below {size}"
            )
        self.micro_batch = math.ceil(size / 2)
        self.say(f"memory ran out; going on with micro-batches of {self.micro_batch}")


def _memory_ran_out(error: BaseException) -> bool:
    """Whether an error is an allocator's: PyTorch's on a device or on the CPU, a library's, or the compiled kernel's."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    signs = ("can't allocate memory", "not enough memory", "out of memory", "STATUS_ALLOC_FAILED")
    return any(sign in str(error) for sign in signs)
