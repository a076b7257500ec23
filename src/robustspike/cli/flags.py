"""What commands can be told: flags, values behind them from a file, and lists of numbers."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from robustspike.balls import parse_eps
from robustspike.experiment import GROUPS, Experiment, near, read_yaml


def _from_config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Put a config file's values behind the flags: explicit flags win over them."""
    if path is None or ctx.resilient_parsing:
        return path
    flags = {p.name: p for p in ctx.command.params if p.name not in (None, "config", "help")}
    values: dict[str, Any] = {}
    for key, value in read_yaml(path).items():
        name = key.replace("-", "_")
        if name not in flags:
            raise ValueError(f"{path}: unknown key {key!r}; {near(name, [str(flag) for flag in flags])}")
        if value is not None:
            values[name] = _as_typed(flags[name], value, ctx, f"{path}: {key}")
    ctx.default_map = values
    return path


def _as_typed(flag: Any, value: Any, ctx: typer.Context, where: str) -> Any:
    """A config value as somebody would have typed it, checked as its flag checks."""
    items = value if isinstance(value, list) else [value]
    if any(isinstance(item, (dict, list)) for item in items):
        raise ValueError(f"{where}: expected a value or a list of values, got {value!r}")
    texts = [str(item) for item in items]
    many = getattr(flag, "multiple", False) or getattr(flag, "nargs", 1) == -1
    typed: Any = texts if many else ",".join(texts)
    try:
        flag.process_value(ctx, typed)
    except Exception as error:
        if not hasattr(error, "message"):
            raise
        raise ValueError(f"{where}: {error.message.rstrip('.')}, got {value!r}") from None
    return typed


Config = Annotated[
    Path | None,
    typer.Option(
        "--config", callback=_from_config, is_eager=True, metavar="FILE.yaml",
        help="Read flags from a YAML file, one `name: value` per line; flags given here win.", rich_help_panel="Run",
    ),
]  # fmt: skip
Progress = Annotated[bool, typer.Option("--progress/--no-progress", help="Show progress.", rich_help_panel="Run")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what is in the folder.", rich_help_panel="Run")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder to write to.", rich_help_panel="Run")]


def takes_experiment(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one flag for each field of Experiment; those given arrive as the dict ``settings``."""
    panels = {name: panel for panel, names in GROUPS.items() for name in names}
    flags = []
    for name, field in Experiment.model_fields.items():
        kinds = {field.annotation, *get_args(field.annotation)}
        kind = next((kind for kind in (bool, int, float) if kind in kinds), str)
        default = "from the recipe" if field.is_required() else field.default
        told = "" if default is None else f" Default: {default}."
        option = typer.Option(help=f"{field.description}{told}", rich_help_panel=panels[name], show_default=False)
        annotation = Annotated[kind | None, option]  # type: ignore[valid-type]
        flags.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))

    @functools.wraps(command)
    def wrapper(**given: Any) -> None:
        settings = {flag.name: given.pop(flag.name) for flag in flags}
        command(settings={name: value for name, value in settings.items() if value is not None}, **given)

    signature = inspect.signature(command, eval_str=True)
    own = [p.replace(kind=p.KEYWORD_ONLY) for p in signature.parameters.values() if p.name != "settings"]
    wrapper.__signature__ = signature.replace(parameters=[*flags, *own])  # type: ignore[attr-defined]
    return wrapper


def whole_numbers(text: str | None, flag: str) -> list[int]:
    """[10, 30] from "10,30".

    Raises:
        ValueError: naming the flag.
    """
    try:
        return list(dict.fromkeys(int(part) for part in text.split(","))) if text else []
    except ValueError:
        raise ValueError(f"{flag}: expected whole numbers with commas, such as 10,30,50, got {text!r}") from None


def number(text: str | None, flag: str) -> float | None:
    """A number or a fraction.

    Raises:
        ValueError: naming the flag.
    """
    try:
        return None if text is None else parse_eps(text)
    except ValueError:
        raise ValueError(f'{flag}: expected a number or a fraction like "2/255", got {text!r}') from None
