"""∇_x f_y of a few samples, as pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustspike.attacks.suites import describe_estimator
from robustspike.audits.attacked import Judged, judged
from robustspike.audits.batches import Stopwatch, Watch
from robustspike.audits.pictured import as_picture, check_count, names_of, one_of_each
from robustspike.audits.probability import f_y, usual
from robustspike.audits.rounding import rounded
from robustspike.data import Split
from robustspike.draws import sampling
from robustspike.gradients import Estimator, frozen, input_gradient
from robustspike.neurons import spiking_layers
from robustspike.results.audits.heatmaps import Heatmap, Heatmaps
from robustspike.results.views import Picture


@dataclass(frozen=True)
class Seen:
    """One sample, its gradient (0 where it is not finite), and what the record says of it."""

    x: Tensor
    gradient: Tensor
    facts: dict[str, Any]

    @property
    def magnitude(self) -> Tensor:
        """|g| as a picture, [1, H, W]."""
        return torch.from_numpy(as_picture(self.gradient.abs())).sum(0, keepdim=True)


def heatmaps(
    model: nn.Module,
    data: Split,
    *,
    estimator: Estimator | None = None,
    seed: int = 0,
    batch_size: int = 64,
    watch: Watch | None = None,
    pictures: int = 6,
    class_names: Sequence[str] | None = None,
) -> Heatmaps:
    """∇_x f_y of the first sample of each class beside its image, with ‖·‖₁, share of zeros and concentration.

    f_y is the softmax over the true class and its strongest rival (Liu 2024, eq. 9).

    Args:
        model: x [N, ...] in [0, 1] to logits [N, K]; in evaluation mode meanwhile, left as it was.
        data: the samples; shown are the first of each class in its order, then the first of those left.
        estimator: how the gradient passes through the neurons; None: the model's own.
        seed: of an encoder's draws.
        batch_size: samples at a time; no figure depends on it beyond rounding.
        watch: hears how much is done.
        pictures: samples shown, at most.
        class_names: one for each class; None: their numbers.

    Raises:
        ValueError: for an empty split, fewer than one picture, other names than classes, or a model that cannot carry the
            estimator.

    Example:
        >>> found = audits.heatmaps(digits_cnn(time_steps=2), load("digits").test, pictures=3)
        >>> [one.label for one in found.maps], found.maps[0].signed.kind
        ([3, 4, 5], 'signed')

    Source: Liu 2024, section 5.5, Fig. 5. Differs from the paper, which names no scale: scales are printed, and the
    magnitude is shown on one scale for all samples and networks.
    """
    check_count(pictures, "heatmaps")
    clock, estimator = Stopwatch(), usual(estimator)
    shown = data.subset(one_of_each(data.labels, pictures))
    seen: list[Seen] = []
    classes, calls = 0, 1
    for one in judged(model, shown, "heatmaps", seed, batch_size, watch):
        classes, calls = one.clean.probabilities.shape[1], one.calls
        seen += _look(model, one, estimator)
    names = names_of(class_names, classes)
    scale = max(rounded(torch.stack([each.magnitude.max() for each in seen])))
    under = describe_estimator(estimator) + (", one draw" if calls > 1 else "")
    return Heatmaps(
        n=len(seen), seed=seed, under=under, gradients=len(seen), seconds=clock.seconds, classes=names,
        maps=tuple(_map(each, names, scale) for each in seen), spiking=bool(spiking_layers(model)),
    )  # fmt: skip


def _look(model: nn.Module, one: Judged, estimator: Estimator) -> list[Seen]:
    """The gradients of a batch, and f_y under the same draws."""
    x, y = one.batch.x, one.batch.y
    g = input_gradient(model, x, y, estimator, loss=f_y, draws=one.batch.draws).double()
    with frozen(model), torch.no_grad(), sampling(one.batch.draws.fork(0)):
        probabilities = rounded(f_y(model(x), y))
    rows = zip(
        x, g, one.batch.ids.tolist(), y.tolist(), one.clean.classes.tolist(), probabilities, strict=True
    )  # fmt: skip
    return [
        Seen(
            image, g.where(g.isfinite(), 0.0),
            {"sample": sample, "label": label, "predicted": predicted, "f_y": p, "finite": bool(g.isfinite().all())},
        )
        for image, g, sample, label, predicted, p in rows
    ]  # fmt: skip


def _map(one: Seen, names: Sequence[str], scale: float) -> Heatmap:
    g = one.gradient
    l0, l1, tenth = rounded(torch.stack([(g != 0).double().mean(), g.abs().sum(), tenth_of(g)]))
    signed = as_picture(g)
    (largest,) = rounded(torch.tensor([np.abs(signed.sum(0)).max()]))
    what = f"sample {one.facts['sample']}, class {names[one.facts['label']]}"
    size = f"ℓ1 norm {l1:.3g}, {100 - 100 * l0:.0f} % of the entries zero"
    return Heatmap(
        **one.facts, l0=l0, l1=l1, tenth=tenth,
        image=Picture.of(as_picture(one.x), "image", f"Image: {what}"),
        signed=Picture.of(signed, "signed", f"Signed gradient of f_y for {what}: {size}", scale=largest),
        magnitude=Picture.of(
            one.magnitude.cpu().numpy(), "magnitude", f"Magnitude of the gradient of f_y for {what}: {size}", scale=scale
        ),
    )  # fmt: skip


def tenth_of(g: Tensor) -> Tensor:
    """The share of ‖g‖₁ that lies on the tenth (rounded up) of the entries where |g| is largest; 0 for g = 0."""
    sizes = g.abs().flatten().sort(descending=True).values
    return (sizes[: math.ceil(len(sizes) / 10)].sum() / sizes.sum()).nan_to_num(0.0)
