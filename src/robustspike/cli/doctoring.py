"""robustspike doctor: what is installed, and whether a network can be attacked as it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor, nn

from robustspike.adapters import TAKES
from robustspike.cli.attacking import OWN, ImageSize, Seed, TimeSteps, Weights
from robustspike.cli.flags import Config
from robustspike.cli.sentences import say
from robustspike.data import load
from robustspike.doctor import Diagnosis, doctor
from robustspike.experiment.user_code import made_by
from robustspike.processes import speaks
from robustspike.results import MARKS, Finding
from robustspike.state_files import load_file

Target = Annotated[
    str | None,
    typer.Argument(metavar="MODEL.py:FACTORY", help="A network to examine: a file, and what makes it.",
                   show_default=False),
]  # fmt: skip
Takes = Annotated[
    str | None,
    typer.Option(help=f"What one call takes: {', '.join(TAKES)}.", show_default="found", rich_help_panel=OWN),
]
Readout = Annotated[
    str,
    typer.Option(help="Which tensor that it returns: spikes (the first) or membrane (the last).", rich_help_panel=OWN),
]
Data = Annotated[
    str | None,
    typer.Option(help="Real images to try it on: digits, my.npz, images/, …", show_default="random numbers",
                 rich_help_panel=OWN),
]  # fmt: skip
Samples = Annotated[int, typer.Option(min=2, help="So many of them, spread over the test images.", rich_help_panel=OWN)]
Shape = Annotated[
    str | None, typer.Option(help="Of a random image, such as 1x28x28.", show_default="found", rich_help_panel=OWN)
]
Json = Annotated[bool, typer.Option("--json", help="Print the whole record.", rich_help_panel="Run")]


def doctor_command(
    target: Target = None,
    weights: Weights = None,
    time_steps: TimeSteps = None,
    takes: Takes = None,
    readout: Readout = "spikes",
    data: Data = None,
    image_size: ImageSize = None,
    samples: Samples = 32,
    shape: Shape = None,
    seed: Seed = 0,
    json: Json = False,
    config: Config = None,
) -> None:
    """Look for what makes robustness figures wrong: in the installation, in the frameworks, and in a network.

    Exits with 1 where a check of the network failed; without a network, where one of the installation did. Known defects of
    frameworks do not decide: a network is judged by whether it carries one.

    [bold]Examples[/bold]

    robustspike doctor

    robustspike doctor my_net.py:make_model --weights best.pt --data images/ --time-steps 8
    """
    if target is None and any(given is not None for given in (weights, time_steps, takes, data, image_size, shape)):
        raise ValueError("flags for a network need one: robustspike doctor my_net.py:make_model …")
    model = None if target is None else _network(target, weights)
    images, labels = (None, None) if data is None else _some(data, samples, image_size)
    found = doctor(
        model, images, labels, time_steps=time_steps, takes=takes, readout=readout, shape=_sizes(shape), seed=seed
    )
    if json:
        if speaks():
            print(found.model_dump_json(indent=2))
    else:
        tell(found)
    if not found.healthy:
        raise typer.Exit(1)


def _network(target: str, weights: Path | None) -> nn.Module:
    model = made_by(target)
    if weights is not None:
        load_file(model, weights)
    return model


def _some(data: str, samples: int, image_size: int | None) -> tuple[Tensor, Tensor]:
    """Images and labels spread over the test images, which may be sorted by class."""
    test = load(data, image_size=image_size).test
    which = torch.linspace(0, len(test) - 1, min(samples, len(test))).round().long()
    return test.images[which], test.labels[which]


def _sizes(text: str | None) -> tuple[int, ...] | None:
    """(1, 28, 28) from "1x28x28"."""
    if text is None:
        return None
    try:
        sizes = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise ValueError(f"--shape: expected whole numbers with x between them, such as 1x28x28, got {text!r}")
    return sizes


def tell(found: Diagnosis) -> None:
    """Print what is installed, every check, and what to do where one failed; with a network, only the defects it carries."""
    absent = [name for name, what in found.surroundings.items() if what == "–"]
    present = [f"{name} {what}" for name, what in found.surroundings.items() if what != "–"]
    say(", ".join(present) + f"; none of: {', '.join(absent)}" * bool(absent))
    _section("Installation", found.installation)
    if not found.network:
        _section("Known defects of the frameworks installed", found.frameworks)
        say(f"\n{_verdict(found)}")
        return
    carried = [one for one in found.frameworks if one.check in found.carried]
    if carried:
        _section("Known defects that the network carries", carried)
    _section(f"Network: {found.model}", found.network, {one.check: one.passed for one in found.adapted})
    say(f"\n{found.tried_on} {_verdict(found)}")


def _section(title: str, findings: Iterable[Finding], adapted: Mapping[str, bool | None] | None = None) -> None:
    say(f"\n{title}")
    for one in findings:
        then = ""
        if one.passed is False:
            repaired = (adapted or {}).get(one.check, False) is not False
            then = f". {'rs.adapt(model) repairs it. ' if repaired else ''}{one.remedy} See {one.page}."
        say(f"  {MARKS[one.passed]} {one.check}: {one.evidence}{then}")


def _verdict(found: Diagnosis) -> str:
    """The last line."""
    if not found.network:
        known = sum(one.passed is False for one in found.frameworks)
        wrong = f"{len(found.failed)} of {len(found.installation)} checks of the installation failed"
        return f"{wrong}; {known} known defects to keep away from; no network was examined."
    applied = sum(one.passed is not None for one in found.network)
    said = f"{len(found.failed)} of {applied} checks of the network failed"
    if found.unadapted:
        return f"{said}; rs.adapt refuses it: {found.unadapted}"
    left = [name for name in found.failed if name not in found.repaired]
    if found.failed and found.adapted:
        said += f"; rs.adapt(model), through a surrogate of ours, repairs {len(found.repaired)}" + (
            f", not {', '.join(left)}" if left else ""
        )
    return f"{said} (seed {found.seed}, {found.seconds:.1f} s)."
