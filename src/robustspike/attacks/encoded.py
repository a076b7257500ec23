"""Luu's protocol: what moves is not the image but its code, each time step within an ε of its own, seen in training mode."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustspike.attacks.attempt import Attempt, adversarial_examples, calls_for
from robustspike.attacks.binding import bind
from robustspike.balls import Ball
from robustspike.draws import Draws, sampling
from robustspike.encoders import presenting
from robustspike.gradients import BPTT, Estimator, Loss, Memory, cross_entropy, errs, estimating, frozen, look


@dataclass(frozen=True)
class EncodedPGD:
    """Luu's PGD: ascent on the encoded tensor, the network in training mode while it is attacked.

    x is encoded once, with the sample's own draws, and the code [N, T, ...] is moved: c ← Π(c + step_size · sign ∇_c loss),
    every entry within ε of the code of x and within [0, 1]. ``attack(model, x, y)`` therefore returns a code [N, T, ...]
    and not images; ``with attack.presented(model, x, draws) as code:`` the model takes codes, and ``code`` is the centre.

    Gradients are taken in training mode, so BatchNorm normalises with the statistics of the batch: *what becomes of a
    sample depends on its batch*, as nowhere else in this package. The answers are judged in evaluation mode, and buffers and
    modes come back as they were.

    Args:
        ball: an ``Linf``, applied at every time step.
        steps: number of gradient steps.
        step_size: in units of the code; None: 2.5·ε/steps.
        random_start: whether to start from a uniform point around the code (PGD) or from the code (FGSM).
        estimator: how the gradient passes through the neurons.
        loss: of (logits [N, K], y [N]) to [N], ascended.
        early_stop: keep the first iterate that the model errs on in evaluation mode. The sample stays in the batch, so that
            the other samples' statistics do not change; the run ends once all are broken. Ignored where the model is
            stochastic behind its encoder.

    Raises:
        ValueError: for another norm, fewer than one step, or a step size that is not positive; at call time for a model
            without an encoder.

    Source: Luu 2025, sections 3.2 and 4.2 (ε = 8/255, 7 steps of 0.01). The text says neither that the code is attacked nor
    the start, the clipping and the mode: these follow the released code. Differs from the authors' code: BatchNorm's running
    statistics do not learn the adversarial batches; a vanishing gradient is counted, not an exception; ε is the caller's
    (theirs is 6/255 where the text says 8/255); the phase code is that of x, not of 255/256·x.

    Example:
        >>> model, x, y = digits_cnn(time_steps=3, encoder="phase"), torch.rand(4, 1, 8, 8), torch.arange(4)
        >>> attack = EncodedPGD(Linf("8/255"))
        >>> code_adv = attack(model, x, y)
        >>> with attack.presented(model, x) as code:
        ...     model(code_adv).shape, code.shape
        (torch.Size([4, 10]), torch.Size([4, 3, 1, 8, 8]))
    """

    caveat: ClassVar[str] = (
        "each encoded time step moves within an ε of its own, the result need not be the code of any image, and gradients "
        "are taken in training mode: the protocol of Luu 2025, no robustness figure for pixels"
    )
    ball: Ball
    steps: int = 7
    step_size: float | None = 0.01
    random_start: bool = True
    estimator: Estimator = field(default_factory=BPTT)
    loss: Loss = cross_entropy
    early_stop: bool = False
    label: str | None = None

    def __post_init__(self) -> None:
        if self.ball.norm != "Linf":
            raise ValueError(
                "EncodedPGD needs an Linf ball, the only one that gives each time step an ε of its own, "
                f"got {self.ball}; use PGD for pixels in other norms"
            )
        if self.steps < 1:
            raise ValueError(f"steps must be ≥ 1, got {self.steps}")
        if self.step_size is not None and not 0 < self.step_size < float("inf"):
            raise ValueError(f"step_size must be positive and finite, in units of the code, got {self.step_size}")

    @property
    def kind(self) -> str:
        return "white-box" if self.steps > 1 else "one-step"

    @property
    def name(self) -> str:
        if self.label is not None:
            return self.label
        start = "" if self.random_start else ", from the code"
        size = "" if self.step_size == 0.01 else f", step {self._step_size:.3g}"
        return f"encoded PGD-{self.steps}{start}{size}"

    @property
    def _step_size(self) -> float:
        return 2.5 * self.ball.eps / self.steps if self.step_size is None else self.step_size

    __call__ = adversarial_examples
    bind = bind

    def run(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws | None = None) -> Attempt:
        """Codes [N, T, ...] and costs, see :class:`robustspike.attacks.Attempt`."""
        draws = Draws.fresh(len(x), x.device) if draws is None else draws
        with self.presented(model, x, draws) as code:
            return self._climb(model, code, y, draws)

    def presented(
        self, model: nn.Module, x: Tensor, draws: Draws | None = None
    ) -> contextlib.AbstractContextManager[Tensor]:
        """A block in which the model takes codes [N, T, ...]; yields that of x, the centre of the ball.

        Args:
            model: x [N, ...] to logits [N, K] through its module ``encoder``.
            x: [N, ...] in [0, 1].
            draws: those of the run, for an encoder with chance; None: the streams in force, else PyTorch's generator.

        Raises:
            ValueError: for a model without an encoder, or with one whose code is not [T, N, ...] in [0, 1].
        """
        return _presented(model, x, draws)

    def _climb(self, model: nn.Module, code: Tensor, y: Tensor, draws: Draws) -> Attempt:
        attempt, memory = Attempt.begin(code), Memory()
        here = self.ball.sample(code, draws) if self.random_start else code.clone()
        everyone, standing = torch.arange(len(y), device=y.device), torch.ones_like(y, dtype=torch.bool)
        stop = self.early_stop and calls_for(model, code) == 1
        for step in range(self.steps):
            if stop:
                newly = standing & self._errs(model, here, y, draws.fork("judge").fork(step))
                attempt.queries += 1
                attempt.x_adv[newly] = here[newly]
                standing &= ~newly
                if not standing.any():
                    return attempt
            with torch.no_grad(), _training(model, draws.fork(step)), estimating(model, self.estimator, memory):
                gradient = look(model, here, y, self.loss, 1, draws.fork(1 + step), memory)[2]
            attempt.count(everyone, gradient, 1)
            here = self.ball.project(self.ball.ascend(here, gradient.nan_to_num(0.0), self._step_size), code)
        attempt.x_adv[standing] = here[standing]
        return attempt

    def _errs(self, model: nn.Module, code: Tensor, y: Tensor, draws: Draws) -> Tensor:
        with torch.no_grad(), frozen(model), sampling(draws):
            return errs(model(code), y)


def encoded_fgsm(ball: Ball, estimator: Estimator | None = None, **options: object) -> EncodedPGD:
    """One step of size ε from the code of x, seen in training mode (Luu 2025, section 3.1): an :class:`EncodedPGD`.

    Example:
        >>> encoded_fgsm(Linf(0.1)).name
        'encoded FGSM'
    """
    return EncodedPGD(
        ball, steps=1, step_size=ball.eps or None, random_start=False, estimator=estimator or BPTT(),
        label="encoded FGSM", **options,  # type: ignore[arg-type]
    )  # fmt: skip


@contextlib.contextmanager
def _presented(model: nn.Module, x: Tensor, draws: Draws | None) -> Iterator[Tensor]:
    encoder = getattr(model, "encoder", None)
    if not isinstance(encoder, nn.Module):
        raise ValueError(
            "an attack on the code needs a model with a module `encoder` from x [N, ...] to [T, N, ...], which its forward "
            f"calls, as robustspike's networks have; got {type(model).__name__}; attack its pixels (PGD) instead"
        )
    code = _code(encoder, model, x, draws)
    with presenting(model, code.shape[1]):
        yield code


def _code(encoder: nn.Module, model: nn.Module, x: Tensor, draws: Draws | None) -> Tensor:
    """The code of x, [N, T, ...]."""
    streams = contextlib.nullcontext() if draws is None else sampling(draws.fork("code"))
    with torch.no_grad(), frozen(model), streams:
        x_seq: Tensor = encoder(x)
    if x_seq.dim() < 3 or x_seq.shape[1] != len(x) or not ((x_seq >= 0) & (x_seq <= 1)).all():
        raise ValueError(
            f"an attack on the code needs an encoder from x to [T, N, ...] in [0, 1]; {type(encoder).__name__} made "
            f"{list(x_seq.shape)} from {list(x.shape)}, in [{x_seq.min():.3g}, {x_seq.max():.3g}]; attack pixels instead"
        )
    return x_seq.transpose(0, 1).clone(memory_format=torch.contiguous_format)


@contextlib.contextmanager
def _training(model: nn.Module, draws: Draws) -> Iterator[None]:
    """As :func:`frozen`, but in training mode; buffers come back as they were, and dropout's chance is that of the draws."""
    buffers = [(m, name, b, b.clone()) for m in model.modules() for name, b in m._buffers.items() if b is not None]
    device = draws.keys.device
    cuda = [device] if device.type == "cuda" else []
    with frozen(model), torch.random.fork_rng(devices=cuda):
        for generator in (torch.default_generator, *(torch.cuda.default_generators[d.index] for d in cuda)):
            generator.manual_seed(int(draws.fork("dropout").keys.sum()))
        try:
            model.train()
            yield
        finally:
            for module, name, buffer, value in buffers:
                module._buffers[name] = buffer
                buffer.copy_(value)
