"""Checks of whether stronger attacks are stronger: ε, steps, blind attacks, draws."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from robustspike.doubts.probed import POINTS, Missing, MissingError, Probe, Probed, Run, count, union, weaker
from robustspike.doubts.probes import EOT, QUERIES, STEPS
from robustspike.doubts.verdicts import Check, Verdict

ALL = 0.95  # "~100 %" of Ding's table A2: at 32 samples one may stand


def allowed_beyond(n: int) -> int:
    """How many of n samples a blind attack may break that gradients missed: 5 points, two at least (near a boundary)."""
    return max(2, int(POINTS * n))


def one_step(probed: Probed) -> Verdict:
    """One step of size ε must not be stronger than ten."""
    one, ten = probed.broke("FGSM"), probed.broke("PGD-10")
    return Verdict(
        not weaker(ten, one),
        f"FGSM breaks {count(one)}, PGD-10 {count(ten)} of {probed.n} (own surrogate, {probed.under()})",
    )


def rises(broke: list[Tensor], n: int) -> bool:
    """Whether no larger size is weaker beyond chance, and the largest breaks more than the smallest (or that nearly all)."""
    falls = any(weaker(large, small) for small, large in pairwise(broke))
    return not falls and (count(broke[-1]) > count(broke[0]) or count(broke[0]) >= ALL * n)


def more_eps(probed: Probed) -> Verdict:
    """The same attack on larger and larger balls."""
    sizes = ("ε/2", "ε", "2ε", "large")
    broke = [probed.broke("PGD-10", size=size) for size in sizes]
    radii = ", ".join(f"{probed.eps[size]:.3g}" for size in sizes)
    evidence = f"at {probed.norm} ε = {radii} PGD-10 (own surrogate) breaks {_listed(broke)} of {probed.n}"
    return Verdict(rises(broke, probed.n), evidence)


def unbounded(probed: Probed) -> Verdict:
    """Nothing withstands an attack that may change all."""
    broke = {size: probed.broke("PGD-10", size=size) for size in ("large", "unbounded")}
    said = " and ".join(f"{count(b)} at {probed.under(size)}" for size, b in broke.items())
    return Verdict(
        min(map(count, broke.values())) >= ALL * probed.n,
        f"of {probed.n} samples PGD-10 (own surrogate) breaks {said}; at least {100 * ALL:.0f} % should break",
    )


def steps(probed: Probed) -> Verdict:
    """The same attack with more and more steps."""
    broke = [probed.broke(f"PGD-{number}") for number in STEPS]
    names = ", ".join(map(str, STEPS))
    falls = any(weaker(more, fewer) for fewer, more in pairwise(broke))
    return Verdict(
        not falls and not weaker(broke[-1], broke[0]),
        f"PGD with {names} steps (own surrogate, {probed.under()}) breaks {_listed(broke)} of {probed.n}; the last "
        f"doubling {100 * (count(broke[-1]) - count(broke[-2])) / probed.n:+.1f} points",
    )


def by_gradients(probed: Probed) -> tuple[Tensor, str]:
    """The samples that any gradient probe at ε broke, [n] bool, and what they are called together."""
    ran = [run.broke for probe, run in probed.runs.items() if isinstance(run, Run) and _takes_gradients(probe)]
    if not ran:
        return torch.zeros(probed.n, dtype=torch.bool), "no gradient attack could be run"
    known = union(ran)
    return known, f"{len(ran)} gradient attacks together break {count(known)}"


def _takes_gradients(probe: Probe) -> bool:
    return probe.size == "ε" and probe.attack not in ("noise", "black-box")


def blind(attack: str, words: str) -> Callable[[Probed], Verdict]:
    """A check that an attack without gradients finds nothing that gradients miss."""

    def judge(probed: Probed) -> Verdict:
        found, (known, together) = probed.broke(attack), by_gradients(probed)
        beyond, allowed = count(found & ~known), allowed_beyond(probed.n)
        if probed.n <= allowed:
            raise MissingError(Missing(f"only {probed.n} samples: all of them could be chance", failed=False))
        return Verdict(
            beyond <= allowed,
            f"{words} break {count(found)} of {probed.n}, {beyond} of them missed by gradients ({allowed} may be chance); "
            f"{together} ({probed.under()})",
        )

    return judge


def averaging(probed: Probed) -> Verdict:
    """Gradients averaged over draws must not be worse than those of one draw."""
    averaged, single = probed.broke("PGD-10 EOT"), probed.broke("PGD-10")
    return Verdict(
        not weaker(averaged, single),
        f"PGD-10 breaks {count(averaged)} of {probed.n} with gradients averaged over {EOT} draws, {count(single)} with one "
        f"({probed.under()})",
    )


def _listed(broke: list[Tensor]) -> str:
    return ", ".join(str(count(each)) for each in broke)


STRENGTH = (
    Check(
        "one step beats many", "strength",
        "The iterative attack climbs badly: take smaller steps, more restarts, or an estimator whose gradients agree with "
        "the others'.",
        one_step,
    ),
    Check(
        "more ε, no more success", "strength",
        "Look for gradients that vanish away from the clean point; attack with the margin loss, other estimators, APGD.",
        more_eps,
    ),
    Check(
        "large ε withstood", "strength",
        "An attack that may change the whole image and fails is broken: it sees no useful gradient. Change the estimator "
        "or the loss, and trust no figure of this one.",
        unbounded,
    ),
    Check(
        "more steps, less success", "strength",
        "Keep the best iterate (early_stop, APGD), add restarts; give the number of steps beyond which nothing changes.",
        steps,
    ),
    Check(
        "noise beats gradients", "strength",
        "The gradients point nowhere: check zero gradients, detached pixels and the surrogate's width, then attack again.",
        blind("noise", "random points and corners of the ball"),
    ),
    Check(
        "black-box beats gradients", "strength",
        "Gradients are masked: add estimators of other widths and shapes, and keep Square with 5000 queries in the suite.",
        blind("black-box", f"{QUERIES} queries of the square attack"),
    ),
    Check(
        "averaging weakens", "strength",
        "Average gradients over 20 draws or more, fresh in every step and not those that judge the example.",
        averaging,
    ),
)  # fmt: skip
