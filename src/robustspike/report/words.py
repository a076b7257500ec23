"""What the page says in words: under what a figure was measured, and what speaks against it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from robustspike.results import Header, MemberSummary, Network

SUSPICIOUS_SHARE = 0.05


def percent(value: float) -> str:
    """A share as a percentage with one digit, without the sign."""
    return f"{100 * value:.1f}"


def norm_symbol(norm: str) -> str:
    """The norm as it is written in papers."""
    return {"Linf": "L∞", "L2": "L₂"}.get(norm, norm)


def is_pixel_fraction(eps: float) -> bool:
    """Whether ε is a whole number of the 255 grey levels."""
    return eps > 0 and abs(255 * eps - round(255 * eps)) < 1e-6 and round(255 * eps) > 0


def epsilon(eps: float, norm: str = "Linf") -> str:
    """ε as people say it: ``8/255 (0.03137)``, or ``0.1``.

    Example:
        >>> epsilon(8 / 255), epsilon(0.1), epsilon(1.0, "L2")
        ('8/255 (0.03137)', '0.1', '1')
    """
    if norm == "Linf" and is_pixel_fraction(eps) and eps < 1:
        return f"{round(255 * eps)}/255 ({eps:.4g})"
    return "none given" if math.isnan(eps) else f"{eps:.4g}"


def conditions(header: Header) -> str:
    """What a figure was measured under, in one line."""
    count = len(header.members)
    attacks = "1 attack" if count == 1 else f"{count} attacks"
    ball = f"{norm_symbol(header.norm)} ε = {epsilon(header.eps, header.norm)}"
    return f"suite {header.suite} ({attacks}), {ball}, n = {header.n}, seed {header.seed}"


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
    }
    return [name for name, of in compared.items() if any(of(h) != of(headers[0]) for h in headers)]


def ranking(networks: Sequence[Network]) -> str:
    """Which network withstands most, and whether these samples settle it; empty where nothing can be ranked."""
    if len(networks) < 2 or differences([network.summary.header for network in networks]):
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
    """One reason not to trust a member's figure."""

    member: str
    evidence: str
    remedy: str


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
    eps, found = network.summary.header.eps, []
    for member in network.summary.members:
        name, suspect = name_of(member), is_suspect(member, eps)
        if suspect.zero:
            found.append(Doubt(name, f"{percent(member.zero_share)} % of its gradients were zero", ZERO_REMEDY))
        if suspect.nan:
            found.append(Doubt(name, f"{percent(member.nan_share)} % of its gradients were NaN", NAN_REMEDY))
        if suspect.distance:
            moved = f"it moved a sample by {member.largest_distance:.5f}, more than ε = {eps:.5f}"
            found.append(Doubt(name, moved, DISTANCE_REMEDY))
    return found


ZERO_REMEDY = "The attack stood still: try a wider surrogate or another estimator before believing that the network held."
NAN_REMEDY = "The attack was blind there: look for overflow, or attack in float32."
DISTANCE_REMEDY = "Such a sample lies outside the threat model: the figure says nothing about this ε."
