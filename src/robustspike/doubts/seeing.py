"""Checks of what gradients see: zero and NaN, detached pixels, agreement of estimators, the surrogate's width and reach."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor

from robustspike.doubts.probed import POINTS, Missing, Probed, Reach, count, present, union, weaker
from robustspike.doubts.probes import COMPARED, ESTIMATORS, WIDTHS
from robustspike.doubts.verdicts import Check, Verdict

ZERO = POINTS  # share of samples without any gradient: a figure may be wrong by as much
AGREEMENT = 0.05  # median cosine; random directions among D pixels have about 1/√D
# Of the potentials in the worst layer; networks trained with and without defences show 0.28 and more of both.
LIVE = 0.02  # share at which the own surrogate has a slope
NEAR = 0.15  # share that lies at most θ away from θ


def zero(probed: Probed) -> Verdict:
    """Samples at which the model's own gradient is exactly zero."""
    gradient = present(probed.gradients["own"])
    none = count((gradient == 0).all(1))
    return Verdict(
        none <= ZERO * probed.n,
        f"the own surrogate's gradient is exactly zero at {none} of {probed.n} clean images",
    )


def nan(probed: Probed) -> Verdict:
    """Samples at which any estimator's gradient is not a number."""
    found = {name: g for name, g in probed.gradients.items() if isinstance(g, Tensor)}
    if not found:
        present(probed.gradients["own"])
    bad = {name: count(~g.isfinite().all(1)) for name, g in found.items()}
    worst = max(bad, key=lambda name: bad[name])
    return Verdict(
        not bad[worst],
        f"of {len(found)} estimators {worst} is the worst: NaN or infinite at {bad[worst]} of {probed.n} clean images",
    )


def pixels(probed: Probed) -> Verdict:
    """Logits that move with the pixels while no estimator has a gradient for them."""
    moved = count(present(probed.moved))
    found = {name: g for name, g in probed.gradients.items() if not (isinstance(g, Missing) and not g.failed)}
    blind = [name for name, g in found.items() if isinstance(g, Missing) or not g.nan_to_num(nan=1.0).any()]
    cut = len(blind) == len(found)
    evidence = (
        f"noise changes the logits of {moved} of {probed.n} samples; {len(blind)} of {len(found)} estimators have no "
        "gradient at any pixel"
    )
    why = next((g.why for g in found.values() if isinstance(g, Missing)), "")
    if not moved and cut:
        return Verdict(None, f"{evidence}: the logits do not depend on the pixels here")
    return Verdict(not cut, f"{evidence} ({why})" if cut and why else evidence)


def agreement(probed: Probed) -> Verdict:
    """An estimator whose gradients have nothing to do with those of the others."""
    found = {name: present(probed.gradients[name]) for name in COMPARED}
    if not any(g.nan_to_num(nan=1.0).any() for g in found.values()):
        return Verdict(None, f"no estimator has a gradient at any of {probed.n} clean images")
    blind = [name for name, g in found.items() if not _usable(g).any()]
    found = {name: g for name, g in found.items() if name not in blind}
    cosines = {frozenset(pair): _cosine(found[pair[0]], found[pair[1]]) for pair in combinations(found, 2)}
    if not cosines:
        return Verdict(None, f"fewer than two estimators have a gradient at {probed.n} clean images")
    with_others = {
        name: float(torch.tensor([c for pair, c in cosines.items() if name in pair]).median()) for name in found
    }
    least = min(with_others, key=lambda name: with_others[name])
    listed = ", ".join(f"{name} {value:.2f}" for name, value in with_others.items())
    return Verdict(
        with_others[least] >= AGREEMENT,
        f"median cosine with the other estimators at {probed.n} clean images: {listed}"
        + (f"; no gradient: {', '.join(blind)}" if blind else ""),
        f"Find out whether {least} or the others are wrong: attack with each, and keep both in the suite.",
    )


def _cosine(a: Tensor, b: Tensor) -> float:
    """The median over samples where both gradients are finite and not zero; 0 if there is none."""
    usable = _usable(a) & _usable(b)
    if not usable.any():
        return 0.0
    return float(torch.nn.functional.cosine_similarity(_scaled(a[usable]), _scaled(b[usable])).median())


def _usable(gradients: Tensor) -> Tensor:
    """Finite and not zero, [n] bool."""
    return gradients.isfinite().all(1) & (gradients != 0).any(1)


def _scaled(a: Tensor) -> Tensor:
    return a / a.abs().amax(1, keepdim=True)  # tiny gradients would be lost beside cosine_similarity's eps


def width(probed: Probed) -> Verdict:
    """Triangles of other widths against what the suite attacks through."""
    curve = {name: probed.broke("PGD-10", name) for name in WIDTHS}
    best, gain, stronger = _strongest(probed, curve)
    listed = ", ".join(f"{name.removeprefix('triangle ')}: {count(broke)}" for name, broke in curve.items())
    return Verdict(
        not stronger,
        f"PGD-10 through triangles of width {listed} of {probed.n} broken ({probed.under()}); best {best}, {gain}",
        f"Attack through BPTT with {best} as well: {gain}.",
    )


def stronger(probed: Probed) -> Verdict:
    """The other estimators against what the suite attacks through."""
    others = {name: probed.broke("PGD-10", name) for name in ESTIMATORS if name != "own"}
    best, gain, stronger = _strongest(probed, others)
    listed = ", ".join(f"{name} {count(broke)}" for name, broke in others.items())
    return Verdict(
        not stronger,
        f"PGD-10 through {listed} of {probed.n} broken ({probed.under()}); best {best}, {gain}",
        f"Attack through {best} as well: {gain}.",
    )


def _strongest(probed: Probed, others: Mapping[str, Tensor]) -> tuple[str, str, bool]:
    """The strongest of these, its gain in words, and whether that is over :data:`POINTS` and beyond chance.

    Gained over all estimators of the suite that were probed; over the own surrogate where there is none.
    """
    used = [probed.broke("PGD-10", name) for name in probed.suite] or [probed.broke("PGD-10")]
    known = union(used)
    best = max(others, key=lambda name: count(others[name]))
    gain = (count(others[best]) - count(known)) / probed.n
    than = f"{' and '.join('own surrogate' if name == 'own' else name for name in probed.suite or ('own',))}"
    words = f"{100 * gain:+.1f} points against {than} with {count(known)}"
    return best, words, gain > POINTS and weaker(known, others[best])


def saturated(probed: Probed) -> Verdict:
    """The own surrogate has no slope where the potentials lie."""
    layer, worst = _worst(present(probed.reach), "live")
    return Verdict(
        worst.live >= LIVE,
        f"{100 * worst.live:.1f} % of the potentials of {layer} lie where the own surrogate has a slope (the fewest of "
        f"{len(present(probed.reach))} layers; {100 * worst.near:.0f} % lie at most θ from θ)",
    )


def guarded(probed: Probed) -> Verdict:
    """Potentials far from the threshold, and estimators that reach further and break much more."""
    layer, worst = _worst(present(probed.reach), "near")
    further = {name: probed.broke("PGD-10", name) for name in ("triangle 2", "triangle 3", "ASSG", "RGA")}
    best, gain, stronger = _strongest(probed, further)
    return Verdict(
        worst.near >= NEAR or not stronger,
        f"{100 * worst.near:.0f} % of the potentials of {layer} lie at most θ from θ (the fewest; median distance "
        f"{worst.distance:.2g} θ; the own surrogate has a slope at {100 * worst.live:.0f} %); PGD-10 through {best}: "
        f"{gain} (n = {probed.n}, {probed.under()})",
        f"The potentials keep away from the threshold: attack through {best} and ASSG, and give that figure.",
    )


def _worst(reach: Mapping[str, Reach], share: str) -> tuple[str, Reach]:
    name = min(reach, key=lambda name: getattr(reach[name], share))
    return name, reach[name]


SEEING = (
    Check(
        "zero gradients", "seeing",
        "Attack with the margin or DLR loss (an overconfident network has no cross-entropy left), through RGA, ASSG or a "
        "wider surrogate; without any gradient, only black-box attacks count.",
        zero,
    ),
    Check(
        "NaN gradients", "seeing",
        "Find the operation (torch.autograd.set_detect_anomaly), usually a surrogate or a norm at 0; attacks take NaN as 0.",
        nan,
    ),
    Check(
        "detached pixels", "seeing",
        "The graph is cut between pixels and neurons (an encoder, a quantisation): attack through a differentiable stand-in "
        "for it (BPDA), or count only black-box attacks.",
        pixels,
    ),
    Check("estimators disagree", "seeing", "Find out which estimator is wrong: attack with each.", agreement),
    Check("stronger estimator", "seeing", "Attack through the other estimators as well.", stronger),
    Check("surrogate width", "seeing", "Attack through triangles of other widths as well.", width),
    Check(
        "saturated surrogate", "seeing",
        "The surrogate is too narrow for these potentials: attack through RGA, ASSG, or triangles of width 1 … 3.",
        saturated,
    ),
    Check("guarded threshold", "seeing", "Attack through wider surrogates and ASSG.", guarded),
)  # fmt: skip
