"""Training objectives by name. An attack arrives as a callable: ``at(attack=PGD(...))``."""

from __future__ import annotations

from collections.abc import Callable

from robustspike.defences.hire import CraftedNoise
from robustspike.defences.membranes import (
    PotentialPerturbation,
    SurrogateMass,
    ThresholdGuard,
    perturbation_dynamics,
)
from robustspike.defences.mixed import Mixed, Noisy
from robustspike.defences.objective import Batch, Objective, Part, Perturb, Point, Term
from robustspike.defences.pairs import (
    BoostedCrossEntropy,
    CleanLogitPairing,
    Divergence,
    LogitPairing,
    WeightedDivergence,
)
from robustspike.defences.parseval import (
    ParsevalRetraction,
    RowSums,
    on_simplex,
    project_mixing,
    spectral_norms,
)
from robustspike.defences.published import (
    alp,
    at,
    clp,
    gr,
    hire,
    mart,
    mpd_sgr,
    mppd,
    rat,
    rat_penalty,
    sr,
    sr_star,
    tgo,
    trades,
    vanilla,
)
from robustspike.defences.terms import CrossEntropy, GradientRegularization, GradientSparsity
from robustspike.defences.weights import CosineRamp, Linear, Weight

__all__ = [
    "DEFENCES", "Batch", "BoostedCrossEntropy", "CleanLogitPairing", "CosineRamp", "CraftedNoise", "CrossEntropy",
    "Divergence", "GradientRegularization", "GradientSparsity", "Linear", "LogitPairing", "Mixed", "Noisy", "Objective",
    "ParsevalRetraction", "Part", "Perturb", "Point", "PotentialPerturbation", "RowSums", "SurrogateMass", "Term",
    "ThresholdGuard", "Weight", "WeightedDivergence", "alp", "at", "clp", "gr", "hire", "mart", "mpd_sgr", "mppd",
    "on_simplex", "perturbation_dynamics", "project_mixing", "rat", "rat_penalty", "spectral_norms", "sr", "sr_star",
    "tgo", "trades", "vanilla",
]  # fmt: skip

DEFENCES: dict[str, Callable[..., Objective]] = {
    "vanilla": vanilla,
    "at": at,
    "rat": rat,
    "rat-penalty": rat_penalty,
    "sr": sr,
    "sr-star": sr_star,
    "gr": gr,
    "trades": trades,
    "mart": mart,
    "alp": alp,
    "clp": clp,
    "hire": hire,
    "mppd": mppd,
    "mpd-sgr": mpd_sgr,
    "tgo": tgo,
}
