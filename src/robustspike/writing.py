"""Files that are whole or not there.

They are written beside their target and then renamed, so a killed process or a full disk leaves the old file whole.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, renamed to ``path`` if the block succeeds and removed if it does not.

    Example:
        >>> with replacing(tmp_path / "new folder" / "figures.csv") as unfinished:
        ...     _ = unfinished.write_text("eps,robust")
        >>> [path.name for path in (tmp_path / "new folder").iterdir()]
        ['figures.csv']
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        yield unfinished
        with unfinished.open("rb") as written:
            os.fsync(written.fileno())
        unfinished.replace(path)
    except OSError as error:
        if error.errno is not None:  # an error of the system's, and a full disk names no file
            error.filename = str(path)
        raise
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file or nothing."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
