"""Checks of how a network answers: time, range, chance, earlier calls, other samples."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from robustspike.doctor.calling import Patient, answer, reseed
from robustspike.doctor.checks import NotApplicableError, Verdict, sentence, some
from robustspike.doctor.trying import apart, steps_taken
from robustspike.doubts.subject import every_tensor
from robustspike.results.paired import exact_p

FLIPPED = 0.1  # share of samples whose float32 logits may differ in another batch: rounding flips a spike now and then
GAIN = 0.1  # of accuracy by which a normalisation must help, and at 5 % beyond chance for all that are tried together
FEW = 9  # so many images can be beyond that chance at all
ALONE = 8  # samples that are also shown one by one

NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "MNIST's": ((0.1307,), (0.3081,)),
    "Fashion-MNIST's": ((0.2860,), (0.3530,)),
    "CIFAR-10's": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "CIFAR-100's": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "to [−1, 1]": ((0.5,), (0.5,)),
    "to [0, 255]": ((0.0,), (1 / 255,)),
}
"""What is tried on images in [0, 1]: (x − mean)/std."""


def time_axis(patient: Patient) -> Verdict:
    """An attack hands over images [N, ...] and expects all time steps of them."""
    takes, x = patient.way.takes, patient.images
    if takes == "images":
        return Verdict(True, "takes images [N, …] and answers [N, K] for all time steps together")
    adapt = f'rs.adapt(model, time_steps={patient.way.time_steps}, takes="{takes}") takes images.'
    if takes == "step":
        return Verdict(
            False, "computes one time step per call: what an attack asks for is the first step's answer", adapt
        )
    try:
        with patient.trial(), torch.no_grad():
            patient.model(x.clone())
        happens = "images [N, …] are taken without complaint: each sample for a time step, which changes those after it"
    except Exception as error:
        happens = f"images [N, …] raise {sentence(error)}"
    return Verdict(False, f"the first dimension is time, it takes sequences [T, N, …]; {happens}", adapt)


def time_steps(patient: Patient) -> Verdict:
    """The number of steps that the network was said to run."""
    steps = steps_taken(patient.model, patient.way, patient.images)
    if steps is None:
        raise NotApplicableError("no spiking layer of a known framework was called")
    given = patient.time_steps
    if patient.way.takes == "images":
        said = f"loops over {steps} time steps by itself"
    elif given is None:
        raise NotApplicableError(f"one step or a sequence at a time; {steps} steps were tried, as none were given")
    else:
        said = f"runs {steps} time steps"
    fits = given in (None, steps)
    remedy = f"Give time_steps={steps}, or leave it out." if patient.way.takes == "images" else ""
    return Verdict(fits, said + ("" if fits else f", {given} were given"), remedy)


def answers(patient: Patient) -> Verdict:
    """Logits that decide for a class, and by the image."""
    logits = patient.once()
    finite = _count(logits.isfinite().all(1))
    undecided = _count(logits.amax(1) == logits.amin(1))
    blind = not bool(apart(logits, logits[:1].expand_as(logits)).any())
    said = f"logits [N, {logits.shape[1]}]: finite for {finite} of {patient.n} samples, all equal for {undecided}"
    said += ", the same for all images" if blind else ""
    silent = finite == patient.n and (2 * undecided > patient.n or blind)
    remedy = (
        "Load trained weights, give real images, or run more steps: until spikes reach the output, checks see little."
    )
    return Verdict(finite == patient.n and not silent, said, remedy if silent else "")


def input_range(patient: Patient) -> Verdict:
    """Attacks, their ε and their clipping are in units of pixels in [0, 1]."""
    if not patient.real:
        raise NotApplicableError("random images tell nothing of what the network expects: give images and labels")
    low, high = float(patient.images.min()), float(patient.images.max())
    said = f"the images lie in [{low:.3g}, {high:.3g}]"
    if low < 0 or high > 1:
        return Verdict(False, f"{said}, not in [0, 1]")
    if not patient.labelled:
        raise NotApplicableError(f"{said}; without labels it cannot be seen whether the network wants them normalised")
    plain, others = _correct(patient, patient.images), _normalised(patient.images)
    best, name = max(((_correct(patient, x), name) for name, x in others), key=lambda each: _count(each[0]))
    shares = [100 * float(each.double().mean()) for each in (plain, best)]
    said = f"{said}; {shares[0]:.0f} % of {patient.n} are classified correctly, {shares[1]:.0f} % normalised {name}"
    if patient.n < FEW:
        raise NotApplicableError(f"{said}: fewer than {FEW} images cannot tell")
    mean, std = NORMALISATIONS[name]
    chance = exact_p(_count(best & ~plain), _count(plain & ~best))
    remedy = f"Put the normalisation into the network: rs.adapt(model, mean={list(mean)}, std={list(std)})."
    return Verdict(shares[1] - shares[0] < 100 * GAIN or chance >= 0.05 / len(others), said, remedy)


def _correct(patient: Patient, x: Tensor) -> Tensor:
    return (patient.once(x).argmax(1) == patient.labels).cpu()


def _normalised(x: Tensor) -> list[tuple[str, Tensor]]:
    channels = x.shape[1] if x.dim() == 4 else 1
    made = []
    for name, moments in NORMALISATIONS.items():
        if len(moments[0]) in (1, channels):
            mean, std = (torch.tensor(each, dtype=x.dtype, device=x.device) for each in moments)
            shape = (-1, 1, 1) if x.dim() == 4 else (-1,)
            made.append((name, (x - mean.reshape(shape)) / std.reshape(shape)))
    return made


def types_and_devices(patient: Patient) -> Verdict:
    """Tensors that a .to() did not reach, and types in which gradients underflow."""
    tensors = {name: t for name, t in every_tensor(patient.model).items() if t.is_floating_point() and t.dim()}
    kinds = Counter(f"{str(t.dtype).removeprefix('torch.')} on {t.device}" for t in tensors.values())
    if not kinds:
        raise NotApplicableError("the network has no tensors")
    usual = kinds.most_common(1)[0][0]
    others = [name for name, t in tensors.items() if usual != f"{str(t.dtype).removeprefix('torch.')} on {t.device}"]
    said = ", ".join(f"{count} tensors of {kind}" for kind, count in kinds.most_common())
    wide = usual.startswith(("float32", "float64"))
    remedy = "" if wide else "Attack model.float(): gradients underflow to 0 in 16 bits."
    return Verdict(not others and wide, said + (f"; not alike: {some(others)}" if others else ""), remedy)


def input_left_alone(patient: Patient) -> Verdict:
    """A network that writes into the images that it is given."""
    x = patient.images.clone()
    with patient.trial(), torch.no_grad():
        answer(patient.model, patient.way, x)
    changed = int((x != patient.images).flatten(1).any(1).sum())
    return Verdict(not changed, f"a call changed {changed} of the {patient.n} images that it was given")


def randomness(patient: Patient) -> Verdict:
    """Chance: one gradient and one answer are then not enough."""
    first, again, other = patient.once(), patient.once(), patient.once(seed=patient.seed + 1)
    if bool(apart(again, first).any()):
        said = f"from the same state and seed, {_count(apart(again, first))} of {patient.n} samples' logits differ"
        return Verdict(False, said, "Draw from PyTorch's generators, so that a seed makes a call repeatable.")
    differ = _count(apart(other, first))
    declared = any(getattr(module, "stochastic", False) for module in patient.model.modules())
    said = f"the logits of {differ} of {patient.n} samples differ under another seed, none under the same"
    return Verdict(not differ or declared, said + (", as the network declares" if differ and declared else ""))


def state_leak(patient: Patient) -> Verdict:
    """The logits of A when A, A, B, A are asked for without a reset between."""
    x = patient.images

    def call(images: Tensor) -> Tensor:
        reseed(patient.seed)
        return patient.logits(images).clone()

    with patient.trial(), torch.no_grad():
        first, again, _, after = call(x), call(x), call(1 - x), call(x)
    differ, later = _count(apart(again, first)), _count(apart(after, first))
    classes = _count(again.argmax(1) != first.argmax(1))
    return Verdict(
        not differ and not later,
        f"without a reset, the logits of {differ} of {patient.n} samples differ in a second equal call (another class for "
        f"{classes}), of {later} after a call on other images",
    )


def batch_dependence(patient: Patient) -> Verdict:
    """A sample's logits alone, and in a batch in reverse order, against those in the batch."""
    together = patient.once()
    if bool(apart(patient.once(seed=patient.seed + 1), together).any()):
        raise NotApplicableError("the network is random, and draws for a batch at once (see randomness)")
    alone = torch.cat([patient.once(one) for one in patient.images[:ALONE].split(1)])
    turned = patient.once(patient.images.flip(0)).flip(0)
    differ, moved = _count(apart(alone, together[: len(alone)])), _count(apart(turned, together))
    return Verdict(
        differ <= int(FLIPPED * len(alone)) and moved <= int(FLIPPED * patient.n),
        f"the logits of {differ} of {len(alone)} samples differ when alone, of {moved} of {patient.n} when the batch is "
        "reversed",
    )


def known_defects(patient: Patient) -> Verdict:
    """Defects of the installed releases that layers of this network carry."""
    if not patient.defects:
        return Verdict(True, "no layer of this network carries a defect that its framework's release is known for")
    if patient.estimator is not None:
        raise NotApplicableError(
            "gradients pass through a surrogate of ours, and straight through encoders that cut them"
        )
    found = [f"{name} (at {some(paths)})" for name, paths in patient.defects.items()]
    return Verdict(False, "; ".join(found))


def _count(which: Tensor) -> int:
    return int(which.sum())
