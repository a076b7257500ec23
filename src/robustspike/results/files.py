"""The files of an evaluation: its header, one line per sample, what the checks found."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from robustspike.results.findings import Doubts
from robustspike.results.outcome import ATTEMPT_FIELDS, Outcome
from robustspike.results.rates import ResultError
from robustspike.results.records import FORMAT, Header

HEADER_FILE, ROWS_FILE, DOUBTS_FILE = "evaluation.json", "samples.jsonl", "doubts.json"

_ROW_FIELDS = ("sample", "label", "clean")


def row_of(sample: int, label: int, clean: int, attempts: list[list[float]]) -> str:
    """One line of samples.jsonl."""
    named = [dict(zip(ATTEMPT_FIELDS, attempt, strict=True)) for attempt in attempts]
    return json.dumps({"sample": sample, "label": label, "clean": clean, "attempts": named})


def outcome_of(header: Header, rows: list[dict[str, Any]]) -> Outcome:
    """The outcome of parsed lines, in the order of the samples' numbers."""
    rows = sorted(rows, key=lambda row: row["sample"])
    attempts = np.full((len(rows), len(header.members), len(ATTEMPT_FIELDS)), np.nan)
    for i, row in enumerate(rows):
        for attempt in row["attempts"]:
            attempts[i, int(attempt["member"])] = [attempt[name] for name in ATTEMPT_FIELDS]
    samples, labels, clean = (np.array([row[name] for row in rows], dtype=np.int64) for name in _ROW_FIELDS)
    return Outcome(header, samples, labels, clean, attempts)


def read_header(folder: str | Path) -> Header:
    """The header of an evaluation's folder.

    Raises:
        ResultError: if it is missing, damaged, or made by another version.
    """
    path = Path(folder) / HEADER_FILE
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise ResultError(
            f"{folder} holds no evaluation: {HEADER_FILE} is missing; run `robustspike attack` first"
        ) from None
    except ValueError as error:
        raise ResultError(f"{path} is damaged or of another version: {error}") from None
    made = found.get("format") if isinstance(found, dict) else None
    if isinstance(made, int) and made != FORMAT:
        when = "an earlier" if made < FORMAT else "a later"
        raise ResultError(f"{path} was made by {when} version of robustspike; evaluate again, in another folder")
    try:
        return Header.model_validate(found)
    except ValidationError as error:
        raise ResultError(f"{path} is damaged or of another version: {str(error).splitlines()[0]}") from None


def rank_files(folder: str | Path) -> list[Path]:
    """The lines that processes left which were not merged into samples.jsonl yet."""
    return sorted(Path(folder).glob("samples.rank*.jsonl"))


def read_rows(folder: str | Path) -> list[dict[str, Any]]:
    """The complete lines of an evaluation, also of one by several processes; a last line cut short is left out."""
    rows = _rows_of(Path(folder) / ROWS_FILE)
    known = {row["sample"] for row in rows}
    for path in rank_files(folder):
        rows += [row for row in _rows_of(path) if row["sample"] not in known]
        known |= {row["sample"] for row in rows}
    return rows


def _rows_of(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(_row(line))
        except (ValueError, TypeError, KeyError):
            if any(later.strip() for later in lines[number:]):
                raise ResultError(f"{path}, line {number} is damaged; delete the folder and evaluate again") from None
    return rows


def _row(line: str) -> dict[str, Any]:
    """A parsed line; raises if it lacks a field."""
    row: dict[str, Any] = json.loads(line)
    for name in _ROW_FIELDS:
        int(row[name])
    for attempt in row["attempts"]:
        _ = [float(attempt[name]) for name in ATTEMPT_FIELDS]
    return row


def read_doubts(folder: str | Path) -> Doubts | None:
    """What the checks of an evaluation found; None where they were not run.

    Raises:
        ResultError: if the file is damaged.
    """
    path = Path(folder) / DOUBTS_FILE
    try:
        return Doubts.model_validate_json(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ResultError(f"{path} is damaged ({str(error).splitlines()[0]}); delete it and resume") from None


def load_outcome(folder: str | Path, unfinished: bool = False) -> Outcome:
    """An evaluation from its folder.

    Args:
        folder: with ``evaluation.json`` and ``samples.jsonl``.
        unfinished: take what is there, at least one sample, of an evaluation that is not finished.

    Raises:
        ResultError: if it is missing, damaged or not finished.

    Example:
        >>> model, images = digits_cnn(time_steps=2), load("digits").test.subset(4)
        >>> outcome = rs.evaluate(model, images, [fgsm(Linf(0.1))], out=tmp_path / "a", doubts=0, progress=False)
        >>> load_outcome(tmp_path / "a").robust_accuracy == outcome.robust_accuracy
        True
    """
    header, rows = read_header(folder), read_rows(folder)
    found = {row["sample"] for row in rows}
    partly = unfinished and 0 < len(found) < header.n
    if len(rows) != len(found) or not (len(found) == header.n or partly):
        raise ResultError(
            f"{folder} holds {len(found)} of {header.n} samples: the evaluation is not finished; resume it"
        )
    return dataclasses.replace(outcome_of(header, rows), doubts=read_doubts(folder))
