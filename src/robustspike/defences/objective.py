"""A training objective: weighted terms, each at the images that an attack makes of the batch, or at the batch itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from robustspike.defences.weights import Weight, weight_at
from robustspike.draws import Draws, sampling
from robustspike.gradients import is_stochastic, recording

Perturb = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass
class Point:
    """Images x [N, ...] and what the model makes of them, computed when first asked for and only once.

    Args:
        records: whether the forward pass also keeps what arrives at the spiking layers; see :attr:`layers`.
    """

    model: nn.Module
    x: Tensor
    draws: Draws | None = None
    records: bool = False

    def forward(self, x: Tensor) -> Tensor:
        """Logits at other points of the same samples, float32 or wider; a stochastic model draws the same numbers."""
        with sampling(self.draws):
            logits: Tensor = self.model(x)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    @cached_property
    def _seen(self) -> tuple[Tensor, list[tuple[Any, Tensor]]]:
        if not self.records:
            return self.forward(self.x), []
        with recording(self.model) as layers:
            return self.forward(self.x), layers

    @property
    def logits(self) -> Tensor:
        """[N, K], float32 or wider."""
        return self._seen[0]

    @property
    def layers(self) -> list[tuple[Any, Tensor]]:
        """Each spiking layer with the currents [T, N, ...] that it got, in the order of the forward pass.

        Raises:
            ValueError: if the model has no spiking layer.
        """
        if not self._seen[1]:
            raise ValueError(
                f"found no spiking layer in {type(self.model).__name__}; objectives on membrane potentials need one, "
                "use another objective"
            )
        return self._seen[1]

    @property
    def potentials(self) -> list[Tensor]:
        """The membrane potentials u [T, N, ...] of each spiking layer before firing, with gradient, float32 or wider."""
        return [layer.potentials(currents) for layer, currents in self.layers]


@dataclass
class Batch:
    """One batch as a term sees it: labels y [N], the clean images, and the images that the term is to be taken at.

    ``point`` is ``clean`` where the term has no attack. ``point.x`` requires gradient if the term differentiates with
    respect to it.
    """

    model: nn.Module
    y: Tensor
    clean: Point
    point: Point


class Term(Protocol):
    """A loss of one batch.

    ``differentiates_input`` says whether it needs the gradient of ``batch.point.x``; ``reads_layers`` whether it reads the
    currents or potentials of the spiking layers, at its own point or at the clean one.
    """

    @property
    def differentiates_input(self) -> bool: ...
    @property
    def reads_layers(self) -> bool: ...
    def __call__(self, batch: Batch) -> Tensor: ...


@dataclass(frozen=True)
class Part:
    """weight · term, at x_adv = ``attack``(model, x, y), or at x.

    Args:
        term: see :class:`Term`.
        weight: a number, or a function of the share of the training that is done, such as ``CosineRamp(0.4)``; where it is
            0, the term is not computed.
        attack: (model, x, y) to x_adv, such as a :class:`robustspike.PGD`; None: the term is taken at x.
    """

    term: Term
    weight: Weight = 1.0
    attack: Perturb | None = None


@dataclass(frozen=True)
class Objective:
    """loss = Σ weight · term, each term at the images of its own attack.

    Call it in any training loop: ``objective(model, x, y).backward()``, then ``optimizer.step()``, then
    ``objective.after_step(model)``, which for most objectives does nothing. The model's mode is the caller's (training, as a
    rule); an attack itself switches to evaluation mode and back. Each attack is run once, however many terms use it.

    ``a + b`` has the terms of both; what is equal in both (the same term, weight and attack) counts once.

    Args:
        name: as printed in tables.
        parts: see :class:`Part`.
        weight_decay: the weight decay published with the objective, for trainers that are given none.
        retract: what is done to the model's weights after each step of the optimiser, in this order.

    Raises:
        ValueError: if there is no part with a weight other than 0.

    Example:
        >>> model, x, y = digits_cnn(time_steps=2), torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])
        >>> both = defences.sr(0.002) + defences.trades(PGD(Linf(0.1), steps=2))
        >>> both(model, x, y).backward()
        >>> both.name
        'SR + TRADES'
    """

    name: str
    parts: tuple[Part, ...]
    weight_decay: float = 5e-4
    retract: tuple[Callable[[nn.Module], None], ...] = field(default=())

    def __post_init__(self) -> None:
        if all(part.weight == 0 for part in self.parts):
            raise ValueError(f"objective {self.name!r} needs at least one term with a weight other than 0")

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, progress: float = 1.0, draws: Draws | None = None
    ) -> Tensor:
        """The scalar loss of a batch.

        Args:
            model: x [N, ...] to logits [N, K].
            x: [N, ...] in [0, 1].
            y: [N] int64 labels.
            progress: the share of the training that is done, in [0, 1]; only weights that change read it.
            draws: the samples' random streams; None: PyTorch's generator.

        Raises:
            ValueError: if all weights are 0 at this moment; whatever the attacks refuse.
        """
        weighted = [(weight_at(part.weight, progress), part) for part in self.parts]
        active = [(weight, part) for weight, part in weighted if weight != 0]
        if not active:
            raise ValueError(f"all weights of objective {self.name!r} are 0 at {progress:g} of the training")
        points = _points(model, x, y, [part for _, part in active], draws)
        clean = points[0]
        losses = []
        for (weight, part), point in zip(active, points[1:], strict=True):
            loss = part.term(Batch(model, y, clean, point))
            losses.append(loss if weight == 1 else weight * loss)
        total = losses[0]
        for loss in losses[1:]:
            total = total + loss
        return total

    def after_step(self, model: nn.Module) -> None:
        """What the objective does to the weights after each step of the optimiser: RAT's retraction, for most nothing."""
        for step in self.retract:
            step(model)

    def __add__(self, other: Objective) -> Objective:
        return Objective(
            f"{self.name} + {other.name}",
            self.parts + tuple(part for part in other.parts if part not in self.parts),
            min(self.weight_decay, other.weight_decay),
            self.retract + tuple(step for step in other.retract if step not in self.retract),
        )

    def smoothed(self, label_smoothing: float) -> Objective:
        """The same with label smoothing in every term that has it: targets (1 − a)·one-hot + a/K.

        Raises:
            ValueError: for a outside [0, 1), or if no term has it.

        Example:
            >>> defences.vanilla().smoothed(0.1).parts[0].term
            CrossEntropy(label_smoothing=0.1)
        """
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {label_smoothing}")
        if not any(hasattr(part.term, "label_smoothing") for part in self.parts):
            raise ValueError(f"no term of {self.name} takes label smoothing; leave it 0")
        parts = tuple(
            replace(part, term=replace(part.term, label_smoothing=label_smoothing))  # type: ignore[type-var]
            if hasattr(part.term, "label_smoothing")
            else part
            for part in self.parts
        )
        return replace(self, parts=parts)


def _points(model: nn.Module, x: Tensor, y: Tensor, parts: Sequence[Part], draws: Draws | None) -> list[Point]:
    """The clean point, then that of each part; parts with equal attacks share one."""
    attacks: list[Perturb | None] = [None]
    attacks += [a for k, a in enumerate(p.attack for p in parts) if a not in [None, *(p.attack for p in parts[:k])]]
    of_model = draws
    if draws is None and is_stochastic(model):
        of_model = Draws.fresh(len(x), x.device)
    of_model = of_model and of_model.fork("model")
    points = []
    for k, attack in enumerate(attacks):
        users = [part.term for part in parts if part.attack == attack]
        point = x
        if attack is not None:
            with sampling(draws and draws.fork("attack").fork(k)):
                point = attack(model, x, y)
        point = point.detach()
        if any(term.differentiates_input for term in users):
            point = point.clone().requires_grad_()
        reads = users if attack is not None else [part.term for part in parts]
        points.append(Point(model, point, of_model, any(term.reads_layers for term in reads)))
    return [points[0], *(points[attacks.index(part.attack)] for part in parts)]
