"""The loss around samples, on the plane of its gradient's sign and a random direction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustspike.attacks.losses import margin
from robustspike.attacks.suites import describe_estimator
from robustspike.audits.batches import Batch, Stopwatch, Watch, batches
from robustspike.audits.probability import usual
from robustspike.audits.rounding import rounded
from robustspike.balls import Linf
from robustspike.data import Split
from robustspike.draws import sampling
from robustspike.gradients import Estimator, cross_entropy, frozen, input_gradient
from robustspike.results.audits import Plane, Surface


def surface(
    model: nn.Module,
    data: Split,
    *,
    eps: float | str = "8/255",
    estimator: Estimator | None = None,
    seed: int = 0,
    batch_size: int = 64,
    watch: Watch | None = None,
    points: int = 15,
    pictures: int = 4,
    samples: int = 32,
    scale: float = 2.0,
) -> Surface:
    """Cross-entropy and margin at x + a·sign(g) + b·r, g = ∇_x of the cross-entropy and r of random signs.

    a and b run from −scale·eps to scale·eps; points are not cut to [0, 1]. A stochastic encoder's draws are held fixed for
    each sample. Beside what is measured stands the first-order prediction CE(x) + a·‖g‖₁ + b·g·r.

    Args:
        model: x [N, ...] in [0, 1] to logits [N, K]; in evaluation mode meanwhile, left as it was.
        data: the samples.
        eps: radius in pixel units.
        estimator: what g is taken through; None: the model's own gradient.
        seed: of the random directions and an encoder's draws.
        batch_size: samples at a time; no figure depends on it beyond rounding.
        watch: hears how much is done.
        points: values of a, and of b; odd, so that x itself is one.
        pictures: the whole plane is computed for the first so many samples.
        samples: the two lines b = 0 and a = 0 are computed for the first so many.
        scale: how far the plane reaches, in ε.

    Raises:
        ValueError: for an empty split, an even number of points or fewer than three, or eps, scale or a number of samples
            that is not positive.

    Example:
        >>> found = audits.surface(digits_cnn(time_steps=2), load("digits").test.subset(4), points=3, pictures=1)
        >>> len(found.planes), len(found.along_gradient), len(found.coordinates)
        (1, 4, 3)

    Source: the plane is that of Madry et al. 2018 and Athalye et al. 2018, who look for masked gradients on it.
    """
    clock, radius = Stopwatch(), Linf(eps).eps
    _check(radius, points, pictures, samples, scale)
    half = points // 2
    coordinates = tuple(scale * radius * k / half for k in range(-half, half + 1))
    part, estimator = data.subset(min(samples, len(data))), usual(estimator)
    planes: list[Plane] = []
    lines: list[Tensor] = []
    first = 0
    for batch in batches(model, part, "surface", seed, batch_size, watch):
        around = Around.each(model, batch, estimator)
        lines.append(torch.cat([*around.lines(coordinates), around.slopes], 1).cpu())
        planes += around.planes(coordinates, first, pictures)
        first += len(batch.x)
    table = torch.cat(lines)
    broken = ~table.isfinite().all(1)
    table = table.masked_fill(broken[:, None], 0.0)
    return Surface(
        n=len(part), seed=seed, seconds=clock.seconds, gradients=len(part),
        under=f"gradient of the cross-entropy through {describe_estimator(estimator)}, points not cut to [0, 1]",
        eps=radius, coordinates=coordinates, planes=tuple(planes), not_finite=int(broken.sum()),
        along_gradient=tuple(map(rounded, table[:, :points])), along_random=tuple(map(rounded, table[:, points:-2])),
        l1=rounded(table[:, -2]), on_random=rounded(table[:, -1]),
    )  # fmt: skip


@dataclass(frozen=True)
class Around:
    """The loss around the samples of a batch.

    Attributes:
        up: sign(g), like batch.x.
        across: r.
        slopes: ‖g‖₁ and g·r, [n, 2] float64.
    """

    model: nn.Module
    batch: Batch
    up: Tensor
    across: Tensor
    slopes: Tensor

    @classmethod
    def each(cls, model: nn.Module, batch: Batch, estimator: Estimator) -> Around:
        """With both directions of each sample."""
        g = input_gradient(model, batch.x, batch.y, estimator, draws=batch.draws.fork("encoder"))
        across = (1 - 2 * batch.draws.fork("direction").integers(2, g.shape[1:])).to(g.dtype)
        wide = g.flatten(1).double()
        return cls(
            model, batch, g.sign(), across, torch.stack([wide.abs().sum(1), (wide * across.flatten(1)).sum(1)], 1)
        )

    def at(self, a: Sequence[float], b: float, count: int) -> Tensor:
        """Cross-entropy and margin of the first ``count`` samples at x + a·sign(g) + b·r, [len(a), count, 2] float64."""
        x, y = self.batch.x[:count], self.batch.y[:count].repeat(len(a))
        there = torch.cat([x + one * self.up[:count] + b * self.across[:count] for one in a])
        # The gradient's first draw is this fork.
        streams = self.batch.draws[torch.arange(count, device=y.device).repeat(len(a))].fork("encoder").fork(0)
        with frozen(self.model), torch.no_grad(), sampling(streams):
            logits = self.model(there).double()
        return torch.stack([cross_entropy(logits, y), margin(logits, y)], 1).unflatten(0, (len(a), count))

    def lines(self, coordinates: Sequence[float]) -> tuple[Tensor, Tensor]:
        """The cross-entropy along sign(g) and along r, [n, points] each."""
        n = len(self.batch.x)
        found = (
            [self.at([c], 0.0, n)[0, :, 0] for c in coordinates],
            [self.at([0.0], c, n)[0, :, 0] for c in coordinates],
        )
        return torch.stack(found[0], 1), torch.stack(found[1], 1)

    def planes(self, coordinates: Sequence[float], first: int, pictures: int) -> Iterator[Plane]:
        """The planes of those samples that are among the first ``pictures``; ``first``: the place of the batch's first."""
        count = min(max(pictures - first, 0), len(self.batch.x))
        if count == 0:
            return
        values = (
            torch.stack([self.at(coordinates, b, count) for b in coordinates]).permute(2, 3, 0, 1).cpu()
        )  # [n, 2, b, a]
        for i, (loss, margins) in enumerate(values):
            slope, on_random = rounded(self.slopes[i])
            yield Plane(
                sample=first + i, label=int(self.batch.y[i]), loss=tuple(map(rounded, loss)),
                margin=tuple(map(rounded, margins)), slopes=(slope, on_random),
            )  # fmt: skip


def _check(eps: float, points: int, pictures: int, samples: int, scale: float) -> None:
    if points < 3 or points % 2 == 0:
        raise ValueError(f"audit 'surface': points must be odd and ≥ 3, so that x itself is one of them; got {points}")
    if not (eps > 0 and 0 < scale < float("inf")):
        raise ValueError(f"audit 'surface': eps and scale must be positive and finite, got {eps} and {scale}")
    if samples < 1 or pictures < 0:
        raise ValueError(f"audit 'surface': expected samples ≥ 1 and pictures ≥ 0, got {samples} and {pictures}")
