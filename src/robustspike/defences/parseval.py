"""RAT's hold on the weights: Parseval retraction, the simplex, row sums, and the norm that they are to keep small."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustspike.defences.objective import Batch


def weight_matrices(model: nn.Module) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Each convolution and linear layer, by its path, with its weight as a matrix [out, rest]."""
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)):
            yield name, module, module.weight.flatten(1)


@dataclass(frozen=True)
class ParsevalRetraction:
    """One step of W ← (1 + β)·W − β·W Wᵀ W on every convolution and linear weight as a matrix [out, rest].

    It draws every singular value σ towards 1: σ ← (1 + β)·σ − β·σ³. An orthonormal W stays as it is.

    Args:
        beta: β ≥ 0, the pace; the step turns singular values over beyond √(1 + 1/β).
        rows: the share of the rows of a large linear layer that each step takes, drawn from PyTorch's generator; the step is
            done on these rows alone.
        large: a linear layer is large with so many rows.

    Raises:
        ValueError: for β < 0 or a share outside (0, 1].

    Source: Ding 2022, section 4.3 (after Cissé et al. 2017); β of the released run of WRN-16 is 0.004, its default 5e-4.
    Differs from the authors' code: the rows come from PyTorch's generator, not NumPy's.

    Example:
        >>> from robustspike.defences import ParsevalRetraction
        >>> layer = nn.Linear(2, 2)
        >>> _ = layer.weight.data.copy_(2 * torch.eye(2))
        >>> ParsevalRetraction(beta=0.1)(layer)
        >>> layer.weight.data.tolist()  # 1.1 · 2 − 0.1 · 2³
        [[1.4000000953674316, 0.0], [0.0, 1.4000000953674316]]
    """

    beta: float = 5e-4
    rows: float = 0.3
    large: int = 200

    def __post_init__(self) -> None:
        if not self.beta >= 0:
            raise ValueError(f"beta must be ≥ 0, got {self.beta}")
        if not 0 < self.rows <= 1:
            raise ValueError(f"rows must be a share in (0, 1], got {self.rows}")

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> None:
        for _, module, W in weight_matrices(model):
            which: Tensor | slice = slice(None)
            if isinstance(module, nn.Linear) and len(W) >= self.large and self.rows < 1:
                which = torch.randperm(len(W))[: int(self.rows * len(W))].to(W.device)
            part = W[which]
            part = (1 + self.beta) * part - self.beta * (part @ part.T) @ part
            weight: Tensor = module.weight  # type: ignore[assignment]
            weight[which] = part.reshape(-1, *weight.shape[1:])


def on_simplex(w: Tensor) -> Tensor:
    """The point of {w ≥ 0, Σ w = 1} nearest to w [n].

    Source: Duchi et al. 2008, figure 1; Ding 2022 uses it for mixing weights.

    Example:
        >>> from robustspike.defences import on_simplex
        >>> on_simplex(torch.tensor([1.0, 0.5])).tolist()
        [0.75, 0.25]
    """
    w = w - w.amax()  # the nearest point is the same, and a large w loses no digits
    u = w.sort(descending=True).values
    excess = (u.cumsum(0) - 1) / torch.arange(1, len(w) + 1, device=w.device)
    return (w - excess[(u > excess).sum() - 1]).clamp(min=0)


@torch.no_grad()
def project_mixing(model: nn.Module) -> None:
    """Puts the mixing weights of every residual block back on the simplex: those of modules with ``mixes = True``.

    Source: Ding 2022, section 4.3 (convex constraint on the weights of residual branches).

    Example:
        >>> model = models.wrn16(time_steps=1, image_size=8)
        >>> _ = model.layers[1].mixing.weight.data.copy_(torch.tensor([1.0, 0.5]))
        >>> defences.project_mixing(model)
        >>> model.layers[1].mixing.weight.tolist()
        [0.75, 0.25]
    """
    for module in model.modules():
        if getattr(module, "mixes", False):
            weight: Tensor = module.weight  # type: ignore[assignment]
            weight.copy_(on_simplex(weight))


@dataclass(frozen=True)
class RowSums:
    """Σ over layers of (max_i Σ_j W⁺_ij + max_i Σ_j W⁻_ij), W⁺ = max(W, 0) and W⁻ = max(−W, 0): γ of Ding's bound.

    Raises:
        ValueError: at call time for a model without such layers.

    Source: Ding 2022, appendix, eq. A5 and Proposition 2; ``arsnn_reg`` in the released code, where nothing calls it.

    Example:
        >>> from robustspike.defences import RowSums
        >>> RowSums().reads_layers
        False
    """

    differentiates_input: ClassVar[bool] = False
    reads_layers: ClassVar[bool] = False

    def __call__(self, batch: Batch) -> Tensor:
        sums = [
            W.clamp(min=0).sum(1).amax() + (-W).clamp(min=0).sum(1).amax() for _, _, W in weight_matrices(batch.model)
        ]
        if not sums:
            raise ValueError(
                f"found no convolution or linear layer in {type(batch.model).__name__}; the penalty on row sums needs one, "
                "use another objective"
            )
        return torch.stack(sums).sum()


@torch.no_grad()
def spectral_norms(model: nn.Module, iterations: int = 30) -> dict[str, float]:
    """σ_max of every convolution and linear weight as a matrix [out, rest], by power iteration from below.

    Args:
        iterations: of v ← WᵀW v / ‖WᵀW v‖, from a fixed start; ≥ 1.

    Raises:
        ValueError: for fewer than one iteration.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> _ = layer.weight.data.copy_(torch.diag(torch.tensor([3.0, 1.0])))
        >>> {name: round(norm, 4) for name, norm in defences.spectral_norms(nn.Sequential(layer)).items()}
        {'0': 3.0}
    """
    if iterations < 1:
        raise ValueError(f"iterations must be ≥ 1, got {iterations}")
    norms = {}
    for name, _, weight in weight_matrices(model):
        W = weight.detach().double() if weight.numel() < 1_000_000 else weight.detach().float()
        v = torch.randn(W.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(W)
        for _ in range(iterations):
            v = W.T @ (W @ v)
            v = v / v.norm().clamp(min=1e-30)
        norms[name] = float((W @ v).norm())
    return norms
