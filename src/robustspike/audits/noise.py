"""Accuracy under random noise against accuracy under attack, over ε."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robustspike.attacks import Attack
from robustspike.audits.attacked import Judged, answers, attacked, check_on_pixels, in_calls, judged
from robustspike.audits.attacking import named, usual_attack
from robustspike.audits.batches import Stopwatch, Watch
from robustspike.balls import Linf, parse_eps
from robustspike.data import Split
from robustspike.results.audits import AtNoise, Noise

# The radii in shares of eps: of the attack, and of noise alone beyond it.
SHARES, FARTHER = (1 / 2, 1, 2, 4), (8, 16, 32)

AttackAt = Callable[[float], Any]


def noise(
    model: nn.Module,
    data: Split,
    *,
    eps: float | str = "8/255",
    attack: Attack | AttackAt | None = None,
    seed: int = 0,
    batch_size: int = 64,
    watch: Watch | None = None,
    radii: Sequence[float | str] | None = None,
    tries: int = 10,
) -> Noise:
    """Accuracy under uniform noise of size ε and under an attack in the same ball, on the same samples, against ε.

    Noise is a uniform point of the ball cut with [0, 1], ``tries`` of them for each sample; the same directions at every ε.

    Args:
        model: x [N, ...] in [0, 1] to logits [N, K]; in evaluation mode meanwhile, left as it was.
        data: the samples.
        eps: the radius that headlines are given at, in pixel units.
        attack: one whose ball is given every radius (a step size in proportion), or a function of ε that returns one; None:
            PGD-10 under four estimators, the worst for every sample. Noise takes its ball.
        seed: of all random draws.
        batch_size: samples at a time; no figure depends on it beyond rounding.
        watch: hears how much is done.
        radii: the values of ε, ascending and positive; None: eps/2 to 4·eps, and for noise alone on to 32·eps; 1 at most.
        tries: draws of noise per sample and ε.

    Raises:
        ValueError: for an empty split, radii that are not positive and ascending, fewer than one try, or an attack that
            is not on pixels or has no ball.

    Example:
        >>> images = load("digits").test.subset(4)
        >>> found = audits.noise(digits_cnn(time_steps=2), images, radii=[0.1], attack=fgsm(Linf(0.1)))
        >>> found.radii[0].attacked is not None, found.n
        (True, 4)

    Source: Liu 2024, section 4.1, Fig. 1 and observation 1. Differs from the paper: several draws of noise, and an
    iterative attack where the paper takes FGSM.
    """
    clock, headline = Stopwatch(), Linf(eps).eps
    if tries < 1:
        raise ValueError(f"audit 'noise': tries must be ≥ 1, got {tries}")
    make = _maker(model, attack)
    attack_radii, noise_radii = _radii(headline, radii)
    attacks = {radius: _checked(make(radius), radius) for radius in noise_radii}
    right: list[list[Tensor]] = [[] for _ in noise_radii]
    broken: dict[float, list[int]] = {radius: [] for radius in attack_radii}
    clean, spent, first, classes, calls = [], 0, 0, 0, 1
    for one in judged(model, data, "noise", seed, batch_size):
        classes, calls = one.clean.probabilities.shape[1], one.calls
        clean += (one.clean.classes == one.batch.y).tolist()
        for k, radius in enumerate(noise_radii):
            right[k].append(_right_under_noise(model, one, attacks[radius].ball, tries))
            if radius in broken and len(one.correct):
                found = attacked(model, attacks[radius], one, one.correct)
                broken[radius] += (first + one.correct[found.broken]).tolist()
                spent += int(found.attempt.gradients.sum())
            if watch is not None:
                watch((first + len(one.batch.y) * (k + 1) / len(noise_radii)) / len(data))
        first += len(one.batch.y)
    shown = attacks[min(noise_radii, key=lambda radius: abs(radius - headline))]
    return Noise(
        n=len(data), seed=seed, seconds=clock.seconds, gradients=spent, eps=headline, tries=tries, classes=classes,
        under=f"{named(shown)} (elsewhere in proportion), {tries} draws of uniform noise{in_calls(calls)}",
        norm=shown.ball.norm, correct=tuple(i for i, kept in enumerate(clean) if kept),
        radii=tuple(
            AtNoise(
                eps=radius, right=tuple(torch.cat(counts).tolist()),
                attacked=tuple(sorted(broken[radius])) if radius in broken else None,
            )
            for radius, counts in zip(noise_radii, right, strict=True)
        ),
    )  # fmt: skip


def _right_under_noise(model: nn.Module, one: Judged, ball: Any, tries: int) -> Tensor:
    """Of how many draws of noise the answer is right, [N] int64."""
    count = torch.zeros_like(one.batch.y)
    for k in range(tries):
        draws = one.batch.draws.fork("noise").fork(k)
        found = answers(model, ball.sample(one.batch.x, draws), draws.fork("judge"), one.calls)
        count += found.classes == one.batch.y
    return count.cpu()


def _maker(model: nn.Module, attack: Any) -> AttackAt:
    if attack is None:
        return lambda radius: usual_attack(model, radius)
    if hasattr(attack, "run"):
        return lambda radius: at_radius(attack, radius)
    return attack


def _checked(attack: Any, eps: float) -> Any:
    check_on_pixels(attack, "noise")
    ball = getattr(attack, "ball", None)
    if ball is None or abs(ball.eps - eps) > 1e-9:
        raise ValueError(
            f"audit 'noise': expected an attack in a ball of radius {eps:.4g}, got {attack} from the function of ε; let it "
            "give its ball the ε that it is called with"
        )
    return attack


def at_radius(attack: Any, eps: float) -> Any:
    """The same attack in a ball of another radius, its step size in proportion.

    Raises:
        ValueError: for an attack without a ball.

    Example:
        >>> from robustspike.audits.noise import at_radius
        >>> at_radius(PGD(Linf(0.1), steps=7, step_size=0.02), 0.2).step_size
        0.04
    """
    if hasattr(attack, "members"):
        return dataclasses.replace(attack, members=tuple(at_radius(one, eps) for one in attack.members))
    if hasattr(attack, "attack"):
        return dataclasses.replace(attack, attack=at_radius(attack.attack, eps))
    ball = getattr(attack, "ball", None)
    if ball is None:
        raise ValueError(
            f"audit 'noise' needs an attack with a ball, got {attack}; give a function of ε that returns one"
        )
    changes = {"ball": ball.with_eps(eps)}
    if getattr(attack, "step_size", None) is not None and ball.eps > 0:
        changes["step_size"] = attack.step_size * (eps / ball.eps)
    return dataclasses.replace(attack, **changes)


def _radii(eps: float, radii: Sequence[float | str] | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Those of the attack and those of noise."""
    if radii is not None:
        attack = noise = tuple(parse_eps(one) for one in radii)
    else:
        attack = tuple(sorted({min(share * eps, 1.0) for share in SHARES}))
        noise = tuple(sorted({min(share * eps, 1.0) for share in SHARES + FARTHER}))
    if not noise or noise[0] <= 0 or list(noise) != sorted(set(noise)):
        raise ValueError(
            f"audit 'noise': expected positive radii in ascending order, got {list(noise)}; give eps > 0 or radii"
        )
    return attack, noise
