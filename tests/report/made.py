"""Comparisons made by hand from tiny arrays, for the tests of the report."""

import numpy as np

from robustspike.results import (
    ATTEMPT_FIELDS,
    Checklist,
    Comparison,
    Curve,
    Doubts,
    Finding,
    Header,
    McNemar,
    Member,
    Network,
    Outcome,
    rate,
)

MEMBERS = tuple(
    Member(attack=attack, estimator=estimator, settings=f"{attack}({estimator}, steps=10)")
    for attack in ("FGSM", "R-FGSM", "PGD-10")
    for estimator in ("BPTT, Triangle(width=1.0)", "BPTT, Sigmoid(slope=4.0)", "BPTT, ArcTan(width=2.0)", "RGA()")
)
VERSIONS = {"python": "3.11.2", "torch": "2.9.1", "robustspike": "0.1.0"}


def header(n, eps=0.1, members=MEMBERS, **changes):
    """A header of an evaluation of n samples."""
    settings = {
        "suite": "liu2024", "norm": "Linf", "eps": eps, "members": members, "survivors_only": False, "seed": 7,
        "batch_size": 64, "n": n, "data": "digits/test", "data_fingerprint": "d" * 64, "model": "digits_cnn",
        "weights_fingerprint": "a1" * 32, "calls": 1, "versions": VERSIONS,
    }  # fmt: skip
    return Header(**{**settings, **changes})


def outcome(seed=0, n=40, strength=0.5, clean=0.9, eps=0.1, survivors_only=False, members=MEMBERS, **changes):
    """An evaluation whose members break samples at random; later members break more of them."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 10, n)
    predicted = np.where(draw.random(n) < clean, labels, (labels + 1) % 10)
    attempts = np.full((n, len(members), len(ATTEMPT_FIELDS)), np.nan)
    hardness = draw.random(n)
    for m in range(len(members)):
        standing = predicted == labels
        if survivors_only:
            standing = standing & ~(attempts[:, :m, 1] == 1).any(1)
        reach = strength * (0.55 + 0.45 * (m + 1) / len(members)) + 0.06 * draw.standard_normal(n)
        fooled = (hardness < reach).astype(float)
        rows = np.stack(
            [np.full(n, m), fooled, (labels + fooled) % 10, eps * (0.9 + 0.1 * draw.random(n)), np.full(n, 10.0),
             np.full(n, m), np.zeros(n), np.zeros(n), np.zeros(n), draw.random(n) / 10], axis=1,
        )  # fmt: skip
        attempts[standing, m] = rows[standing]
    made = header(n, eps, members, survivors_only=survivors_only, **changes)
    return Outcome(made, np.arange(n), labels, predicted, attempts)


def curve(label, strength, n=40, eps=(0.0, 0.05, 0.1, 0.15, 0.2)):
    """A falling ε-curve."""
    robust = tuple(rate(round(n * 0.95 * np.exp(-((e * strength * 12) ** 2))), n) for e in eps)
    return Curve(label=label, under="PGD-10 under RGA()", norm="Linf", eps=eps, robust=robust, seed=7)


def doubts(*passed):
    """Findings that passed, failed or did not apply, and a checklist of one estimator."""
    findings = tuple(
        Finding(
            check=f"check {k}",
            passed=p,
            evidence=f"evidence {k} < 0.5",
            remedy=f"remedy {k}.",
            page=f"docs/doubts/p.md#{k}",
        )
        for k, p in enumerate(passed)
    )
    cells = (((True, "FGSM 3, PGD-10 9 of 32"), (False, "noise 7 & 2")),)
    checklist = Checklist(estimators=("RGA",), items=("one-step ≤ iterative", "more ε"), cells=cells)
    return Doubts(findings=findings, checklist=checklist, samples=32, seed=7, gradients=70, seconds=1.5, asked=32)


def several_steps():
    """Members whose steps differ and nothing else, under two estimators, and one with a caveat."""
    return (
        *(
            Member(attack=f"PGD-{n}", estimator=e, settings=f"PGD(steps={n}, {e})", steps=n)
            for n in (10, 20, 50)
            for e in ("BPTT", "RGA")
        ),
        Member(attack="encoded PGD-7", estimator="BPTT", settings="x", caveat="it moves the code", steps=7),
    )


def paired(names, n=40):
    """McNemar's test of the first and each other name."""
    return tuple(
        McNemar(a=names[0], b=name, n=n, both=9, only_a=k, only_b=7, p=0.25) for k, name in enumerate(names) if k
    )


def with_field(made, name, value, member=0):
    """The outcome with one field of one member set wherever it was tried."""
    attempts = made.attempts.copy()
    column = ATTEMPT_FIELDS.index(name)
    attempts[made.tried[:, member], member, column] = value
    return Outcome(made.header, made.samples, made.labels, made.clean, attempts)


TRAINING = {
    "defence": "SR*", "epochs": 30, "optimizer": {"name": "Adam", "lr": 0.001}, "weight": 0.002, "seed": 7,
    "validation_accuracy": None, "milestones": [10, 20],
}  # fmt: skip


def comparison(count=4, n=40, title="Four ways of training on digits", with_curve=True, **changes):
    """A comparison of ``count`` networks, and the outcomes that it was made from."""
    names = ["vanilla", "AT", "SR", "SR*"] + [f"digits-cnn-{i} λ=0.00{i}" for i in range(5, 21)]
    strengths = np.linspace(1.0, 0.3, count) if count > 1 else [0.5]
    outcomes = [outcome(i, n, strength, **changes) for i, strength in enumerate(strengths)]
    networks = tuple(
        Network(name=name, training=TRAINING, summary=made.summary(), curve=curve(name, s, n) if with_curve else None)
        for name, made, s in zip(names, outcomes, strengths, strict=False)
    )
    return Comparison(title=title, networks=networks, notes=("Digits are 8×8 images.",)), outcomes
