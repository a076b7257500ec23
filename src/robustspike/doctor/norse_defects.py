"""What is known to go wrong in releases of Norse; each is run on a few numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from robustspike.doctor.checks import Verdict
from robustspike.doctor.encoded import cutting, image


def alpha() -> Verdict:
    """The sharpness of the default method."""
    from norse.torch.functional.threshold import threshold

    slopes = []
    for sharpness in (1.0, 100.0):
        u = torch.tensor([-0.5, 0.3], requires_grad=True)
        slopes.append(torch.autograd.grad(threshold(u, "super", torch.as_tensor(sharpness)).sum(), u)[0])
    same = bool(torch.equal(*slopes))
    values = " and ".join(f"{float(slope[0]):.3g}" for slope in slopes)
    return Verdict(not same, f'the slope of method "super" at u − θ = −0.5 is {values} for alpha = 1 and 100')


def sets_alpha(module: nn.Module) -> bool:
    """Whether a module was given an alpha that the defect ignores."""
    p: Any = getattr(module, "p", None)
    parts = [part for part in (p, *(p if hasattr(p, "_fields") else ())) if hasattr(part, "alpha")]
    return any(
        getattr(part, "method", None) == "super"
        and not torch.equal(torch.as_tensor(part.alpha), torch.as_tensor(type(part)().alpha))
        for part in parts
    )


def encoders() -> Verdict:
    """Spikes that do not depend on the image by any path that autograd knows."""
    from norse.torch.functional.encode import poisson_encode, spike_latency_lif_encode

    return cutting(
        {
            "poisson_encode": poisson_encode(image(), seq_length=4),
            "spike_latency_lif_encode": spike_latency_lif_encode(image(), seq_length=4),
        }
    )
