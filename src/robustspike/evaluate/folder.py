"""The folder of an evaluation: claimed, appended to batch by batch, merged from several processes."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from robustspike.processes import Processes
from robustspike.results import (
    DOUBTS_FILE,
    HEADER_FILE,
    ROWS_FILE,
    Header,
    ResultError,
    rank_files,
    read_header,
    read_rows,
)
from robustspike.writing import write_text

try:
    import fcntl
except ImportError:  # of Unix only; elsewhere nobody is kept out
    fcntl = None  # type: ignore[assignment]

Rows = dict[int, dict[str, Any]]


@contextlib.contextmanager
def alone(out: Path | None, processes: Processes) -> Iterator[None]:
    """Within the block no other evaluation writes into the folder; those that torchrun starts together count as one.

    Raises:
        ResultError: if another one does.
    """
    held: list[int] = []
    try:
        if out is not None:
            processes.first(lambda: held.append(_locked(out)))
        yield
    finally:
        for folder in held:
            os.close(folder)


def _locked(out: Path) -> int:
    """The folder, open and locked until it is closed, also by a kill."""
    out.mkdir(parents=True, exist_ok=True)
    folder = os.open(out, os.O_RDONLY)
    try:
        if fcntl is not None:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(folder)
        raise ResultError(
            f"another process is writing to {out}; wait for it, or share one evaluation between processes by torchrun"
        ) from None
    return folder


def previous_rows(header: Header, ids: list[int], out: Path | None, resume: bool) -> Rows:
    """Rows of whole blocks that an earlier run of the same evaluation left; a block cut short is done again."""
    if out is None:
        return {}
    if not (out / HEADER_FILE).exists():
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / HEADER_FILE, header.model_dump_json(indent=2))
        for path in (out / ROWS_FILE, out / DOUBTS_FILE, *rank_files(out)):
            path.unlink(missing_ok=True)
        return {}
    if not resume:
        raise ResultError(f"{out} holds an evaluation already; resume it (--resume), or choose another folder")
    found = read_header(out)
    if differing := differences(found, header):
        raise ResultError(f"{out} holds another evaluation: {', '.join(differing)} differ; choose another folder")
    rows = {int(row["sample"]): row for row in read_rows(out)}
    for start in range(0, header.n, header.batch_size):
        block = ids[start : start + header.batch_size]
        if not all(i in rows for i in block):
            for i in block:
                rows.pop(i, None)
    merge(out, (rows[i] for i in ids if i in rows))
    return rows


def differences(a: Header, b: Header) -> list[str]:
    """The names of the fields in which two headers differ."""
    return [name for name in Header.model_fields if repr(getattr(a, name)) != repr(getattr(b, name))]


def merge(out: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write all rows into samples.jsonl, then drop the processes' own files."""
    write_text(out / ROWS_FILE, "".join(json.dumps(row) + "\n" for row in rows))
    for path in rank_files(out):
        path.unlink()


def rows_file(out: Path | None, rank: int, world: int) -> Path | None:
    """Where a process appends its rows."""
    return None if out is None else out / (ROWS_FILE if world == 1 else f"samples.rank{rank}.jsonl")


def append(path: Path | None, rows: list[dict[str, Any]]) -> None:
    """Add lines to a file, on the disk when this returns."""
    if path is None:
        return
    try:
        with path.open("a") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = str(path)  # a full disk names none
        raise
