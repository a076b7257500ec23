"""One block of samples under every attack."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustspike.attacks import Attack, Suite
from robustspike.attacks.attempt import Attempt
from robustspike.data import Split
from robustspike.draws import Draws, sampling
from robustspike.gradients import chosen_class, device_of, frozen, majority
from robustspike.results import Header, Member, ResultError, row_of


@dataclass
class Standing:
    """Where the samples of a block stand, [N] each: broken by a counted member or not, what it cost so far."""

    header: Header
    correct: Tensor
    unbroken: Tensor
    spent: Tensor

    def wanted(self, member: Member) -> Tensor:
        """[N]: whether the member is to be run on the sample."""
        if member.caveat:
            return self.correct
        todo = self.unbroken if self.header.survivors_only else self.correct
        return todo if self.header.budget is None else todo & (self.spent < self.header.budget)

    def book(self, member: Member, todo: Tensor, broken: Tensor, attempt: Attempt) -> None:
        """Note what a member did to the samples ``todo`` and what it spent on them."""
        if not member.caveat:
            self.unbroken[todo] &= ~broken
            self.spent[todo] += attempt.gradients + attempt.queries

    def settled(self, m: int) -> float:
        """How many samples' worth of attacks is done, or will not be run, after member m."""
        members = self.header.members
        later = [bool(member.caveat) for member in members[m + 1 :]]
        wanted = {bool(member.caveat): int(self.wanted(member).sum()) for member in members[m + 1 :]}
        return len(self.correct) - sum(wanted[caveat] for caveat in later) / len(members)


def evaluate_block(
    model: nn.Module, block: Split, suite: Suite, header: Header, settled: Callable[[float], None]
) -> list[dict[str, Any]]:
    """One row per sample; ``settled`` hears after each attack how many samples' worth of work is done."""
    device = device_of(model)
    x, y = on_device(device, block.images, model), block.labels.to(device)
    draws = Draws.of(header.seed, block.ids.to(device))
    clean = _predict(model, x, draws.fork("clean"), header.calls)
    standing = Standing(header, clean == y, clean == y, torch.zeros_like(y))
    attempts: list[list[list[float]]] = [[] for _ in y]
    for m, (attack, name) in enumerate(zip(suite.attacks, _stream_names(header), strict=True)):
        member = header.members[m]
        todo = standing.wanted(member).nonzero().flatten()
        if len(todo):
            started = time.perf_counter()
            tried, columns = _try(model, attack, member, suite, x[todo], y[todo], draws[todo].fork(name), header.calls)
            standing.book(member, todo, columns[:, 0] == 1, tried)
            values = columns.tolist()
            seconds = (time.perf_counter() - started) / len(todo)
            for i, row in zip(todo.tolist(), values, strict=True):
                attempts[i].append([m, int(row[0]), int(row[1]), row[2], *map(int, row[3:]), seconds])
        settled(standing.settled(m))
    rows = zip(block.ids.tolist(), y.tolist(), clean.tolist(), attempts, strict=True)
    return [json.loads(row_of(*row)) for row in rows]


def _try(
    model: nn.Module, attack: Attack, member: Member, suite: Suite, x: Tensor, y: Tensor, draws: Draws, calls: int
) -> tuple[Attempt, Tensor]:
    """One attack, and its attempt's fields from "fooled" to "restart", [N, 8] float64."""
    attempt = attack.run(model, x, y, draws)
    with _presented(attack, model, x, draws) as centre:
        predicted = _predict(model, attempt.x_adv, draws.fork("score"), calls)
        distance = _distance(suite, member, attempt.x_adv, centre)
    columns = (
        predicted != y, predicted, distance, attempt.gradients, attempt.queries, attempt.zero, attempt.nan,
        attempt.restart,
    )  # fmt: skip
    return attempt, torch.stack([column.double() for column in columns], 1)


def _presented(attack: Attack, model: nn.Module, x: Tensor, draws: Draws) -> contextlib.AbstractContextManager[Tensor]:
    """Within the block the model takes what the attack presents, around this centre: pixels, unless it says otherwise."""
    present = getattr(attack, "presented", None)
    return contextlib.nullcontext(x) if present is None else present(model, x, draws)


def _stream_names(header: Header) -> list[str]:
    """A name for each member's random streams that stays when members are added, left out or moved."""
    settings = [member.settings for member in header.members]
    return [f"{text} {settings[:m].count(text)}" for m, text in enumerate(settings)]


def _predict(model: nn.Module, x: Tensor, draws: Draws, calls: int) -> Tensor:
    """The class that more than half of the calls give, [N]; −1 where there is none or logits are not finite."""
    answers = []
    with frozen(model), torch.no_grad():
        for k in range(calls):
            with sampling(draws.fork(k)):
                logits = model(x)
            answers.append(chosen_class(logits))
    return majority(torch.stack(answers))


def _distance(suite: Suite, member: Member, x_adv: Tensor, x: Tensor) -> Tensor:
    if not (x_adv.min() >= 0 and x_adv.max() <= 1):
        raise ResultError(f"{member.attack} left the box [0, 1]: {float(x_adv.min()):.3g} … {float(x_adv.max()):.3g}")
    if suite.ball is None:
        return (x_adv.double() - x.double()).abs().flatten(1).amax(1)
    distance = suite.ball.distance(x_adv, x)
    if not float(distance.max()) <= suite.ball.eps * (1 + 1e-5) + 1e-6:
        raise ResultError(
            f"{member.attack} left its ball: {suite.ball.norm} {float(distance.max())} > {suite.ball.eps}"
        )
    return distance


def on_device(device: torch.device, images: Tensor, model: nn.Module) -> Tensor:
    """Images on the model's device, in float64 for a float64 model."""
    double = any(p.dtype == torch.float64 for p in model.parameters())
    return images.to(device, torch.float64 if double else images.dtype)
