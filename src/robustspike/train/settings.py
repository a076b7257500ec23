"""What a training run is told, and what it says of each epoch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from robustspike.adapters import check_adapted
from robustspike.data import Split
from robustspike.data.augment import augmentation
from robustspike.gradients import check_labels

PRECISIONS = ("32-true", "tf32", "bf16-mixed")
OPTIMIZERS = {"sgd": 0.1, "adam": 1e-3}  # and their learning rates where none is given
SCHEDULES = ("cosine", "one-cycle", "constant")


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the last good checkpoint."""


@dataclass(frozen=True)
class Epoch:
    """One line of log.jsonl: ``loss`` is the mean objective, accuracies are in [0, 1]."""

    epoch: int
    loss: float
    lr: float
    validation_accuracy: float | None
    seconds: float
    validation_robust: float | None = None


@dataclass(frozen=True)
class Schedule:
    """How one training run goes; two runs with equal schedules, data and weights end with equal weights (CPU).

    What only says how often the state is written, what is shown and where it is computed is not part of it.
    """

    objective: str
    architecture: str
    epochs: int
    batch_size: int
    optimizer: str
    lr: float
    momentum: float
    weight_decay: float
    schedule: str
    crop_padding: int
    flip: bool
    precision: str
    seed: int
    n: int
    data_fingerprint: str
    warmup_epochs: float
    ema: float
    clip_norm: float | None
    augmentation: str
    micro_batch: int | None
    validation_attack: str | None
    validation_limit: int | None


def check(settings: Schedule, save_every: int | None, watched_nowhere: bool) -> None:
    """Refuse settings out of range.

    Raises:
        ValueError: naming the first.
    """
    if settings.n == 0:
        raise ValueError("the training split is empty; give it at least one image")
    if settings.epochs < 1 or settings.batch_size < 1:
        raise ValueError(f"epochs and batch_size must be ≥ 1, got {settings.epochs} and {settings.batch_size}")
    if settings.optimizer not in OPTIMIZERS:
        raise ValueError(f'optimizer must be "sgd" or "adam", got {settings.optimizer!r}')
    if settings.precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {settings.precision!r}")
    if settings.schedule not in SCHEDULES:
        raise ValueError(f'schedule must be "cosine", "one-cycle" or "constant", got {settings.schedule!r}')
    if not (settings.lr > 0 and settings.weight_decay >= 0 and settings.crop_padding >= 0):
        raise ValueError(f"lr must be positive, weight_decay and crop_padding ≥ 0; got {settings}")
    if not 0 <= settings.warmup_epochs <= settings.epochs:
        raise ValueError(f"warmup_epochs must lie in 0 … {settings.epochs} (epochs), got {settings.warmup_epochs}")
    if not 0 <= settings.ema < 1:
        raise ValueError(f"ema must lie in [0, 1), a decay such as 0.999 or 0 for none; got {settings.ema}")
    if settings.clip_norm is not None and not settings.clip_norm > 0:
        raise ValueError(f"clip_norm must be positive, or None for no clipping; got {settings.clip_norm}")
    augmentation(settings.augmentation)
    if watched_nowhere:
        raise ValueError("tensorboard=True needs a folder to write to; pass out=...")
    counts = {
        "micro_batch": settings.micro_batch, "validation_limit": settings.validation_limit, "save_every": save_every
    }  # fmt: skip
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"{name} must be ≥ 1, or None; got {count}")


def check_data(model: nn.Module, train: Split, validation: Split | None, settings: Schedule) -> None:
    """Refuse data that the model has no use for, and a validation attack without anything to attack.

    Raises:
        ValueError: for an empty validation split, images or labels that do not fit the model.
    """
    check_adapted(model)
    splits: Iterable[Split] = (train,) if validation is None else (train, validation)
    for split in splits:
        if len(split) == 0:
            raise ValueError("the validation split is empty; give it an image, or pass validation=None")
        check_labels(model, split.images, split.labels)
    if validation is None and settings.validation_attack is not None:
        raise ValueError("validation_attack needs images to attack; pass validation=..., or validation_attack=None")
