"""Accuracy under triangular surrogates of several widths."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import nn

from robustspike.attacks.suites import liu2024_widths
from robustspike.audits.attacked import in_calls, sweep
from robustspike.audits.batches import Stopwatch, Watch
from robustspike.data import Split
from robustspike.gradients import BPTT
from robustspike.neurons import spiking_layers
from robustspike.results.audits.widths import Widths
from robustspike.surrogates import Triangle


def widths(
    model: nn.Module,
    data: Split,
    *,
    eps: float | str = "8/255",
    seed: int = 0,
    batch_size: int = 64,
    watch: Watch | None = None,
    widths: Sequence[float] = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 2.5, 3.0),
    steps: int = 10,
    samples: int = 100,
) -> Widths:
    """PGD through triangles of several widths γ, each from the same random starts.

    Args:
        model: x [N, ...] in [0, 1] to logits [N, K], with spiking layers; in evaluation mode meanwhile, left as it was.
        data: the samples.
        eps: L∞ radius in pixel units.
        seed: of all random draws.
        batch_size: samples at a time; no figure depends on it beyond rounding.
        watch: hears how much is done.
        widths: γ, above 0, in units of the membrane potential; ``[k / 10 for k in range(1, 31)]`` are the paper's thirty.
        steps: of PGD, each of 0.01 at ε = 8/255 and in proportion to ε elsewhere.
        samples: the first of the data that are attacked, at most.

    Raises:
        ValueError: for an empty split, no or unfit widths, or a model without spiking layers.

    Example:
        >>> found = audits.widths(digits_cnn(time_steps=2), load("digits").test, widths=(0.5, 1.0), steps=2, samples=8)
        >>> found.widths, found.n
        ((0.5, 1.0), 8)

    Source: Liu 2024, appendix G, Table 6.
    """
    clock, chosen = Stopwatch(), sorted(set(map(float, widths)))
    if not chosen or not 0 < chosen[0] <= chosen[-1] < float("inf") or samples < 1:
        raise ValueError(
            f"audit 'widths': expected widths above 0 and samples from 1, got widths={widths}, samples={samples}"
        )
    if not spiking_layers(model):
        raise ValueError(
            f"audit 'widths' needs spiking layers, whose surrogate it varies; found none in {type(model).__name__}"
        )
    pgd: Any = liu2024_widths(eps, steps).attacks[0]
    attacks = [dataclasses.replace(pgd, estimator=BPTT(Triangle(width))) for width in chosen]
    part = data.subset(min(samples, len(data)))
    found = sweep(model, part, attacks, "widths", seed, batch_size, watch)
    under = f"PGD-{steps} under triangles, L∞ ε = {pgd.ball.eps:.4g}{in_calls(found.calls)}"
    return Widths(
        n=len(part), seed=seed, under=under, gradients=found.gradients, seconds=clock.seconds, classes=found.classes,
        correct=found.correct, widths=tuple(chosen), tried=found.tried,
    )  # fmt: skip
