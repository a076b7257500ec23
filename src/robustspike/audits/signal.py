"""Signal and noise of the weight gradient against the number of time steps."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustspike.audits.batches import batches
from robustspike.data import Split
from robustspike.draws import Draws, sampling
from robustspike.encoders import ENCODERS, Frames, Phase, Poisson
from robustspike.gradients import Estimator, cross_entropy, device_of, estimating, frozen
from robustspike.models import SNN
from robustspike.neurons import DLIF, LIF
from robustspike.results.audits import Steadiness, WeightSignal
from robustspike.surrogates import ArcTan

GROUPS, ENTRIES, LEVEL = 20, 64, 0.05  # of the jackknife; compared by a test; of the test
QUANTITIES = ("∇ logit of the true class", "∇ cross-entropy")


class TwoLayerClassifier(nn.Module):
    """Luu's eq. 8 as a classifier: Poisson spikes, two layers of integrate-and-fire neurons, mean spikes as logits.

    Args:
        inputs, hidden, classes: sizes.
        seed: of the weights.
    """

    def __init__(self, inputs: int, hidden: int, classes: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def drawn(rows: int, columns: int) -> nn.Parameter:
            return nn.Parameter(
                3 * columns**-0.5 * torch.randn(rows, columns, generator=generator, dtype=torch.float64)
            )

        self.w1, self.w2 = drawn(hidden, inputs), drawn(classes, hidden)
        self.encoder: nn.Module = Poisson(1)
        self.neuron1, self.neuron2 = LIF(surrogate=ArcTan(2.0)), LIF(surrogate=ArcTan(2.0))

    def forward(self, x: Tensor) -> Tensor:
        """[N, ...] in [0, 1] to [N, classes]."""
        hidden = self.neuron1(self.encoder(x.flatten(1).double()) @ self.w1.T)
        return self.neuron2(hidden @ self.w2.T).mean(0)


def timed_part(model: nn.Module) -> Any:
    """The part of a model whose encoder can be given other time steps; None where there is none."""
    parts = [part for part in model.modules() if isinstance(part, SNN | TwoLayerClassifier)]
    learned = any(isinstance(part, DLIF) for part in model.modules())
    if len(parts) != 1 or learned or type(parts[0].encoder) not in ENCODERS.values():
        return None
    return parts[0]


@contextlib.contextmanager
def lasting(part: Any, time_steps: int) -> Iterator[None]:
    """Within the block the network runs for so many steps, with the same weights."""
    before = part.encoder
    options = (before.phases,) if isinstance(before, Phase) else ()
    part.encoder = type(before)(time_steps, *options).to(device_of(part))
    try:
        yield
    finally:
        part.encoder = before


@dataclass(frozen=True)
class Rows:
    """Gradients of one weight at one T.

    Attributes:
        by_quantity: one for each of QUANTITIES, [n, entries].
        expected: of Σ_k P(y = k)·z_k, the mean over the samples, [entries].
    """

    by_quantity: tuple[Tensor, ...]
    expected: Tensor


def weight_gradients(
    model: nn.Module, data: Split, weights: dict[str, nn.Parameter], estimator: Estimator, seed: int, steps: int
) -> dict[str, Rows]:
    """Sample by sample, in float64; a deterministic function of the sample and its streams."""
    classes = int(data.labels.max()) + 1
    shares = torch.bincount(data.labels, minlength=classes).double().to(device_of(model)) / len(data)
    seen: list[list[list[Tensor]]] = []
    for batch in batches(model, data, "theorems", seed, 1):
        x = batch.x[:, :steps] if isinstance(timed_part(model).encoder, Frames) else batch.x
        seen.append(_of_one(model, x, batch.y, batch.draws.fork("encoder"), list(weights.values()), estimator, shares))
    found = {}
    for w, name in enumerate(weights):
        logit, loss, expected = (torch.stack([one[q][w] for one in seen]) for q in range(3))
        found[name] = Rows((logit, loss), expected.mean(0))
    return found


def _of_one(
    model: nn.Module, x: Tensor, y: Tensor, draws: Draws, weights: Sequence[nn.Parameter], estimator: Estimator,
    shares: Tensor,
) -> list[list[Tensor]]:  # fmt: skip
    """[quantity][weight], flat."""
    with frozen(model), estimating(model, estimator), torch.enable_grad(), sampling(draws):
        for weight in weights:
            weight.requires_grad_(True)
        logits = model(x)
        targets = (logits[0, y[0]], cross_entropy(logits, y)[0], (logits[0, : len(shares)].double() * shares).sum())
        found = []
        for target in targets:
            gradients = torch.autograd.grad(target, weights, retain_graph=True, allow_unused=True)
            found.append([
                torch.zeros(weight.numel(), dtype=torch.float64) if g is None else g.flatten().double().cpu()
                for g, weight in zip(gradients, weights, strict=True)
            ])  # fmt: skip
    return found


def signal_and_noise(rows: Tensor) -> dict[str, tuple[float, float]]:
    """‖E δ‖² and E‖δ − E δ‖² of rows [n, entries], in the sup norm and in ℓ2.

    Source: Luu 2025, eq. 33 (ℓ2, after Shalev-Shwartz et al. 2017) and theorem 4.2 (sup).
    """
    mean = rows.mean(0)
    off = rows - mean
    return {
        "sup": (float(mean.abs().amax().square()), float(off.abs().amax(1).square().mean())),
        "l2": (float(mean.square().sum()), float(off.square().sum(1).mean())),
    }


def log_ratios_without_groups(rows: Tensor, norm: str) -> Tensor:
    """ln SNR with one group of samples left out at a time, [groups]; NaN where it is not finite."""
    groups = min(GROUPS, len(rows))
    place, found = torch.arange(len(rows)) % groups, []
    for group in range(groups):
        signal, noise = signal_and_noise(rows[place != group])[norm]
        found.append(math.log(signal / noise) if signal > 0 and noise > 0 else math.nan)
    return torch.tensor(found, dtype=torch.float64)


def jackknife(values: Tensor) -> float | None:
    """The standard error from values with one group left out each; None where one is not a number."""
    if not values.isfinite().all():
        return None
    count = len(values)
    return float(f"{((count - 1) / count * (values - values.mean()).square().sum()).sqrt():.5g}")


def differing(one: Tensor, other: Tensor) -> float | None:
    """The share of entries [n, entries] whose distributions differ at the 5 % level; None where all are 0.

    Told apart by Kolmogorov and Smirnov's test or by Brown and Forsythe's of the spread, each at 2.5 %. Every second sample
    is taken of ``one`` and the others of ``other``, as the tests want independent samples.
    """
    from scipy import stats  # takes a second to load

    a, b = one[::2].numpy(), other[1::2].numpy()
    alive = ((a != 0).any(0) | (b != 0).any(0)).nonzero()[0].tolist()
    if not alive or len(b) < 4:
        return None
    rejected = 0
    for i in alive:
        shape = stats.ks_2samp(a[:, i], b[:, i], method="asymp").pvalue
        off = [np.abs(values[:, i] - np.median(values[:, i])) for values in (a, b)]
        varies = any(np.ptp(each) > 1e-12 * each.max() for each in off)
        spread = stats.levene(a[:, i], b[:, i], center="median").pvalue if varies else 1.0
        rejected += bool(min(shape, spread) < LEVEL / 2)
    return round(rejected / len(alive), 5)


def measure(
    model: nn.Module, data: Split, weights: dict[str, nn.Parameter], estimator: Estimator, seed: int,
    time_steps: Sequence[int], watch: Callable[[float], None],
) -> tuple[tuple[WeightSignal, ...], tuple[Steadiness, ...]]:  # fmt: skip
    """Signal and noise of each weight's gradient at each T, and whether the gradients at two T are distributed alike."""
    parts: dict[tuple[str, str, str], list[tuple[float, float, Tensor]]] = {}
    kept: dict[str, list[Tensor]] = {name: [] for name in weights}
    covariance: dict[str, list[float]] = {name: [] for name in weights}
    for i, steps in enumerate(time_steps):
        with lasting(timed_part(model), steps):
            found = weight_gradients(model, data, weights, estimator, seed, steps)
        for name, rows in found.items():
            for quantity, of in zip(QUANTITIES, rows.by_quantity, strict=True):
                for norm, pair in signal_and_noise(of).items():
                    parts.setdefault((name, quantity, norm), []).append((*pair, log_ratios_without_groups(of, norm)))
            logit = rows.by_quantity[0]
            kept[name].append(logit[:, torch.linspace(0, logit.shape[1] - 1, min(ENTRIES, logit.shape[1])).long()])
            covariance[name].append(_covariance(logit.mean(0), rows.expected))
        watch((i + 1) / len(time_steps))
    signals = tuple(_signal(key, time_steps, of) for key, of in parts.items())
    return signals, tuple(steadiness(name, time_steps, kept[name], covariance[name]) for name in weights)


def _covariance(product: Tensor, expected: Tensor) -> float:
    """‖E[h·g] − E[h]·E[g]‖∞ / ‖E[h·g]‖∞ with h one-hot; 0 where both are 0."""
    largest = float(product.abs().amax())
    return float(f"{float((product - expected).abs().amax()) / largest:.5g}") if largest > 0 else 0.0


def _signal(
    key: tuple[str, str, str], time_steps: Sequence[int], of: Sequence[tuple[float, float, Tensor]]
) -> WeightSignal:  # fmt: skip
    logs = [each for _, _, each in of]
    return WeightSignal(
        weight=key[0], quantity=key[1], norm=key[2], time_steps=tuple(time_steps),
        signal=tuple(float(f"{signal:.6g}") for signal, _, _ in of),
        noise=tuple(float(f"{noise:.6g}") for _, noise, _ in of),
        error=tuple(map(jackknife, logs)),
        step_error=tuple(jackknife(after - before) for before, after in pairwise(logs)),
    )  # fmt: skip


def steadiness(
    name: str, time_steps: Sequence[int], kept: Sequence[Tensor], covariance: Sequence[float]
) -> Steadiness:  # fmt: skip
    """Whether gradients [n, entries] at one T and the next are distributed alike, as means and as sums over time."""
    sums = [steps * rows for steps, rows in zip(time_steps, kept, strict=True)]
    return Steadiness(
        weight=name, time_steps=tuple(time_steps), covariance=tuple(covariance),
        mean_differs=tuple(differing(a, b) for a, b in pairwise(kept)),
        sum_differs=tuple(differing(a, b) for a, b in pairwise(sums)),
        same_differs=tuple(differing(a, a) for a in kept),
    )  # fmt: skip
