"""Firing rates, synaptic operations and what they cost, with and without attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustspike.attacks import Attack
from robustspike.audits.attacked import Judged, attacked, check_on_pixels, in_calls, judged
from robustspike.audits.attacking import named, usual_attack
from robustspike.audits.batches import Stopwatch, Watch
from robustspike.audits.synapses import Key, Synapses, measured, synapses
from robustspike.audits.trains import Train, check_spiking, trains
from robustspike.data import Split
from robustspike.results.audits.energy import Energy, LayerCost, LayerRate


def energy(
    model: nn.Module,
    data: Split,
    *,
    eps: float | str = "8/255",
    attack: Attack | None = None,
    seed: int = 0,
    batch_size: int = 64,
    watch: Watch | None = None,
    accumulate: float = 0.9,
    multiply: float = 4.6,
) -> Energy:
    """Firing rate of each layer, synaptic operations of each sample and an estimate of their energy, beside accuracy.

    SynOps = Σ over convolutions and linear layers of the spikes that arrive × their fan-out, the number of outputs that they
    reach through weights that are not 0, borders included. A layer with another input costs multiply-accumulates.

    Args:
        model: x [N, ...] in [0, 1] to logits [N, K], with spiking layers; in evaluation mode meanwhile, left as it was.
        data: the samples; those that are classified correctly are attacked.
        eps: L∞ radius in pixel units of the usual attack.
        attack: on pixels; None: PGD-10 under four estimators, the worst for every sample.
        seed: of all random draws; a stochastic encoder draws the same numbers with and without attack.
        batch_size: samples at a time; no figure depends on it beyond rounding.
        watch: hears how much is done.
        accumulate, multiply: energy of an accumulate and of a multiply-accumulate in pJ; defaults: 32-bit floating point in
            45 nm.

    Raises:
        ValueError: for an empty split, a network without spiking layers, an attack that is not on pixels, or energies < 0.

    Example:
        >>> found = audits.energy(digits_cnn(time_steps=2), load("digits").test.subset(4), attack=fgsm(Linf(0.1)))
        >>> [(cost.path, cost.driven) for cost in found.costs][:2]
        [('layers.0', 'analog'), ('layers.3', 'spikes')]

    Source: Horowitz 2014 for the energies (an addition 0.9 pJ, a multiplication 3.7 pJ).
    """
    clock = Stopwatch()
    check_spiking(model, "energy")
    if accumulate < 0 or multiply < 0:
        raise ValueError(
            f"audit 'energy': expected energies ≥ 0 in pJ, got accumulate={accumulate}, multiply={multiply}"
        )
    attack = usual_attack(model, eps) if attack is None else attack
    check_on_pixels(attack, "energy")
    known: dict[Key, Synapses] = {}
    parts: list[_Part] = []
    gradients = calls = classes = 0
    for one in judged(model, data, "energy", seed, batch_size, watch):
        if not known:
            calls, classes, some = one.calls, one.clean.probabilities.shape[1], one.batch.draws.fork("trains")
            known = synapses(model, one.batch.x, some)
            layers = trains(model, one.batch.x[:1], some[torch.zeros(1, dtype=torch.int64)]).layers
        part, spent = _measured(model, attack, one, known)
        parts.append(part)
        gradients += spent
    joined = _Part(*(torch.cat(columns).cpu() for columns in zip(*map(_Part.columns, parts), strict=True)))
    return Energy(
        n=len(data), seed=seed, under=f"{named(attack)}{in_calls(calls)}", gradients=gradients, seconds=clock.seconds,
        classes=classes, time_steps=len(layers[0].spikes), accumulate=accumulate, multiply=multiply,
        rates=_rates(layers, joined), costs=_costs(list(known.values()), joined),
        clean_operations=tuple(joined.clean.sum(1).tolist()), operations=tuple(joined.attacked.sum(1).tolist()),
        correct=tuple(joined.correct.tolist()), broken=tuple(joined.broken.tolist()),
    )  # fmt: skip


@dataclass(frozen=True)
class _Part:
    """Some samples: synaptic operations [n, weighted layers] and rates [n, spiking layers] without and with attack.

    ``correct``, ``broken``: [n] whether it was classified correctly without attack, and whether the attack broke it; samples
    that are not correct are not attacked.
    """

    clean: Tensor
    clean_rates: Tensor
    attacked: Tensor
    attacked_rates: Tensor
    correct: Tensor
    broken: Tensor

    def columns(self) -> tuple[Tensor, ...]:
        return self.clean, self.clean_rates, self.attacked, self.attacked_rates, self.correct, self.broken

    def means(self, name: str) -> list[float]:
        """The means over the attacked samples, over all where none was attacked."""
        which = self.correct if self.correct.any() else ~self.correct
        means: list[float] = getattr(self, name)[which].mean(0).tolist()
        return means


def _measured(model: nn.Module, attack: Any, one: Judged, known: dict[Key, Synapses]) -> tuple[_Part, int]:
    """One batch, and the gradients that the attack on it took."""
    x, which, draws = one.batch.x, one.correct, one.batch.draws.fork("trains")
    clean, clean_rates = measured(model, x, draws, known)
    operations, rates, broken, spent = clean.clone(), clean_rates.clone(), torch.zeros_like(one.batch.y).bool(), 0
    if len(which):
        found = attacked(model, attack, one, which)
        operations[which], rates[which] = measured(model, found.attempt.x_adv, draws[which], known)
        broken[which], spent = found.broken, int(found.attempt.gradients.sum())
    return _Part(clean, clean_rates, operations, rates, one.clean.classes == one.batch.y, broken), spent


def _rates(layers: Sequence[Train], joined: _Part) -> tuple[LayerRate, ...]:
    rows = zip(layers, joined.means("clean_rates"), joined.means("attacked_rates"), strict=True)
    return tuple(
        LayerRate(path=each.path, neurons=each.spikes[0, 0].numel(), clean=clean, attacked=attacked)
        for each, clean, attacked in rows
    )


def _costs(known: Sequence[Synapses], joined: _Part) -> tuple[LayerCost, ...]:
    rows = zip(known, joined.means("clean"), joined.means("attacked"), strict=True)
    return tuple(
        LayerCost(
            path=each.path, driven=each.driven, fan_out=float(each.reach.mean()), products=each.dense,
            repeats=each.repeats, clean=clean, attacked=attacked,
        )
        for each, clean, attacked in rows
    )  # fmt: skip
