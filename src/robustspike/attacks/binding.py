"""An attack and its model as one callable, ``atk(images, labels)``, as users of torchattacks know it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from robustspike.attacks.attempt import Attack
from robustspike.draws import Draws


@dataclass(frozen=True, repr=False)
class Bound:
    """An attack bound to a model; made by the ``bind`` of every attack.

    ``atk(images, labels)`` returns the adversarial examples, detached and on the images' device. Both are brought to the
    model's device; labels [N] may be of any integer type. The model is attacked in evaluation mode, and modes, gradients and
    parameters come back as they were. Untargeted only: there is no ``set_mode_targeted_…``.

    Args:
        attack: any attack, with all its settings.
        model: images [N, ...] in [0, 1] to logits [N, K], a spiking network or any other.
        seed: of the random starts, which then repeat; None: they follow ``torch.manual_seed``, as in torchattacks.

    Raises:
        ValueError: for a model that is no module; at call time for labels that are not [N] class numbers, ``samples``
            without a seed or of another length, or images outside [0, 1].

    Example:
        >>> atk = rs.PGD(rs.Linf("8/255"), steps=2).bind(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), seed=0)
        >>> x_adv = atk(torch.rand(4, 1, 8, 8), torch.arange(4))
        >>> x_adv.shape, atk
        (torch.Size([4, 1, 8, 8]), <PGD-2, Linf 0.0314, on Sequential, seed 0>)
    """

    attack: Attack
    model: nn.Module
    seed: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise ValueError(
                f"bind takes a torch.nn.Module from images in [0, 1] to logits, got {type(self.model).__name__}; "
                "give the network itself, not another library's wrapper of it"
            )

    def __call__(self, images: Tensor, labels: Tensor, samples: Tensor | None = None) -> Tensor:
        """x_adv [N, ...] of images [N, ...] in [0, 1] with labels [N].

        Args:
            images, labels: on any device.
            samples: [N] the images' numbers in their data set, where a seed is set: with them no example depends on how the
                data are cut into batches. None: their positions in this call.
        """
        if labels.dim() != 1 or labels.dtype == torch.bool or labels.dtype.is_floating_point:
            raise ValueError(
                f"labels must be class numbers [N], got {labels.dtype} {list(labels.shape)}; "
                "use argmax(1) of one-hot labels"
            )
        first = next(chain(self.model.parameters(), self.model.buffers()), images)
        x = images.detach().to(first.device)
        return self.attack(self.model, x, labels.to(x.device, torch.int64), self._draws(x, samples)).to(images.device)

    def _draws(self, x: Tensor, samples: Tensor | None) -> Draws | None:
        if self.seed is None:
            if samples is not None:
                raise ValueError("samples are numbered for a seed, got none; bind(model, seed=0), or leave samples out")
            return None
        ids = torch.arange(len(x)) if samples is None else samples
        if ids.shape != (len(x),):
            raise ValueError(f"samples must be one number for each of {len(x)} images, got {list(ids.shape)}")
        return Draws.of(self.seed, ids.to(x.device))

    def set_normalization_used(self, mean: Any, std: Any) -> NoReturn:
        """Of torchattacks; refused here: normalisation belongs in the model, so that ε is in units of pixels.

        Raises:
            ValueError: always, with what to do instead.
        """
        raise ValueError(
            f"images are given to attacks in [0, 1], not normalised by mean {mean} and std {std}; "
            "put the normalisation into the model, as rs.adapt(model, mean=…, std=…) does, and bind that"
        )

    def __repr__(self) -> str:
        ball = getattr(self.attack, "ball", None)
        within = "" if ball is None else f", {ball.norm} {ball.eps:.3g}"
        seed = "" if self.seed is None else f", seed {self.seed}"
        return f"<{self.attack.name}{within}, on {type(self.model).__name__}{seed}>"


def bind(self: Any, model: nn.Module, seed: int | None = None) -> Bound:
    """This attack on this model, as a callable ``atk(images, labels)``; see :class:`robustspike.attacks.Bound`."""
    return Bound(self, model, seed)
