"""What the probes measured: the figures that the checks judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import comb
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

POINTS = 0.05  # of robust accuracy: the differences that published defences are compared by begin there
CHANCE = 0.05  # a split of the samples as uneven as this probability is no accident; the usual level of a test
Measured = TypeVar("Measured")


class Probe(NamedTuple):
    """A small attack: "PGD-10", "FGSM", "noise" …, through an estimator, at one of the sizes of ``Probed.eps``."""

    attack: str
    estimator: str = "own"
    size: str = "ε"


@dataclass(frozen=True)
class Run:
    """What a probe did: which samples it broke, [n] bool, and its gradient evaluations over all samples."""

    broke: Tensor
    gradients: int = 0


@dataclass(frozen=True)
class Missing:
    """Why there is no figure: something raised, or (``failed`` False) it does not apply to this model."""

    why: str
    failed: bool = True


class MissingError(Exception):
    """Raised where a check asks for a figure that is missing."""

    def __init__(self, missing: Missing) -> None:
        super().__init__(missing.why)
        self.missing = missing


def present(value: Measured | Missing) -> Measured:
    """The figure.

    Raises:
        MissingError: if it is missing.
    """
    if isinstance(value, Missing):
        raise MissingError(value)
    return value


class Reach(NamedTuple):
    """Of the membrane potentials of one layer: shares in [0, 1], and the median distance from θ in units of θ."""

    live: float
    near: float
    distance: float


class Answers(NamedTuple):
    """How far a sample's logits lie from those of the first call, relative to the largest logit, [n] float64.

    ``again``: of the same call at once; ``after``: after a call on other images; None where it could not be compared.
    """

    again: Tensor
    after: Tensor
    precision: str


class Batches(NamedTuple):
    """The same distances for samples in a batch of one (``alone``) and in a batch in reverse order (``reversed``)."""

    alone: Tensor
    reversed: Tensor
    precision: str


class Chance(NamedTuple):
    """Whether a model says that it draws at random, whether it does, and whether from the samples' own streams."""

    declared: bool
    found: bool
    streams: bool


class Traces(NamedTuple):
    """What an attack left or met in the model: names of changed tensors, of modules called in training mode; counts."""

    changed: tuple[str, ...]
    training: tuple[str, ...]
    norms: int
    modules: int


_NOT_RUN = Missing("not measured", failed=False)


@dataclass(frozen=True)
class Probed:
    """Everything that the probes measured on n samples that the model classifies correctly.

    Attributes:
        n: samples.
        norm: of the ball.
        suite: the estimators of the evaluated suite that were probed, by the names of the probes.
        eps: the radius for each size: "ε/2", "ε", "2ε", "large", "unbounded".
        runs: by probe.
        gradients: at the clean points, by estimator, [n, D] float64 as they are, NaN included.
        moved: whether noise changed the logits, [n] bool.
        reach: by layer.
        answers, batches, chance, traces: of the model's behaviour.
    """

    n: int
    norm: str = "Linf"
    suite: tuple[str, ...] = ()
    eps: Mapping[str, float] = field(default_factory=dict)
    runs: Mapping[Probe, Run | Missing] = field(default_factory=dict)
    gradients: Mapping[str, Tensor | Missing] = field(default_factory=dict)
    moved: Tensor | Missing = _NOT_RUN
    reach: Mapping[str, Reach] | Missing = _NOT_RUN
    answers: Answers | Missing = _NOT_RUN
    batches: Batches | Missing = _NOT_RUN
    chance: Chance | Missing = _NOT_RUN
    traces: Traces | Missing = _NOT_RUN

    def broke(self, attack: str, estimator: str = "own", size: str = "ε") -> Tensor:
        """Which samples a probe broke, [n] bool.

        Raises:
            MissingError: if it was not run, or raised.
        """
        return present(self.runs.get(Probe(attack, estimator, size), _NOT_RUN)).broke

    def under(self, size: str = "ε") -> str:
        """The ball in words, such as "Linf ε = 0.0314"."""
        return f"{self.norm} ε = {self.eps[size]:.3g}"


def count(broke: Tensor) -> int:
    """How many samples."""
    return int(broke.sum())


def weaker(strong: Tensor, weak: Tensor) -> bool:
    """Whether the attack that should be the stronger one breaks fewer of the same samples, beyond chance.

    One-sided sign test on the samples that only one of the two broke (the exact McNemar test).

    Raises:
        MissingError: for so few samples that no outcome could be beyond chance.

    Example:
        >>> weak = torch.arange(32) < 5
        >>> weaker(torch.zeros(32, dtype=torch.bool), weak), weaker(weak.roll(4), weak)
        (True, False)
    """
    if 2.0 ** -len(strong) >= CHANCE:
        raise MissingError(Missing(f"only {len(strong)} samples: no difference could be beyond chance", failed=False))
    only_weak, only_strong = count(weak & ~strong), count(strong & ~weak)
    m = only_weak + only_strong
    p = sum(comb(m, k) for k in range(only_weak, m + 1)) / 2**m
    return p < CHANCE


def union(runs: list[Tensor]) -> Tensor:
    """Samples that any of the attacks broke, [n] bool."""
    return torch.stack(runs).any(0)
