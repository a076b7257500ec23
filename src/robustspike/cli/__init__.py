"""The command line: train | attack | audit | sweep | reproduce | compare | report | doctor | demo | list."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable

import typer

from robustspike.cli.attacking import attack_command
from robustspike.cli.auditing import audit_command
from robustspike.cli.doctoring import doctor_command
from robustspike.cli.reading import SECTIONS, compare_command, list_command, report_command
from robustspike.cli.repeating import reproduce_command, sweep_command
from robustspike.cli.sentences import INTERRUPTED, one_sentence
from robustspike.cli.training import demo_command, train_command

__all__ = ["SECTIONS", "app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help="Train spiking networks to withstand adversarial inputs, attack them, and compare.\n\n"
    "Start with [bold]robustspike demo[/bold] (minutes, no download) or [bold]robustspike list[/bold] (all names). "
    "Every command takes --help. With ROBUSTSPIKE_DEBUG=1 in the environment, errors show where they arose.",
)

COMMANDS: dict[str, Callable[..., None]] = {
    "train": train_command,
    "attack": attack_command,
    "audit": audit_command,
    "sweep": sweep_command,
    "reproduce": reproduce_command,
    "compare": compare_command,
    "report": report_command,
    "doctor": doctor_command,
    "demo": demo_command,
    "list": list_command,
}
for name, command in COMMANDS.items():
    app.command(name)(command)


def main(argv: list[str] | None = None) -> None:
    """Run the command line, and exit: 0 fine, 1 refused, 2 misused, 130 interrupted.

    With ROBUSTSPIKE_DEBUG=1 in the environment, every error shows its traceback.
    """
    argv = sys.argv[1:] if argv is None else argv
    warnings.filterwarnings("ignore", ".torch.jit.script. is deprecated", FutureWarning)  # imports of SNN frameworks
    with one_sentence(argv):
        code = app(argv or ["--help"], prog_name="robustspike", standalone_mode=False) or 0
        if code == INTERRUPTED:  # newer versions of typer turn Ctrl-C into this code
            raise KeyboardInterrupt
        raise SystemExit(code)
