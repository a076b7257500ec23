"""One training run as one record, filled up from recipes and kept as YAML beside the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from robustspike.balls import Linf, parse_eps
from robustspike.checkpoints import CheckpointError
from robustspike.data.augment import AUGMENTATIONS
from robustspike.encoders import ENCODERS
from robustspike.experiment.names import chosen, near, parse_defence, parse_estimators, parse_surrogate
from robustspike.experiment.objectives import TRAIN_LOSSES, check_attack, make_objective
from robustspike.experiment.recipes import filled, read_yaml, settings_of, untaken
from robustspike.models import MODELS, SETTINGS

RECORD = "experiment.yaml"
NETWORK = "network.yaml"  # in its place where a file of the user's made the network

# Fields that make no difference to what is trained: a run may go on with others.
NO_DIFFERENCE = {"accelerator", "tensorboard", "save_every"}

# Which fields belong together, for help pages.
GROUPS = {
    "Data": ("data", "train_limit", "test_limit", "validation_share", "image_size"),
    "Network": (
        "model", "stem", "pooling", "connect", "time_steps", "encoder", "phases", "normalise", "neuron", "leak", "threshold",
        "reset", "detach_reset", "surrogate", "readout",
    ),
    "Defence": (
        "defence", "weight", "weight_schedule", "h", "classes", "penalty", "form", "gradient_norm", "beta", "rows", "margin",
        "width", "mix", "noise", "periods", "label_smoothing",
    ),
    "Attack in training": (
        "train_attack", "train_eps", "train_steps", "train_step_size", "train_estimators", "train_choice", "train_loss",
    ),
    "Optimisation": (
        "epochs", "batch_size", "optimizer", "lr", "momentum", "weight_decay", "schedule", "warmup_epochs", "clip_norm",
        "ema", "crop_padding", "flip", "augmentation", "seed",
    ),
    "Checkpoints and machine": (
        "validation_attack", "validation_limit", "save_every", "tensorboard", "micro_batch", "precision", "accelerator",
    ),
}  # fmt: skip

# Settings that only some networks have, see ``robustspike.models.SETTINGS``; where none is given, the network's own default.
OF_NETWORKS = ("stem", "pooling", "connect")


class Experiment(BaseModel):
    """One training run. What is not given comes from ``recipes/<data>.yaml``, then from ``recipes/papers.yaml``.

    Raises:
        pydantic.ValidationError: (a ValueError) for unknown fields, names or values out of range;
            :meth:`of` says the same in one sentence.

    Example:
        >>> Experiment.of(data="digits", defence="sr").weight
        0.3
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    data: str = Field("digits", description="Name (see `robustspike list data`), .npz file, or folder of images.")
    train_limit: int | None = Field(None, ge=1, description="At most so many images for training and validation.")
    test_limit: int | None = Field(None, ge=1, description="So many test images, stratified by class.")
    validation_share: float = Field(0.1, gt=0, lt=1, description="Share of the training images that is held out.")
    image_size: int | None = Field(None, ge=1, description="Pixels to which images of a folder are resized.")

    model: str = Field(description="Network; see `robustspike list models`.")
    stem: Literal["imagenet", "cifar"] | None = Field(
        None,
        description="First convolution of a ResNet: imagenet (7 × 7, stride 2; the default), cifar (3 × 3, stride 1).",
    )
    pooling: Literal["max", "avg", "none"] | None = Field(
        None, description="Pooling after a ResNet's stem. Default: max after imagenet's, none after cifar's."
    )
    connect: Literal["add", "and", "iand"] | None = Field(
        None, description="How the branches of a SEW-ResNet meet: add (the default), and, iand."
    )
    time_steps: int = Field(ge=1, description="T, simulation steps.")
    encoder: str = Field("direct", description="How an image gets its time axis: " + ", ".join(ENCODERS) + ".")
    neuron: Literal["lif", "dlif"] = Field("lif", description="lif, or dlif: inputs weighed by learned numbers.")
    leak: float = Field(1.0, ge=0, le=1, description="λ of the neuron; 1 is IF.")
    threshold: float = Field(1.0, gt=0, description="Firing threshold θ.")
    reset: Literal["hard", "soft"] = Field("hard", description="hard or soft.")
    detach_reset: bool = Field(False, description="No gradient through the reset (Luu 2025).")
    phases: int = Field(8, ge=1, le=16, description="Bits per period of the phase code.")
    normalise: bool = Field(
        True, description="What the encoder gives: less the channels' means, over their deviations."
    )
    readout: Literal["current", "spikes"] = Field("current", description="Logits: current or spikes.")
    surrogate: str = Field("triangle:1", description="Derivative of the spike in training, such as arctan:2.")

    defence: str = Field(
        "vanilla", description='Training objective; see `robustspike list defences`; or a sum, "sr:0.002+trades:6".'
    )
    weight: float | None = Field(None, ge=0, description="λ, the weight of what the defence adds.")
    weight_schedule: Literal["constant", "linear", "cosine"] | None = Field(
        None, description="constant, or growing from 0 to the weight: linear, cosine."
    )
    h: float | None = Field(None, gt=0, description="Step of the finite difference (sr, sr-star, gr).")
    classes: Literal["two", "all"] | None = Field(None, description="Softmax over two classes or all (sr, sr-star).")
    penalty: Literal["abs", "square"] | None = Field(None, description="abs or square (sr, sr-star, mppd).")
    form: Literal["difference", "exact"] | None = Field(
        None, description="Finite difference, or exact by double back-propagation (sr, sr-star, gr)."
    )
    gradient_norm: Literal["l1", "l2"] | None = Field(None, description="Norm of the gradient (gr).")
    beta: float | None = Field(None, ge=0, description="Step of the Parseval retraction (rat).")
    rows: float | None = Field(
        None, gt=0, le=1, description="Share of the rows of large linear layers retracted (rat)."
    )
    margin: float | None = Field(None, ge=0, description="δ, distance of potentials from the threshold (tgo).")
    width: float | None = Field(None, gt=0, description="γ, half the window of potentials (mpd-sgr).")
    mix: float | None = Field(None, ge=0, le=1, description="Share of the clean cross-entropy (mppd).")
    noise: float | None = Field(None, ge=0, description="Standard deviation of the noise, in pixel units (clp).")
    periods: int | None = Field(None, ge=1, description="Periods of T with a noise of their own (hire).")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="a: targets are (1 − a)·one-hot + a/K.")

    train_attack: Literal["fgsm", "rfgsm", "pgd", "apgd", "none"] | None = Field(
        None, description="fgsm, rfgsm, pgd, apgd or none."
    )
    train_eps: str = Field(description='ε of the attack in training, such as "2/255".')
    train_steps: int = Field(ge=1, description="Steps of pgd and apgd.")
    train_step_size: float = Field(gt=0, description="Step size of pgd, in pixel units.")
    train_estimators: str | None = Field(None, description="How it sees the neurons: bptt, or several: bptt,bptr.")
    train_choice: Literal["batch", "sample"] | None = Field(
        None, description="Of several estimators, one is drawn for each batch or sample."
    )
    train_loss: str | None = Field(None, description=f"What it ascends: {', '.join(TRAIN_LOSSES)}.")

    epochs: int = Field(ge=1, description="Passes over the training images.")
    batch_size: int = Field(ge=1, description="Images per step.")
    optimizer: Literal["sgd", "adam"] = Field("sgd", description="sgd or adam.")
    lr: float = Field(gt=0, description="Peak learning rate.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Of SGD.")
    weight_decay: float | None = Field(None, ge=0, description="Default: the one published with the defence.")
    schedule: Literal["cosine", "one-cycle", "constant"] = Field(description="cosine, one-cycle or constant.")
    warmup_epochs: float = Field(0.0, ge=0, description="Epochs over which the learning rate rises from 0.")
    clip_norm: float | None = Field(None, gt=0, description="Longest gradient of all weights together. Default: any.")
    ema: float = Field(0.0, ge=0, lt=1, description="Decay of the moving average of the weights; 0: none.")
    crop_padding: int = Field(ge=0, description="Random crop after padding by so many pixels; 0: none.")
    flip: bool = Field(description="Random horizontal flip.")
    augmentation: str = Field("none", description="More of it: " + ", ".join(AUGMENTATIONS) + ".")
    seed: int = Field(0, ge=0, lt=2**63, description="Of the data's choices, the initial weights and all random draws.")

    validation_attack: Literal["none", "fgsm", "pgd"] = Field(
        "fgsm", description="best.safetensors is the best under this attack on held-out images: none, fgsm or pgd."
    )
    validation_limit: int | None = Field(256, ge=1, description="At most so many held-out images under that attack.")
    save_every: int | None = Field(None, ge=1, description="Save within an epoch after so many steps. Default: never.")
    tensorboard: bool = Field(False, description="Write a log for TensorBoard.")
    micro_batch: int | None = Field(None, ge=1, description="Images in memory at a time. Default: the batch.")
    precision: Literal["32-true", "tf32", "bf16-mixed"] = Field("32-true", description="32-true, tf32 or bf16-mixed.")
    accelerator: str = Field("auto", description="auto, cpu or cuda.")

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        return filled({name: value for name, value in given.items() if value is not None})

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
        _check_network({name: value for name, value in self if value is not None})
        chosen("encoder", self.encoder, ENCODERS)
        chosen("augmentation", self.augmentation, AUGMENTATIONS)
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs:g} is more than the {self.epochs} epochs; warm up less"
            )
        parse_surrogate(self.surrogate)
        parse_estimators(self.train_estimators or "bptt")
        check_attack(self.defence, self.train_attack, self.train_loss)
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

    @classmethod
    def published(cls, recipe: str, scale: str = "paper", **given: Any) -> Experiment:
        """A published row at a scale, with these fields replaced.

        Args:
            recipe: a name in ``robustspike list recipes``.
            scale: "smoke", "short" or "paper"; see ``recipes/scales.yaml``.
            given: fields; ``data`` may be a path where the row's data is.

        Raises:
            ValueError: for unknown names or unfit values.

        Example:
            >>> Experiment.published("liu2024-cifar100-wrn16-sr-star").weight
            0.001
        """
        settings = settings_of(recipe, scale, **given)
        for ignored in set(_without(settings)) - {name for name, value in given.items() if value is not None}:
            del settings[ignored]  # the row's, where another network takes the place of its own
        return cls.of(**settings)

    @property
    def label(self) -> str:
        """What tables call the network: its training objective."""
        return make_objective(self).name

    @property
    def title(self) -> str:
        """What pages call the network."""
        return self.model

    def yaml(self) -> str:
        """All fields, one per line."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True)


def _without(settings: Mapping[str, Any]) -> list[str]:
    """Those of the settings that only some networks have, and not this one."""
    has = {f.name for f in fields(SETTINGS[settings["model"]])} if settings["model"] in SETTINGS else set(OF_NETWORKS)
    return [name for name in OF_NETWORKS if name in settings and name not in has]


def _check_network(settings: Mapping[str, Any]) -> None:
    for name in _without(settings):
        do = ", ".join(model for model, kind in SETTINGS.items() if name in {f.name for f in fields(kind)})
        raise ValueError(f"model {settings['model']} takes no --{name}; leave it out, or choose one that does: {do}")


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
    if (path.parent / NETWORK).is_file() and not path.is_file():
        raise CheckpointError(
            f"{run} holds figures of a network of your own, not a training run; name its file again, as in "
            f"`robustspike attack my_net.py:make_model --weights best.pt --data images/ --out {run}`"
        )
    if not path.is_file():
        raise CheckpointError(f"{run} is no training run: {RECORD} is missing; make one with `robustspike train`")
    given = read_yaml(path)
    names = [name for name, _ in parse_defence(str(given.get("defence", "vanilla")))]
    for ignored in untaken(given, names):  # earlier versions wrote them all the same
        del given[ignored]
    return Experiment.of(str(path), **given)
