"""Before a network is used: how it is to be called, what cuts its gradient, and whether it answers as it did."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robustspike.adapters.carrying import carry_estimators
from robustspike.adapters.framework import AdaptError, preserved, seeded
from robustspike.adapters.gradient_path import computes_once, has_a_gradient, pass_straight_through
from robustspike.adapters.layout import find_layout
from robustspike.adapters.reading import leave_readouts
from robustspike.gradients import frozen

if TYPE_CHECKING:
    from robustspike.adapters.adapting import Adapted


def prepare(net: Adapted, images: Tensor) -> None:
    """Find out how the network is called, and check it on these images [N, ...]; the network and all random streams stay.

    Raises:
        AdaptError: saying what is wrong and what to do.
    """
    if len(images) == 0:
        raise AdaptError("a network is checked on its first images, got none; call it with one image at least")
    few = images[:2].detach()
    rules = [(layer, layer.gradient_rule) for layer in net.adapted_layers.values()]
    collapsed, devices = net.time_collapsed, [few.device] if few.device.type == "cuda" else []
    try:
        for layer, _ in rules:
            layer.gradient_rule = None
        net.time_collapsed = False
        with (
            net.lock,
            torch.inference_mode(False),
            torch.enable_grad(),
            frozen(net),
            torch.random.fork_rng(devices=devices),
        ):
            for check in _CHECKS:
                with preserved(list(net.model.modules())), seeded(0, few):  # also of what modules keep
                    check(net, few)
    finally:
        net.time_collapsed = collapsed
        for layer, rule in rules:
            layer._rule = rule  # a rule that the layer cannot carry is refused by the forward pass
    net.prepared = True


def _answers_as_before(net: Adapted, few: Tensor) -> None:
    """Two calls agree under one seed, and with the network called as its owner would, from fresh state."""
    answers = []
    with torch.no_grad():
        for _ in range(2):
            with seeded(0, few):
                answers.append(net.run(few))
        with net.afresh(), seeded(0, few):
            original = net.answer(few)
    if not _equal(answers[0], answers[1]):
        raise AdaptError(
            f"two calls with the same images and the same seed differ by up to {_gap(*answers):.3g} in the logits: the "
            "network keeps state outside its neurons, or computes in no fixed order; reset that state in its forward"
        )
    if not _equal(answers[0], original):
        raise AdaptError(
            f"the adapted network's logits differ from the original's by up to {_gap(answers[0], original):.3g}; "
            "this is a fault of the adapter: please report the network's neurons"
        )


def _equal(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.nan_to_num(), other.nan_to_num())


def _gap(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


_CHECKS = (
    find_layout, carry_estimators, pass_straight_through, leave_readouts, _answers_as_before, has_a_gradient,
    computes_once,
)  # fmt: skip
