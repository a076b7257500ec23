"""Luu's two-layer network, drawn at random: where the zeros of its gradients come from, and how many there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from robustspike.neurons import LIF
from robustspike.results.audits import EntryBound, Trail
from robustspike.surrogates import ArcTan, Surrogate, Triangle

SIZES, STEPS, SHARES = (8, 16), (1, 4, 16), (1 / 8, 1 / 2, 1)  # d, T, and the k's in shares of d


@dataclass(frozen=True)
class TwoLayers:
    """B networks p = mean_t Θ(w₂·Θ(w₁·s[t])) with the same sizes, each with an input of its own.

    Θ are integrate-and-fire neurons with hard reset and threshold 1; a scalar loss Σ c_i·p_i stands behind them.

    Args:
        w1, w2: [B, d, d].
        s: [T, B, d] of 0 and 1.
        c: [B, d], what each output counts in the loss.
        surrogate: of both layers; Luu's is ArcTan(2).

    Source: Luu 2025, eqs. 8 and 9. Differs from the paper: the neurons integrate over time, as its text and appendix B say
    and its eq. 9 does not, and the surrogate is taken at u − θ.
    """

    w1: Tensor
    w2: Tensor
    s: Tensor
    c: Tensor
    surrogate: Surrogate

    def gradients(self) -> LayerGradients:
        """Of the loss, by autograd."""
        neuron = LIF(surrogate=self.surrogate)
        w1, w2, s = (one.clone().requires_grad_() for one in (self.w1, self.w2, self.s))
        currents1 = torch.einsum("bij,tbj->tbi", w1, s)
        y1 = neuron(currents1)
        currents2 = torch.einsum("bij,tbj->tbi", w2, y1)
        loss = (neuron(currents2).mean(0) * self.c).sum()
        of_s, of_w1, of_w2, of_1, of_2 = torch.autograd.grad(loss, (s, w1, w2, currents1, currents2))
        return LayerGradients(of_s, of_w1, of_w2, of_1, of_2, y1.detach())


@dataclass(frozen=True)
class LayerGradients:
    """∂loss/∂ input s [T, B, d], weights [B, d, d] and the layers' currents [T, B, d]; and the hidden spikes [T, B, d]."""

    s: Tensor
    w1: Tensor
    w2: Tensor
    currents1: Tensor
    currents2: Tensor
    hidden: Tensor


def trail(setting: str, networks: TwoLayers) -> Trail:
    """Zeros of the gradients of random networks, and whether all that must be zero are."""
    g = networks.gradients()
    wrong, silent = broken_rules(networks, g)
    zero = {
        "s": (g.s == 0).double().mean((0, 2)),
        "w1": (g.w1 == 0).double().mean((1, 2)),
        "w2": (g.w2 == 0).double().mean((1, 2)),
    }
    return Trail(
        setting=setting, surrogate=repr(networks.surrogate), silent=silent, violations=wrong,
        **{name: tuple(round(value, 5) for value in shares.tolist()) for name, shares in zero.items()},
    )  # fmt: skip


def broken_rules(networks: TwoLayers, g: LayerGradients) -> tuple[int, int]:
    """How many gradient entries are not 0 although they must be, and how many hidden neurons get no gradient at all.

    An entry of ∇w₁ needs a step at which its neuron's current has a gradient and its input a spike; of ∇s[t] a neuron that
    listens to it and whose current has a gradient at t; of ∇w₂ as of ∇w₁, one layer on.
    """
    seen1, seen2 = (g.currents1 != 0).double(), (g.currents2 != 0).double()
    may_w1 = torch.einsum("tbi,tbj->bij", seen1, (networks.s != 0).double()) > 0
    may_s = torch.einsum("tbi,bij->tbj", seen1, (networks.w1 != 0).double()) > 0
    may_w2 = torch.einsum("tbi,tbj->bij", seen2, (g.hidden != 0).double()) > 0
    pairs = ((g.w1, may_w1), (g.s, may_s), (g.w2, may_w2))
    wrong = sum(int(((gradient != 0) & ~may).sum()) for gradient, may in pairs)
    return wrong, int((seen1.sum(0) == 0).sum())


def trails(count: int, seed: int) -> tuple[Trail, Trail]:
    """Zeros from weights that are 0 (Luu's surrogate is nowhere 0), and, with dense weights, from a surrogate that is."""
    generator, d, steps = torch.Generator().manual_seed(seed), 16, 4
    k = torch.randint(1, d // 4 + 1, (4, count), generator=generator)
    k[2] = torch.randint(1, d + 1, (count,), generator=generator)
    sparse = drawn(d, steps, k[:3], generator)
    read = _ones(k[3], 1, d, generator)[:, 0]  # the loss, like a logit, reads some of the outputs only
    sparse = replace(sparse, c=sparse.c * read)
    gain = 0.2 + 1.8 * torch.rand(2, count, 1, 1, generator=generator, dtype=torch.float64)
    w1, w2 = gain * _normal((2, count, d, d), generator)
    share = torch.rand(count, 1, generator=generator, dtype=torch.float64)
    s = (torch.rand(steps, count, d, generator=generator, dtype=torch.float64) < share).double()
    dense = TwoLayers(w1, w2, s, _normal((count, d), generator), Triangle(1.0))
    return trail("sparse weights", sparse), trail("dense weights", dense)


def entry_bounds(count: int, seed: int, watch: Callable[[float], None]) -> tuple[EntryBound, ...]:
    """Theorem 4.4 for every combination of sizes, steps and densities, each over so many random networks."""
    generator = torch.Generator().manual_seed(seed)
    cases = list(product(SIZES, STEPS, SHARES, SHARES, SHARES))
    found = []
    for i, (d, steps, *shares) in enumerate(cases):
        k = [max(1, round(share * d)) for share in shares]
        found.append(entry_bound(drawn(d, steps, torch.tensor(k)[:, None].expand(3, count), generator), *k))
        watch((i + 1) / len(cases))
    return tuple(found)


def drawn(d: int, steps: int, k: Tensor, generator: torch.Generator) -> TwoLayers:
    """B networks with exactly k[0] weights in every column of w₁, k[1] in every row of w₂ and k[2] spikes at every step.

    Args:
        k: [3, B], from 1 to d.
    """
    count = k.shape[1]
    w1 = _normal((count, d, d), generator) * _ones(k[0], d, d, generator).transpose(1, 2)
    w2 = _normal((count, d, d), generator) * _ones(k[1], d, d, generator)
    s = _ones(k[2], steps, d, generator).transpose(0, 1).contiguous()
    return TwoLayers(w1, w2, s, _normal((count, d), generator), ArcTan(2.0))


def entry_bound(networks: TwoLayers, k1: int, k2: int, k_s: int) -> EntryBound:
    """The counts of eq. 13, ‖w₂·w₁‖₀ and ‖w₂·S‖₀, and those of the gradients, as means over the networks."""
    steps, _, d = networks.s.shape
    by_product = torch.einsum("bij,tbj->bit", networks.w2, networks.s), networks.w2 @ networks.w1
    g = networks.gradients()
    counts = {
        "weight": (by_product[0] != 0).double().sum((1, 2)),
        "input": (by_product[1] != 0).double().sum((1, 2)),
        "weight_gradient": (g.w1 != 0).double().sum((1, 2)),
        "input_gradient": (g.s != 0).double().sum(2).mean(0),
    }
    means = {name: float(count.mean()) for name, count in counts.items()}
    errors = {f"{name}_error": float(count.std() / len(count) ** 0.5) for name, count in counts.items()}
    rounded = {name: float(f"{value:.6g}") for name, value in (means | errors).items()}
    return EntryBound(d=d, steps=steps, k_w1=k1, k_w2=k2, k_s=k_s, **rounded)


def _ones(k: Tensor, rows: int, d: int, generator: torch.Generator) -> Tensor:
    """[B, rows, d] of 0 and 1 with exactly k[b] ones in every row, at random places."""
    places = torch.rand(len(k), rows, d, generator=generator, dtype=torch.float64).argsort(2).argsort(2)
    return (places < k[:, None, None]).double()


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)
