"""How a check of the doctor's becomes a finding."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any, NamedTuple

from robustspike.results import Finding

PAGE = "docs/doctor.md"


class Verdict(NamedTuple):
    """What a check decides (None: not applicable), the figures behind it, and a remedy more exact than its usual one."""

    passed: bool | None
    evidence: str
    remedy: str = ""


class NotApplicableError(Exception):
    """Raised by a check that has nothing to look at; the message says why."""


@dataclass(frozen=True)
class Check:
    """One check, under its name in one of the dicts.

    Attributes:
        remedy: what to do if it fails.
        judge: from what is examined to a verdict; may raise :class:`NotApplicableError`.
    """

    remedy: str
    judge: Callable[..., Verdict]


def finding(name: str, check: Check, *examined: Any) -> Finding:
    """The finding of one check; one that raises has failed, with the error's own sentence as evidence."""
    try:
        verdict = check.judge(*examined)
    except NotApplicableError as absent:
        verdict = Verdict(None, str(absent))
    except Exception as error:
        verdict = Verdict(False, f"could not be examined: {sentence(error)}")
    remedy = verdict.remedy or check.remedy
    return Finding(check=name, passed=verdict.passed, evidence=verdict.evidence, remedy=remedy, page=address(name))


def sentence(error: BaseException) -> str:
    """An error in one line."""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first.rstrip('.')}" if first else type(error).__name__


def address(name: str) -> str:
    """Page and section, such as "docs/doctor.md#state-leak"."""
    return f"{PAGE}#{re.sub(r'[^a-z0-9_ -]', '', name.lower()).replace(' ', '-')}"


def version(distribution: str) -> str | None:
    """The installed version, without importing anything; None where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def some(names: list[str], most: int = 3) -> str:
    """The first few of some names.

    Example:
        >>> some(["a", "b", "c", "d"])
        'a, b, c and 1 more'
    """
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
