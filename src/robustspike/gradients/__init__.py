"""Gradient estimators: how an attack sees through the neurons, and the input gradient under one of them."""

from __future__ import annotations

from collections.abc import Callable

from robustspike.gradients.adaptive import ASSG, PDSG, Memory
from robustspike.gradients.estimators import BPTR, BPTT, CBA, HART, RGA, Estimator
from robustspike.gradients.pixels import Loss, cross_entropy, divergence, input_gradient, look
from robustspike.gradients.seeing import (
    Rule,
    check_labels,
    chosen_class,
    device_of,
    errs,
    estimating,
    frozen,
    is_stochastic,
    majority,
    recording,
)

__all__ = [
    "ASSG", "BPTR", "BPTT", "CBA", "ESTIMATORS", "HART", "PDSG", "RGA", "Estimator", "Loss", "Memory", "Rule",
    "check_labels", "chosen_class", "cross_entropy", "device_of", "divergence", "errs", "estimating", "frozen",
    "input_gradient", "is_stochastic", "look", "majority", "recording",
]  # fmt: skip

ESTIMATORS: dict[str, Callable[..., Estimator]] = {
    "bptt": BPTT,
    "bptr": BPTR,
    "rga": RGA,
    "cba": CBA,
    "hart": HART,
    "pdsg": PDSG,
    "assg": ASSG,
}
