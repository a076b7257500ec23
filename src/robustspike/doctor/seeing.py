"""Checks of what an attacker's gradient sees: modes, NaN, zero, running statistics."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn

from robustspike.doctor.calling import Patient, spiking
from robustspike.doctor.checks import NotApplicableError, Verdict, sentence
from robustspike.doctor.trying import apart

ZERO = 0.05  # share of samples without any gradient: a figure may be wrong by as much
CUT = (
    "Find what cuts the graph (an encoder, a detach, a rounding) and take it out; encode by rs.adapt(model, encoder=…): "
    "every attack through gradients is blind here."
)
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def gradient_in_eval(patient: Patient) -> Verdict:
    """The gradient in eval mode against that with only the neurons in training mode."""
    here, trained = _gradient(patient), _gradient(patient, neurons_in_training=True)
    if isinstance(here, str):
        return Verdict(False, f"in eval mode {here}; {_with_neurons(trained)}", CUT if isinstance(trained, str) else "")
    if isinstance(trained, str) or not spiking(patient.model):
        return Verdict(True, "a gradient reaches the images in eval mode")
    a, b = here.flatten(1).double().nan_to_num(), trained.flatten(1).double().nan_to_num()
    if bool(torch.isclose(a, b, rtol=1e-3, atol=1e-6 * float(b.abs().max())).all()):
        return Verdict(True, "the gradient in eval mode is the one with the neurons in training mode")
    if not bool(here.any()):
        return Verdict(False, f"in eval mode the gradient is 0 everywhere; {_with_neurons(trained)}")
    cosine = float(torch.nn.functional.cosine_similarity(a, b).mean())
    signs = float((a.sign() == b.sign()).double().mean())
    return Verdict(
        False, f"in eval mode the gradient is another than with the neurons in training mode: mean cosine {cosine:.2f}, "
        f"{100 * signs:.0f} % of its signs agree",
    )  # fmt: skip


def _gradient(patient: Patient, neurons_in_training: bool = False) -> Tensor | str:
    """The gradient from fresh state, or what keeps it from the images."""
    with patient.trial():
        if neurons_in_training:
            for neuron, _ in spiking(patient.model).values():
                neuron.train()
        try:
            gradient = patient.gradient()
        except Exception as error:
            return f"asking for the gradient raises {sentence(error)}"
    return "no gradient reaches the images: the graph is cut" if gradient is None else gradient


def _with_neurons(trained: Tensor | str) -> str:
    if isinstance(trained, str):
        return "it is no better with the neurons in training mode"
    return f"with the neurons in training mode it is {'not 0' if bool(trained.any()) else '0'}"


def _own(patient: Patient) -> Tensor:
    gradient = _gradient(patient)
    if isinstance(gradient, str):
        raise NotApplicableError(f"in eval mode {gradient} (see gradient in eval)")
    return gradient.flatten(1)


def nan(patient: Patient) -> Verdict:
    """The sign of NaN is 0: PGD stands still."""
    bad = ~_own(patient).isfinite()
    return Verdict(
        not bool(bad.any()),
        f"NaN or infinite at {100 * float(bad.double().mean()):.1f} % of all pixels, at {int(bad.any(1).sum())} of "
        f"{patient.n} images",
    )


def zero(patient: Patient) -> Verdict:
    """PGD stands still at a gradient of 0, and nothing is raised."""
    gradient = _own(patient)
    nothing = gradient == 0
    images = int(nothing.all(1).sum())
    return Verdict(
        images <= ZERO * patient.n,
        f"0 at every pixel of {images} of {patient.n} images, at {100 * float(nothing.double().mean()):.1f} % of all pixels",
    )


def batch_norm_drift(patient: Patient) -> Verdict:
    """Whether attacking changes running statistics, and whether it must, for want of a gradient in eval mode."""
    norms = [m for m in patient.model.modules() if isinstance(getattr(m, "running_mean", None), Tensor)]
    if not norms:
        raise NotApplicableError("no layer keeps running statistics")
    trained = _gradient(patient, neurons_in_training=True)
    blind = gradient_in_eval(patient).passed is False and isinstance(trained, Tensor)
    in_eval, _ = _attacked(patient, norms, training=False)
    in_training, moved = _attacked(patient, norms, training=True)
    said = (
        f"{len(norms)} layers keep running statistics; taking a gradient changes those of {in_eval} in eval mode, of "
        f"{in_training} in training mode, where the logits of {moved} of {patient.n} samples are others"
    )
    if not in_eval and blind and in_training:
        return Verdict(
            False, f"{said}; and a gradient is only to be had in training mode",
            "Put the neurons alone into training mode for the attack, or attack rs.adapt(model, …), in eval mode.",
        )  # fmt: skip
    return Verdict(not in_eval, said)


def _attacked(patient: Patient, norms: list[nn.Module], training: bool) -> tuple[int, int]:
    """Of how many layers a gradient changes the statistics, and of how many samples a mode changes the logits."""
    usual = patient.once()
    with patient.trial(training=training):
        before = [_statistics(norm) for norm in norms]
        with contextlib.suppress(Exception):  # judged elsewhere
            patient.gradient()
        changed = sum(
            any(not torch.equal(now, then) for now, then in zip(_statistics(norm), kept, strict=True))
            for norm, kept in zip(norms, before, strict=True)
        )
    return changed, int(apart(patient.once(training=training), usual).sum())


def _statistics(norm: nn.Module) -> list[Tensor]:
    found = (getattr(norm, name, None) for name in STATISTICS)
    return [tensor.detach().clone() for tensor in found if isinstance(tensor, Tensor)]
