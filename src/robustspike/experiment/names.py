"""Names and short specifications, as on a command line, to the things they stand for."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

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
