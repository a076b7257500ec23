"""A file of the user's imported as a module of its own, and the network that something in it makes."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from robustspike.experiment.names import near

PREFIX = "robustspike_file_"
HOW = "ROBUSTSPIKE_DEBUG=1 shows how it came to that"
PACKAGE = Path(__file__).parents[1]


def is_target(text: str | Path) -> bool:
    """Whether somebody means something in a file, not a folder.

    Example:
        >>> [is_target(text) for text in ("my_net.py:make_model", "my_net.py", "runs/b")]
        [True, True, False]
    """
    after_drive = os.path.splitdrive(str(text))[1]
    return (":" in after_drive or after_drive.endswith(".py")) and not Path(text).is_dir()


def parse_target(target: str) -> tuple[Path, str]:
    """The file and the name in it that ``path/to/my_net.py:make_model`` stands for.

    Raises:
        ValueError: without a colon, or without such a file.
    """
    file, colon, name = target.rpartition(":") if ":" in os.path.splitdrive(target)[1] else (target, "", "")
    path = Path(file).expanduser()
    if not path.is_file():
        there = [other.name for other in path.parent.glob("*.py")] if path.parent.is_dir() else []
        meant = f"; {near(path.name, sorted(there))}" if there else "; check the path"
        raise ValueError(f"{target}: there is no file {path}{meant}")
    if not colon or not name:
        there = _defined_in(path)
        such = f"; there are: {', '.join(there)}" if there else ""
        raise ValueError(f"{target}: expected FILE.py:NAME, NAME being what makes the network, as in {path}:make{such}")
    return path, name


def code_of(path: Path) -> str:
    """16 hexadecimal digits of what a file and the modules imported from beside it do; comments make no difference.

    Raises:
        ValueError: if it is no Python.
    """
    files = {path.resolve(), *_imported_beside(path.resolve().parent)}
    with _blaming(path):
        texts = [ast.dump(ast.parse(file.read_bytes(), str(file))) for file in sorted(files)]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def _imported_beside(folder: Path) -> set[Path]:
    """Python files in a folder, and below, that are imported at present; installed packages left aside."""
    named = [Path(str(file)).resolve() for m in list(sys.modules.values()) if (file := getattr(m, "__file__", None))]
    own = Path(__file__).resolve().parents[1]
    beside = {file for file in named if file.suffix == ".py" and file.is_relative_to(folder) and file.is_file()}
    return {file for file in beside if "site-packages" not in file.parts and not file.is_relative_to(own)}


def made_by(target: str) -> nn.Module:
    """The network that a function without arguments or a class in a file makes, or that is there under the name.

    Weights drawn by PyTorch on the CPU are the same every time.

    Raises:
        ValueError: in one sentence, for a file or name that is not there, a function that needs arguments, anything that is
            no network, and whatever the file's own code raises, with file and line.
    """
    path, name = parse_target(target)
    path = path.resolve()
    with torch.random.fork_rng(devices=[]), _beside(path):
        torch.default_generator.manual_seed(0)
        module = _imported(path)
        if not hasattr(module, name):
            raise ValueError(f"{target}: there is no {name!r} in {path.name}; {near(name, _makers(module))}")
        made = getattr(module, name)
        if not isinstance(made, nn.Module):
            _check_callable(made, target, name)
            with _blaming(path):
                made = made()
    if not isinstance(made, nn.Module):
        inside = f" of {', '.join(type(part).__name__ for part in made)}" if isinstance(made, tuple) else ""
        raise ValueError(
            f"{target}: expected a network (torch.nn.Module), got a {type(made).__name__}{inside}; return the network alone"
        )
    return made


def _check_callable(made: Any, target: str, name: str) -> None:
    if not callable(made):
        raise ValueError(
            f"{target}: expected a network, a class or a function, got {made!r:.40} ({type(made).__name__})"
        )
    try:
        parameters = inspect.signature(made).parameters.values()
    except (TypeError, ValueError):  # some callables tell nothing of themselves
        return
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is inspect.Parameter.empty and p.kind not in variable]
    if needed:
        raise ValueError(
            f"{target} needs arguments ({', '.join(needed)}); name a function without any, such as "
            f"`def make(): return {name}({', '.join(f'{one}=…' for one in needed)})`"
        )


def _defined_in(path: Path) -> list[str]:
    """The functions and classes of a file, without executing it; none where it is no Python."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (SyntaxError, ValueError):
        return []
    return [
        one.name for one in body if isinstance(one, ast.FunctionDef | ast.ClassDef) and not one.name.startswith("_")
    ]


def _makers(module: ModuleType) -> list[str]:
    """What in a module could be meant: networks, and its own functions and classes."""
    return [
        name
        for name, value in vars(module).items()
        if isinstance(value, nn.Module) or (callable(value) and getattr(value, "__module__", "") == module.__name__)
    ]


def _imported(path: Path) -> ModuleType:
    """The file as a module, executed anew, under a name that is always the same and nobody else's."""
    name = re.sub(r"\W", "_", f"{PREFIX}{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module, before = importlib.util.module_from_spec(spec), sys.modules.get(name)
    sys.modules[name] = module
    try:
        with _blaming(path):
            exec(compile(path.read_bytes(), str(path), "exec"), vars(module))  # no stale bytecode is looked at
    except BaseException:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        raise
    return module


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[None]:
    """Within the block the modules beside a file can be imported, as where the file is run as a script."""
    folder = str(path.parent)
    hidden = {name: sys.modules.pop(name) for name in _of_other_files(path.parent)}
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)
        sys.modules.update(hidden)


def _of_other_files(folder: Path) -> list[str]:
    """Modules that lie beside a file imported earlier from another folder, and are called as one in this folder is."""
    folders = {Path(str(m.__file__)).parent for name, m in sys.modules.items() if name.startswith(PREFIX)} - {folder}
    tops = {name.partition(".")[0] for name in sys.modules}
    theirs = {
        name
        for name in tops
        if (file := getattr(sys.modules.get(name), "__file__", None))
        and Path(file).parents[Path(file).name == "__init__.py"] in folders
        and not name.startswith(PREFIX)
        and ((folder / f"{name}.py").exists() or (folder / name).is_dir())
    }
    return [name for name in sys.modules if name.partition(".")[0] in theirs]


@contextlib.contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Turn whatever a user's code raises within the block into a sentence with file and line."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise ValueError(f"{blamed(error, path)}; {HOW}") from error


def blamed(error: BaseException, path: Path) -> str:
    """What an error says, and the last line of the user's code that led to it.

    Args:
        error: anything raised.
        path: the user's file; what lies in its folder is the user's.
    """
    text = str(error).strip().splitlines()
    said = f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_shown(Path(error.filename))}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    if isinstance(error, SystemExit):
        said += ", the file ends the process when it is imported: put that under `if __name__ == '__main__'`"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_own(Path(f.filename), path.resolve().parent)]
    if not frames:
        return f"{_shown(path)}: {said}"
    last = frames[-1]
    inside = "" if last.name == "<module>" else f", in {last.name}"
    return f"{_shown(Path(last.filename))}, line {last.lineno}{inside}: {said}"


def _is_own(file: Path, folder: Path) -> bool:
    file = file.resolve()
    return file.is_relative_to(folder) and "site-packages" not in file.parts and not file.is_relative_to(PACKAGE)


def _shown(path: Path) -> Path:
    """As seen from here where it is below."""
    path = path.resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
