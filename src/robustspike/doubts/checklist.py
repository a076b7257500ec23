"""The checklist of gradient obfuscation, for each gradient estimator."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from robustspike.doubts.probed import MissingError, Probed, count, weaker
from robustspike.doubts.probes import ESTIMATORS
from robustspike.doubts.strength import ALL, allowed_beyond, rises
from robustspike.results import Checklist

Cell = tuple[bool | None, str]


def _one_step(probed: Probed, name: str) -> Cell:
    one, ten = probed.broke("FGSM", name), probed.broke("PGD-10", name)
    return not weaker(ten, one), f"FGSM {count(one)}, PGD-10 {count(ten)} of {probed.n}"


def _black_box(probed: Probed, name: str) -> Cell:
    white, black = probed.broke("PGD-10", name), probed.broke("black-box")
    return not weaker(white, black), f"white-box {count(white)}, black-box {count(black)} of {probed.n}"


def _more_eps(probed: Probed, name: str) -> Cell:
    sizes = ("ε", "2ε", "unbounded")
    broke: list[Tensor] = [probed.broke("PGD-10", name, size) for size in sizes]
    figures = ", ".join(f"{count(b)} at {probed.eps[size]:.3g}" for b, size in zip(broke, sizes, strict=True))
    return rises(broke, probed.n), f"{figures} of {probed.n}"


def _unbounded(probed: Probed, name: str) -> Cell:
    broke = count(probed.broke("PGD-10", name, "unbounded"))
    return broke >= ALL * probed.n, f"{broke} of {probed.n} at {probed.eps['unbounded']:.3g}"


def _random(probed: Probed, name: str) -> Cell:
    noise, white = probed.broke("noise"), probed.broke("PGD-10", name)
    missed = count(noise & ~white)
    if probed.n <= allowed_beyond(probed.n):
        return None, f"only {probed.n} samples: all of them could be chance"
    return missed <= allowed_beyond(probed.n), f"noise {count(noise)}, {missed} missed by PGD-10 of {probed.n}"


ITEMS: dict[str, Callable[[Probed, str], Cell]] = {
    "one-step ≤ iterative": _one_step,
    "white-box ≥ black-box": _black_box,
    "more ε, more success": _more_eps,
    "unbounded: ~100 %": _unbounded,
    "random finds nothing more": _random,
}


def checklist(probed: Probed) -> Checklist:
    """Which of the five symptoms each estimator is free of, with the counts that decide (samples broken).

    Source: Ding 2022, table A2, whose cells say only "pass" or "fail"; the margins are ours.

    Example:
        >>> checklist(Probed(n=32)).items[0]
        'one-step ≤ iterative'
    """

    def cell(item: Callable[[Probed, str], Cell], name: str) -> Cell:
        try:
            return item(probed, name)
        except MissingError as absent:
            return (False if absent.missing.failed else None), absent.missing.why

    cells = tuple(tuple(cell(item, name) for item in ITEMS.values()) for name in ESTIMATORS)
    names = tuple("BPTT own surrogate" if name == "own" else name for name in ESTIMATORS)
    return Checklist(estimators=names, items=tuple(ITEMS), cells=cells)
