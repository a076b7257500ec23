"""One training run as one record, filled up from recipes and kept as YAML beside the weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from robustspike.balls import Linf, parse_eps
from robustspike.checkpoints import CheckpointError
from robustspike.defences import DEFENCES
from robustspike.encoders import ENCODERS
from robustspike.experiment.names import chosen, near, parse_surrogate
from robustspike.models import MODELS

RECORD = "experiment.yaml"
RECIPES = Path(__file__).parents[1] / "recipes"

# Which fields belong together, for help pages.
GROUPS = {
    "Data": ("data", "train_limit", "test_limit", "validation_share", "image_size"),
    "Network": (
        "model", "time_steps", "encoder", "leak", "threshold", "reset", "detach_reset", "phases", "readout",
        "surrogate",
    ),
    "Defence": (
        "defence", "weight", "h", "classes", "penalty", "train_eps", "train_steps", "train_step_size",
    ),
    "Optimisation": (
        "epochs", "batch_size", "optimizer", "lr", "momentum", "weight_decay", "schedule", "crop_padding", "flip",
        "precision", "accelerator", "seed",
    ),
}  # fmt: skip


class Experiment(BaseModel):
    """One training run. What is not given comes from ``recipes/<data>.yaml``, then from ``recipes/papers.yaml``.

    Raises:
        pydantic.ValidationError: (a ValueError) for unknown fields, names or values out of range;
            :meth:`of` says the same in one sentence.

    Example:
        >>> Experiment.of(data="digits", defence="sr").weight
        0.3
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str = Field("digits", description="Name (see `robustspike list data`), .npz file, or folder of images.")
    train_limit: int | None = Field(None, ge=1, description="At most so many images for training and validation.")
    test_limit: int | None = Field(None, ge=1, description="So many test images, stratified by class.")
    validation_share: float = Field(0.1, gt=0, lt=1, description="Share of the training images that is held out.")
    image_size: int | None = Field(None, ge=1, description="Pixels to which images of a folder are resized.")

    model: str = Field(description="Network; see `robustspike list models`.")
    time_steps: int = Field(ge=1, description="T, simulation steps.")
    encoder: str = Field("direct", description="How an image gets its time axis: " + ", ".join(ENCODERS) + ".")
    leak: float = Field(1.0, ge=0, le=1, description="λ of the neuron; 1 is IF.")
    threshold: float = Field(1.0, gt=0, description="Firing threshold θ.")
    reset: Literal["hard", "soft"] = Field("hard", description="hard or soft.")
    detach_reset: bool = Field(False, description="No gradient through the reset (Luu 2025).")
    phases: int = Field(8, ge=1, le=16, description="Bits per period of the phase code.")
    readout: Literal["current", "spikes"] = Field("current", description="Logits: current or spikes.")
    surrogate: str = Field("triangle:1", description="Derivative of the spike in training, such as arctan:2.")

    defence: str = Field("vanilla", description="Training objective; see `robustspike list defences`.")
    weight: float = Field(0.0, ge=0, description="λ of the regulariser (sr, sr-star).")
    h: float = Field(0.01, gt=0, description="Step of the finite difference (sr, sr-star).")
    classes: Literal["two", "all"] = Field("two", description="Softmax over two classes or all (sr, sr-star).")
    penalty: Literal["abs", "square"] = Field("abs", description="abs (paper) or square (released code).")
    train_eps: str = Field(description='ε of the PGD in training (at, sr-star), such as "2/255".')
    train_steps: int = Field(ge=1, description="Steps of the PGD in training.")
    train_step_size: float = Field(gt=0, description="Step size of the PGD in training, in pixel units.")

    epochs: int = Field(ge=1, description="Passes over the training images.")
    batch_size: int = Field(ge=1, description="Images per step.")
    optimizer: Literal["sgd", "adam"] = Field("sgd", description="sgd or adam.")
    lr: float = Field(gt=0, description="Peak learning rate.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Of SGD.")
    weight_decay: float | None = Field(None, ge=0, description="Default: the one published with the defence.")
    schedule: Literal["cosine", "one-cycle", "constant"] = Field(description="cosine, one-cycle or constant.")
    crop_padding: int = Field(ge=0, description="Random crop after padding by so many pixels; 0: none.")
    flip: bool = Field(description="Random horizontal flip.")
    precision: Literal["32-true", "bf16-mixed"] = Field("32-true", description="32-true or bf16-mixed.")
    accelerator: str = Field("auto", description="auto, cpu or cuda.")
    seed: int = Field(0, ge=0, lt=2**63, description="Of the data's choices, the initial weights and all random draws.")

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        given = {name: value for name, value in given.items() if value is not None}
        return from_recipes(given) | given

    @field_validator("train_eps", mode="before")
    @classmethod
    def _radius(cls, value: Any) -> str:
        Linf(value)
        return str(value)

    @field_validator("train_step_size", mode="before")
    @classmethod
    def _step(cls, value: Any) -> float:
        return parse_eps(value)

    @model_validator(mode="after")
    def _named(self) -> Experiment:
        chosen("model", self.model, MODELS)
        chosen("defence", self.defence, DEFENCES)
        chosen("encoder", self.encoder, ENCODERS)
        parse_surrogate(self.surrogate)
        return self

    @classmethod
    def of(cls, where: str = "", **given: Any) -> Experiment:
        """The experiment with these fields given and all others from the recipes.

        Args:
            where: the file they come from, for errors.

        Raises:
            ValueError: one sentence about the first field that is unknown or unfit.
        """
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise ValueError(f"{where}: {_sentence(error)}" if where else _sentence(error)) from None

    def yaml(self) -> str:
        """All fields, one per line."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True)


def _sentence(error: ValidationError) -> str:
    """The first fault in words."""
    fault = error.errors()[0]
    name = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        return f"unknown setting {name!r}; {near(name, Experiment.model_fields)}"
    if fault["type"] == "value_error":
        text = str(fault["ctx"]["error"])
        return f"{name}: {text}" if name else text
    expected = fault["msg"].replace("Input should be", "expected")
    return f"{name}: {expected}, got {fault['input']!r}"


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


def _recipe_files(data: str) -> list[dict[str, Any]]:
    own = RECIPES / f"{data}.yaml"
    return [
        read_yaml(path) for path in (RECIPES / "papers.yaml", own) if Path(data).name == data and path.exists()
    ] or [read_yaml(RECIPES / "papers.yaml")]


def from_recipes(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the recipes say for an experiment of which only these fields are given."""
    files = _recipe_files(str(given.get("data", "digits")))
    settings: dict[str, Any] = {}
    for file in files:
        settings |= file.get("settings", {})
    for group in ("optimizer", "defence"):
        field = Experiment.model_fields[group]
        value = (settings | dict(given)).get(group, field.default)
        for file in files:
            settings |= file.get(group, {}).get(value, {})
    return settings


def default_eps(data: str) -> str:
    """The radius of an attack on this data for which none is given.

    Example:
        >>> default_eps("digits"), default_eps("cifar10")
        ('0.15', '8/255')
    """
    return str([file["attack_eps"] for file in _recipe_files(data) if "attack_eps" in file][-1])


def read_experiment(run: str | Path) -> Experiment:
    """The record of a training run's folder.

    Raises:
        CheckpointError: if there is no such folder, or it has no record.
        ValueError: if the record is damaged.
    """
    path = Path(run) / RECORD
    if not Path(run).is_dir():
        raise CheckpointError(
            f"no run at {run}: there is no such folder; make one with `robustspike train --out {run}`"
        )
    if not path.is_file():
        raise CheckpointError(f"{run} is no training run: {RECORD} is missing; make one with `robustspike train`")
    return Experiment.of(str(path), **read_yaml(path))
