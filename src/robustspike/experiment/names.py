"""Names and short specifications, as on a command line, to the things they stand for."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from robustspike.attacks import ATTACKS, SUITES, Attack, Suite
from robustspike.balls import BALLS
from robustspike.gradients import ESTIMATORS, Estimator
from robustspike.surrogates import SURROGATES, Surrogate

T = TypeVar("T")


def near(name: str, names: Iterable[str]) -> str:
    """What somebody who wrote ``name`` may have meant, then all there is, as the end of a sentence.

    Example:
        >>> near("pdg", ["fgsm", "pgd"])
        'did you mean pgd? There are: fgsm, pgd'
    """
    names = list(names)
    close = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{meant}There are: {', '.join(names)}"


def chosen(kind: str, name: str, table: Mapping[str, T]) -> T:
    """The entry of a public dict.

    Raises:
        ValueError: listing the near names and all names.

    Example:
        >>> chosen("estimator", "rga", ESTIMATORS).__name__
        'RGA'
    """
    if name not in table:
        raise ValueError(f"unknown {kind} {name!r}; {near(name, table)}")
    return table[name]


def _made(kind: str, text: str, builder: Callable[..., T], numbers: str) -> T:
    try:
        return builder(*(float(number) for number in numbers.split(":") if number))
    except (TypeError, ValueError) as error:
        takes = ", ".join(inspect.signature(builder).parameters) or "no numbers"
        raise ValueError(f"{kind} {text!r}: expected a name and {takes}, joined by colons ({error})") from None


def parse_surrogate(text: str) -> Surrogate:
    """A surrogate from "arctan" or, with its parameters, "arctan:2".

    Raises:
        ValueError: for an unknown name or unfit numbers.

    Example:
        >>> parse_surrogate("arctan:2")
        ArcTan(sharpness=2.0)
    """
    name, _, numbers = text.partition(":")
    surrogate: Surrogate = _made("surrogate", text, chosen("surrogate", name, SURROGATES), numbers)
    return surrogate


def parse_estimator(text: str) -> Estimator:
    """An estimator from "bptt" (the surrogate trained with), "bptt:arctan:2", "rga", "rga:0.3", …

    Raises:
        ValueError: for an unknown name or unfit numbers.

    Example:
        >>> parse_estimator("bptt:arctan:2")
        BPTT(surrogate=ArcTan(sharpness=2.0))
    """
    name, _, rest = text.partition(":")
    kind = chosen("estimator", name, ESTIMATORS)
    if rest and "surrogate" in inspect.signature(kind).parameters:
        return kind(parse_surrogate(rest))
    return _made("estimator", text, kind, rest)


def make_suite(
    eps: float | str,
    suite: str = "liu2024",
    *,
    attacks: Sequence[str] = (),
    estimators: Sequence[str] = (),
    norm: str = "Linf",
    steps: Sequence[int] = (),
    **options: Any,
) -> Suite:
    """A published suite, or, where ``attacks`` are named, each of them under each estimator.

    Args:
        eps: radius in pixel units, 0.03 or "8/255".
        suite: a name in SUITES; not used where ``attacks`` are named.
        attacks: names in ATTACKS.
        estimators: see :func:`parse_estimator`; none: "bptt", the surrogate trained with.
        norm: "Linf" or "L2".
        steps: gradient steps; each iterative attack is run once for each number.
        options: step_size, restarts, samples: see :class:`robustspike.PGD`; those that are None are left out.

    Raises:
        ValueError: for unknown names, or options that the suite or an attack does not take.

    Example:
        >>> [attack.name for attack in make_suite(0.1, attacks=["fgsm", "pgd"], estimators=["rga"], steps=[5]).attacks]
        ['FGSM', 'PGD-5']
    """
    ball = chosen("norm", norm, BALLS)(eps)
    options = {name: value for name, value in options.items() if value is not None}
    if not attacks:
        builder = chosen("suite", suite, SUITES)
        if estimators or options or norm != "Linf":
            given = [*(["estimator"] if estimators else []), *options, *(["norm"] if norm != "Linf" else [])]
            raise ValueError(
                f"suite {suite!r} fixes {', '.join(given)} itself; name single attacks (--attack pgd), or leave it out"
            )
        return builder(eps, steps=tuple(steps)) if steps else builder(eps)
    members: list[Attack] = []
    parsed = [parse_estimator(text) for text in (estimators or ["bptt"])]
    for name in attacks:
        members += _under(chosen("attack", name, ATTACKS), name, ball, parsed, steps, options)
    names = "+".join(dict.fromkeys(member.name for member in members))
    return Suite(f"{names} {'+'.join(estimators or ['bptt'])}", ball, tuple(members))


def _under(
    builder: Callable[..., Attack], name: str, ball: Any, estimators: Sequence[Estimator], steps: Sequence[int],
    options: Mapping[str, Any],
) -> list[Attack]:  # fmt: skip
    """One attack under each estimator, once for each number of steps, as far as it takes these options."""
    takes = inspect.signature(builder).parameters
    fixed = {"steps", "step_size"} if "options" in takes else set()  # one-step forms pass on all but these
    refused = [option for option in options if option not in takes and ("options" not in takes or option in fixed)]
    if refused:
        raise ValueError(f"attack {name!r} takes no {', '.join(refused)}; leave it out, or use pgd")
    options = dict(options) | ({"early_stop": True} if {"early_stop", "options"} & set(takes) else {})
    if "estimator" not in takes:
        return [builder(ball, **options)]
    lengths = [{"steps": n} for n in steps] if "steps" in takes and steps else [{}]
    return [builder(ball, estimator=e, **length, **options) for length in lengths for e in estimators]
