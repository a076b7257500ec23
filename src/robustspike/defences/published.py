"""The published objectives, each a function that returns an :class:`robustspike.Objective`."""

from __future__ import annotations

from robustspike.defences.hire import CraftedNoise
from robustspike.defences.membranes import PotentialPerturbation, SurrogateMass, ThresholdGuard
from robustspike.defences.mixed import Noisy
from robustspike.defences.objective import Objective, Part, Perturb
from robustspike.defences.pairs import (
    BoostedCrossEntropy,
    CleanLogitPairing,
    Divergence,
    LogitPairing,
    WeightedDivergence,
)
from robustspike.defences.parseval import ParsevalRetraction, RowSums, project_mixing
from robustspike.defences.terms import CrossEntropy, GradientRegularization, GradientSparsity
from robustspike.defences.weights import CosineRamp, Weight, check_weight


def vanilla() -> Objective:
    """Cross-entropy on clean images; published weight decay 5e-4 (Ding 2022, Liu 2024).

    Example:
        >>> defences.vanilla().name
        'vanilla'
    """
    return Objective("vanilla", (Part(CrossEntropy()),))


def at(attack: Perturb) -> Objective:
    """Adversarial training: cross-entropy at x_adv = attack(model, x, y).

    Args:
        attack: in the papers PGD-5, ε = 2/255, step 0.01, random start; any attack, or several (:class:`Mixed`).

    Source: Madry et al. 2018; Liu 2024, Table 5.

    Example:
        >>> defences.at(PGD(Linf("2/255"), steps=5, step_size=0.01)).name
        'AT'
    """
    return Objective("AT", (Part(CrossEntropy(), attack=attack),))


def rat(attack: Perturb, beta: float = 5e-4, rows: float = 0.3) -> Objective:
    """RAT: cross-entropy at x_adv, no weight decay; after each step Parseval retraction, then mixing weights on the simplex.

    Args:
        attack: in the paper FGSM, ε = 2/255, seen through BPTT or BPTR at random for each mini-batch: a :class:`Mixed`.
        beta: of :class:`ParsevalRetraction`; ≥ 0.
        rows: the share of the rows of linear layers of 200 rows or more that each step takes.

    Source: Ding 2022, section 4. Its appendix gives no β.

    Example:
        >>> defences.rat(fgsm(Linf("2/255"))).weight_decay
        0.0
    """
    return Objective(
        "RAT", (Part(CrossEntropy(), attack=attack),), 0.0, (ParsevalRetraction(beta, rows), project_mixing)
    )


def rat_penalty(attack: Perturb, weight: Weight = 0.001) -> Objective:
    """RAT with the penalty :class:`RowSums` on the weights in place of the retraction; no weight decay.

    Args:
        attack: as in :func:`rat`.
        weight: ≥ 0.

    Source: Ding 2022, Proposition 2; the released code holds this penalty but no value of its weight.

    Example:
        >>> defences.rat_penalty(fgsm(Linf("2/255"))).name
        'RAT penalty'
    """
    parts = (Part(CrossEntropy(), attack=attack), Part(RowSums(), check_weight(weight)))
    return Objective("RAT penalty", parts, 0.0, (project_mixing,))


def sr(
    weight: Weight = 0.008, *, h: float = 0.01, classes: str = "two", penalty: str = "abs", form: str = "difference"
) -> Objective:
    """Gradient sparsity regularisation on clean images: cross-entropy + weight · :class:`GradientSparsity`.

    Args:
        weight: λ ≥ 0; 0.008 for CIFAR-10, 0.002 for CIFAR-100 and CIFAR10-DVS.
        h, classes, penalty, form: see :class:`GradientSparsity`.

    Source: Liu 2024, eq. 16 and appendix D.

    Example:
        >>> defences.sr(0.008).name
        'SR'
    """
    term = GradientSparsity(h, classes, penalty, form)
    return Objective("SR", (Part(CrossEntropy()), Part(term, check_weight(weight))))


def sr_star(
    attack: Perturb,
    weight: Weight = 0.002,
    *,
    h: float = 0.01,
    classes: str = "two",
    penalty: str = "abs",
    form: str = "difference",
) -> Objective:
    """SR*: both terms of :func:`sr` at x_adv = attack(model, x, y).

    Args:
        attack: in the paper PGD-5, ε = 2/255, step 0.01, random start.
        weight: λ ≥ 0; 0.002 for CIFAR-10 and CIFAR10-DVS, 0.001 for CIFAR-100.
        h, classes, penalty, form: see :class:`GradientSparsity`.

    Source: Liu 2024, section 4.3 and appendix D.

    Example:
        >>> defences.sr_star(PGD(Linf("2/255"), steps=5, step_size=0.01), weight=0.002).name
        'SR*'
    """
    term = GradientSparsity(h, classes, penalty, form)
    return Objective("SR*", (Part(CrossEntropy(), attack=attack), Part(term, check_weight(weight), attack)))


def gr(
    weight: Weight = 0.1,
    *,
    h: float = 0.01,
    form: str = "difference",
    norm: str = "l1",
    attack: Perturb | None = None,
) -> Objective:
    """Gradient regularisation: cross-entropy + weight · :class:`GradientRegularization`.

    Args:
        weight: λ ≥ 0. Finlay and Oberman's 0.1 is for half the square of the ℓ2 norm; ℓ1 norms are larger.
        h, form, norm: see :class:`GradientRegularization`.
        attack: where both terms are taken; None: on clean images, as in the paper.

    Source: Finlay and Oberman 2021; Liu 2024, eq. 15. Differs from the authors' code: no factor ½, and the ℓ1 norm is not
    divided by √D.

    Example:
        >>> defences.gr(0.01).name
        'GR'
    """
    term = GradientRegularization(h, form, norm)
    return Objective("GR", (Part(CrossEntropy(), attack=attack), Part(term, check_weight(weight), attack)))


def trades(attack: Perturb, weight: Weight = 6.0) -> Objective:
    """TRADES: cross-entropy on clean images + weight · :class:`Divergence` of clean and adversarial answers.

    Args:
        attack: in the paper PGD-10, ε = 0.031, step 0.007, on the divergence itself: ``PGD(..., loss=FromClean())``.
        weight: β = 1/λ ≥ 0; 6 in the paper for CIFAR-10, 5 for spiking networks in Wang et al. 2026.

    Source: Zhang et al. 2019. Differs from the authors' code: the attack sees evaluation mode, and its start is the attack's
    own where theirs is x + 0.001·N(0, 1).

    Example:
        >>> defences.trades(PGD(Linf("8/255"), steps=10, step_size=0.007)).name
        'TRADES'
    """
    return Objective("TRADES", (Part(CrossEntropy()), Part(Divergence(), check_weight(weight), attack)))


def mart(attack: Perturb, weight: Weight = 6.0) -> Objective:
    """MART: :class:`BoostedCrossEntropy` at x_adv + weight · :class:`WeightedDivergence`.

    Args:
        attack: in the paper PGD-10, ε = 0.031, step 0.007, on the cross-entropy.
        weight: λ ≥ 0; 6 in the authors' code.

    Source: Wang et al. 2020, eqs. 6 and 8.

    Example:
        >>> defences.mart(PGD(Linf("8/255"), steps=10, step_size=0.007)).name
        'MART'
    """
    parts = (Part(BoostedCrossEntropy(), attack=attack), Part(WeightedDivergence(), check_weight(weight), attack))
    return Objective("MART", parts)


def alp(attack: Perturb, weight: Weight = 0.5) -> Objective:
    """Adversarial logit pairing: half the cross-entropy of x, half that of x_adv, + weight · :class:`LogitPairing`.

    Args:
        attack: PGD in the paper.
        weight: λ ≥ 0.

    Source: Kannan et al. 2018, section 3.1 (mixed mini-batches of clean and adversarial images). Liu 2023, appendix H, names
    it beside SR.

    Example:
        >>> defences.alp(PGD(Linf("8/255"), steps=5)).name
        'ALP'
    """
    pairing = Part(LogitPairing(), check_weight(weight), attack)
    return Objective("ALP", (Part(CrossEntropy(), 0.5), Part(CrossEntropy(), 0.5, attack), pairing))


def clp(weight: Weight = 0.5, noise: float = 0.1) -> Objective:
    """Clean logit pairing: cross-entropy + weight · :class:`CleanLogitPairing`, both on images with Gaussian noise.

    Args:
        weight: λ ≥ 0.
        noise: standard deviation in pixel units, ≥ 0; 0: none.

    Raises:
        ValueError: for a negative standard deviation.

    Source: Kannan et al. 2018, section 3.2; Liu 2023, appendix H.2.

    Example:
        >>> defences.clp().name
        'CLP'
    """
    noisy = Noisy(noise) if noise else None
    return Objective(
        "CLP", (Part(CrossEntropy(), attack=noisy), Part(CleanLogitPairing(), check_weight(weight), noisy))
    )


def hire(eps: float = 8 / 255, periods: int = 2) -> Objective:
    """HIRE-SNN: :class:`CraftedNoise`, cross-entropy on images whose noise is crafted period by period.

    Args:
        eps: bound of the noise in pixel units; the paper's is not known.
        periods: how many the T steps are split into; 2 in the paper's figure.

    Source: Kundu et al. 2021.

    Example:
        >>> defences.hire().name
        'HIRE'
    """
    return Objective("HIRE", (Part(CraftedNoise(eps, periods)),))


def mppd(attack: Perturb, weight: Weight = 1.0, penalty: str = "abs", mix: float = 0.5) -> Objective:
    """MPPD: mix · CE(x) + (1 − mix) · CE(x_adv) + weight · :class:`PotentialPerturbation` of the last spiking layer.

    With ``penalty="abs"`` it is MPPD-TV-ℓ1, with "square" the training of DLIF; both papers use DLIF neurons
    (``neuron="dlif"`` of the models).

    Args:
        attack: in Ding et al. 2024 FGSM, ε = 4/255, from x + 0.001·N(0, 1).
        weight: α ≥ 0.
        penalty: "abs" or "square".
        mix: κ in [0, 1], the share of the clean cross-entropy.

    Raises:
        ValueError: for a mix outside [0, 1].

    Source: Ding et al. 2024 (ICML), whose code takes κ = ½ and α = 1; MPPD-TV 2026.

    Example:
        >>> defences.mppd(fgsm(Linf("4/255"))).name
        'MPPD-TV-l1'
    """
    if not 0 <= mix <= 1:
        raise ValueError(f"mix must lie in [0, 1], the share of the clean cross-entropy, got {mix}")
    name = "MPPD-TV-l1" if penalty == "abs" else "MPPD"
    perturbation = Part(PotentialPerturbation(penalty), check_weight(weight), attack)
    return Objective(name, (Part(CrossEntropy(), mix), Part(CrossEntropy(), 1 - mix, attack), perturbation))


def mpd_sgr(weight: Weight = 0.1, width: float = 1.0, attack: Perturb | None = None) -> Objective:
    """MPD-SGR: cross-entropy + weight · :class:`SurrogateMass`.

    Args:
        weight: η ≥ 0; the paper's value is not known.
        width: γ, half the width of the surrogate.
        attack: where both terms are taken, in the paper PGD-2, ε = 2/255; None: clean images.

    Source: MPD-SGR 2026 (AAAI).

    Example:
        >>> defences.mpd_sgr().name
        'MPD-SGR'
    """
    return Objective(
        "MPD-SGR", (Part(CrossEntropy(), attack=attack), Part(SurrogateMass(width), check_weight(weight), attack))
    )


def tgo(weight: Weight | None = None, margin: float = 0.5, attack: Perturb | None = None) -> Objective:
    """TGO's threshold guarding: cross-entropy + weight · :class:`ThresholdGuard`.

    The noisy neurons that the paper adds to this loss are not part of it.

    Args:
        weight: λ ≥ 0; None: a cosine ramp to 0.4, the paper's for WRN-16 (0.6 for VGG-11).
        margin: δ, in units of the potential; the paper's value is not known.
        attack: where both terms are taken; None: clean images.

    Source: TGO 2026 (ICLR).

    Example:
        >>> defences.tgo().parts[1].weight
        CosineRamp(peak=0.4)
    """
    ramp = CosineRamp(0.4) if weight is None else weight
    return Objective(
        "TGO", (Part(CrossEntropy(), attack=attack), Part(ThresholdGuard(margin), check_weight(ramp), attack))
    )
