"""The doctor: the installation, the frameworks' known defects, and one network."""

from __future__ import annotations

import dataclasses
import time
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from robustspike.adapters import READOUTS, adapt
from robustspike.doctor.calling import Patient, Way
from robustspike.doctor.checks import finding, sentence
from robustspike.doctor.diagnosis import Diagnosis
from robustspike.doctor.environment import INSTALLATION, surroundings
from robustspike.doctor.known import affected, known_defects
from robustspike.doctor.network import NETWORK
from robustspike.doctor.trying import found_way, guessed_images, like
from robustspike.gradients import BPTT, Estimator, estimating
from robustspike.results import Finding
from robustspike.surrogates import ArcTan

RANDOM = 16  # images, where none are given
THROUGH = BPTT(ArcTan())  # the gradient of an adapted network


def doctor(
    model: nn.Module | None = None,
    images: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    time_steps: int | None = None,
    takes: str | None = None,
    readout: str = "spikes",
    shape: tuple[int, ...] | None = None,
    seed: int = 0,
) -> Diagnosis:
    """Look for what makes a robustness figure wrong before there is one: in what is installed, and in a network.

    The network is examined as it is, as one would attack it who knows nothing of spikes (plain autograd, eval mode, no
    reset), and then once more as ``rs.adapt`` makes it. Every check is explained in docs/doctor.md. The network, its state
    and all random numbers are afterwards as they were. Known defects are run, on a few numbers, not looked up by version.

    Args:
        model: any module; of SpikingJelly, snnTorch, Norse, robustspike, or plain PyTorch; None: only what is installed.
        images: [N, ...] in [0, 1], a handful of real ones; None: 16 of random numbers.
        labels: [N] int64; None: the classes that the network finds second most likely.
        time_steps: as it was trained with; None: 8, where the network does not loop itself.
        takes: "images" (all time steps in one call), "sequence" ([T, N, ...]) or "step" (one step per call); None: found.
        readout: "spikes", the first tensor that the network returns, or "membrane", the last; their mean over time.
        shape: of one random image; None: guessed from the first convolution or linear layer.
        seed: of random images and draws.

    Raises:
        ValueError: for images without labels to match, fewer than two, or a network that takes none of the images tried.

    Example:
        >>> found = doctor(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), torch.rand(4, 1, 8, 8))
        >>> found.healthy, found.failed
        (True, ())
    """
    started = time.perf_counter()
    defects = known_defects()
    found: dict[str, Any] = {}
    if model is not None:
        patient = _patient(model, images, labels, time_steps, takes, readout, shape, seed)
        found = _examined(dataclasses.replace(patient, defects=affected(model, defects)))
    return Diagnosis(
        surroundings=surroundings(),
        installation=tuple(finding(name, check) for name, check in INSTALLATION.items()),
        frameworks=defects,
        seed=seed,
        **found,
        seconds=time.perf_counter() - started,
    )


def _patient(
    model: nn.Module, images: Tensor | None, labels: Tensor | None, time_steps: int | None, takes: str | None,
    readout: str, shape: tuple[int, ...] | None, seed: int,
) -> Patient:  # fmt: skip
    """The network with images that it takes, and how it takes them.

    Raises:
        ValueError: if there is no way to call it.
    """
    _check(images, labels, time_steps, readout)

    def wanted(x: Tensor) -> Way:
        return found_way(model, x, time_steps, takes, readout)

    real = images is not None
    if images is None:
        images, way = guessed_images(model, RANDOM, shape, seed, wanted)
    else:
        images = like(model, images)
        way = wanted(images)
    none_yet = torch.zeros(len(images), dtype=torch.int64)
    patient = Patient(model, way, images, none_yet, real, labels is not None, time_steps, seed)
    if labels is None:
        logits = patient.once()
        labels = logits.topk(2).indices[:, 1] if logits.shape[1] > 1 else logits.argmax(1)
    return dataclasses.replace(patient, labels=labels.to(images.device))


def _check(images: Tensor | None, labels: Tensor | None, time_steps: int | None, readout: str) -> None:
    if readout not in READOUTS:
        raise ValueError(f"readout must be one of {', '.join(READOUTS)}; got {readout!r}")
    if time_steps is not None and time_steps < 1:
        raise ValueError(f"time_steps must be ≥ 1, got {time_steps}")
    if labels is not None and (images is None or len(labels) != len(images)):
        got = "no images" if images is None else f"{len(images)} images"
        raise ValueError(f"labels: expected one for each image, got {len(labels)} labels and {got}")
    if images is not None and (len(images) < 2 or images.dim() < 2 or not images.is_floating_point()):
        kind = f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}"
        raise ValueError(f"images: expected two or more of a floating type in [0, 1], [N, ...], got {kind}")


def _examined(patient: Patient) -> dict[str, Any]:
    """The findings on a network as it is, and on what ``rs.adapt`` makes of it."""
    model, images = patient.model, patient.images
    kind = "given" if patient.real else f"of random numbers in [0, 1], seed {patient.seed}"
    found: dict[str, Any] = {
        "model": f"{type(model).__name__}, {patient.way}",
        "tried_on": f"Tried on {patient.n} images {list(images.shape[1:])} {kind}.",
        "network": _findings(patient),
        "carried": tuple(patient.defects),
    }
    own_loop = patient.way.takes == "images"
    try:
        steps = None if own_loop else patient.way.time_steps
        adapted = adapt(model, steps, images=images, readout=patient.way.readout)
    except Exception as error:
        return found | {"unadapted": sentence(error)}
    if adapted is model:
        return found
    after = dataclasses.replace(
        patient, model=adapted, way=Way("images", patient.way.time_steps), estimator=_carried(adapted)
    )
    return found | {"adapted": _findings(after)}


def _carried(model: nn.Module) -> Estimator | None:
    """A surrogate of ours in place of the network's own, where its neurons can carry one."""
    try:
        with estimating(model, THROUGH):
            return THROUGH
    except ValueError:
        return None


def _findings(patient: Patient) -> tuple[Finding, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tuple(finding(name, check, patient) for name, check in NETWORK.items())
