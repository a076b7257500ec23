"""What is being measured on: a description, and the peaks that shares refer to."""

from __future__ import annotations

import os
import platform
from functools import partial
from pathlib import Path

import torch

from benchmarks.timing import Call, seconds


def processor() -> str:
    """The CPU's model as the system names it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if "model name" not in names:
        return platform.processor() or platform.machine()
    details = [f"{key} {names[key]}" for key in ("cpu family", "model") if key in names]
    details += [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in names.get("flags", "").split()]
    return f"{names['model name']} ({', '.join(details)})"


def description(device: torch.device) -> dict[str, str]:
    """Hardware and versions, as label and value."""
    facts = {
        "Processor": processor(),
        "Cores": f"{os.cpu_count()}; PyTorch's threads: {torch.get_num_threads()}{_thread_settings()}",
        "Load when started": f"{os.getloadavg()[0]:.1f} (average of the last minute; idle is 0)",
        "PyTorch": torch.__version__,
        "Python": platform.python_version(),
        "System": platform.platform(),
    }
    if device.type == "cuda":
        facts["GPU"] = torch.cuda.get_device_name(device)
    return facts


def _thread_settings() -> str:
    """What the environment says about threads, if anything: it changes every figure."""
    found = [f"{name}={os.environ[name]}" for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY") if name in os.environ]
    return f" ({', '.join(found)})" if found else ""


def peaks(device: torch.device, size: int, repetitions: int) -> dict[str, float]:
    """The best rate seen of a square matrix product, operations per second, and of a copy, bytes per second."""
    best = {}
    for dtype, name in ((torch.float32, "float32"), (torch.bfloat16, "bfloat16")):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        best[name] = 2 * size**3 / _least(partial(torch.mm, a, b), repetitions, device)
    source = torch.zeros(16 * size * size, device=device)
    target = torch.empty_like(source)
    best["bytes"] = 2 * source.nbytes / _least(lambda: target.copy_(source), repetitions, device)
    return best


def _least(call: Call, repetitions: int, device: torch.device) -> float:
    call()
    return min(seconds(call, device) for _ in range(repetitions))
