"""What is known to go wrong in releases of torchattacks; each is run on a few numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustspike.doctor.checks import Verdict


class _Watched(nn.Module):
    """A network in eval mode but for one layer, which notes in which mode it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.seen: list[bool] = []
        self.eval()
        self.layer.train()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(self.layer.training)
        logits: Tensor = self.layer(x)
        return logits


def modes() -> Verdict:
    """Neurons alone in training mode is how releases of SpikingJelly before 2.0 keep a gradient."""
    import torchattacks

    net = _Watched()
    torchattacks.FGSM(net, eps=0.1)(torch.full((1, 2), 0.5), torch.tensor([0]))
    during = "training" if any(net.seen) else "eval"
    after = "training" if net.layer.training else "eval"
    said = (
        f"a layer put to training mode in a network in eval mode is in {during} mode during an attack, {after} after it"
    )
    return Verdict(all(net.seen) and net.layer.training, said)
