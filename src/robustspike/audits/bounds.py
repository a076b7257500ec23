"""How far apart two spike trains may be, and how far they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustspike.attacks import Attack
from robustspike.audits.affine import Way, ways
from robustspike.audits.attacked import attacked, check_on_pixels, judged
from robustspike.audits.attacking import named, usual_attack
from robustspike.audits.batches import Stopwatch, Watch
from robustspike.audits.trains import ENCODED, UNCODED, Trains, check_spiking, encoder_of, sends_spikes, trains
from robustspike.data import Split
from robustspike.results.audits.bounds import Bounds, Operator, SpikingLayerBound

SMALLEST = 1e-6  # squared change of an input from which the ratio to its effect is free of rounding


def bounds(
    model: nn.Module,
    data: Split,
    *,
    eps: float | str = "8/255",
    attack: Attack | None = None,
    seed: int = 0,
    batch_size: int = 64,
    watch: Watch | None = None,
    iterations: int = 100,
) -> Bounds:
    """D₂², the squared distance of each layer's spike trains with and without attack, beside Ding's bound of it.

    D₂(Sˡ, S̃ˡ)² ≤ Λ²/θ²·D₂(Sˡ⁻¹, S̃ˡ⁻¹)² + Γ with Γ = N·T(T+1)/λ·(γ/θ + (γ/θ)²), where Λ ≤ σ_max(W), γ = max_i Σ_j w⁺ +
    max_i Σ_j w⁻, and W is all that leads from one layer's spikes to the next one's currents, at its size, BatchNorm and
    pooling included.

    Args:
        model: x [N, ...] in [0, 1] to logits [N, K], with spiking layers; in evaluation mode meanwhile, left as it was.
        data: the samples.
        eps: L∞ radius in pixel units of the usual attack.
        attack: on pixels; None: PGD-10 under four estimators, the worst for every sample.
        seed: of all random draws; a stochastic encoder draws the same numbers with and without attack.
        batch_size: samples at a time; no figure depends on it beyond rounding.
        watch: hears how much is done.
        iterations: of the power iteration for σ_max, at most.

    Raises:
        ValueError: for an empty split, a network without spiking layers, or an attack that is not on pixels.

    Example:
        >>> found = audits.bounds(digits_cnn(time_steps=2), load("digits").test.subset(2), attack=fgsm(Linf(0.1)))
        >>> [layer.previous for layer in found.layers]
        [('encoded image',), ('layers.2',), ('layers.5',)]

    Source: Ding 2022, appendix, Theorem 1, Propositions 1 and 2. Differs from the paper: the bias (and what BatchNorm adds)
    counts in γ as one more input that always fires, without which the theorem is false.
    """
    clock = Stopwatch()
    check_spiking(model, "bounds")
    attack = usual_attack(model, eps) if attack is None else attack
    check_on_pixels(attack, "bounds")
    moved: list[_Moved] = []
    found: list[Way] = []
    gradients = 0
    for one in judged(model, data, "bounds", seed, batch_size, _part_of(watch, 0.0, 0.8)):
        x, rows = one.batch.x, torch.arange(len(one.batch.y), device=one.batch.y.device)
        attempt = attacked(model, attack, one, rows).attempt
        gradients += int(attempt.gradients.sum())
        draws = one.batch.draws.fork("trains")
        if not found:
            first = trains(model, x[:1], draws[rows[:1]])
            found = ways(model, first, x[:1])
        moved.append(_Moved.between(trains(model, x, draws), trains(model, attempt.x_adv, draws), found))
    source = UNCODED if encoder_of(model) is None else ENCODED
    names = [source, *(each.path for each in first.layers)]
    coded = sends_spikes(encoder_of(model))
    layers = _layers(first, found, names, moved, iterations, coded, _part_of(watch, 0.8, 1.0))
    return Bounds(
        n=len(data), seed=seed, under=named(attack), gradients=gradients, seconds=clock.seconds,
        time_steps=first.time_steps, input_name=source, layers=tuple(layers),
        input_distance=tuple(torch.cat([each.squares[0] for each in moved]).tolist()),
    )  # fmt: skip


@dataclass(frozen=True)
class _Moved:
    """What an attack changes in one batch.

    Attributes:
        squares: Σ_t ‖s(t) − s̃(t)‖² of each sample, of the encoded image and then of each layer, [n] each.
        ratios: the largest ‖W(s(t) − s̃(t))‖/‖s(t) − s̃(t)‖ of any sample and step at the input of each layer.
    """

    squares: list[Tensor]
    ratios: list[float]

    @classmethod
    def between(cls, clean: Trains, other: Trains, found: Sequence[Way]) -> _Moved:
        pairs = [(clean.encoded, other.encoded)]
        pairs += [(one.spikes, two.spikes) for one, two in zip(clean.layers, other.layers, strict=True)]
        squares = [_squares(a, b) for a, b in pairs]
        ratios = []
        for one, two, way in zip(clean.layers, other.layers, found, strict=True):
            if way.affine is None:
                ratios.append(0.0)
                continue
            before, after = squares[way.previous[0]], _squares(one.currents, two.currents)
            some = before > SMALLEST
            ratios.append(float((after[some] / before[some]).max().sqrt()) if some.any() else 0.0)
        return cls([each.sum(0).cpu() for each in squares], ratios)


def _squares(one: Tensor, two: Tensor) -> Tensor:
    """‖·‖² of the difference at each step of each sample, [T, N]."""
    return (one.double() - two.double()).square().reshape(*one.shape[:2], -1).sum(2)


def _layers(
    first: Trains,
    found: Sequence[Way],
    names: Sequence[str],
    moved: Sequence[_Moved],
    iterations: int,
    coded: bool,
    watch: Watch | None,
) -> list[SpikingLayerBound]:
    layers = []
    for k, (each, way) in enumerate(zip(first.layers, found, strict=True)):
        operator = None
        if way.affine is not None:
            sums = way.affine.row_sums()
            operator = Operator(
                inputs=way.affine.inputs, sigma=way.affine.sigma_max(iterations), exact=sums.exact, gamma=sums.gamma,
                gamma_bias=sums.gamma_bias, norm_inf=sums.norm_inf, seen=max(one.ratios[k] for one in moved),
            )  # fmt: skip
        why = way.why
        if not why and way.previous == (0,) and not coded:
            why = "its input, the encoded image, is no train of spikes"
        leak, distance = float(each.layer.leak), torch.cat([one.squares[k + 1] for one in moved])
        layer = SpikingLayerBound(
            path=each.path, neurons=each.spikes[0, 0].numel(), leak=leak, threshold=float(each.layer.threshold),
            previous=tuple(names[p] for p in way.previous), why=why, operator=operator,
            distance=tuple(distance.tolist()),
        )  # fmt: skip
        layers.append(layer)
        if watch is not None:
            watch((k + 1) / len(found))
    return layers


def _part_of(watch: Watch | None, low: float, high: float) -> Watch | None:
    """Hears of one part of the audit, which takes it from one share to another."""
    return None if watch is None else lambda share: watch(low + (high - low) * share)
