"""The affine operator that leads from one spike train to the currents of the next layer, and its norms."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from robustspike.audits.trains import Trains, currents_of
from robustspike.draws import Draws
from robustspike.gradients import BPTT, estimating, frozen
from robustspike.neurons import repeat

TOLERANCE = 1e-9
ROWS = 1000


@dataclass(frozen=True)
class RowSums:
    """Of a matrix W with bias b: γ, γ with the bias as one more input that always fires, and ‖W‖_∞.

    ``exact``: whether they are these values, or upper bounds of them.
    """

    gamma: float
    gamma_bias: float
    norm_inf: float
    exact: bool


@dataclass(frozen=True)
class Affine:
    """I[t] = W s[t] + b, the same at every step, in float64.

    Attributes:
        inputs, outputs: the numbers of columns and rows of W.
        times: v [inputs] to W v [outputs].
        transposed: u [outputs] to Wᵀ u [inputs].
        bias: b, [outputs].
        total: Σ_j w_ij, [outputs].
        most: at least Σ_j |w_ij|, [outputs].
    """

    inputs: int
    outputs: int
    times: Callable[[Tensor], Tensor]
    transposed: Callable[[Tensor], Tensor]
    bias: Tensor
    total: Tensor
    most: Tensor

    def sigma_max(self, iterations: int) -> float:
        """‖W‖₂ by power iteration of WᵀW, from below, as the largest stretch in the space of all its iterates (Lanczos).

        It ends when an iteration adds less than a 10⁻⁸th.

        Source: Ding 2022, appendix, Proposition 1.
        """
        v = Draws.of(0, torch.zeros(1, dtype=torch.int64)).normal((self.inputs,), torch.float64)[0].to(self.bias)
        space, sigma = (v / v.norm())[None], 0.0
        diagonal: list[float] = []
        beside: list[float] = []
        for _ in range(min(iterations, self.inputs)):
            w = self.transposed(self.times(space[-1]))
            diagonal.append(float(w @ space[-1]))
            for _ in range(2):  # once is not enough to keep the space orthogonal
                w = w - space.T @ (space @ w)
            before, sigma = sigma, _largest(diagonal, beside) ** 0.5
            if sigma - before <= 1e-8 * sigma or float(w.norm()) <= 1e-14 * sigma**2:
                break
            beside.append(float(w.norm()))
            space = torch.cat([space, (w / w.norm())[None]])
        return sigma

    def row_sums(self) -> RowSums:
        """max_i Σ_j w⁺ + max_i Σ_j w⁻ and the largest Σ_j |w_ij|, from the rows that can hold the largest.

        Source: Ding 2022, appendix, Proposition 2 and eq. A5.
        """
        rows = _Rows(self)
        most = self.most if rows.keep_to(self.most) else torch.full_like(self.most, torch.inf)
        positive, negative = (most + self.total) / 2, (most - self.total) / 2
        plus, minus = rows.largest(positive, 0), rows.largest(negative, 1)
        zero = torch.zeros_like(self.bias)
        plus_bias = rows.largest(positive, 0, torch.maximum(self.bias, zero))
        minus_bias = rows.largest(negative, 1, torch.maximum(-self.bias, zero))
        norm_inf = rows.largest(most, 2)
        return RowSums(plus + minus, plus_bias + minus_bias, norm_inf, rows.exact)


def _largest(diagonal: Sequence[float], beside: Sequence[float]) -> float:
    """The largest eigenvalue of a symmetric matrix with these numbers on and beside its diagonal, 0 at least."""
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    matrix += torch.diag(torch.tensor(beside, dtype=torch.float64), 1)
    return max(float(torch.linalg.eigvalsh(matrix, UPLO="U")[-1]), 0.0)


@dataclass
class _Rows:
    """Rows of W, one after the other: (Σ_j w⁺, Σ_j w⁻, Σ_j |w|) of each, as far as they were needed."""

    affine: Affine
    known: dict[int, tuple[float, float, float]] = field(default_factory=dict)
    exact: bool = True

    def __getitem__(self, i: int) -> tuple[float, float, float]:
        if i not in self.known:
            unit = torch.zeros_like(self.affine.bias)
            unit[i] = 1
            row = self.affine.transposed(unit)
            positive, negative = float(row.clamp(min=0).sum()), float((-row).clamp(min=0).sum())
            self.known[i] = positive, negative, positive + negative
        return self.known[i]

    def keep_to(self, most: Tensor) -> bool:
        """Whether Σ_j |w_ij| ≤ ``most``, as far as four rows and all Σ_j w_ij tell.

        It does where weights are products of parameters; one divided by a norm of parameters, say, may be larger.
        """
        slack = TOLERANCE * (1 + most.abs())
        if not bool((self.affine.total.abs() <= most + slack).all()):
            return False
        some = {k * (len(most) - 1) // 3 for k in range(4)}
        return all(self[i][2] <= float(most[i] + slack[i]) for i in some)

    def largest(self, upper: Tensor, which: int, added: Tensor | None = None) -> float:
        """The largest of these sums, plus what is added to each row, where ``upper`` holds an upper bound of each sum."""
        added = torch.zeros_like(upper) if added is None else added
        limits, best = upper + added, 0.0
        for i in limits.argsort(descending=True).tolist():
            limit = float(limits[i])
            if best >= limit - TOLERANCE * abs(limit):
                break
            if i not in self.known and len(self.known) >= ROWS and math.isfinite(limit):
                self.exact = False
                return limit
            best = max(best, self[i][which] + float(added[i]))
        return best


@dataclass(frozen=True)
class Way:
    """What leads to one call of a spiking layer.

    Attributes:
        previous: the trains that its currents depend on directly: 0 the encoded image, k the k-th call of a spiking layer.
        affine: the operator, where there is one train and the way from it is affine and the same at every step.
        why: why there is none, in words; else empty.
    """

    previous: tuple[int, ...]
    affine: Affine | None
    why: str


def ways(model: nn.Module, sent: Trains, x: Tensor) -> list[Way]:
    """The way to each call of a spiking layer, for an image x [1, ...] and what the network sends for it, in float64."""
    with estimating(model, BPTT()):  # no copy of an estimator that is looking through it
        twin = copy.deepcopy(model).double()
    x, time_steps = x.double(), sent.time_steps
    _check_double(twin, x)
    shapes = [sent.encoded.shape, *(each.spikes.shape for each in sent.layers)]
    lengths = [len(sent.encoded), *(len(each.spikes) for each in sent.layers)]
    with frozen(twin):
        most = _absolute_sums(twin, x, shapes, lengths)
        bases = [torch.zeros(shape[1:], dtype=torch.float64, device=x.device).requires_grad_() for shape in shapes]
        with torch.enable_grad():
            currents = currents_of(twin, x, _constant(bases, lengths))
        checks = _Checks.run(twin, x, shapes, lengths)
        ones = _first(currents_of(twin, x, _constant([torch.ones_like(base) for base in bases], lengths)))
    found = []
    for k, each in enumerate(currents):
        previous = _sources(each, bases)
        why = _obstacle(previous, checks, k, time_steps, sent)
        affine = None if why else _affine(each, bases[previous[0]], ones[k], most[k])
        found.append(Way(previous, affine, why))
    return found


def _check_double(twin: nn.Module, x: Tensor) -> None:
    try:
        with frozen(twin), torch.no_grad():
            twin(x)
    except RuntimeError as error:
        raise ValueError(
            f"the bounds are computed in float64, in which this network does not run ({error}); snnTorch's neurons "
            "send float32 whatever they get"
        ) from None


def _constant(values: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
    """Trains that send [N, ...] at every step."""
    return [repeat(value, length) for value, length in zip(values, lengths, strict=True)]


def _first(currents: Sequence[Tensor]) -> list[Tensor]:
    return [each[0].detach() for each in currents]


def _absolute_sums(twin: nn.Module, x: Tensor, shapes: Sequence[torch.Size], lengths: Sequence[int]) -> list[Tensor]:
    """Σ over the paths from each input of the product of |weights|, for each current: Σ_j |w_ij| at least."""
    state = {name: value.clone() for name, value in twin.state_dict().items()}
    found = []
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.abs_()
        for value in (1.0, 0.0):
            sent = [torch.full(shape[1:], value, dtype=torch.float64, device=x.device) for shape in shapes]
            found.append(_first(currents_of(twin, x, _constant(sent, lengths))))
    twin.load_state_dict(state)
    return [(one - none).flatten() for one, none in zip(*found, strict=True)]


@dataclass(frozen=True)
class _Checks:
    """Of each call: how far its currents are from affine, and from being made step by step, as shares of their size."""

    bent: list[float]
    unequal: list[float]

    @classmethod
    @torch.no_grad()
    def run(cls, twin: nn.Module, x: Tensor, shapes: Sequence[torch.Size], lengths: Sequence[int]) -> _Checks:
        draws = Draws.of(1, torch.zeros(1, dtype=torch.int64, device=x.device))
        a, b = (
            [draws.fork(name).fork(k).normal(shape, torch.float64)[0] for k, shape in enumerate(shapes)]
            for name in "ab"
        )
        none = [torch.zeros_like(each) for each in a]
        both = [one + other for one, other in zip(a, b, strict=True)]
        at_a, at_b, at_none, at_both = (currents_of(twin, x, sent) for sent in (a, b, none, both))
        bent, unequal = [], []
        last = _first(currents_of(twin, x, _constant([each[-1] for each in a], lengths)))
        first = _first(currents_of(twin, x, _constant([each[0] for each in a], lengths)))
        for k, one in enumerate(at_a):
            size = float(one.abs().max()) or 1.0
            bent.append(float((one + at_b[k] - at_both[k] - at_none[k]).abs().max()) / size)
            steps = torch.stack([(one[0] - first[k]).abs().max(), (one[-1] - last[k]).abs().max()])
            unequal.append(float(steps.max()) / size)
        return cls(bent, unequal)


def _sources(currents: Tensor, bases: Sequence[Tensor]) -> tuple[int, ...]:
    """Which trains the currents depend on."""
    if not currents.requires_grad:
        return ()
    slopes = torch.autograd.grad(currents.sum(), bases, retain_graph=True, allow_unused=True)
    return tuple(k for k, slope in enumerate(slopes) if slope is not None)


def _obstacle(previous: Sequence[int], checks: _Checks, k: int, time_steps: int, sent: Trains) -> str:
    if not previous:
        return "no spike train leads to it that could be followed"
    if len(previous) > 1:
        return f"its currents join {len(previous)} spike trains, the theorem knows one"
    if checks.bent[k] > TOLERANCE:
        return "the way to it is not affine (max pooling, an activation or a product)"
    if len(sent.encoded if previous[0] == 0 else sent.layers[previous[0] - 1].spikes) != time_steps:
        return "it reads the image, and what encodes that is not known"
    if checks.unequal[k] > TOLERANCE:
        return "its weights differ between time steps"
    return ""


def _affine(currents: Tensor, base: Tensor, ones: Tensor, most: Tensor) -> Affine:
    step, u = currents[0], torch.zeros_like(currents[0]).requires_grad_()
    with torch.enable_grad():
        back = torch.autograd.grad(step, base, u, create_graph=True)[0]  # Wᵀu as a function of u

    def times(v: Tensor) -> Tensor:
        return torch.autograd.grad(back, u, v.reshape(back.shape), retain_graph=True)[0].flatten()

    def transposed(w: Tensor) -> Tensor:
        return torch.autograd.grad(step, base, w.reshape(step.shape), retain_graph=True)[0].flatten()

    bias = step.detach().flatten()
    return Affine(base.numel(), bias.numel(), times, transposed, bias, ones.flatten() - bias, most)
