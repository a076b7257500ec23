"""Whether a gradient passes through an encoder."""

from __future__ import annotations

import torch
from torch import Tensor

from robustspike.doctor.checks import Verdict


def image() -> Tensor:
    """Four grey pixels that ask for a gradient, [1, 4] in (0, 1)."""
    return torch.tensor([[0.2, 0.4, 0.6, 0.8]], requires_grad=True)


def cutting(spikes: dict[str, Tensor]) -> Verdict:
    """Which encoders' spikes do not require a gradient although the image did."""
    cut = [name for name, train in spikes.items() if not train.requires_grad]
    return Verdict(
        not cut, f"{len(cut)} of {len(spikes)} encoders cut the graph" + (f": {', '.join(cut)}" if cut else "")
    )
