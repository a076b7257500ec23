"""Training objectives by name. An attack arrives as a callable: ``at(attack=PGD(...))``."""

from __future__ import annotations

from collections.abc import Callable

from robustspike.defences.objective import Batch, Objective, Perturb, Term
from robustspike.defences.terms import CrossEntropy, GradientSparsity

__all__ = [
    "DEFENCES",
    "Batch",
    "CrossEntropy",
    "GradientSparsity",
    "Objective",
    "Term",
    "at",
    "sr",
    "sr_star",
    "vanilla",
]


def vanilla() -> Objective:
    """Cross-entropy on clean images; published weight decay 5e-4 (Ding 2022, Liu 2024).

    Example:
        >>> vanilla().name
        'vanilla'
    """
    return Objective("vanilla", ((1.0, CrossEntropy()),))


def at(attack: Perturb) -> Objective:
    """Adversarial training: cross-entropy at x_adv = attack(model, x, y).

    Args:
        attack: in the papers PGD-5, ε = 2/255, step 0.01, random start.

    Source: Madry et al. 2018; Liu 2024, Table 5.

    Example:
        >>> at(PGD(Linf("2/255"), steps=5, step_size=0.01)).name
        'AT'
    """
    return Objective("AT", ((1.0, CrossEntropy()),), perturb=attack)


def sr(weight: float = 0.008, *, h: float = 0.01, classes: str = "two", penalty: str = "abs") -> Objective:
    """Gradient sparsity regularisation on clean images: cross-entropy + weight · :class:`GradientSparsity`.

    Args:
        weight: λ ≥ 0; 0.008 for CIFAR-10, 0.002 for CIFAR-100 and CIFAR10-DVS.
        h, classes, penalty: see :class:`GradientSparsity`.

    Source: Liu 2024, eq. 16 and appendix D.

    Example:
        >>> sr(0.008).name
        'SR'
    """
    return Objective("SR", _sr_terms(weight, h, classes, penalty))


def sr_star(
    attack: Perturb, weight: float = 0.002, *, h: float = 0.01, classes: str = "two", penalty: str = "abs"
) -> Objective:
    """SR*: both terms of :func:`sr` at x_adv = attack(model, x, y).

    Args:
        attack: in the paper PGD-5, ε = 2/255, step 0.01, random start.
        weight: λ ≥ 0; 0.002 for CIFAR-10 and CIFAR10-DVS, 0.001 for CIFAR-100.
        h, classes, penalty: see :class:`GradientSparsity`.

    Source: Liu 2024, section 4.3 and appendix D.

    Example:
        >>> sr_star(PGD(Linf("2/255"), steps=5, step_size=0.01), weight=0.002).name
        'SR*'
    """
    return Objective("SR*", _sr_terms(weight, h, classes, penalty), perturb=attack)


def _sr_terms(weight: float, h: float, classes: str, penalty: str) -> tuple[tuple[float, Term], ...]:
    if not weight >= 0:
        raise ValueError(f"weight must be ≥ 0, got {weight}")
    return (1.0, CrossEntropy()), (weight, GradientSparsity(h, classes, penalty))


DEFENCES: dict[str, Callable[..., Objective]] = {"vanilla": vanilla, "at": at, "sr": sr, "sr-star": sr_star}
