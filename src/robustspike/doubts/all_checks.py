"""All checks of one model and its evaluation."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn

from robustspike.attacks import Suite
from robustspike.balls import Linf
from robustspike.data import Split
from robustspike.doubts.answering import ANSWERING
from robustspike.doubts.behaviour import behaviour, modes, traces
from robustspike.doubts.checklist import checklist
from robustspike.doubts.potentials import reach
from robustspike.doubts.probed import Missing, Probed
from robustspike.doubts.probes import estimators_of, gradients, moved_by_noise, runs, sizes
from robustspike.doubts.rows import ROWS
from robustspike.doubts.seeing import SEEING
from robustspike.doubts.strength import STRENGTH
from robustspike.doubts.subject import Subject, as_it_was, choose, measured
from robustspike.doubts.verdicts import findings
from robustspike.gradients import device_of
from robustspike.results import Doubts, Outcome

CHECKS = {check.name: check for check in (*ROWS, *SEEING, *STRENGTH, *ANSWERING)}


def doubts(
    model: nn.Module, data: Split, outcome: Outcome | None, suite: Suite, *, samples: int = 32, seed: int = 0
) -> Doubts:
    """Look for signs that a robustness figure is too high because its attacks were blind (gradient masking).

    Small attacks (FGSM, PGD-10 through six estimators, 100 tries of noise, 200 queries of the square attack) on a few
    samples that the model classifies correctly, gradients, membrane potentials and repeated calls; and the rows of the
    evaluation, where there is one. Each check is explained in docs/doubts. A check whose probe raises has failed.

    Args:
        model: x [N, ...] in [0, 1] to logits [N, K]; its tensors and attributes are left as they were.
        data: the split that was evaluated.
        outcome: its evaluation; None: only probes.
        suite: the attacks of the evaluation; the probes use its ball (L∞ with 8/255 where it has none).
        samples: how many samples to probe; the first ones of the split that are classified correctly.
        seed: of all random draws, which belong to samples.

    Raises:
        ValueError: for samples < 1.

    Example:
        >>> model, data = digits_cnn(time_steps=2), load("digits").test.subset(8)
        >>> found = doubts(model, data, None, suites.liu2024("8/255"), samples=2)
        >>> found.samples <= 2, len(found.findings) == len(CHECKS)
        (True, True)
    """
    if samples < 1:
        raise ValueError(f"doubts: samples must be ≥ 1, got {samples}; leave doubts out to probe none")
    started, ball = time.perf_counter(), suite.ball or Linf("8/255")
    with as_it_was(model, device_of(model)) as before:
        torch.manual_seed(seed)
        subject = measured(lambda: choose(model, data, ball, outcome, samples, seed))
        probed, spent = (subject, 0) if isinstance(subject, Missing) else probe(subject, before, suite)
    found = findings(ROWS, outcome) + findings((*SEEING, *STRENGTH, *ANSWERING), probed)
    return Doubts(
        findings=tuple(found),
        checklist=None if isinstance(probed, Missing) else checklist(probed),
        samples=0 if isinstance(probed, Missing) else probed.n,
        seed=seed,
        gradients=spent,
        seconds=time.perf_counter() - started,
    )


def probe(subject: Subject, before: dict[str, Tensor], suite: Suite) -> tuple[Probed, int]:
    """All that the probes measure, and the gradient evaluations spent; ``before``: the model's tensors as they were."""
    answers, batches, chance = behaviour(subject)
    training = measured(lambda: modes(subject))
    at_clean, for_gradients = gradients(subject)
    broke, for_runs = runs(subject)
    no_neurons = Missing(f"no spiking layer in {type(subject.model).__name__}", failed=False)
    probed = Probed(
        n=len(subject.x),
        norm=subject.ball.norm,
        suite=estimators_of(suite, subject.model),
        eps=sizes(subject.ball, subject.x[0].numel()),
        runs=broke,
        gradients=at_clean,
        moved=measured(lambda: moved_by_noise(subject)),
        reach=measured(lambda: reach(subject)) if subject.spiking else no_neurons,
        answers=answers,
        batches=batches,
        chance=chance,
        traces=training if isinstance(training, Missing) else traces(subject.model, before, training),
    )
    return probed, for_gradients + for_runs + len(subject.x)
