"""Whether the rows of an evaluation can be what its header says: the counts, the balls, who was tried on what."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from robustspike.results.outcome import Outcome
from robustspike.results.records import Header

_BALL = re.compile(r"\b(Linf|L2)\(eps=([^)]+)\)")

WHOLE = ("fooled", "predicted", "gradients", "queries", "zero", "nan", "restart")


def faults(outcome: Outcome, classes: int | None = None) -> tuple[str, ...]:
    """What no evaluation under this header could have written, one sentence each; empty for one that checks out.

    The attacks are not run again. What is looked at: each member's settings name the header's ball; classes that exist;
    only samples classified correctly were attacked; a member fooled the model exactly where its class differs from the
    label; whole counts; no sample withstood a gradient attack that evaluated no gradient (an ε of 0 aside); distances
    within ε(1 + 1e-5) + 1e-6; and each member was tried on exactly the samples that the header gives it, so no attempt
    that broke a sample can have been left out before a later one.

    Args:
        outcome: finished or not.
        classes: how many the network has; None: not known.

    Example:
        >>> model, images = digits_cnn(time_steps=2), load("digits").test.subset(4)
        >>> outcome = rs.evaluate(model, images, [fgsm(Linf(0.1))], doubts=0, progress=False)
        >>> faults(outcome, classes=10)
        ()
    """
    tried, labels = outcome.tried, outcome.labels[:, None]
    top = np.inf if classes is None else classes
    predicted, fooled, distance = (outcome.field(name) for name in ("predicted", "fooled", "distance"))
    gradients, seconds = outcome.field("gradients"), outcome.field("seconds")
    numbers = np.stack([outcome.field(name) for name in WHOLE])
    counts = np.stack([outcome.field(name) for name in WHOLE[2:]])
    zero, nan = outcome.field("zero"), outcome.field("nan")
    wrong = {
        "a sample's number is negative": outcome.samples < 0,
        "a label is no class of the network": (outcome.labels < 0) | (outcome.labels >= top),
        "a class without attack is none of the network": (outcome.clean < -1) | (outcome.clean >= top),
        "a sample that is misclassified without attack was attacked": tried.any(1) & ~outcome.correct,
        "a class under attack is none of the network": tried & ~((predicted >= -1) & (predicted < top)),
        "an attempt has a count that is no whole number": tried & ~(numbers == np.round(numbers)).all(0),
        "an attempt has a negative count": tried & ~(counts >= 0).all(0),
        "more gradients were zero or NaN than were evaluated": tried & ((zero > gradients) | (nan > gradients)),
        "an attempt took a time that is no number": tried & ~((seconds >= 0) & np.isfinite(seconds)),
        "a member is said to have fooled the model, or not to, against the class under attack": tried
        & (fooled != (predicted != labels)),
        "a sample withstood a gradient attack that evaluated no gradient": tried
        & (fooled == 0)
        & (gradients == 0)
        & _through_gradients(outcome.header),
        f"a sample was moved further than ε = {outcome.header.eps:.4g}": tried & ~_within(outcome, distance),
        "a member was not tried on just the samples that the header gives it": (tried != _wanted(outcome)),
    }
    in_rows = (f"{what}{_where(outcome, rows)}" for what, rows in wrong.items() if rows.any())
    return (*_other_balls(outcome.header), *in_rows)


def _other_balls(header: Header) -> tuple[str, ...]:
    """One sentence for each ball in the settings of members that is not the header's; custom balls are not known here."""
    found: dict[str, str] = {}
    for member in header.members:
        for norm, eps in _BALL.findall(member.settings):
            if norm != header.norm or _number(eps) != header.eps:
                found.setdefault(f"{norm} ε = {eps}", member.attack)
    said = f"the header says {header.norm} ε = {header.eps!r}"
    return tuple(f"{said}, but {attack} is set to {ball}" for ball, attack in found.items())


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _through_gradients(header: Header) -> NDArray[np.bool_]:
    """[M]: whether a sample cannot withstand the member before it has evaluated a gradient; none needs to where ε = 0."""
    sighted = [member.kind in ("one-step", "white-box") for member in header.members]
    named = [member.estimator not in ("", "–") for member in header.members]
    return np.array(sighted, dtype=np.bool_) & np.array(named, dtype=np.bool_) & (header.eps != 0)


def _within(outcome: Outcome, distance: NDArray[np.float64]) -> NDArray[np.bool_]:
    eps = outcome.header.eps
    furthest = 1.0 if np.isnan(eps) else eps * (1 + 1e-5) + 1e-6
    within: NDArray[np.bool_] = (distance >= 0) & (distance <= furthest)
    return within


def _wanted(outcome: Outcome) -> NDArray[np.bool_]:
    """[N, M]: the samples that each member had to be tried on, given what the members before it did."""
    header = outcome.header
    unbroken, spent = outcome.correct.copy(), np.zeros(len(outcome.samples))
    cost = np.nan_to_num(outcome.field("gradients") + outcome.field("queries"))
    wanted = np.zeros_like(outcome.tried)
    for m, counted in enumerate(outcome.counted):
        wanted[:, m] = outcome.correct
        if counted:
            wanted[:, m] = unbroken if header.survivors_only else outcome.correct
            if header.budget is not None:
                wanted[:, m] &= spent < header.budget
            unbroken &= ~outcome.fooled[:, m]
            spent += cost[:, m]
    return wanted


def _where(outcome: Outcome, rows: NDArray[np.bool_]) -> str:
    """The first sample concerned, and how many there are."""
    which = outcome.samples[rows if rows.ndim == 1 else rows.any(1)]
    return f" (sample {which[0]}{f' and {len(which) - 1} more' if len(which) > 1 else ''})"
