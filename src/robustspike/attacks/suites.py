"""Published evaluations: a named, ordered set of attacks on one ball."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from robustspike.attacks.apgd import APGD
from robustspike.attacks.attempt import Attack, shared_ball
from robustspike.attacks.combine import Transfer
from robustspike.attacks.encoded import EncodedPGD, encoded_fgsm
from robustspike.attacks.fab import FAB
from robustspike.attacks.losses import dlr, margin
from robustspike.attacks.noise import GaussianNoise
from robustspike.attacks.pgd import PGD, fgsm, rfgsm
from robustspike.attacks.sapgd import SAPGD
from robustspike.attacks.square import Square
from robustspike.balls import Ball, Linf
from robustspike.gradients import ASSG, BPTR, BPTT, CBA, RGA, Estimator
from robustspike.surrogates import (
    SURROGATES,
    ArcTan,
    Exponential,
    Rectangle,
    Sigmoid,
    StraightThrough,
    Surrogate,
    Triangle,
)


@dataclass(frozen=True)
class Suite:
    """Attacks to be run in this order; a sample is robust only if all fail.

    Attributes:
        name: as printed beside every figure.
        ball: the threat model that they share.
        attacks: the members.

    Raises:
        ValueError: if the members' ball is not the suite's.

    Example:
        >>> Suite("one step", Linf(0.1), (fgsm(Linf(0.1)),)).name
        'one step'
    """

    name: str
    ball: Ball
    attacks: tuple[Attack, ...]

    def __post_init__(self) -> None:
        theirs = shared_ball(self.attacks, f"the members of suite {self.name!r}")
        if theirs is not None and theirs != self.ball:
            raise ValueError(
                f"suite {self.name!r} is said to be on {self.ball}, but its members attack on {theirs}; build it anew"
            )


LIU_ENSEMBLE: tuple[Estimator, ...] = (BPTT(Triangle(1.0)), BPTT(Sigmoid(4.0)), BPTT(ArcTan(2.0)), RGA())

OZDENIZCI_ENSEMBLE: tuple[Estimator, ...] = (
    *(BPTT(Triangle(width)) for width in (0.25, 0.5, 1.0, 2.0, 3.0)),
    *(BPTT(Exponential(height, sharpness)) for height in (0.3, 1.0) for sharpness in (0.5, 1.0, 2.0)),
    *(BPTT(Rectangle(width)) for width in (0.25, 0.5, 1.0, 2.0, 4.0)),
    BPTT(StraightThrough()),
    BPTR(),
    CBA(),
)  # fmt: skip


def _ball(eps: float | str | Ball) -> Ball:
    return Linf(eps) if isinstance(eps, (float, int, str)) else eps


def _step_size(ball: Ball) -> float | None:
    """The papers' 0.01 at ε = 8/255, in proportion to ε elsewhere; None (2.5·ε/steps) in another norm."""
    return ball.eps * 0.01 / (8 / 255) or None if ball.norm == "Linf" else None


def ding2022(eps: float | str | Ball = "8/255", early_stop: bool = True) -> Suite:
    """FGSM and PGD-7, step 0.01 at ε = 8/255, each under BPTT, BPTR and CBA, and Gaussian noise.

    Args:
        eps: radius in pixel units, 0.03 or "8/255", or a ball.
        early_stop: as in :func:`liu2024`.

    Source: Ding 2022, section 5 and appendix E.

    Example:
        >>> len(ding2022("8/255").attacks)
        7
    """
    ball, estimators = _ball(eps), (BPTT(), BPTR(), CBA())
    members: list[Attack] = [fgsm(ball, e, early_stop=early_stop) for e in estimators]
    members += [PGD(ball, 7, _step_size(ball), estimator=e, early_stop=early_stop, label="PGD-7") for e in estimators]
    return Suite("ding2022", ball, (*members, GaussianNoise(ball)))


def liu2024(
    eps: float | str | Ball = "8/255",
    steps: Sequence[int] = (10, 30, 50),
    apgd_steps: int = 10,
    sources: Sequence[nn.Module] = (),
    early_stop: bool = True,
) -> Suite:
    """FGSM, R-FGSM, PGD-10, -30, -50 and APGD-10, each under {triangle 1, sigmoid 4, arctan 2, RGA}, and black-box.

    PGD's step is 0.01 at ε = 8/255, as in the papers, and in proportion to ε elsewhere.

    Args:
        eps: radius in pixel units, 0.03 or "8/255", or a ball.
        steps: one PGD for each number of steps.
        apgd_steps: of APGD; 0 leaves it out.
        sources: other models; each kind of attack is also made on each of them, through its own surrogate, and transferred.
        early_stop: spend nothing more on a sample once it is broken; up to rounding this only lowers the robust accuracy.

    Source: Liu 2024, section 5.1 and appendix E. Differs from the authors' code: gradients are averaged over draws where
    a model is stochastic (theirs keeps the last draw).

    Example:
        >>> len(liu2024("8/255").attacks), len(liu2024("8/255", steps=(10,), apgd_steps=0).attacks)
        (24, 12)
    """
    ball = _ball(eps)
    kinds: list[Callable[[Estimator], Attack]] = [
        *(lambda e, kind=kind: kind(ball, e, early_stop=early_stop) for kind in (fgsm, rfgsm)),
        *(
            lambda e, n=n: PGD(ball, n, _step_size(ball), estimator=e, early_stop=early_stop, label=f"PGD-{n}")
            for n in steps
        ),
    ]
    if apgd_steps:
        kinds.append(lambda e: APGD(ball, apgd_steps, estimator=e, early_stop=early_stop, label=f"APGD-{apgd_steps}"))
    members = [kind(e) for kind in kinds for e in LIU_ENSEMBLE]
    members += [Transfer(kind(BPTT()), source) for source in sources for kind in kinds]
    return Suite("liu2024", ball, tuple(members))


def liu2024_widths(eps: float | str | Ball = "8/255", steps: int = 10, early_stop: bool = True) -> Suite:
    """PGD under thirty triangle surrogates, γ = 0.1, 0.2, …, 3.0.

    Source: Liu 2024, appendix G, Table 6.

    Example:
        >>> len(liu2024_widths("8/255").attacks)
        30
    """
    ball = _ball(eps)
    members = tuple(
        PGD(
            ball, steps, _step_size(ball), estimator=BPTT(Triangle(k / 10)), early_stop=early_stop, label=f"PGD-{steps}"
        )
        for k in range(1, 31)
    )
    return Suite("liu2024_widths", ball, members)


def ensemble19(eps: float | str | Ball = "8/255", steps: int = 10, early_stop: bool = True) -> Suite:
    """PGD under nineteen backward rules: triangles, exponentials, rectangles, straight-through, BPTR and CBA.

    Source: Özdenizci and Legenstein 2024, section 4.2 (their PGD: step 2.5·ε/steps).

    Example:
        >>> len(ensemble19("8/255").attacks)
        19
    """
    ball = _ball(eps)
    members = tuple(
        PGD(ball, steps, estimator=e, early_stop=early_stop, label=f"PGD-{steps}") for e in OZDENIZCI_ENSEMBLE
    )
    return Suite("ensemble19", ball, members)


def autoattack(
    eps: float | str | Ball = "8/255",
    version: str = "standard",
    estimator: Estimator | None = None,
    steps: int = 100,
    queries: int = 5000,
) -> Suite:
    """AutoAttack: APGD-CE, APGD-T, FAB-T, Square, each on the survivors; "rand" for stochastic models.

    It sees a spiking network through one estimator only.

    Args:
        eps: radius in pixel units, 0.03 or "8/255", or a ball.
        version: "standard"; or "rand": APGD-CE and APGD-DLR, every gradient the mean of 20 draws.
        estimator: None: the surrogate trained with.
        steps, queries: of the gradient attacks and of Square.

    Raises:
        ValueError: for another version.

    Source: Croce and Hein 2020.

    Example:
        >>> [attack.name for attack in autoattack("8/255").attacks]
        ['APGD-CE-100', 'APGD-T9-100', 'FAB-T-100', 'Square-5000']
    """
    ball, estimator = _ball(eps), estimator or BPTT()
    if version == "rand":
        options: dict[str, Any] = {"estimator": estimator, "samples": 20}
        return Suite("autoattack_rand", ball, (APGD(ball, steps, **options), APGD(ball, steps, dlr, **options)))
    if version != "standard":
        raise ValueError(f'version must be "standard" or "rand", got {version!r}')
    stopping: dict[str, Any] = {"estimator": estimator, "early_stop": True}
    members = (
        APGD(ball, steps, **stopping),
        APGD(ball, steps, targets=9, **stopping),
        FAB(ball, steps, **stopping),
        Square(ball, queries, early_stop=True),
    )
    return Suite("autoattack", ball, members)


def autoattack_rand(eps: float | str | Ball = "8/255", estimator: Estimator | None = None, steps: int = 100) -> Suite:
    """AutoAttack for stochastic models: APGD-CE and APGD-DLR, every gradient the mean of 20 draws.

    Source: Croce and Hein 2020.

    Example:
        >>> [attack.name for attack in autoattack_rand("8/255").attacks]
        ['APGD-CE-100, 20 draws', 'APGD-DLR-100, 20 draws']
    """
    return autoattack(eps, "rand", estimator, steps)


def luu2025(eps: float | str | Ball = "8/255") -> Suite:
    """FGSM and PGD-7 as Luu 2025 run them: on the encoded tensor, in training mode. Not a figure of robustness: † in tables.

    Args:
        eps: radius in pixel units, 0.03 or "8/255", or an L∞ ball; every time step gets its own.

    Source: Luu 2025, section 5 (PGD: 7 steps of 0.01); beside it :func:`luu2025_sound`.

    Example:
        >>> [bool(attack.caveat) for attack in luu2025("8/255").attacks]
        [True, True]
    """
    ball = _ball(eps)
    return Suite("luu2025", ball, (encoded_fgsm(ball), EncodedPGD(ball, 7, _step_size(ball), label="encoded PGD-7")))


def luu2025_sound(eps: float | str | Ball = "8/255", early_stop: bool = True) -> Suite:
    """The attacks of :func:`luu2025` on pixels, through a differentiable stand-in of the encoder, in evaluation mode.

    Source: Luu 2025, section 5, made sound.

    Example:
        >>> [attack.name for attack in luu2025_sound("8/255").attacks]
        ['FGSM', 'PGD-7']
    """
    ball = _ball(eps)
    pgd = PGD(ball, 7, _step_size(ball), early_stop=early_stop, label="PGD-7")
    return Suite("luu2025_sound", ball, (fgsm(ball, early_stop=early_stop), pgd))


def assg(eps: float | str | Ball = "8/255", steps: int = 100, degree: float = 0.85) -> Suite:
    """SA-PGD under ASSG: the strongest published white-box evaluation of spiking networks.

    Args:
        eps: radius in pixel units, 0.03 or "8/255", or a ball.
        steps: of SA-PGD.
        degree: A of :class:`robustspike.ASSG`.

    Source: Wang et al. 2026. Differs from the authors' code: A is not searched for on the test set.

    Example:
        >>> [attack.name for attack in assg("8/255").attacks]
        ['SA-PGD-100']
    """
    ball = _ball(eps)
    return Suite("assg", ball, (SAPGD(ball, steps, estimator=ASSG(degree), early_stop=True),))


def standard(eps: float | str | Ball = "8/255", sources: Sequence[nn.Module] = (), samples: int = 1) -> Suite:
    """The default: APGD and SA-PGD under ASSG with two losses, APGD under the own surrogate, then Square.

    A sample that withstands it has cost 600 gradients and 1000 queries; one that falls, a few. Members, order and the
    degrees of ASSG were chosen on data that no figure is of (docs/results/evaluation.md).

    Args:
        eps: radius in pixel units, 0.03 or "8/255", or a ball.
        sources: other models, such as ``undefended_twin(model, data)``; APGD is also made on each of them and transferred.
        samples: for a stochastic model, every gradient is the mean of so many draws (20 in AutoAttack's "rand").

    Example:
        >>> sorted({attack.name.split("-")[0] for attack in standard("8/255").attacks})
        ['APGD', 'SA', 'Square']
    """
    ball = _ball(eps)
    options: dict[str, Any] = {"early_stop": True, "samples": samples}
    members: list[Attack] = [
        APGD(ball, 100, estimator=ASSG(0.9), **options),
        SAPGD(ball, 100, estimator=ASSG(0.95), **options),
        SAPGD(ball, 100, estimator=ASSG(0.95), loss=margin, **options),
        APGD(ball, 100, **options),
        SAPGD(ball, 100, estimator=ASSG(0.95), restarts=2, **options),
        *(Transfer(APGD(ball, 100, samples=samples), source) for source in sources),
        Square(ball, 1000, samples=samples),
    ]
    return Suite("standard", ball, tuple(members))


SUITES: dict[str, Callable[..., Suite]] = {
    "ding2022": ding2022,
    "liu2024": liu2024,
    "liu2024_widths": liu2024_widths,
    "ensemble19": ensemble19,
    "luu2025": luu2025,
    "luu2025_sound": luu2025_sound,
    "autoattack": autoattack,
    "autoattack_rand": autoattack_rand,
    "assg": assg,
    "standard": standard,
}


def describe(attack: Any) -> tuple[str, str]:
    """(attack, estimator) as printed in tables, such as ("PGD-10", "BPTT triangle 1").

    Example:
        >>> describe(fgsm(Linf(0.1), BPTT(Sigmoid(4.0)))), describe(fgsm(Linf(0.1), RGA()))
        (('FGSM', 'BPTT sigmoid 4'), ('FGSM', 'RGA'))
    """
    return attack.name, describe_estimator(getattr(attack, "estimator", None))


def describe_estimator(estimator: Any) -> str:
    """An estimator as printed in tables, such as "BPTT triangle 1"; a dash for None."""
    kind: Any = type(estimator)
    if estimator is None:
        return "–"
    if isinstance(estimator, BPTT):
        return "BPTT own surrogate" if estimator.surrogate is None else f"BPTT {_short(estimator.surrogate)}"
    if not hasattr(kind, "__dataclass_fields__"):
        return str(estimator)
    usual, given = vars(kind()), vars(estimator)
    unusual = [f"{name}={value!r}" for name, value in given.items() if value != usual[name]]
    return f"{kind.__name__}({', '.join(unusual)})" if unusual else kind.__name__


def _short(surrogate: Surrogate) -> str:
    """Name and numbers of a surrogate, "triangle 1"; another's representation as it is."""
    names = {kind: name for name, kind in SURROGATES.items()}
    if type(surrogate) not in names:
        return str(surrogate)
    return " ".join([names[type(surrogate)], *(f"{value:g}" for value in vars(surrogate).values())])
