"""Attacks of training that are made of chance: one of several, or noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustspike.defences.objective import Perturb
from robustspike.draws import Draws, sampling


@dataclass(frozen=True)
class Mixed:
    """One of several attacks, chosen at random for each mini-batch or for each sample.

    Args:
        attacks: (model, x, y) to x_adv.
        per: "batch" (RAT) or "sample": each attack gets the samples that it was chosen for.

    Raises:
        ValueError: without attacks, or for another ``per``.

    Source: Ding 2022, section 4.2: FGSM seen through BPTT or BPTR, chosen for each mini-batch.

    Example:
        >>> from robustspike.defences import Mixed
        >>> mixed = Mixed((fgsm(Linf("2/255")), fgsm(Linf("2/255"), BPTR())))
        >>> mixed(digits_cnn(time_steps=2), torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 2])).shape
        torch.Size([3, 1, 8, 8])
    """

    attacks: tuple[Perturb, ...]
    per: str = "batch"

    def __post_init__(self) -> None:
        if not self.attacks:
            raise ValueError("Mixed needs at least one attack, got none")
        if self.per not in ("batch", "sample"):
            raise ValueError(f'per must be "batch" or "sample", got {self.per!r}')

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        if self.per == "batch":
            return self.attacks[int(torch.randint(len(self.attacks), ()))](model, x, y)
        draws = Draws.fresh(len(x), x.device)
        chosen, x_adv = draws.fork("choice").integers(len(self.attacks)), x.clone()
        for k, attack in enumerate(self.attacks):
            which = (chosen == k).nonzero().flatten()
            if len(which):
                with sampling(draws.fork(k)[which]):
                    x_adv[which] = attack(model, x[which], y[which])
        return x_adv


@dataclass(frozen=True)
class Noisy:
    """x + N(0, σ²) for every pixel, clipped to [0, 1].

    Args:
        deviation: σ ≥ 0, in pixel units.

    Raises:
        ValueError: for σ < 0.

    Source: Kannan et al. 2018, section 3.2 (clean logit pairing adds such noise).

    Example:
        >>> from robustspike.defences import Noisy
        >>> Noisy(0.1)(nn.Flatten(), torch.rand(2, 4), torch.tensor([0, 1])).shape
        torch.Size([2, 4])
    """

    deviation: float

    def __post_init__(self) -> None:
        if not self.deviation >= 0:
            raise ValueError(f"noise must have a standard deviation ≥ 0, got {self.deviation}")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        noise = Draws.fresh(len(x), x.device).normal(x.shape[1:], x.dtype)
        return (x + self.deviation * noise).clamp(0, 1)
