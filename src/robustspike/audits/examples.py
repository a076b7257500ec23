"""Adversarial examples of a few samples, as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustspike.attacks import Attack
from robustspike.attacks.suites import describe
from robustspike.audits.attacked import attacked, check_on_pixels, in_calls, judged
from robustspike.audits.attacking import named, usual_attack
from robustspike.audits.batches import Stopwatch, Watch
from robustspike.audits.pictured import as_picture, check_count, names_of
from robustspike.audits.rounding import rounded
from robustspike.balls import Ball, Linf
from robustspike.data import Split
from robustspike.results.audits.classes import class_name
from robustspike.results.audits.examples import Example, Examples
from robustspike.results.views import Picture


@dataclass(frozen=True)
class Seen:
    """One sample before and after, and what the record says of it."""

    x: Tensor
    x_adv: Tensor
    facts: dict[str, Any]


def examples(
    model: nn.Module,
    data: Split,
    *,
    eps: float | str = "8/255",
    attack: Attack | None = None,
    seed: int = 0,
    batch_size: int = 64,
    watch: Watch | None = None,
    pictures: int = 6,
    class_names: Sequence[str] | None = None,
) -> Examples:
    """Image, magnified perturbation and adversarial image of the first samples that are classified correctly.

    Args:
        model: x [N, ...] in [0, 1] to logits [N, K]; in evaluation mode meanwhile, left as it was.
        data: the samples, in whose order they are chosen.
        eps: L∞ radius in pixel units, where no attack is given.
        attack: on pixels; None: PGD-10, the worst of four estimators.
        seed: of all random draws.
        batch_size: samples at a time; no figure depends on it beyond rounding.
        watch: hears how much is done.
        pictures: samples shown, at most.
        class_names: one for each class; None: their numbers.

    Raises:
        ValueError: for an empty split, fewer than one picture, other names than classes, or an attack on the encoded tensor.

    Example:
        >>> found = audits.examples(digits_cnn(time_steps=2), load("digits").test.subset(40), eps=0.3, pictures=2)
        >>> len(found.examples), found.scale
        (2, 0.3)
    """
    check_count(pictures, "examples")
    clock = Stopwatch()
    attack = usual_attack(model, eps) if attack is None else attack
    check_on_pixels(attack, "examples")
    seen: list[Seen] = []
    names: tuple[str, ...] = ()
    searched, calls = 0, 1
    for one in judged(model, data, "examples", seed, batch_size):
        names, calls = names_of(class_names, one.clean.probabilities.shape[1]), one.calls
        which = one.correct[: pictures - len(seen)]
        searched += int(which[-1]) + 1 if len(which) == pictures - len(seen) else len(one.batch.y)
        if len(which):
            seen += _attack(model, attack, one, which)
        if watch is not None:
            watch(max(len(seen) / pictures, searched / len(data)))
        if len(seen) == pictures:
            break
    ball: Any = getattr(attack, "ball", None)
    limited = ball is not None and ball.norm == "Linf"
    farthest = rounded(torch.stack([(one.x_adv - one.x).abs().max() for one in seen])) if seen else (0.0,)
    scale = float(ball.eps) if limited else max(farthest)
    return Examples(
        n=len(seen), seed=seed, under=named(attack) + in_calls(calls), seconds=clock.seconds,
        gradients=sum(one.facts["gradients"] for one in seen), classes=names, searched=searched, scale=scale,
        scale_is_eps=limited, examples=tuple(_example(one, names, scale) for one in seen),
    )  # fmt: skip


def _attack(model: nn.Module, attack: Any, one: Any, which: Tensor) -> list[Seen]:
    """The rows ``which`` of a batch after the attack."""
    found = attacked(model, attack, one, which)
    x, x_adv = one.batch.x[which], found.attempt.x_adv
    ball: Ball = getattr(attack, "ball", None) or Linf(1.0)
    columns = zip(
        one.batch.ids[which].tolist(), one.batch.y[which].tolist(), found.answers.classes.tolist(),
        rounded(one.clean.confidence[which]), rounded(found.answers.confidence), found.broken.tolist(),
        found.attempt.restart.tolist(), rounded(ball.distance(x_adv, x)), found.attempt.gradients.tolist(), strict=True,
    )  # fmt: skip
    return [
        Seen(
            x[row], x_adv[row],
            {"sample": sample, "label": label, "after": after, "before_confidence": before, "after_confidence": sure,
             "broken": broken, "by": member_of(attack, restart), "distance": distance, "gradients": gradients},
        )
        for row, (sample, label, after, before, sure, broken, restart, distance, gradients) in enumerate(columns)
    ]  # fmt: skip


def member_of(attack: Any, restart: int) -> str:
    """The attack that an example comes from, with its estimator, such as "PGD-10 under RGA"."""
    members = getattr(attack, "members", None)
    name, estimator = describe(attack if members is None else members[restart])
    return name if estimator == "–" else f"{name} under {estimator}"


def _example(one: Seen, names: Sequence[str], scale: float) -> Example:
    what = f"sample {one.facts['sample']}, class {names[one.facts['label']]}"
    said = f"the network says {class_name(names, one.facts['after'])}"
    ending = said if one.facts["broken"] else f"{said}: it withstood"
    moved = as_picture(one.x_adv.double() - one.x.double()).mean(0, keepdims=True)
    return Example(
        **one.facts,
        image=Picture.of(as_picture(one.x), "image", f"Image: {what}"),
        perturbation=Picture.of(moved, "signed", f"What the attack added to {what}, magnified", scale=scale),
        adversarial=Picture.of(as_picture(one.x_adv), "image", f"After the attack on {what}: {ending}"),
    )
