"""Checks of the rows of an evaluation: what its own attacks say about its figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from robustspike.doubts.probed import count, weaker
from robustspike.doubts.seeing import ZERO
from robustspike.doubts.verdicts import Check, Verdict
from robustspike.results import Member, Outcome

GAP = (
    0.20  # robust accuracy that iterations take from one step's figure; the literature's figures beyond it did not last
)
BEYOND = 0.002  # share of samples (one at least); AutoAttack's flag for Square
GRADIENTS = ("one-step", "white-box")


def zero(outcome: Outcome | None) -> Verdict:
    """Gradient evaluations that were exactly zero everywhere."""
    return _worst_share(outcome, "zero", "exactly zero", ZERO)


def nan(outcome: Outcome | None) -> Verdict:
    """Gradient evaluations that held a NaN."""
    return _worst_share(outcome, "nan", "NaN", 0.0)


def _worst_share(outcome: Outcome | None, field: str, words: str, threshold: float) -> Verdict:
    if outcome is None:
        return _NO_ROWS
    spent = np.nansum(outcome.field("gradients"), axis=0)
    if not spent.any():
        return Verdict(None, "no attack of the evaluation took a gradient")
    shares = np.nansum(outcome.field(field), axis=0) / np.maximum(spent, 1)
    m = int(shares.argmax())
    return Verdict(
        bool(shares[m] <= threshold),
        f"{100 * np.nansum(outcome.field(field)) / spent.sum():.2g} % of {int(spent.sum())} gradients were {words}; most of "
        f"{_name(outcome.header.members[m])}: {100 * shares[m]:.2g} % of {int(spent[m])}",
    )


def one_step(outcome: Outcome | None) -> Verdict:
    """Samples that one step broke, against those that iterations broke, where every attack met every sample."""
    if outcome is None:
        return _NO_ROWS
    one, many = _columns(outcome, ("one-step",)), _columns(outcome, ("white-box",))
    if outcome.header.survivors_only or not (one and many):
        return Verdict(
            None, "iterative attacks did not meet the samples that one-step attacks broke, or one is missing"
        )
    both = outcome.tried[:, one + many].all(1) & outcome.correct
    by_one, by_many = (torch.from_numpy(_fooled(outcome, columns)[both]) for columns in (one, many))
    return Verdict(
        not weaker(by_many, by_one),
        f"of {int(both.sum())} samples one-step attacks broke {count(by_one)}, iterative ones {count(by_many)} "
        f"(ε = {outcome.header.eps:.3g})",
    )


def gap(outcome: Outcome | None) -> Verdict:
    """Robust accuracy under one-step attacks, and what iterations leave of it."""
    if outcome is None:
        return _NO_ROWS
    one, many = _columns(outcome, ("one-step",)), _columns(outcome, ("white-box",))
    first = outcome.accuracy_under(one) if one else None
    if first is None or not many:
        return Verdict(None, "one-step attacks have no figure of their own beside iterative ones")
    left = float((outcome.correct & ~_fooled(outcome, one + many)).mean())
    return Verdict(
        first.value - left <= GAP + 1e-9,
        f"{100 * first.value:.1f} % withstand the one-step attacks, {100 * left:.1f} % the iterative ones too (n = "
        f"{first.n}, ε = {outcome.header.eps:.3g})",
    )


def beyond(kind: str, words: str) -> Callable[[Outcome | None], Verdict]:
    """A check that members of a kind broke no sample that all gradient attacks left standing."""

    def judge(outcome: Outcome | None) -> Verdict:
        if outcome is None:
            return _NO_ROWS
        blind, gradients = _columns(outcome, (kind,)), _columns(outcome, GRADIENTS)
        if not blind or not gradients:
            return Verdict(None, f"the evaluation has no {words} beside gradient attacks")
        met = outcome.tried[:, gradients].all(1) & outcome.correct
        broke = _fooled(outcome, blind)
        withstood = met & ~_fooled(outcome, gradients)
        more = int((broke & withstood).sum())
        first = int((broke & outcome.correct & ~met).sum())
        return Verdict(
            more <= _allowed(int(met.sum())),
            f"{words} broke {more} of {int(withstood.sum())} samples that met every gradient attack and withstood all, and "
            f"{first} before all had met them (ε = {outcome.header.eps:.3g})",
        )

    return judge


_NO_ROWS = Verdict(None, "no evaluation was given")


def _allowed(n: int) -> int:
    return max(1, int(BEYOND * n))


def _columns(outcome: Outcome, kinds: Sequence[str]) -> list[int]:
    """The members of these kinds that count in the worst case."""
    members = enumerate(outcome.header.members)
    return [m for m, member in members if member.kind in kinds and not member.caveat]


def _fooled(outcome: Outcome, columns: list[int]) -> NDArray[np.bool_]:
    return np.asarray(outcome.fooled[:, columns].any(1))


def _name(member: Member) -> str:
    return f"{member.attack} ({member.estimator})"


ROWS = (
    Check(
        "zero gradients in the evaluation", "evaluation",
        "That attack was blind: replace its estimator or its loss, and do not count it as having failed to break anything.",
        zero,
    ),
    Check(
        "NaN gradients in the evaluation", "evaluation",
        "Find the operation that gives NaN; the attack took it as 0 and went nowhere.",
        nan,
    ),
    Check(
        "one step beats many in the evaluation", "evaluation",
        "The iterative attacks climb badly: smaller steps, restarts, another estimator.",
        one_step,
    ),
    Check(
        "one-step gap", "evaluation",
        "Do not report the one-step figure as robustness: give the iterative one, with its number of steps.",
        gap,
    ),
    Check(
        "black-box beats the evaluation's gradients", "evaluation",
        "Gradients are masked: add estimators and widths until black-box attacks find nothing more.",
        beyond("black-box", "black-box attacks"),
    ),
    Check(
        "noise beats the evaluation's gradients", "evaluation",
        "Gradients point nowhere: no figure of these attacks counts.",
        beyond("noise", "noise"),
    ),
)  # fmt: skip
