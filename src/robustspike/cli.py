"""The command line: train | attack | demo | list | report."""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

import torch
import typer
from rich.console import Console
from rich.text import Text

from robustspike.attacks import ATTACKS, SUITES
from robustspike.balls import parse_eps
from robustspike.checkpoints import write_text
from robustspike.data import DATA
from robustspike.defences import DEFENCES
from robustspike.encoders import ENCODERS
from robustspike.experiment import (
    GROUPS,
    Experiment,
    comparison,
    default_eps,
    evaluation_name,
    make_suite,
    near,
    read_experiment,
    read_yaml,
    show,
)
from robustspike.experiment import attack as attack_run
from robustspike.experiment import train as train_run
from robustspike.gradients import ESTIMATORS
from robustspike.models import MODELS
from robustspike.results import comparison_table
from robustspike.surrogates import SURROGATES
from robustspike.train import TrainingError

SECTIONS: dict[str, Mapping[str, Any]] = {
    "attacks": ATTACKS,
    "estimators": ESTIMATORS,
    "defences": DEFENCES,
    "models": MODELS,
    "data": DATA,
    "suites": SUITES,
    "surrogates": SURROGATES,
    "encoders": ENCODERS,
}

INTERRUPTED = 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help="Train spiking networks to withstand adversarial inputs, attack them, and compare.\n\n"
    "Start with [bold]robustspike demo[/bold] (minutes, no download) or [bold]robustspike list[/bold] (all names). "
    "Every command takes --help. With ROBUSTSPIKE_DEBUG=1 in the environment, errors show where they arose.",
)


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


def _takes_experiment(command: Callable[..., None]) -> Callable[..., None]:
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


@app.command("train")
@_takes_experiment
def train_command(
    settings: dict[str, Any],
    out: Out = None,
    resume: Resume = False,
    config: Config = None,
    progress: Progress = True,
) -> None:
    """Train a network with a defence, into a folder that knows how it was made.

    What is not given comes from the data's recipe: for digits a run of about a minute, for CIFAR the papers' settings.

    [bold]Examples[/bold]

    robustspike train --data digits --model digits-cnn --defence sr-star --out runs/b

    robustspike train --data cifar10 --model vgg11 --defence at --epochs 20 --out runs/at

    robustspike train --out runs/b --resume   (goes on after a kill, to the same weights)
    """
    if resume and out is not None and (out / "experiment.yaml").is_file():
        settings = read_experiment(out).model_dump() | settings
    experiment = Experiment.of(**settings)
    out = out or Path("runs") / _slug(Path(experiment.data).stem, experiment.model, experiment.defence, experiment.seed)
    log = train_run(experiment, out, resume=resume, progress=progress)
    accuracies = [row.validation_accuracy or 0.0 for row in log]
    _say(
        f"Trained {experiment.model} with {experiment.defence} for {len(log)} epochs: validation accuracy "
        f"{100 * accuracies[-1]:.1f} % (best {100 * max(accuracies):.1f} %). It is in {out}."
    )
    _say(f"Next: robustspike attack {shlex.quote(str(out))}")


@app.command("attack")
def attack_command(
    run: Annotated[Path, typer.Argument(help="Folder of a training run.", show_default=False)],
    suite: Annotated[str, typer.Option(help="Published set of attacks; see `robustspike list suites`.")] = "liu2024",
    attack: Annotated[list[str] | None, typer.Option(help="Single attacks in place of a suite; repeatable.")] = None,
    estimator: Annotated[
        list[str] | None, typer.Option(help="For single attacks: rga, bptt, bptt:arctan:2, …; repeatable.")
    ] = None,
    eps: Annotated[
        str | None, typer.Option(help="Radius in pixel units, such as 8/255.", show_default="recipe")
    ] = None,
    norm: Annotated[str, typer.Option(help="Linf or L2.")] = "Linf",
    steps: Annotated[str | None, typer.Option(help="Gradient steps, such as 10,30,50: one attack for each.")] = None,
    step_size: Annotated[str | None, typer.Option(help="For single attacks; default 2.5·ε/steps.")] = None,
    restarts: Annotated[int | None, typer.Option(min=1, help="For single attacks: random restarts.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="For single attacks: draws averaged per gradient.")] = None,
    split: Annotated[str, typer.Option(help="test or validation.")] = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="Attack only so many samples.", show_default="all")] = None,
    checkpoint: Annotated[str, typer.Option(help="last, or best by validation accuracy.")] = "last",
    data: Annotated[str | None, typer.Option(help="Where the data is now.", show_default="as trained")] = None,
    each: Annotated[
        bool, typer.Option("--each", help="Run every attack on every sample, not only on those still standing.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples attacked at a time.")] = 256,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of all random draws.")] = 0,
    out: Out = None,
    resume: Resume = False,
    config: Config = None,
    progress: Progress = True,
) -> None:
    """Attack a trained network: every attack under every estimator, and the worst case per sample.

    [bold]Examples[/bold]

    robustspike attack runs/b --suite liu2024 --eps 8/255 --steps 10,30,50

    robustspike attack runs/b --attack pgd --attack fgsm --estimator rga --estimator bptt:arctan:2 --eps 0.1

    robustspike attack runs/b --eps 8/255 --resume   (goes on after a kill)
    """
    single = {"step_size": _number(step_size, "--step-size"), "restarts": restarts, "samples": samples}
    radius = eps if eps is not None else default_eps(read_experiment(run).data)
    chosen = make_suite(
        radius, suite, attacks=attack or (), estimators=estimator or (), norm=norm, steps=_steps(steps), **single
    )
    outcome = attack_run(
        run, chosen, split=split, limit=limit, checkpoint=checkpoint, data=data, out=out, resume=resume, seed=seed,
        batch_size=batch_size, survivors_only=not each, accelerator=accelerator, progress=progress,
    )  # fmt: skip
    show(outcome.table(), keep=6)
    folder = out or run / "attacks" / evaluation_name(chosen, split, limit, checkpoint, seed, not each)
    _say(f"Every sample's outcome is in {folder}. Next: robustspike report {shlex.quote(str(run))}")


@app.command("demo")
def demo_command(
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.", rich_help_panel="Run")] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, help="Of everything.", rich_help_panel="Run")] = 0,
    quick: Annotated[bool, typer.Option("--quick", hidden=True, help="A toy run, to test that it runs.")] = False,
    config: Config = None,
    progress: Progress = True,
) -> None:
    """Train vanilla, AT, SR and SR* on embedded digits, attack each, and compare: minutes on two CPU cores.

    Prints a table in the shape of Liu 2024, Table 3; writes results.json and report.html with the ε-curves. Run again, it
    goes on where it was stopped.

    [bold]Example[/bold]

    robustspike demo --out demo
    """
    from robustspike.demo import QUICK, demo

    demo(out, seed=seed, progress=progress, **(QUICK if quick else {}))


@app.command("list")
def list_command(
    what: Annotated[str | None, typer.Argument(help=" | ".join(SECTIONS), show_default="everything")] = None,
    config: Config = None,
) -> None:
    """Print the names that the other commands take, and what each is.

    [bold]Examples[/bold]

    robustspike list

    robustspike list estimators
    """
    if what is not None and what not in SECTIONS:
        raise ValueError(f"nothing called {what!r} to list; {near(what, SECTIONS)}")
    for section, table in SECTIONS.items():
        if what in (None, section):
            _say(section)
            for name, thing in table.items():
                _say(f"  {name:<16} {_first_line(thing)}")


@app.command("report")
def report_command(
    runs: Annotated[list[Path], typer.Argument(help="Runs, or folders that hold runs.", show_default=False)],
    evaluation: Annotated[
        str | None, typer.Option(help="Which one, a folder's name in RUN/attacks.", show_default="the fullest")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Of the page.", show_default="networks and data")] = None,
    out: Annotated[Path | None, typer.Option(help="The page.", show_default="report.html in the first folder")] = None,
    config: Config = None,
) -> None:
    """Compare attacked runs: a table here, and one self-contained HTML page.

    [bold]Examples[/bold]

    robustspike report runs/

    robustspike report runs/vanilla runs/b --evaluation liu2024-Linf-0.03137 --out compared.html
    """
    from robustspike.report import write_html  # draws with matplotlib: loaded when needed

    found = comparison(runs, evaluation=evaluation, title=title)
    page = out or runs[0] / "report.html"
    write_text(page.with_suffix(".json"), found.model_dump_json(indent=1) + "\n")
    write_html(found, page)
    show(comparison_table(found))
    for note in found.notes:
        _say(note)
    _say(f"Page: {page}   Figures: {page.with_suffix('.json')}")


def _say(text: str) -> None:
    Console().print(Text(text), soft_wrap=True)


def _first_line(thing: object) -> str:
    """The first line of a docstring without its markup."""
    return re.sub(r":\w+:|`", "", (inspect.getdoc(thing) or "").partition("\n")[0])


def _slug(*parts: object) -> str:
    *words, seed = parts
    return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(map(str, words)) + (f"-seed{seed}" if seed else ""))


def _steps(text: str | None) -> list[int]:
    """[10, 30] from "10,30"."""
    try:
        return [int(part) for part in text.split(",")] if text else []
    except ValueError:
        raise ValueError(f"--steps: expected whole numbers with commas, such as 10,30,50, got {text!r}") from None


def _number(text: str | None, flag: str) -> float | None:
    try:
        return None if text is None else parse_eps(text)
    except ValueError:
        raise ValueError(f'{flag}: expected a number or a fraction like "2/255", got {text!r}') from None


@contextlib.contextmanager
def _one_sentence(argv: list[str]) -> Iterator[None]:
    """Turn what users can cause into one sentence on stderr and an exit code; genuine bugs keep their traceback."""
    try:
        yield
    except (KeyboardInterrupt, typer.Abort):
        again = [*argv, *(["--resume"] if argv[:1] in (["train"], ["attack"]) and "--resume" not in argv else [])]
        _fail(f"interrupted; all finished work is kept, go on with: {shlex.join(['robustspike', *again])}", INTERRUPTED)
    except OSError as error:
        _fail(_disk(error), 1)
    except torch.OutOfMemoryError as error:
        _fail(f"out of memory ({str(error).splitlines()[0]}); use a smaller --batch-size", 1)
    except (ValueError, TrainingError) as error:
        _fail(str(error), 1)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
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
    print(f"robustspike: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)


def main(argv: list[str] | None = None) -> None:
    """Run the command line, and exit: 0 fine, 1 refused, 2 misused, 130 interrupted.

    With ROBUSTSPIKE_DEBUG=1 in the environment, every error shows its traceback.
    """
    argv = sys.argv[1:] if argv is None else argv
    with _one_sentence(argv):
        code = app(argv or ["--help"], prog_name="robustspike", standalone_mode=False) or 0
        if code == INTERRUPTED:  # newer versions of typer turn Ctrl-C into this code
            raise KeyboardInterrupt
        raise SystemExit(code)


if __name__ == "__main__":
    main()
