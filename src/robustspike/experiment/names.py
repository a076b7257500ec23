"""Names and short specifications, as on a command line, to the things they stand for."""

from __future__ import annotations

import contextlib
import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from robustspike.defences import DEFENCES
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


def parse_estimators(text: str) -> tuple[Estimator, ...]:
    """Estimators from a list with commas.

    Raises:
        ValueError: as :func:`parse_estimator`; if one is named twice.

    Example:
        >>> parse_estimators("bptt,bptr")
        (BPTT(surrogate=None), BPTR())
    """
    found = tuple(parse_estimator(part.strip()) for part in text.split(","))
    if len(set(map(repr, found))) < len(found):
        raise ValueError(f"estimators {text!r}: expected each one once; leave out what is repeated")
    return found


Parts = tuple[tuple[str, float | None], ...]


def parse_defence(text: str) -> Parts:
    """(name, weight) of each objective in a sum such as "sr:0.002+trades:6"; the weight is None where none is given.

    Raises:
        ValueError: for an unknown name, one that occurs twice, or a weight that is no number ≥ 0.

    Example:
        >>> parse_defence("at+sr:0.002")
        (('at', None), ('sr', 0.002))
    """
    parts = []
    for part in text.split("+"):
        name, colon, number = part.strip().partition(":")
        chosen("defence", name, DEFENCES)
        parts.append((name, _weight(number, text) if colon else None))
    names = [name for name, _ in parts]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ValueError(f"defence {text!r}: {twice[0]} occurs twice; name each objective once")
    return tuple(parts)


def _weight(number: str, text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= (weight := float(number)) < float("inf"):
            return weight
    raise ValueError(f'defence {text!r}: expected a weight ≥ 0 after the colon, as in "sr:0.002", got {number!r}')


def as_text(parts: Parts) -> str:
    """A sum of objectives as it is written; the inverse of :func:`parse_defence`.

    Example:
        >>> as_text((("at", None), ("sr", 0.002)))
        'at+sr:0.002'
    """
    return "+".join(name if weight is None else f"{name}:{weight:g}" for name, weight in parts)


def taken_by(defence: str) -> Mapping[str, inspect.Parameter]:
    """What the builder of a defence can be told.

    Example:
        >>> sorted(taken_by("at"))
        ['attack']
    """
    return inspect.signature(chosen("defence", defence, DEFENCES)).parameters
