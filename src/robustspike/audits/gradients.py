"""Norms and distribution of the gradients that an attack sees."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustspike.attacks.suites import describe_estimator
from robustspike.audits.batches import Stopwatch, Watch, batches
from robustspike.audits.probability import f_y, usual
from robustspike.data import Split
from robustspike.gradients import Estimator, cross_entropy, input_gradient
from robustspike.results.audits import Gradients, Norms, Spread

# Values of ∇f_y between which entries are counted: 40 bins of equal width.
EDGES = tuple(-0.1 + 0.005 * i for i in range(41))


def gradients(
    model: nn.Module,
    data: Split,
    *,
    estimator: Estimator | None = None,
    seed: int = 0,
    batch_size: int = 64,
    watch: Watch | None = None,
) -> Gradients:
    """‖∇f_y‖₀, ‖·‖₁, ‖·‖₂ and the distribution of its entries, and the same norms of the loss's gradient.

    f_y is the softmax over the true class and its strongest rival (Liu 2024, eq. 9). Means are over samples.

    Args:
        model: x [N, ...] in [0, 1] to logits [N, K]; in evaluation mode meanwhile, left as it was.
        data: the samples.
        estimator: how the gradient passes through the neurons; None: the model's own.
        seed: of an encoder's draws.
        batch_size: samples at a time; no figure depends on it beyond rounding.
        watch: hears how much is done.

    Raises:
        ValueError: for an empty split, or a model that cannot carry the estimator.

    Example:
        >>> found = audits.gradients(digits_cnn(time_steps=2), load("digits").test.subset(4))
        >>> len(found.of_probability.l1), round(sum(found.spread.shares), 6)
        (4, 1.0)

    Source: Liu 2024, section 5.4, Figs. 3 (b) and 4. Differs from the paper: ℓ0 counts exact zeros.
    """
    clock, estimator = Stopwatch(), usual(estimator)
    of_probability: list[Tensor] = []
    of_loss: list[Tensor] = []
    counts = torch.zeros(len(EDGES) - 1, dtype=torch.float64)
    for batch in batches(model, data, "gradients", seed, batch_size, watch):
        for loss, rows in ((f_y, of_probability), (cross_entropy, of_loss)):
            g = input_gradient(model, batch.x, batch.y, estimator, loss=loss, draws=batch.draws).flatten(1).double()
            rows.append(norms_of(g))
            if loss is f_y:
                inside = g[g.isfinite()].clamp(EDGES[0], EDGES[-1]).cpu()
                counts += torch.histogram(inside, torch.tensor(EDGES, dtype=torch.float64)).hist
    return Gradients(
        n=len(data), seed=seed, under=describe_estimator(estimator), gradients=2 * len(data), seconds=clock.seconds,
        of_probability=_norms(of_probability), of_loss=_norms(of_loss),
        spread=Spread(edges=EDGES, shares=tuple((counts / counts.sum().clamp(min=1)).tolist())),
    )  # fmt: skip


def norms_of(g: Tensor) -> Tensor:
    """Share of non-zero entries, ℓ1, ℓ2 and whether an entry is not finite, [n, 4], of gradients [n, d]."""
    broken = ~g.isfinite()
    g = g.masked_fill(broken, 0.0)
    return torch.stack([(g != 0).double().mean(1), g.abs().sum(1), g.norm(dim=1), broken.any(1).double()], 1).cpu()


def _norms(rows: list[Tensor]) -> Norms:
    l0, l1, l2, broken = torch.cat(rows).unbind(1)
    return Norms(l0=tuple(l0.tolist()), l1=tuple(l1.tolist()), l2=tuple(l2.tolist()), not_finite=int(broken.sum()))
