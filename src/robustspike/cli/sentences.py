"""One sentence for whatever users can cause, and a console that only one of several processes writes to."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import sys
from collections.abc import Iterator

import torch
import typer
from rich.console import Console
from rich.text import Text

from robustspike.experiment import show
from robustspike.processes import first_to_fail, speaks
from robustspike.results import Table
from robustspike.train import TrainingError

INTERRUPTED = 130


def say(text: str) -> None:
    """Print a line as it is, in one of the processes."""
    if speaks():
        Console().print(Text(text), soft_wrap=True)


def say_table(table: Table, keep: int | None = None) -> None:
    """Print a table and an empty line, in one of the processes; ``keep``: so many columns at least."""
    if speaks():
        show(table, keep=keep)
        print()


@contextlib.contextmanager
def one_sentence(argv: list[str]) -> Iterator[None]:
    """Turn what users can cause into one sentence on stderr and an exit code; genuine bugs keep their traceback."""
    try:
        yield
    except (KeyboardInterrupt, typer.Abort):
        again = [
            *argv,
            *(["--resume"] if argv[:1] in (["train"], ["attack"], ["audit"]) and "--resume" not in argv else []),
        ]
        _fail(f"interrupted; all finished work is kept, go on with: {shlex.join(['robustspike', *again])}", INTERRUPTED)
    except OSError as error:
        _fail(_disk(error), 1)
    except torch.OutOfMemoryError as error:
        _fail(f"out of memory ({str(error).splitlines()[0]}); use a smaller --batch-size", 1)
    except (ValueError, TrainingError) as error:
        _fail(str(error), 1)
    except Exception as error:
        if not hasattr(error, "format_message"):
            if first_to_fail():
                raise
            raise SystemExit(1) from None  # what follows from another process's end
        _fail(f"{error.format_message().rstrip('.')}; see `robustspike {' '.join(argv[:1])} --help`", 2)


def _disk(error: OSError) -> str:
    where = error.filename or "a file"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        how = "what was there before is kept; free space, then go on with --resume (demo: run it again)"
        return f"no space left on the disk while writing {where}; {how}"
    return f"{where}: {(error.strerror or str(error)).lower()}; check the path and its permissions"


def _fail(message: str, code: int) -> None:
    if os.environ.get("ROBUSTSPIKE_DEBUG") == "1":
        raise
    if first_to_fail():
        print(f"robustspike: {' '.join(message.split())}", file=sys.stderr, flush=True)
    raise SystemExit(code)
