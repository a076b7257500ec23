"""Checks of how the model answers: batch, previous calls, chance, buffers and modes."""

from __future__ import annotations

from robustspike.doubts.probed import Probed, count, present
from robustspike.doubts.verdicts import Check, Verdict

FLIPPED = 0.1  # share of samples whose float32 logits may differ: rounding flips a spike now and then; none in float64


def _may_differ(n: int, precision: str) -> int:
    return 0 if precision == "float64" else int(FLIPPED * n)


def batch(probed: Probed) -> Verdict:
    """A sample's logits alone, and in a batch in reverse order, against those in the batch."""
    found = present(probed.batches)
    alone, turned = count(found.alone > 0), count(found.reversed > 0)
    return Verdict(
        max(alone, turned) <= _may_differ(probed.n, found.precision),
        f"logits of {alone} of {probed.n} samples differ when alone, of {turned} when the batch is reversed; largest "
        f"difference {float(found.alone.max()):.2g} of the largest logit ({found.precision})",
    )


def calls(probed: Probed) -> Verdict:
    """The logits of A when A, A, B, A are asked for one after the other."""
    found = present(probed.answers)
    again, after = count(found.again > 0), count(found.after > 0)
    return Verdict(
        max(again, after) <= _may_differ(probed.n, found.precision),
        f"logits of {again} of {probed.n} samples differ in a second call, of {after} after a call on other images "
        f"({found.precision}, same seed)",
    )


def chance(probed: Probed) -> Verdict:
    """Chance that the model does not declare."""
    found = present(probed.chance)
    seen = "differ" if found.found else "do not differ"
    where = "" if found.streams else ", from PyTorch's generator and not from the samples' streams"
    return Verdict(
        found.declared or not found.found,
        f"logits under two seeds {seen}{where}; the model {'says' if found.declared else 'does not say'} that it is "
        "stochastic",
    )


def buffers(probed: Probed) -> Verdict:
    """What the attacks changed in the model."""
    found = present(probed.traces)
    names = ", ".join(found.changed[:3]) + (" …" if len(found.changed) > 3 else "")
    if not found.norms and not found.changed:
        return Verdict(None, "the model has no BatchNorm, and no other tensor of it changed")
    return Verdict(
        not found.changed,
        f"{found.norms} BatchNorm layers; {len(found.changed)} tensors of the model changed under attack"
        + (f": {names}" if names else ""),
    )


def mode(probed: Probed) -> Verdict:
    """Modules that stay in training mode when the model is told to evaluate."""
    found = present(probed.traces)
    names = ", ".join(found.training[:3]) + (" …" if len(found.training) > 3 else "")
    return Verdict(
        not found.training,
        f"{len(found.training)} of {found.modules} modules ran in training mode under attack"
        + (f": {names}" * bool(names)),
    )


ANSWERING = (
    Check(
        "depends on the batch", "answering",
        "Use running statistics and per-sample operations at test time: an attacker sends one image, and a figure must "
        "not depend on its neighbours.",
        batch,
    ),
    Check(
        "depends on previous calls", "answering",
        "Reset the neurons' state before every forward pass (stateless neurons, or reset_net inside forward).",
        calls,
    ),
    Check(
        "undeclared chance", "answering",
        "Give the model the attribute stochastic = True and draw from robustspike.draws; average gradients over draws, and "
        "judge by several calls.",
        chance,
    ),
    Check(
        "changed by the attack", "answering",
        "Attack a copy in evaluation mode; statistics that follow the attacker change the model under evaluation.",
        buffers,
    ),
    Check(
        "training mode", "answering",
        "Let model.eval() reach every module: dropout and batch statistics do not belong in an evaluation.",
        mode,
    ),
)  # fmt: skip
