"""What an attack makes of samples, judged by forward passes of its own, as an evaluation judges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustspike.attacks import Attempt
from robustspike.attacks.attempt import calls_for
from robustspike.audits.batches import Batch, Watch, batches
from robustspike.data import Split
from robustspike.draws import Draws, sampling
from robustspike.gradients import check_labels, chosen_class, frozen, majority
from robustspike.results.audits.tried import Tried


@dataclass(frozen=True)
class Answers:
    """What a model says.

    Attributes:
        classes: [N] int64, the class that more than half of the calls give; −1 where there is none or logits are not finite.
        probabilities: [N, K], the softmax, mean over the calls; 0 where it is not finite.
    """

    classes: Tensor
    probabilities: Tensor

    @property
    def confidence(self) -> Tensor:
        """The probability of the class that is given, [N]; 0 where none is."""
        chosen = self.probabilities.gather(1, self.classes.clamp(min=0)[:, None]).squeeze(1)
        return chosen * (self.classes >= 0)


def answers(model: nn.Module, x: Tensor, draws: Draws, calls: int) -> Answers:
    """The model's answers at x [N, ...] in ``calls`` calls, each with draws of its own."""
    classes, probabilities = [], []
    with frozen(model), torch.no_grad():
        for k in range(calls):
            with sampling(draws.fork(k)):
                logits = model(x)
            classes.append(chosen_class(logits))
            probabilities.append(logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(1).nan_to_num(0.0))
    return Answers(majority(torch.stack(classes)), torch.stack(probabilities).mean(0))


@dataclass(frozen=True)
class Judged:
    """A batch, and the model's answers without attack; ``calls``: how many calls its answers are made of."""

    batch: Batch
    clean: Answers
    calls: int

    @property
    def correct(self) -> Tensor:
        """The rows that are classified correctly without attack, [M]."""
        return (self.clean.classes == self.batch.y).nonzero().flatten()


def judged(
    model: nn.Module, data: Split, purpose: str, seed: int, batch_size: int, watch: Watch | None = None
) -> Iterator[Judged]:
    """The split batch by batch, see :func:`batches`, with what the model says without attack.

    Raises:
        ValueError: for an empty split, a batch size below 1, or labels that the model has no class for.
    """
    calls = 0
    for batch in batches(model, data, purpose, seed, batch_size, watch):
        if not calls:
            check_labels(model, batch.x, data.labels)
            calls = calls_for(model, batch.x)
        yield Judged(batch, answers(model, batch.x, batch.draws.fork("clean"), calls), calls)


def check_on_pixels(attack: Any, audit: str) -> None:
    """Refuse an attack whose examples are not images.

    Raises:
        ValueError: naming the attack.
    """
    if hasattr(attack, "presented"):
        raise ValueError(
            f"audit {audit!r} takes attacks on pixels, got {attack.name}, which moves the encoded tensor; use PGD"
        )


@dataclass(frozen=True)
class Attacked:
    """Samples [M] after an attack: what it left behind, what the model then says, and whether that is wrong."""

    attempt: Attempt
    answers: Answers
    broken: Tensor


def attacked(model: nn.Module, attack: Any, one: Judged, which: Tensor) -> Attacked:
    """The attack on the rows ``which`` [M] of a batch; every audit's attack gets the samples' same streams.

    Raises:
        ValueError: if the attack leaves its ball.
    """
    x, y, draws = one.batch.x[which], one.batch.y[which], one.batch.draws[which]
    attempt = attack.run(model, x, y, draws.fork("attack"))
    ball = getattr(attack, "ball", None)
    if ball is not None and len(x):
        farthest = float(ball.distance(attempt.x_adv, x).max())
        if not farthest <= ball.eps * (1 + 1e-5) + 1e-6:
            raise ValueError(f"{attack.name} left its ball: expected {ball.norm} ≤ {ball.eps:.4g}, got {farthest:.4g}")
    found = answers(model, attempt.x_adv, draws.fork("judge"), one.calls)
    return Attacked(attempt, found, found.classes != y)


@dataclass(frozen=True)
class Swept:
    """Several attacks on the same samples.

    Attributes:
        correct: how many samples are classified correctly without attack; only these were attacked.
        classes: of the model.
        calls: how many calls its answers are made of.
        tried: one for each attack.
    """

    correct: int
    classes: int
    calls: int
    tried: tuple[Tried, ...]

    @property
    def gradients(self) -> int:
        """Gradient evaluations of all attacks."""
        return sum(one.gradients for one in self.tried)


def sweep(
    model: nn.Module, data: Split, attacks: Sequence[Any], purpose: str, seed: int, batch_size: int, watch: Watch | None
) -> Swept:
    """Each attack alone on every sample that is classified correctly, all from the same random streams.

    Raises:
        ValueError: see :func:`judged` and :func:`attacked`.
    """
    broken: list[list[int]] = [[] for _ in attacks]
    spent = torch.zeros(len(attacks), 3, dtype=torch.int64)
    correct = classes = calls = first = 0
    for one in judged(model, data, purpose, seed, batch_size):
        which, n = one.correct, len(one.batch.y)
        correct, classes, calls = correct + len(which), one.clean.probabilities.shape[1], one.calls
        for k, attack in enumerate(attacks):
            if len(which):
                found = attacked(model, attack, one, which)
                broken[k] += (first + which[found.broken]).tolist()
                costs = (found.attempt.gradients, found.attempt.zero, found.attempt.nan)
                spent[k] += torch.stack([cost.sum() for cost in costs]).cpu()
            if watch is not None:
                watch((first + n * (k + 1) / len(attacks)) / len(data))
        first += n
    tried = (
        Tried(broken=tuple(places), gradients=gradients, zero=zero, nan=nan)
        for places, (gradients, zero, nan) in zip(broken, spent.tolist(), strict=True)
    )
    return Swept(correct, classes, calls, tuple(tried))


def in_calls(calls: int) -> str:
    """What has to be said where answers are made of several calls."""
    return f", the majority of {calls} calls judges" if calls > 1 else ""
