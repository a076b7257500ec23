"""What is installed and what it runs on: versions, and checks of the installation."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

import numpy as np
import torch
from scipy import special

from robustspike import kernels
from robustspike.doctor.checks import Check, NotApplicableError, Verdict, sentence, version
from robustspike.kernels import native
from robustspike.surrogates import Triangle

PACKAGES = {
    "robustspike": "robustspike", "torch": "torch", "torchvision": "torchvision", "numpy": "numpy", "scipy": "scipy",
    "spikingjelly": "spikingjelly", "snntorch": "snntorch", "norse": "norse", "torchattacks": "torchattacks",
    "foolbox": "foolbox", "art": "adversarial-robustness-toolbox",
}  # fmt: skip
"""What is reported of, and the distributions that it comes from."""


def surroundings() -> dict[str, str]:
    """Versions by name ("–": not installed), then processor, GPU and compiler; no framework is imported."""
    found = {"python": platform.python_version()}
    found |= {name: version(distribution) or "–" for name, distribution in PACKAGES.items()}
    threads = torch.get_num_threads()
    found["processor"] = f"{platform.machine()}, {os.cpu_count()} cores, {threads} thread{'s' * (threads > 1)} in use"
    found["GPU"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "–"
    found["CUDA of torch"] = torch.version.cuda or torch.version.hip or "–"
    found["compiler"] = _compiler() or "–"
    return found


def _compiler() -> str | None:
    return shutil.which(os.environ.get("CC", "cc"))


def arrays() -> Verdict:
    """NumPy and PyTorch, SciPy and NumPy are often built against each other's releases."""
    there = torch.tensor([1.0, 2.0]).numpy()
    back = torch.from_numpy(np.asarray(there) * 2).tolist()
    share = float(special.betaincinv(1, 2, 0.75))  # 1 − √(1 − p)
    right = back == [2.0, 4.0] and abs(share - 0.5) < 1e-9
    return Verdict(right, f"[1, 2] doubled through NumPy is {back}, the 75 % point of Beta(1, 2) is {share:.6g} (0.5)")


def pictures() -> Verdict:
    """torchvision without the operators that PyTorch of the same release brings."""
    if version("torchvision") is None:
        raise NotApplicableError("torchvision is not installed")
    try:
        from torchvision.ops import nms

        devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
        for device in devices:
            boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.9]], device=device)
            nms(boxes, torch.tensor([0.9, 0.8], device=device), 0.5)
    except Exception as error:
        versions = f"torch {torch.__version__} (CUDA {torch.version.cuda}) with torchvision {version('torchvision')}"
        return Verdict(False, f"{versions}: {sentence(error)}")
    return Verdict(True, f"its compiled operators work on {' and '.join(devices)}")


def gpu() -> Verdict:
    """A GPU that PyTorch cannot use, or not with the kernels that it was built with."""
    seen = _gpus_seen()
    if torch.cuda.is_available():
        return _computes_on_gpu()
    if not seen:
        raise NotApplicableError("no GPU was found; everything runs on the processor")
    hidden = [name for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES") if os.environ.get(name) in ("", "-1")]
    if hidden:
        raise NotApplicableError(f"hidden by {hidden[0]}; everything runs on the processor")
    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    return Verdict(False, f"{seen} says that there is a GPU, but torch {torch.__version__}, built {built}, sees none")


def _gpus_seen() -> str:
    """What says that there is a GPU, "" where nothing does."""
    places = ("/proc/driver/nvidia/version", "/dev/nvidia0", "/dev/kfd")
    found = [place for place in places if Path(place).exists()]
    return found[0] if found else shutil.which("nvidia-smi") or ""


def _computes_on_gpu() -> Verdict:
    name = torch.cuda.get_device_name()
    x = torch.arange(4.0).reshape(2, 2)
    product = (x.cuda() @ x.cuda()).cpu()  # raises where the build has no kernels for this GPU
    return Verdict(bool((product == x @ x).all()), f"{name}: a product of two matrices is {product.tolist()}")


def kernel() -> Verdict:
    """The compiled kernel for neurons on the processor; without it PyTorch's operations do the same more slowly."""
    if os.environ.get("ROBUSTSPIKE_KERNEL") == "eager":
        raise NotApplicableError("switched off by ROBUSTSPIKE_KERNEL=eager")
    compiler = _compiler()
    if compiler is None:
        raise NotApplicableError("no C compiler found (cc, or $CC): PyTorch's operations are used, which takes longer")
    if native.library() is None:
        return Verdict(False, f"{compiler} cannot build it, or its folder in the user's cache cannot be written")
    currents = torch.linspace(-1, 2, 24).reshape(4, 6)
    neuron = kernels.Neuron(Triangle(), 0.9, 1.0, True, False)
    outcomes = []
    for name in ("native", "loop"):
        point = currents.clone().requires_grad_()
        with kernels.kernel(name), torch.enable_grad():
            spikes = kernels.fire(point, neuron)
            outcomes.append((spikes.detach(), torch.autograd.grad(spikes.sum(), point)[0]))
    (spikes, slopes), (expected, expected_slopes) = outcomes
    equal = bool((spikes == expected).all()) and bool(torch.allclose(slopes, expected_slopes, atol=1e-6))
    return Verdict(
        equal, f"built with {compiler}; spikes and gradients are {'' if equal else 'not '}those of plain loops"
    )


INSTALLATION: dict[str, Check] = {
    "arrays": Check("Install numpy, scipy and torch anew, all three with one command, so that they fit.", arrays),
    "torchvision": Check(
        "Install torch and torchvision anew with one command from one index (both for the CPU, or both for one CUDA).",
        pictures,
    ),
    "GPU": Check(
        "Install the build of PyTorch for this GPU and driver (pytorch.org, Get started); until then everything runs on "
        "the processor.",
        gpu,
    ),
    "compiled kernel": Check(
        "Make the user's cache folder writable and the compiler work, or set ROBUSTSPIKE_KERNEL=eager.", kernel
    ),
}
"""Checks of the installation, by name."""
