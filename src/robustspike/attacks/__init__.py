"""Attacks by name. Each takes the model as a call argument: ``attack(model, x, y)`` returns x_adv."""

from __future__ import annotations

from collections.abc import Callable

from robustspike.attacks import suites
from robustspike.attacks.apgd import APGD
from robustspike.attacks.attempt import Attack, Attempt
from robustspike.attacks.binding import Bound
from robustspike.attacks.combine import Transfer, WorstOf
from robustspike.attacks.encoded import EncodedPGD, encoded_fgsm
from robustspike.attacks.fab import FAB
from robustspike.attacks.losses import LOSSES, FromClean
from robustspike.attacks.noise import GaussianNoise, UniformNoise
from robustspike.attacks.pgd import PGD, fgsm, rfgsm
from robustspike.attacks.sapgd import SAPGD
from robustspike.attacks.square import Square
from robustspike.attacks.suites import SUITES, Suite

__all__ = [
    "APGD",
    "ATTACKS",
    "FAB",
    "LOSSES",
    "PGD",
    "SAPGD",
    "SUITES",
    "Attack",
    "Attempt",
    "Bound",
    "EncodedPGD",
    "FromClean",
    "GaussianNoise",
    "Square",
    "Suite",
    "Transfer",
    "UniformNoise",
    "WorstOf",
    "encoded_fgsm",
    "fgsm",
    "rfgsm",
    "suites",
]  # fmt: skip

ATTACKS: dict[str, Callable[..., Attack]] = {
    "fgsm": fgsm,
    "rfgsm": rfgsm,
    "pgd": PGD,
    "apgd": APGD,
    "sapgd": SAPGD,
    "fab": FAB,
    "square": Square,
    "uniform-noise": UniformNoise,
    "gaussian-noise": GaussianNoise,
}
