"""What the page says in words: under what a figure was measured, and what speaks against it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from robustspike.results import Doubts, Finding, Header, MemberSummary, Network

SUSPICIOUS_SHARE = 0.05
STILL = (
    "There the attack stood still: try a wider surrogate or another estimator before believing that the network held."
)
BLIND = "There the attack was blind: look for an overflow, or attack in float32."
OUTSIDE = "Such samples lie outside the threat model: the figure says nothing about this ε."


def percent(value: float) -> str:
    """A share as a percentage with one digit, without the sign."""
    return f"{100 * value:.1f}"


def norm_symbol(norm: str) -> str:
    """The norm as it is written in papers."""
    return {"Linf": "L∞", "L2": "L₂"}.get(norm, norm)


def is_pixel_fraction(eps: float) -> bool:
    """Whether ε is best said as k/255: a whole number of grey levels, and no round decimal (0.2 is 51/255 as well)."""
    return 0 < eps < 1 and abs(255 * eps - round(255 * eps)) < 1e-6 and abs(eps - round(eps, 4)) > 1e-9


def epsilon(eps: float, norm: str = "Linf") -> str:
    """ε as people say it: ``8/255 (0.03137)``, or ``0.1``.

    Example:
        >>> epsilon(8 / 255), epsilon(0.1), epsilon(1.0, "L2")
        ('8/255 (0.03137)', '0.1', '1')
    """
    if norm == "Linf" and is_pixel_fraction(eps):
        return f"{round(255 * eps)}/255 ({eps:.4g})"
    return "none given" if math.isnan(eps) else f"{eps:.4g}"


def conditions(header: Header) -> str:
    """What a figure was measured under, in one line."""
    count = len(header.members)
    attacks = "1 attack" if count == 1 else f"{count} attacks"
    ball = f"{norm_symbol(header.norm)} ε = {epsilon(header.eps, header.norm)}"
    budget = "" if header.budget is None else f", at most {header.budget} evaluations per sample"
    return f"suite {header.suite} ({attacks}), {ball}, n = {header.n}, seed {header.seed}{budget}"


def differences(headers: Sequence[Header]) -> list[str]:
    """In what the evaluations of the networks differ; a comparison is fair only if this is empty."""
    compared = {
        "suite": lambda h: h.suite,
        "norm": lambda h: h.norm,
        "ε": lambda h: repr(h.eps),
        "number of samples": lambda h: h.n,
        "seed": lambda h: h.seed,
        "data": lambda h: h.data_fingerprint,
        "attacks": lambda h: [(m.attack, m.estimator) for m in h.members],
        "budget": lambda h: h.budget,
    }
    return [name for name, of in compared.items() if any(of(h) != of(headers[0]) for h in headers)]


def ranking(networks: Sequence[Network]) -> str:
    """Which network withstands most, and whether these samples settle it; empty where nothing can be ranked."""
    if len(networks) < 2 or differences([network.summary.header for network in networks]):
        return ""
    if not networks[0].summary.has_worst_case:
        return ""
    first, second = sorted(networks, key=lambda network: -network.summary.robust.value)[:2]
    a, b = first.summary.robust, second.summary.robust
    if a.value == b.value:
        return f"{first.name} and {second.name} withstand most, both {percent(a.value)} % in the worst case."
    text = f"{first.name} withstands most: {percent(a.value)} % in the worst case, before {second.name} with "
    text += f"{percent(b.value)} %. "
    if a.low > b.high:
        return text + "Their 95 % intervals do not overlap."
    return text + f"Their 95 % intervals overlap: {a.n} samples alone do not settle which of the two is ahead."


@dataclass(frozen=True)
class Doubt:
    """One reason not to trust the figures of a network, the attacks that it concerns, and what to do."""

    evidence: str
    members: list[str]
    remedy: str


def applied(doubts: Doubts) -> int:
    """How many of the checks for gradient masking could be applied."""
    return sum(finding.passed is not None for finding in doubts.findings)


def failed_first(doubts: Doubts) -> list[Finding]:
    """The findings: failed ones, passed ones, those not applicable."""
    order = {False: 0, True: 1, None: 2}
    return sorted(doubts.findings, key=lambda finding: order[finding.passed])


def name_of(member: MemberSummary) -> str:
    """Attack and estimator; a dash stands for an attack without gradients."""
    return member.attack if member.estimator in ("", "–") else f"{member.attack} under {member.estimator}"


@dataclass(frozen=True)
class Suspect:
    """Which figures of a member speak against it."""

    zero: bool
    nan: bool
    distance: bool


def is_suspect(member: MemberSummary, eps: float) -> Suspect:
    """Dead gradients, undefined gradients, steps that left the ball (where ε is known); NaN figures are suspect too."""
    return Suspect(
        zero=not member.zero_share <= SUSPICIOUS_SHARE,
        nan=not member.nan_share <= SUSPICIOUS_SHARE,
        distance=not math.isnan(eps) and not member.largest_distance <= eps * 1.0001 + 1e-6,
    )


def doubts_of(network: Network) -> list[Doubt]:
    """What speaks against the figures of a network: dead or undefined gradients, steps that left the ball."""
    eps = network.summary.header.eps
    members = [(m, name_of(m), is_suspect(m, eps)) for m in network.summary.members]
    left = f"samples moved further than ε = {eps:.5f} in"
    found = [
        Doubt("gradients were zero in", [f"{n} ({percent(m.zero_share)} %)" for m, n, s in members if s.zero], STILL),
        Doubt("gradients were NaN in", [f"{n} ({percent(m.nan_share)} %)" for m, n, s in members if s.nan], BLIND),
        Doubt(left, [f"{n} ({m.largest_distance:.5f})" for m, n, s in members if s.distance], OUTSIDE),
    ]
    return [doubt for doubt in found if doubt.members]


def contradictions(network: Network) -> list[str]:
    """Which audits' own attacks leave fewer of as many samples than the worst case of the evaluation at the same ε."""
    s = network.summary
    left = {
        name: rate
        for name, one in network.audits.items()
        if f"ε = {s.header.eps:.4g}" in one.under and (rate := one.left_standing()) is not None
    }
    return [
        f"The attack of the audit {name} leaves only {percent(rate.value)} %: this suite is too weak."
        for name, rate in left.items()
        if s.has_worst_case and rate.n == s.robust.n and rate.value < s.robust.value
    ]
