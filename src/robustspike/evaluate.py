"""Every attack on every sample: per-sample outcomes on disk, survivors only, resumable."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustspike.attacks import Attack, Suite
from robustspike.attacks.attempt import Attempt, calls_for, shared_ball
from robustspike.attacks.suites import describe
from robustspike.checkpoints import fingerprint, settings_text, write_text
from robustspike.data import Split
from robustspike.draws import Draws, sampling
from robustspike.gradients import check_labels, device_of, frozen
from robustspike.progress import progress_bar
from robustspike.results import (
    HEADER_FILE,
    ROWS_FILE,
    Header,
    Member,
    Outcome,
    ResultError,
    outcome_of,
    read_header,
    read_rows,
    row_of,
)


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
    model_name: str | None = None,
    data_name: str = "data",
    progress: bool = True,
) -> Outcome:
    """Run every attack on every sample and keep one row per sample.

    A sample is robust if the model classifies it correctly and every attack fails on it; the robust accuracy is therefore
    an upper bound, under these attacks. Random draws belong to samples, so no figure depends on ``batch_size`` or on the
    order of samples beyond the rounding of the model's arithmetic. Every adversarial example is checked again: the model's
    answer by a forward pass of its own (by the majority of ten, with fresh draws, for a stochastic model), the distance
    from x in float64. Logits that are not finite count as an error of the model.

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
        model_name, data_name: as printed in tables.
        progress: show a progress bar on a terminal.

    Raises:
        ValueError: for an empty split, a sample that occurs twice, or labels outside the model's classes.
        ResultError: if ``out`` holds another evaluation, or one is there and ``resume`` is False; or if an attack leaves
            its ball.

    Example:
        >>> model, data = digits_cnn(time_steps=2), load("digits").test.subset(8)
        >>> outcome = evaluate(model, data, [fgsm(Linf(0.1))], progress=False)
        >>> outcome.robust_accuracy <= outcome.clean_accuracy
        True
    """
    if len(data) == 0:
        raise ValueError("the split to evaluate is empty; give it at least one image")
    if len(data.ids.unique()) < len(data):
        raise ValueError("a sample occurs twice in the split to evaluate; its random draws could not be its own")
    check_labels(model, data.images, data.labels)
    suite = attacks if isinstance(attacks, Suite) else _as_suite(attacks)
    header = _header(model, data, suite, seed, batch_size, survivors_only, model_name, data_name)
    rows = _previous_rows(header, data.ids.tolist(), out, resume)
    blocks = [block for block in torch.arange(len(data)).split(batch_size) if int(data.ids[block[0]]) not in rows]
    with progress_bar(progress) as bar:
        task = bar.add_task(
            f"{suite.name} at ε = {header.eps:.4g} on {header.model}", total=len(data), completed=len(rows)
        )
        for block in blocks:
            lines = list(_evaluate_block(model, data.subset(block), suite, header))
            rows |= {line["sample"]: line for line in lines}
            _append(out, lines)
            bar.update(task, completed=len(rows))
    return outcome_of(header, list(rows.values()))


def _as_suite(attacks: Attack | Sequence[Attack]) -> Suite:
    members = tuple(attacks) if isinstance(attacks, Sequence) else (attacks,)
    if not members:
        raise ValueError("give at least one attack, or a suite such as suites.liu2024('8/255')")
    return Suite("custom", shared_ball(members, "attacks of one evaluation"), members)


def _header(
    model: nn.Module, data: Split, suite: Suite, seed: int, batch_size: int, survivors_only: bool,
    model_name: str | None, data_name: str,
) -> Header:  # fmt: skip
    members = [
        Member(attack=a, estimator=e, settings=settings_text(m)) for m in suite.attacks for a, e in [describe(m)]
    ]
    versions = {name: metadata.version(name) for name in ("robustspike", "torch", "numpy")}
    device = device_of(model)
    return Header(
        suite=suite.name,
        norm=suite.ball.norm if suite.ball else "Linf",
        eps=suite.ball.eps if suite.ball else float("nan"),
        members=tuple(members),
        survivors_only=survivors_only,
        seed=seed,
        batch_size=batch_size,
        n=len(data),
        data=data_name,
        data_fingerprint=data.fingerprint(),
        model=model_name or type(model).__name__,
        weights_fingerprint=fingerprint(model),
        calls=calls_for(model, _on(device, data.images[:2], model)),
        versions={"python": platform.python_version(), **versions, "device": device.type},
    )


def _on(device: torch.device, images: Tensor, model: nn.Module) -> Tensor:
    """Images on the model's device, in float64 for a float64 model."""
    double = any(p.dtype == torch.float64 for p in model.parameters())
    return images.to(device, torch.float64 if double else images.dtype)


def _previous_rows(header: Header, ids: list[int], out: str | Path | None, resume: bool) -> dict[int, dict[str, Any]]:
    """Rows of whole blocks that an earlier run of the same evaluation left; a block cut short is done again."""
    if out is None:
        return {}
    folder = Path(out)
    if not (folder / HEADER_FILE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / HEADER_FILE, header.model_dump_json(indent=2))
        (folder / ROWS_FILE).unlink(missing_ok=True)
        return {}
    if not resume:
        raise ResultError(f"{folder} holds an evaluation already; resume it (--resume), or choose another folder")
    found = read_header(folder)
    if differing := [name for name in Header.model_fields if repr(getattr(found, name)) != repr(getattr(header, name))]:
        raise ResultError(f"{folder} holds another evaluation: {', '.join(differing)} differ; choose another folder")
    rows = {int(row["sample"]): row for row in read_rows(folder)}
    for start in range(0, header.n, header.batch_size):
        block = ids[start : start + header.batch_size]
        if not all(i in rows for i in block):
            for i in block:
                rows.pop(i, None)
    write_text(folder / ROWS_FILE, "".join(json.dumps(row) + "\n" for row in rows.values()))
    return rows


def _append(out: str | Path | None, rows: list[dict[str, Any]]) -> None:
    if out is None:
        return
    path = Path(out) / ROWS_FILE
    try:
        with path.open("a") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = str(path)  # a full disk names none
        raise


def _evaluate_block(model: nn.Module, block: Split, suite: Suite, header: Header) -> Iterator[dict[str, Any]]:
    device = device_of(model)
    x, y = _on(device, block.images, model), block.labels.to(device)
    draws = Draws.of(header.seed, block.ids.to(device))
    clean = _predict(model, x, draws.fork("clean"), header.calls)
    standing = clean == y
    attempts: list[list[list[float]]] = [[] for _ in y]
    for m, (attack, name) in enumerate(zip(suite.attacks, _stream_names(header), strict=True)):
        todo = (standing if header.survivors_only else clean == y).nonzero().flatten()
        if len(todo) == 0:
            continue
        started = time.perf_counter()
        streams = draws[todo].fork(name)
        attempt = attack.run(model, x[todo], y[todo], streams)
        predicted = _predict(model, attempt.x_adv, streams.fork("score"), header.calls)
        seconds = (time.perf_counter() - started) / len(todo)
        standing[todo] &= predicted == y[todo]
        distance = _distance(suite, header.members[m], attempt.x_adv, x[todo])
        for i, values in zip(todo.tolist(), _fields(m, attempt, predicted, y[todo], distance, seconds), strict=True):
            attempts[i].append(values)
    for i, sample in enumerate(block.ids.tolist()):
        yield json.loads(row_of(sample, int(y[i]), int(clean[i]), attempts[i]))


def _stream_names(header: Header) -> list[str]:
    """A name for each member's random streams that stays when members are added, left out or moved."""
    settings = [member.settings for member in header.members]
    return [f"{text} {settings[:m].count(text)}" for m, text in enumerate(settings)]


def _predict(model: nn.Module, x: Tensor, draws: Draws, calls: int) -> Tensor:
    """The class that most calls give, [N]; −1 where logits are not finite."""
    answers = []
    with frozen(model), torch.no_grad():
        for k in range(calls):
            with sampling(draws.fork(k)):
                logits = model(x)
            answers.append(torch.where(logits.isfinite().all(1), logits.argmax(1), -1))
    return torch.stack(answers).mode(0).values


def _distance(suite: Suite, member: Member, x_adv: Tensor, x: Tensor) -> Tensor:
    if suite.ball is None:
        return (x_adv.double() - x.double()).abs().flatten(1).amax(1)
    distance = suite.ball.distance(x_adv, x)
    if not float(distance.max()) <= suite.ball.eps * (1 + 1e-5) + 1e-6:
        raise ResultError(
            f"{member.attack} left its ball: {suite.ball.norm} {float(distance.max())} > {suite.ball.eps}"
        )
    return distance


def _fields(
    m: int, attempt: Attempt, predicted: Tensor, y: Tensor, distance: Tensor, seconds: float
) -> Iterator[list[float]]:
    columns = (predicted != y, predicted, distance, attempt.gradients, attempt.zero, attempt.nan, attempt.restart)
    for values in torch.stack([c.double() for c in columns], 1).tolist():
        yield [m, int(values[0]), int(values[1]), values[2], *(int(v) for v in values[3:]), seconds]
