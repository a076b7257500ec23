"""How a model answers: whether a sample's logits depend on the batch, on earlier calls, on chance; what an attack leaves."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robustspike.doubts.probed import Answers, Batches, Chance, Missing, Traces
from robustspike.doubts.subject import Subject, every_tensor, logits, measured, same
from robustspike.draws import Draws
from robustspike.gradients import input_gradient

ROUNDING = {"float64": 1e-9, "float32": 1e-4}  # relative to the largest logit; a spike that flips moves far more


@dataclass(frozen=True)
class _Call:
    """Calls of one model on the probed images x [n, ...]."""

    model: nn.Module
    x: Tensor
    draws: Draws

    @property
    def precision(self) -> str:
        return "float64" if self.x.dtype == torch.float64 else "float32"

    def __call__(self, which: Tensor | None = None, seed: int = 0, streams: int = 0) -> Tensor:
        which = torch.arange(len(self.x), device=self.x.device) if which is None else which
        return logits(self.model, self.x[which], self.draws[which].fork(streams), seed)

    def on_others(self) -> None:
        """A call on other images, of the same number."""
        logits(self.model, 1 - self.x, self.draws.fork("others"), 0)

    def apart(self, a: Tensor, b: Tensor) -> Tensor:
        """How far two answers lie apart beyond rounding, relative to the largest logit, [n] float64; 0 where they agree."""
        a, b = a.double().cpu(), b.double().cpu()
        scale = b.nan_to_num(posinf=0.0, neginf=0.0).abs().max().clamp(min=1e-12)
        distance = (a - b).abs().nan_to_num(nan=torch.inf) / scale
        distance = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, distance).amax(1)
        return torch.where(distance > ROUNDING[self.precision], distance, 0.0)


def behaviour(subject: Subject) -> tuple[Answers | Missing, Batches | Missing, Chance | Missing]:
    """What repeated, divided and reseeded calls show, on a float64 copy of the model where one can be had.

    In float64 rounding flips no spike, so that a difference is one of the model.
    """
    call = _Call(subject.model, subject.x, subject.draws)
    with contextlib.suppress(Exception):
        twin = copy.deepcopy(subject.model).double()
        in_double = _Call(twin, subject.x.double(), subject.draws)
        _Call(copy.deepcopy(twin), in_double.x, subject.draws)()
        call = in_double
    answers = measured(lambda: _answers(call))
    if isinstance(answers, Missing):
        return answers, answers, answers
    if bool((answers.again > 0).any()):
        unlike = Missing("two equal calls differ already (see previous calls)", failed=False)
        return answers, unlike, unlike
    chance = measured(lambda: _chance(call))
    if isinstance(chance, Chance) and not chance.streams:
        mixed = Missing("the model's draws do not belong to samples (see undeclared chance)", failed=False)
        return answers, mixed, chance
    return answers, measured(lambda: _batches(call)), chance


def _answers(call: _Call) -> Answers:
    first, again = call(), call()
    call.on_others()
    return Answers(call.apart(again, first), call.apart(call(), first), call.precision)


def _batches(call: _Call) -> Batches:
    together, order = call(), torch.arange(len(call.x), device=call.x.device)
    alone = torch.cat([call(one) for one in order.split(1)])
    return Batches(call.apart(alone, together), call.apart(call(order.flip(0)).flip(0), together), call.precision)


def _chance(call: _Call) -> Chance:
    """Another seed of PyTorch's generator shows chance outside the streams, other streams the chance in them."""
    first = call()
    outside, inside = (bool(call.apart(other, first).any()) for other in (call(seed=1), call(streams=1)))
    declared = any(getattr(module, "stochastic", False) for module in call.model.modules())
    return Chance(declared, outside or inside, not outside)


@contextlib.contextmanager
def _noting_modes(model: nn.Module) -> Iterator[set[str]]:
    """Within the block, the paths of modules that are called in training mode are collected."""
    training: set[str] = set()

    def note(name: str) -> Callable[..., None]:
        def look(module: nn.Module, args: object) -> None:
            if module.training:
                training.add(name)

        return look

    hooks = [module.register_forward_pre_hook(note(name)) for name, module in model.named_modules()]
    try:
        yield training
    finally:
        for hook in hooks:
            hook.remove()


def modes(subject: Subject) -> tuple[str, ...]:
    """The modules that are in training mode while an attack takes its gradient; "" is the model itself."""
    with _noting_modes(subject.model) as training, contextlib.suppress(RuntimeError):  # a cut graph: judged elsewhere
        input_gradient(subject.model, subject.x, subject.y, draws=subject.draws)
    return tuple(name or type(subject.model).__name__ for name in sorted(training))


def traces(model: nn.Module, before: dict[str, Tensor], training: tuple[str, ...]) -> Traces:
    """What all the probes together left in the model, compared with copies of its tensors taken before."""
    now = every_tensor(model)
    changed = [name for name, tensor in before.items() if name not in now or not same(now[name], tensor)]
    norms = sum(isinstance(module, _BatchNorm) for module in model.modules())
    return Traces(tuple(changed), training, norms, sum(1 for _ in model.modules()))
