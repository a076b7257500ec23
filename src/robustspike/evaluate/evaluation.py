"""The evaluation itself: blocks dealt to processes, rows kept, doubts raised."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from robustspike.attacks import Attack, Suite
from robustspike.data import Split
from robustspike.evaluate.blocks import evaluate_block
from robustspike.evaluate.folder import Rows, alone, append, differences, merge, previous_rows, rows_file
from robustspike.evaluate.settings import as_suite, check_data, header_of
from robustspike.processes import Processes, launched
from robustspike.progress import progress_bar
from robustspike.results import DOUBTS_FILE, Budget, Doubts, Header, Outcome, ResultError, outcome_of, read_doubts
from robustspike.writing import write_text


def evaluate(
    model: nn.Module,
    data: Split,
    attacks: Suite | Attack | Sequence[Attack],
    *,
    out: str | Path | None = None,
    resume: bool = False,
    seed: int = 0,
    batch_size: int = 64,
    survivors_only: bool = True,
    budget: Budget | None = None,
    doubts: int = 32,
    model_name: str | None = None,
    data_name: str = "data",
    progress: bool = True,
) -> Outcome:
    """Run every attack on every sample and keep one row per sample.

    A sample is robust if the model classifies it correctly and every attack fails on it; the robust accuracy is therefore
    an upper bound, under these attacks. Random draws belong to samples, so no figure depends on ``batch_size`` or on the
    order of samples beyond the rounding of the model's arithmetic. Every adversarial example is checked again: the model's
    answer by a forward pass of its own (by more than half of ten calls with fresh draws if it is stochastic), the distance
    from x in float64. Logits that are not finite count as an error of the model. Attacks with a caveat (see
    :class:`robustspike.results.Member`) are run on every sample and reported, and count in no worst case.

    Under ``torchrun`` the batches are dealt to the processes, which must all make this call; each returns the whole
    outcome, the same as one process would up to seconds.

    Args:
        model: x [N, ...] in [0, 1] to logits [N, K]; attacked in evaluation mode on its own device, left as it was.
        data: images and labels.
        attacks: a suite such as ``suites.liu2024("8/255")``, an attack, or a sequence of attacks on one ball.
        out: folder for ``evaluation.json`` and ``samples.jsonl``; None keeps the rows in memory only.
        resume: continue the evaluation in ``out``; without it, a folder with another evaluation is refused.
        seed: of all random draws.
        batch_size: samples at a time.
        survivors_only: run an attack only on samples that no earlier one broke (the worst case is the same either way;
            False gives each attack an accuracy of its own).
        budget: what may be spent, per sample or by the clock; None: no limit.
        doubts: so many samples are probed for gradient masking once all rows are there; 0: none.
        model_name, data_name: as printed in tables.
        progress: show a progress bar on a terminal.

    Returns:
        The outcome; where the time budget ended it early, with ``finished`` False and at least one batch in it.

    Raises:
        ValueError: for doubts < 0, an empty split, a sample that occurs twice, or labels outside the model's classes.
        ResultError: if ``out`` holds another evaluation, or one is there and ``resume`` is False; if an attack leaves its
            ball; or if processes were not given the same model, data and settings.

    Example:
        >>> model, data = digits_cnn(time_steps=2), load("digits").test.subset(8)
        >>> outcome = evaluate(model, data, [fgsm(Linf(0.1))], doubts=0, progress=False)
        >>> outcome.robust_accuracy <= outcome.clean_accuracy
        True
    """
    if doubts < 0:
        raise ValueError(f"doubts must be ≥ 0, a number of samples to probe, got {doubts}")
    budget = budget or Budget()
    until = time.monotonic() + 60 * budget.minutes if budget.minutes else float("inf")
    folder = None if out is None else Path(out)
    check_data(model, data)
    suite, ids = as_suite(attacks), data.ids.tolist()
    header = header_of(
        model, data, suite, seed=seed, batch_size=batch_size, survivors_only=survivors_only, budget=budget.gradients,
        model_name=model_name, data_name=data_name,
    )  # fmt: skip
    with launched() as processes, alone(folder, processes):
        _check_alike(header, processes)
        rows = processes.first(lambda: previous_rows(header, ids, folder, resume))
        new = _new_rows(model, data, suite, header, rows, folder, processes, until, progress)
        for theirs in processes.gather(new):
            rows |= theirs
        if folder is not None and processes.world > 1:
            processes.first(lambda: merge(folder, (rows[i] for i in ids if i in rows)))
        outcome = outcome_of(header, list(rows.values()))
        if not outcome.finished:
            return dataclasses.replace(outcome, timed_out=True)
        found = processes.first(lambda: _doubts(model, data, outcome, suite, folder, doubts))
        return dataclasses.replace(outcome, doubts=found)


def _check_alike(header: Header, processes: Processes) -> None:
    """Every process must have been given the same evaluation."""
    first, *others = processes.gather(header)
    if differing := sorted({name for other in others for name in differences(first, other)}):
        raise ResultError(
            f"the processes were given different evaluations: {', '.join(differing)} differ; load the same weights and "
            "data in each, with the same settings"
        )


def _new_rows(
    model: nn.Module, data: Split, suite: Suite, header: Header, rows: Rows, out: Path | None, processes: Processes,
    until: float, progress: bool,
) -> Rows:  # fmt: skip
    """The rows of this process's blocks, until the time is over; at least one block."""
    blocks = [b for b in torch.arange(len(data)).split(header.batch_size) if int(data.ids[b[0]]) not in rows]
    mine: list[Tensor] = blocks[processes.rank :: processes.world]
    path = rows_file(out, processes.rank, processes.world)
    what = f"{suite.name} at ε = {header.eps:.4g} on {header.model}"
    if processes.world > 1:
        what += f", process 1 of {processes.world}"
    new: Rows = {}
    with progress_bar(progress and processes.rank == 0) as bar:
        done = len(data) - sum(map(len, blocks))
        task = bar.add_task(what, total=done + sum(map(len, mine)), completed=done)
        for block in mine:
            if new and time.monotonic() >= until:
                break
            before = done + len(new)

            def settled(samples: float, before: int = before) -> None:
                bar.update(task, completed=before + samples)

            lines = evaluate_block(model, data.subset(block), suite, header, settled)
            new |= {line["sample"]: line for line in lines}
            append(path, lines)
            bar.update(task, completed=done + len(new))
    return new


def _doubts(
    model: nn.Module, data: Split, outcome: Outcome, suite: Suite, out: Path | None, samples: int
) -> Doubts | None:
    """What checks for gradient masking find: read if they are there, else run and written."""
    found = None if out is None else read_doubts(out)
    if samples == 0 or (found and (found.asked, found.seed) == (samples, outcome.header.seed)):
        return found
    from robustspike.doubts import doubts  # loaded when needed

    made: Doubts = doubts(model, data, outcome, suite, samples=samples, seed=outcome.header.seed)
    made = made.model_copy(update={"asked": samples})
    if out is not None:
        write_text(out / DOUBTS_FILE, made.model_dump_json(indent=1) + "\n")
    return made
