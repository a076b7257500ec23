"""The exponential moving average of a network's weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class Average:
    """w̄ ← decay·w̄ + (1 − decay)·w after every step, from w̄ = w after the first; BatchNorm's statistics included.

    Whole numbers are copied. With a decay of 0 there is no average, and the network's own weights stand for it.

    Source: Polyak and Juditsky 1992; as ``torch.optim.swa_utils.get_ema_multi_avg_fn``.
    """

    def __init__(self, decay: float, tensors: Mapping[str, Tensor] | None = None) -> None:
        self.decay, self.tensors = decay, dict(tensors or {})

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the weights as they are now into the average."""
        if self.decay == 0:
            return
        own = model.state_dict()
        if not self.tensors:
            self.tensors = {name: t.clone() for name, t in own.items()}
            return
        floating = [name for name, t in own.items() if t.is_floating_point()]
        torch._foreach_lerp_(
            [self.tensors[name] for name in floating], [own[name] for name in floating], 1 - self.decay
        )
        for name in own.keys() - set(floating):
            self.tensors[name].copy_(own[name])

    @torch.no_grad()
    def put_into(self, model: nn.Module) -> None:
        """Overwrite the network's weights with the average."""
        for name, t in model.state_dict().items():
            if name in self.tensors:
                t.copy_(self.tensors[name])

    @contextlib.contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """Within the block the network has the average weights; then its own again."""
        own = {name: t.clone() for name, t in model.state_dict().items()} if self.tensors else {}
        self.put_into(model)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, t in model.state_dict().items():
                    if name in own:
                        t.copy_(own[name])
