"""What recipes say: settings by data, published rows by name, and scales."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from robustspike.data import DATA
from robustspike.defences import DEFENCES
from robustspike.experiment.names import Parts, as_text, chosen, parse_defence, taken_by

RECIPES = Path(__file__).parents[1] / "recipes"

# Fields that are handed to the builder of a defence, by its parameter; and all fields that reach it in some way.
OPTIONS = {
    name: name
    for name in ("h", "classes", "penalty", "form", "beta", "rows", "margin", "width", "mix", "noise", "periods")
} | {"gradient_norm": "norm"}
REACHES = OPTIONS | {"weight": "weight", "weight_schedule": "weight"}
REACHES |= dict.fromkeys(("train_attack", "train_estimators", "train_choice", "train_loss"), "attack")
OF_ATTACK = {"train_estimators": "bptt", "train_choice": "batch", "train_loss": "ce"}
USUAL = {"weight_schedule": "constant", "train_attack": "none"} | OF_ATTACK


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping.

    Raises:
        ValueError: if it is missing, no YAML, or no mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"no file {path}; check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ValueError(f"{path}{line} is no valid YAML ({problem}); write one `name: value` per line") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected one `name: value` per line, got a {type(content).__name__}")
    return {str(name): value for name, value in content.items()}


@functools.cache
def _shipped(name: str) -> dict[str, Any]:
    """A file that comes with the package, read once."""
    return read_yaml(RECIPES / f"{name}.yaml")


def _files(data: str) -> list[dict[str, Any]]:
    """The recipes of data: the papers' settings, then its own."""
    own = [data] if data in DATA and (RECIPES / f"{data}.yaml").is_file() else []
    return [_shipped(name) for name in ("papers", *own)]


def default_eps(data: str) -> str:
    """The radius of an attack on this data for which none is given.

    Example:
        >>> default_eps("digits"), default_eps("cifar10")
        ('0.15', '8/255')
    """
    return str([file["attack_eps"] for file in _files(data) if "attack_eps" in file][-1])


def filled(given: Mapping[str, Any]) -> dict[str, Any]:
    """These fields of an experiment, and what the recipes and the builder of its defence say of the others.

    Raises:
        ValueError: for a defence that does not exist, or a setting that it does not take.
    """
    files = _files(str(given.get("data", "digits")))
    settings: dict[str, Any] = {}
    for file in files:
        settings |= file.get("settings", {})
    optimizer = (settings | dict(given)).get("optimizer", "sgd")
    for file in files:
        settings |= file.get("optimizer", {}).get(optimizer, {})
    parts = parse_defence(str((settings | dict(given)).get("defence", "vanilla")))
    check_taken(given, parts)
    recipes = {name: _of_defence(files, name) for name, _ in parts}
    for name, _ in reversed(parts):  # where they disagree, the first one named wins
        attack = dict(OF_ATTACK) if recipes[name].get("train_attack", "none") != "none" else {}
        settings |= {key: value for key, value in (attack | recipes[name]).items() if key != "weight"}
    settings |= given
    return _usual(parts, settings) | settings | _weights(parts, given.get("weight"), recipes)


def _of_defence(files: list[dict[str, Any]], name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for file in files:
        found |= file.get("defence", {}).get(name, {})
    return found


def check_taken(given: Mapping[str, Any], parts: Parts) -> None:
    """Refuse settings that none of the objectives takes.

    Raises:
        ValueError: naming those that do.
    """
    names = [name for name, _ in parts]
    for setting in untaken(given, names):
        do = ", ".join(name for name in DEFENCES if REACHES[setting] in taken_by(name))
        raise ValueError(
            f"defence {'+'.join(names)} takes no --{setting.replace('_', '-')}; leave it out, or choose one that does: {do}"
        )


def untaken(given: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Those of the settings that only matter to defences, and to none of these."""
    takes = {parameter for name in names for parameter in taken_by(name)}
    return [name for name in given if name in REACHES and given[name] is not None and REACHES[name] not in takes]


def suited(given: Mapping[str, Any], names: Iterable[str], everyone: Iterable[str]) -> dict[str, Any]:
    """The settings for these defences, without those that only others of ``everyone`` take.

    Example:
        >>> suited({"weight": 0.1, "epochs": 3}, ["at"], ["at", "sr"])
        {'epochs': 3}
    """
    left_out = set(untaken(given, names)) - set(untaken(given, everyone))
    return {name: value for name, value in given.items() if name not in left_out}


def _usual(parts: Parts, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of the builders, first come first served, and of the attack in training."""
    usual: dict[str, Any] = {}
    for name, _ in parts:
        takes = taken_by(name)
        usual |= {key: USUAL[key] for key in USUAL if REACHES[key] in takes}
        for option, parameter in OPTIONS.items():
            default = takes[parameter].default if parameter in takes else None
            if default not in (None, inspect.Parameter.empty):
                usual.setdefault(option, default)
    if settings.get("train_attack", usual.get("train_attack")) == "none":
        for key in OF_ATTACK:
            usual.pop(key, None)
    return usual


def _weights(parts: Parts, given: Any, recipes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """``weight`` of a single objective; of a sum, every weight in its text.

    The weight in the text wins; then the one given, the recipe's, and the builder's own.
    """
    with contextlib.suppress(TypeError, ValueError):
        given = None if given is None else float(given)
    weights: dict[str, Any] = {}
    for name, own in parts:
        takes = taken_by(name)
        if "weight" not in takes and own is not None:
            raise ValueError(f"defence {name} takes no weight, got {name}:{own:g}; write {name} alone")
        default = takes["weight"].default if "weight" in takes else None
        found = [value for value in (own, given, recipes[name].get("weight"), default) if value is not None]
        weights[name] = found[0] if "weight" in takes and found else None
        if weights[name] is inspect.Parameter.empty:
            raise ValueError(f"defence {name} needs a weight; write {name}:1, or give --weight")
        if not isinstance(weights[name], (int, float, str)):  # a schedule of the builder's own
            weights[name] = None
    if given is not None and all(own is not None for name, own in parts if "weight" in taken_by(name)):
        raise ValueError(f"defence {as_text(parts)!r} names every weight itself; leave --weight out")
    if len(parts) == 1:
        return {"defence": parts[0][0], "weight": weights[parts[0][0]]}
    return {"defence": as_text(tuple(weights.items())), "weight": None}


# --- published rows and scales


def published() -> dict[str, str]:
    """The recipes of published rows: what each is, by name.

    Example:
        >>> published()["liu2024-cifar10-vgg11-at"]
        'Liu 2024, Table 1: AT with VGG-11 on CIFAR-10'
    """
    general = {"papers", "scales", "tables", *DATA}
    names = sorted(path.stem for path in RECIPES.glob("*.yaml") if path.stem not in general)
    return {name: str(_shipped(name)["about"]) for name in names}


def scales() -> dict[str, str]:
    """How large a published row is run: what each scale is, by name.

    Example:
        >>> list(scales())
        ['smoke', 'short', 'paper']
    """
    return {name: str(scale["about"]) for name, scale in _shipped("scales").items()}


def tables() -> dict[str, dict[str, Any]]:
    """The published tables that can be run again, as ``recipes/tables.yaml`` has them."""
    return _shipped("tables")


def figures_of(recipe: str) -> dict[str, dict[str, float]]:
    """What was published of a row, by table.

    Example:
        >>> figures_of("liu2024-cifar10-vgg11-at")["liu2024-table1"]["PGD-10"]
        18.18
    """
    return _shipped(chosen("recipe", recipe, published()) and recipe).get("published") or {}


def scale_of(scale: str) -> dict[str, Any]:
    """A scale's ``settings`` of the training and its ``evaluation``.

    Raises:
        ValueError: for another name.
    """
    return chosen("scale", scale, _shipped("scales"))


def settings_of(recipe: str, scale: str = "paper", **given: Any) -> dict[str, Any]:
    """All fields of an experiment that a published row has at a scale, some of them replaced.

    The recipes of the row's data stay in force where ``data`` only says where it is (a path).

    Raises:
        ValueError: for unknown names, or settings that do not go together.

    Example:
        >>> settings_of("liu2024-cifar10-vgg11-sr-star")["weight"]
        0.002
    """
    chosen("recipe", recipe, published())
    row = {key: value for key, value in _shipped(recipe).items() if key not in ("about", "published")}
    row |= scale_of(scale).get("settings", {})
    given = {key: value for key, value in given.items() if value is not None}
    place = {"data": given.pop("data")} if given.get("data", "digits") not in DATA else {}
    parts = parse_defence(str(given.get("defence", row["defence"])))
    for ignored in untaken(row, [name for name, _ in parts]):
        del row[ignored]
    return filled(row | given) | place
