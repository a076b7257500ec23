"""The checks of one network."""

from __future__ import annotations

from robustspike.doctor import answering, cutting, seeing
from robustspike.doctor.checks import Check

NETWORK: dict[str, Check] = {
    "time axis": Check("rs.adapt(model, time_steps=…) takes images.", answering.time_axis),
    "time steps": Check("Give the number of time steps that the network was trained with.", answering.time_steps),
    "answers": Check(
        "Find out where the logits stop being finite (torch.autograd.set_detect_anomaly): no attack can be judged by them.",
        answering.answers,
    ),
    "input range": Check(
        "Give images in [0, 1] and put the normalisation into the network: rs.adapt(model, mean=…, std=…); else ε is in "
        "other units, and attacks clip at the wrong values.",
        answering.input_range,
    ),
    "types and devices": Check("Call model.to(device, torch.float32).", answering.types_and_devices),
    "input left alone": Check(
        "Write x = x + … in place of x += … where the network first meets its input.", answering.input_left_alone
    ),
    "randomness": Check(
        "Average gradients over draws and judge by several calls: give the network the attribute stochastic = True, and "
        'encode by rs.adapt(model, encoder="poisson").',
        answering.randomness,
    ),
    "state leak": Check(
        "Reset the neurons before every forward pass, as rs.adapt(model, …) does: each step of an attack begins in the "
        "state that the one before left, and the figure is wrong without any error.",
        answering.state_leak,
    ),
    "batch dependence": Check(
        "Use running statistics and per-sample operations at test time: an attacker sends one image, and a figure must not "
        "depend on its neighbours.",
        answering.batch_dependence,
    ),
    "gradient in eval": Check(
        "Attack rs.adapt(model, …); by hand: model.eval(), then .train() for the neurons alone.",
        seeing.gradient_in_eval,
    ),
    "NaN gradients": Check(
        "Take another surrogate, or attack rs.adapt(model, …) through estimators of robustspike: a NaN has no sign, PGD "
        "stands still and the network looks robust.",
        seeing.nan,
    ),
    "zero gradients": Check(
        "Attack rs.adapt(model, …) through a wider surrogate, RGA or ASSG; with an encoder before the network, encode by "
        "rs.adapt(model, encoder=…).",
        seeing.zero,
    ),
    "cut gradient": Check(
        "Find what cuts the graph between the neurons, a detach() or no_grad(), and take it out.", cutting.cut_gradient
    ),
    "BatchNorm drift": Check(
        "Let model.eval() reach every BatchNorm layer: statistics that follow the attack change the network under attack.",
        seeing.batch_norm_drift,
    ),
    "known defects": Check("What to do is said with each of these defects.", answering.known_defects),
}
"""Checks of a network, by name."""
