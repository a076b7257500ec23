"""The compiled CPU kernel: neuron.c, built once per machine with the system's C compiler and kept in the user's cache."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import math
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import platformdirs
import torch
from torch import Tensor

from robustspike.kernels.loop import Neuron, empty_steps, potential_type
from robustspike.surrogates import (
    ArcTan,
    Exponential,
    Gaussian,
    Rectangle,
    Sigmoid,
    StraightThrough,
    Surrogate,
    Triangle,
)

_FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-shared")
_VARIANTS = (("-fopenmp", "-DVECTOR_EXP", "-lmvec"), ("-fopenmp",), ())  # tried in this order
_PER_THREAD = 32768  # elements that make another thread worth waking
_TYPES = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16"}

# Kind as in neuron.c, then its two constants.
_CONSTANTS: dict[type, Callable[..., tuple[int, float, float]]] = {
    Triangle: lambda s: (0, s.width, 0.0),
    Sigmoid: lambda s: (1, s.sharpness, 0.0),
    ArcTan: lambda s: (2, s.sharpness, math.pi / 2 * s.sharpness),
    Rectangle: lambda s: (3, s.width, 0.0),
    Exponential: lambda s: (4, s.height, s.sharpness),
    Gaussian: lambda s: (5, s.sigma, 1 / (s.sigma * math.sqrt(2 * math.pi))),
    StraightThrough: lambda s: (6, 0.0, 0.0),
    type(None): lambda s: (7, 0.0, 0.0),  # slopes given, or none needed
}


class _Constants(ctypes.Structure):
    _fields_ = [(name, ctypes.c_double) for name in ("leak", "threshold", "a", "b")] + [
        (name, ctypes.c_int64) for name in ("steps", "size", "kind", "hard_reset", "detach_reset", "threads")
    ]


def _processor() -> str:
    """What -march=native depends on."""
    info = Path("/proc/cpuinfo")
    flags = (
        next((line for line in info.read_text().splitlines() if line.startswith("flags")), "") if info.exists() else ""
    )
    return f"{platform.machine()} {platform.processor()} {flags}"


def _build(compiler: str, source: str, variant: tuple[str, ...], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        code, built = Path(folder, "neuron.c"), Path(folder, "neuron.so")
        code.write_text(source)
        subprocess.run(
            [compiler, *_FLAGS, str(code), "-o", str(built), *variant, "-lm"], check=True, capture_output=True
        )
        os.replace(built, target)


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernel, or None where there is no C compiler or no place to write.

    Its OpenMP runtime is the one that PyTorch has loaded already, so that both share one set of threads.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None or os.environ.get("ROBUSTSPIKE_KERNEL") == "eager":
        return None
    source = (resources.files("robustspike.kernels") / "neuron.c").read_text()
    for variant in _VARIANTS:
        try:
            return _load(compiler, source, variant)
        except (OSError, subprocess.CalledProcessError):
            continue
    return None


def _load(compiler: str, source: str, variant: tuple[str, ...]) -> ctypes.CDLL:
    key = hashlib.sha256(repr((source, compiler, _FLAGS, variant, _processor())).encode()).hexdigest()[:16]
    target = Path(platformdirs.user_cache_dir("robustspike")) / "kernels" / f"neuron-{key}.so"
    if not target.exists():
        _build(compiler, source, variant, target)
    return ctypes.CDLL(str(target))


def covers(currents: Tensor, surrogate: Surrogate | None) -> bool:
    """Whether the compiled kernel takes these currents and this surrogate (None: it needs none)."""
    return (
        currents.device.type == "cpu"
        and currents.dtype in _TYPES
        and type(surrogate) in _CONSTANTS
        and library() is not None
    )


def _is_dense(step: Tensor) -> bool:
    """Whether the elements of one time step fill memory without gaps, in whatever order of dimensions."""
    expected = 1
    for stride, size in sorted(zip(step.stride(), step.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True


def _flat_in_time(x: Tensor) -> Tensor:
    """x itself where every step is dense and steps follow each other or coincide; else a copy of which that is true."""
    size = x[0].numel()
    return x if _is_dense(x[0]) and x.stride(0) in (0, size) else empty_steps(x, x.dtype).copy_(x)


def _laid_out_as(currents: Tensor, x: Tensor) -> Tensor:
    """x in the order of dimensions of flat currents, itself where it can be read as it is."""
    fits = x.stride()[1:] == currents.stride()[1:] and x.stride(0) in (0, x[0].numel())
    return x if fits else empty_steps(currents, x.dtype).copy_(x)


def _time_stride(x: Tensor) -> int:
    return 0 if x.stride(0) == 0 else x[0].numel()


def _call(name: str, arrays: list[Tensor | None], out: Tensor, neuron: Neuron, surrogate: Surrogate | None) -> Tensor:
    """Call ``name`` of the library for the type of the first array."""
    assert arrays[0] is not None
    kind, a, b = _CONSTANTS[type(surrogate)](surrogate)
    constants = _Constants(
        neuron.leak, neuron.threshold, a, b, len(out), out[0].numel(), kind,
        neuron.hard_reset, neuron.detach_reset, min(torch.get_num_threads(), 1 + out.numel() // _PER_THREAD),
    )  # fmt: skip
    arguments: list[object] = []
    for x in arrays:
        arguments += [ctypes.c_void_p(None if x is None else x.data_ptr())]
        arguments += [ctypes.c_int64(0 if x is None else _time_stride(x))]
    function = getattr(library(), f"{name}_{_TYPES[arrays[0].dtype]}")
    if function(*arguments, ctypes.c_void_p(out.data_ptr()), ctypes.byref(constants)) != 0:
        raise MemoryError("no memory for the membrane potentials of one block of neurons")
    return out


def potentials(currents: Tensor, neuron: Neuron) -> Tensor:
    """Equal to :func:`robustspike.kernels.loop.potentials`."""
    currents = _flat_in_time(currents)
    return _call("potentials", [currents], empty_steps(currents, potential_type(currents)), neuron, None)


class Native:
    """The recursion in C, all steps of a neuron at once."""

    def forward(self, currents: Tensor, neuron: Neuron) -> Tensor:
        currents = _flat_in_time(currents)
        return _call("forward", [currents], empty_steps(currents, currents.dtype), neuron, None)

    def backward(self, grad: Tensor, currents: Tensor, neuron: Neuron, slopes: Tensor | None) -> Tensor:
        currents = _flat_in_time(currents)
        grad = _laid_out_as(currents, grad)
        slopes = None if slopes is None else _laid_out_as(currents, slopes)
        surrogate = neuron.surrogate if slopes is None else None
        out = empty_steps(currents, currents.dtype)
        return _call("backward", [grad, currents, slopes], out, neuron, surrogate)
