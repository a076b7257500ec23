"""Terms of two points: what the network says of the clean image against what it says of another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from robustspike.defences.objective import Batch
from robustspike.defences.terms import strongest_rival
from robustspike.gradients import divergence


@dataclass(frozen=True)
class Divergence:
    """TRADES: mean KL(p(x) ‖ p(x_adv)), p the softmax of the logits; gradient through both.

    Source: Zhang et al. 2019, eq. 5 with the KL divergence of their code.

    Example:
        >>> from robustspike.defences import Divergence
        >>> Divergence().reads_layers
        False
    """

    differentiates_input: ClassVar[bool] = False
    reads_layers: ClassVar[bool] = False

    def __call__(self, batch: Batch) -> Tensor:
        return divergence(batch.clean.logits, batch.point.logits).mean()


@dataclass(frozen=True)
class WeightedDivergence:
    """MART: mean KL(p(x) ‖ p(x_adv)) · (1 − p_y(x)): most where the clean image is not known for sure.

    Source: Wang et al. 2020, eq. 8. Differs from the authors' code: 1 where they have 1.0000001, and no 1e-12 in the
    logarithm.

    Example:
        >>> from robustspike.defences import WeightedDivergence
        >>> WeightedDivergence().differentiates_input
        False
    """

    differentiates_input: ClassVar[bool] = False
    reads_layers: ClassVar[bool] = False

    def __call__(self, batch: Batch) -> Tensor:
        p_y = batch.clean.logits.softmax(1).gather(1, batch.y[:, None]).squeeze(1)
        return (divergence(batch.clean.logits, batch.point.logits) * (1 - p_y)).mean()


@dataclass(frozen=True)
class BoostedCrossEntropy:
    """MART: mean −log p_y − log(1 − max_{k≠y} p_k), at x_adv.

    Source: Wang et al. 2020, eq. 6. Differs from the authors' code: no 0.0001 and 1e-12 inside the logarithm; log(1 − max p)
    is computed as the logsumexp of all other classes, which does not overflow.

    Example:
        >>> from robustspike.defences import BoostedCrossEntropy
        >>> BoostedCrossEntropy().reads_layers
        False
    """

    differentiates_input: ClassVar[bool] = False
    reads_layers: ClassVar[bool] = False

    def __call__(self, batch: Batch) -> Tensor:
        logits = batch.point.logits
        without = logits.scatter(1, strongest_rival(logits, batch.y)[:, None], -torch.inf)
        log_rest = without.logsumexp(1) - logits.logsumexp(1)
        return F.cross_entropy(logits, batch.y) - log_rest.mean()


@dataclass(frozen=True)
class LogitPairing:
    """ALP: mean ‖z(x) − z(x_adv)‖², the squares averaged over the K logits.

    Source: Kannan et al. 2018, section 3.1, who leave the distance L open and use squares.

    Example:
        >>> from robustspike.defences import LogitPairing
        >>> LogitPairing().differentiates_input
        False
    """

    differentiates_input: ClassVar[bool] = False
    reads_layers: ClassVar[bool] = False

    def __call__(self, batch: Batch) -> Tensor:
        return F.mse_loss(batch.point.logits, batch.clean.logits)


@dataclass(frozen=True)
class CleanLogitPairing:
    """CLP: mean ‖z(x_i) − z(x_{i + N/2})‖² over the pairs of a batch, the squares averaged over the K logits.

    The batch is in random order, so the pairs are random; the last image of an odd batch has no partner, and a batch of one
    costs nothing.

    Source: Kannan et al. 2018, section 3.2.

    Example:
        >>> from robustspike.defences import CleanLogitPairing
        >>> CleanLogitPairing().reads_layers
        False
    """

    differentiates_input: ClassVar[bool] = False
    reads_layers: ClassVar[bool] = False

    def __call__(self, batch: Batch) -> Tensor:
        half = len(batch.y) // 2
        if half == 0:
            return batch.point.logits.sum() * 0
        return F.mse_loss(batch.point.logits[:half], batch.point.logits[half : 2 * half])
