"""True and predicted classes without and under attack."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from robustspike.attacks import Attack
from robustspike.audits.attacked import attacked, check_on_pixels, in_calls, judged
from robustspike.audits.attacking import named, usual_attack
from robustspike.audits.batches import Stopwatch, Watch
from robustspike.audits.pictured import names_of
from robustspike.data import Split
from robustspike.results.audits.confusion import Confusion


def confusion(
    model: nn.Module,
    data: Split,
    *,
    eps: float | str = "8/255",
    attack: Attack | None = None,
    seed: int = 0,
    batch_size: int = 64,
    watch: Watch | None = None,
    class_names: Sequence[str] | None = None,
) -> Confusion:
    """Confusion matrices without and under attack, and each class's accuracy.

    Only samples that are classified correctly are attacked; one that the attack does not break counts with the class that
    it has without attack. So the diagonal under attack is the robust accuracy.

    Args:
        model: x [N, ...] in [0, 1] to logits [N, K]; in evaluation mode meanwhile, left as it was.
        data: the samples.
        eps: L∞ radius in pixel units, where no attack is given.
        attack: on pixels; None: PGD-10, the worst of four estimators.
        seed: of all random draws.
        batch_size: samples at a time; no figure depends on it beyond rounding.
        watch: hears how much is done.
        class_names: one for each class; None: their numbers.

    Raises:
        ValueError: for an empty split, other names than classes, or an attack on the encoded tensor.

    Example:
        >>> found = audits.confusion(digits_cnn(time_steps=2), load("digits").test.subset(8))
        >>> found.matrix("attacked").shape, int(found.matrix("clean").sum())
        ((10, 11), 8)
    """
    clock = Stopwatch()
    attack = usual_attack(model, eps) if attack is None else attack
    check_on_pixels(attack, "confusion")
    labels: list[int] = []
    clean: list[int] = []
    after: list[int] = []
    names: tuple[str, ...] = ()
    gradients, calls = 0, 1
    for one in judged(model, data, "confusion", seed, batch_size, watch):
        names, calls = names_of(class_names, one.clean.probabilities.shape[1]), one.calls
        result, which = one.clean.classes.clone(), one.correct
        if len(which):
            found = attacked(model, attack, one, which)
            result[which] = found.answers.classes  # where it withstands, that is its class without attack
            gradients += int(found.attempt.gradients.sum())
        labels += one.batch.y.tolist()
        clean += one.clean.classes.tolist()
        after += result.tolist()
    return Confusion(
        n=len(data), seed=seed, under=named(attack) + in_calls(calls), gradients=gradients, seconds=clock.seconds,
        classes=names, labels=tuple(labels), clean=tuple(clean), attacked=tuple(after),
    )  # fmt: skip
