"""Accuracy against the number of steps of an attack."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from robustspike.attacks import PGD
from robustspike.attacks.suites import LIU_ENSEMBLE, describe_estimator
from robustspike.audits.attacked import in_calls, sweep
from robustspike.audits.batches import Stopwatch, Watch
from robustspike.balls import Linf
from robustspike.data import Split
from robustspike.gradients import BPTT, Estimator
from robustspike.neurons import spiking_layers
from robustspike.results.audits.steps import Steps


def steps(
    model: nn.Module,
    data: Split,
    *,
    eps: float | str = "8/255",
    seed: int = 0,
    batch_size: int = 64,
    watch: Watch | None = None,
    steps: Sequence[int] = (1, 2, 5, 10, 20, 50),
    estimators: Sequence[Estimator] | None = None,
    samples: int = 64,
) -> Steps:
    """PGD with more and more steps of 2.5·ε/steps, each from the same random starts, under several estimators.

    Args:
        model: x [N, ...] in [0, 1] to logits [N, K]; in evaluation mode meanwhile, left as it was.
        data: the samples.
        eps: L∞ radius in pixel units.
        seed: of all random draws.
        batch_size: samples at a time; no figure depends on it beyond rounding.
        watch: hears how much is done.
        steps: the numbers of steps.
        estimators: how gradients pass through the neurons; None: the four of Liu 2024, or the model's own gradient where it
            has no spiking layers.
        samples: the first of the data that are attacked, at most.

    Raises:
        ValueError: for an empty split, no or unfit numbers of steps, or a model that cannot carry an estimator.

    Example:
        >>> found = audits.steps(digits_cnn(time_steps=2), load("digits").test, steps=(1, 2), samples=8)
        >>> found.steps, len(found.tried), found.n
        ((1, 2), 4, 8)

    Source: Carlini et al. 2019 (more iterations until the attack has converged); Liu 2024, section 5.1, compares PGD-10, 30
    and 50. Differs from the paper: the step is 2.5·ε/steps, not 0.01.
    """
    clock, ball, counts = Stopwatch(), Linf(eps), sorted(set(steps))
    if not counts or counts[0] < 1 or samples < 1:
        raise ValueError(
            f"audit 'steps': expected numbers of steps and of samples from 1, got steps={steps}, samples={samples}"
        )
    if estimators is None:
        estimators = LIU_ENSEMBLE if spiking_layers(model) else (BPTT(),)
    attacks = [PGD(ball, count, estimator=e, early_stop=True) for e in estimators for count in counts]
    if not attacks:
        raise ValueError("audit 'steps': expected at least one estimator, got none")
    part = data.subset(min(samples, len(data)))
    found = sweep(model, part, attacks, "steps", seed, batch_size, watch)
    rows = [found.tried[k : k + len(counts)] for k in range(0, len(attacks), len(counts))]
    return Steps(
        n=len(part), seed=seed, under=f"PGD, L∞ ε = {ball.eps:.4g}{in_calls(found.calls)}", gradients=found.gradients,
        seconds=clock.seconds, classes=found.classes, correct=found.correct, steps=tuple(counts),
        estimators=tuple(map(describe_estimator, estimators)), tried=tuple(rows),
    )  # fmt: skip
