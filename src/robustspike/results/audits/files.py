"""The folder of an audit: ``audit.json``, what was audited, and one file for each audit that is done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from robustspike.results.rates import Record, ResultError

if TYPE_CHECKING:
    from robustspike.results.audits.audited import Audited

AUDIT_FILE = "audit.json"
AUDIT_FORMAT = 1


class AuditHeader(Record):
    """What was audited, and with which settings; two audits with equal headers give equal records.

    Attributes:
        norm, eps: the ball of whatever attacks the audits make, in pixel units.
        settings: of each audit, where they are not its defaults; "estimator" and "attack" are those of all.
        n: samples given; an audit may have used the first of them only, and says so.
    """

    format: int = AUDIT_FORMAT
    model: str
    weights_fingerprint: str
    data: str
    data_fingerprint: str
    n: int
    norm: str = "Linf"
    eps: float
    seed: int
    batch_size: int
    settings: dict[str, str]
    versions: dict[str, str]


def read_audit_header(folder: str | Path) -> AuditHeader:
    """What an audit's folder says of itself.

    Raises:
        ResultError: if it is missing, damaged, or made by another version.
    """
    path = Path(folder) / AUDIT_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ResultError(f"{folder} holds no audit: {AUDIT_FILE} is missing; run `robustspike audit` first") from None
    except ValueError as error:
        raise ResultError(f"{path} is damaged: {error}") from None
    if isinstance(found, dict) and found.get("format") != AUDIT_FORMAT:
        raise ResultError(f"{path} was made by another version of robustspike; audit again, in another folder")
    try:
        return AuditHeader.model_validate(found)
    except ValidationError as error:
        raise ResultError(f"{path} is damaged or of another version: {str(error).splitlines()[0]}") from None


def read_audits(folder: str | Path) -> tuple[dict[str, Audited], dict[str, str]]:
    """The records in an audit's folder, and what is wrong with those that cannot be read, each by the audit's name."""
    from robustspike.results.audits import AUDIT_RECORDS

    found: dict[str, Audited] = {}
    problems: dict[str, str] = {}
    for name, kind in AUDIT_RECORDS.items():
        path = Path(folder) / f"{name}.json"
        if not path.exists():
            continue
        try:
            found[name] = kind.model_validate_json(path.read_bytes())
        except ValueError as error:
            problems[name] = f"{path} is damaged or of another version: {str(error).splitlines()[0]}"
    return found, problems
