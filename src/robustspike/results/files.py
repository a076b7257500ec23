"""The files of an evaluation: its header, one line per sample, what the checks found."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import chain
from operator import index, itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from pydantic_core import from_json

from robustspike.results.findings import Doubts
from robustspike.results.outcome import ATTEMPT_FIELDS, Outcome
from robustspike.results.rates import ResultError
from robustspike.results.records import FORMAT, Header

HEADER_FILE, ROWS_FILE, DOUBTS_FILE = "evaluation.json", "samples.jsonl", "doubts.json"

_ROW_FIELDS = ("sample", "label", "clean")
_FIELDS_OF = itemgetter(*ATTEMPT_FIELDS)
_BLOCK = 64  # lines parsed at a time
_DAMAGE = (ValueError, TypeError, KeyError, OverflowError)

_READ: ContextVar[dict[Any, Outcome] | None] = ContextVar("robustspike_read_outcomes", default=None)
_KEPT = 2**30  # bytes


def row_of(sample: int, label: int, clean: int, attempts: list[list[float]]) -> str:
    """One line of samples.jsonl."""
    named = [dict(zip(ATTEMPT_FIELDS, attempt, strict=True)) for attempt in attempts]
    return json.dumps({"sample": sample, "label": label, "clean": clean, "attempts": named})


def outcome_of(header: Header, rows: list[dict[str, Any]]) -> Outcome:
    """The outcome of parsed lines, in the order of the samples' numbers.

    Raises:
        ResultError: if a sample was tried twice by one member, or by a member that the header does not list.
    """
    return _arranged(header, _as_arrays(rows))


@dataclass(frozen=True)
class _Lines:
    """Lines as arrays: [N, 3] sample, label and clean class; [K] the line of each attempt; [K, 10] the attempts."""

    heads: NDArray[np.int64]
    line: NDArray[np.int64]
    attempts: NDArray[np.float64]


def _as_arrays(rows: Sequence[dict[str, Any]]) -> _Lines:
    """Raises ValueError, TypeError, KeyError or OverflowError if a row lacks a field or has no number there."""
    heads = np.array([[index(row[name]) for name in _ROW_FIELDS] for row in rows], dtype=np.int64).reshape(-1, 3)
    counts = [len(row["attempts"]) for row in rows]

    def numbers() -> Iterator[Any]:
        return chain.from_iterable(map(_FIELDS_OF, chain.from_iterable(row["attempts"] for row in rows)))

    values = np.fromiter(numbers(), np.float64, len(ATTEMPT_FIELDS) * sum(counts))
    if np.isnan(values).any() and None in numbers():  # which NumPy takes for NaN
        raise TypeError("a number is missing")
    return _Lines(heads, np.repeat(np.arange(len(rows)), counts), values.reshape(-1, len(ATTEMPT_FIELDS)))


def _together(parts: Sequence[_Lines]) -> _Lines:
    """One after the other."""
    before = np.cumsum([0, *(len(part.heads) for part in parts)])
    lines = [part.line + start for part, start in zip(parts, before, strict=False)]
    return _Lines(
        np.concatenate([np.zeros((0, 3), dtype=np.int64), *(part.heads for part in parts)]),
        np.concatenate([np.zeros(0, dtype=np.int64), *lines]),
        np.concatenate([np.zeros((0, len(ATTEMPT_FIELDS))), *(part.attempts for part in parts)]),
    )


def _arranged(header: Header, lines: _Lines) -> Outcome:
    """Lines in the order of the samples' numbers, attempts where their members are."""
    samples, member = lines.heads[lines.line, 0], lines.attempts[:, 0]
    foreign = (member != np.round(member)) | (member < 0) | (member >= len(header.members))
    if foreign.any():
        first = int(np.flatnonzero(foreign)[0])
        raise ResultError(
            f"sample {samples[first]} was tried by member {member[first]:g}, but the header lists {len(header.members)}, "
            "from 0; the files do not belong together, evaluate again in another folder"
        )
    order = np.argsort(lines.heads[:, 0], kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    cells = place[lines.line] * len(header.members) + member.astype(np.int64)
    if len(cells) and (counts := np.bincount(cells)).max() > 1:
        line, m = divmod(int(counts.argmax()), len(header.members))
        raise ResultError(f"sample {lines.heads[order][line, 0]} was tried twice by member {m}; evaluate again")
    attempts = np.full((len(order) * len(header.members), len(ATTEMPT_FIELDS)), np.nan)
    attempts[cells] = lines.attempts
    numbers, labels, clean = np.ascontiguousarray(lines.heads[order].T)
    shape = len(order), len(header.members), len(ATTEMPT_FIELDS)
    return Outcome(header, numbers, labels, clean, attempts.reshape(shape))


def read_header(folder: str | Path) -> Header:
    """The header of an evaluation's folder.

    Raises:
        ResultError: if it is missing, damaged, or made by another version.
    """
    path = Path(folder) / HEADER_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
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
    """The complete lines of an evaluation, also of one by several processes; a last line cut short is left out.

    Raises:
        ResultError: if another line is damaged.
    """
    rows = _rows_of(Path(folder) / ROWS_FILE)
    known = {row["sample"] for row in rows}
    for path in rank_files(folder):
        rows += [row for row in _rows_of(path) if row["sample"] not in known]
        known |= {row["sample"] for row in rows}
    return rows


def _rows_of(path: Path) -> list[dict[str, Any]]:
    lines = _lines_in(path)
    return [row for start in range(0, len(lines), _BLOCK) for row in _whole(lines, start, path)]


def _lines_in(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\n") if path.exists() else []


def _whole(lines: list[bytes], start: int, path: Path) -> list[dict[str, Any]]:
    """The whole lines of a block, parsed; none after them may hold anything."""
    rows = []
    for number, line in enumerate(lines[start : start + _BLOCK], start + 1):
        try:
            rows.append(from_json(line))
            _as_arrays(rows[-1:])
        except _DAMAGE:
            if any(later.strip() for later in lines[number:]):
                raise ResultError(f"{path}, line {number} is damaged; delete the folder and evaluate again") from None
            return rows[: number - start - 1]
    return rows


def _read_lines(folder: Path) -> _Lines:
    """The same lines as :func:`read_rows`, as arrays."""
    first = _arrays_of(folder / ROWS_FILE)
    known = set(first.heads[:, 0].tolist())
    found = [first]
    for path in rank_files(folder):
        more = _as_arrays([row for row in _rows_of(path) if row["sample"] not in known])
        known |= set(more.heads[:, 0].tolist())
        found.append(more)
    return _together(found)


def _arrays_of(path: Path) -> _Lines:
    """A file's lines block by block: parsed objects take many times the memory of the arrays."""
    lines, parts = _lines_in(path), []
    for start in range(0, len(lines), _BLOCK):
        try:
            parts.append(_as_arrays([from_json(line) for line in lines[start : start + _BLOCK]]))
        except _DAMAGE:
            parts.append(_as_arrays(_whole(lines, start, path)))
    return _together(parts)


def read_doubts(folder: str | Path) -> Doubts | None:
    """What the checks of an evaluation found; None where they were not run.

    Raises:
        ResultError: if the file is damaged.
    """
    path = Path(folder) / DOUBTS_FILE
    try:
        return Doubts.model_validate_json(path.read_text(encoding="utf-8"))
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
    read = _READ.get()
    if read is None:
        return _load(Path(folder), unfinished)
    state = _state_of(Path(folder))
    found = read.get(state)
    if found is None or not (found.finished or unfinished):
        found = _load(Path(folder), unfinished)
        if sum(one.attempts.nbytes for one in read.values()) + found.attempts.nbytes <= _KEPT:
            read[state] = found
    return found


def _load(folder: Path, unfinished: bool) -> Outcome:
    header, lines = read_header(folder), _read_lines(folder)
    samples, count = np.unique(lines.heads[:, 0], return_counts=True)
    if (count > 1).any():
        raise ResultError(f"{folder}: sample {samples[count.argmax()]} occurs twice; evaluate again in another folder")
    if len(samples) > header.n:
        raise ResultError(
            f"{folder} holds {len(samples)} samples of {header.n}: its files do not belong together; evaluate again"
        )
    if len(samples) < (1 if unfinished else header.n):
        raise ResultError(
            f"{folder} holds {len(samples)} of {header.n} samples: the evaluation is not finished; resume it"
        )
    try:
        outcome = _arranged(header, lines)
    except ResultError as error:
        raise ResultError(f"{folder}: {error}") from None
    return dataclasses.replace(outcome, doubts=read_doubts(folder))


@contextlib.contextmanager
def reading_once() -> Iterator[None]:
    """Within the block the rows of an evaluation are read once, as long as none of its files changes.

    Example:
        >>> model, images = digits_cnn(time_steps=2), load("digits").test.subset(4)
        >>> _ = rs.evaluate(model, images, [fgsm(Linf(0.1))], out=tmp_path / "b", doubts=0, progress=False)
        >>> with rs.results.files.reading_once():
        ...     load_outcome(tmp_path / "b") is load_outcome(tmp_path / "b")
        True
    """
    token = _READ.set({})
    try:
        yield
    finally:
        _READ.reset(token)


def _state_of(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of the files that an outcome is read from."""
    paths = [*(folder / name for name in (HEADER_FILE, ROWS_FILE, DOUBTS_FILE)), *rank_files(folder)]
    states = [(path, path.stat()) for path in paths if path.exists()]
    return tuple((str(path.absolute()), state.st_size, state.st_mtime_ns) for path, state in states)
