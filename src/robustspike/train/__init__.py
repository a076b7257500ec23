"""The trainer: any objective, seeded by step, resumable to the same weights, alone or under ``torchrun``."""

from robustspike.train.fitting import fit
from robustspike.train.rates import learning_rate_factor
from robustspike.train.saving import BEST, LOG, STATE, WEIGHTS
from robustspike.train.settings import PRECISIONS, Epoch, Schedule, TrainingError
from robustspike.train.validation import clean_accuracy, robust_accuracy
from robustspike.train.watching import TENSORBOARD

__all__ = [
    "BEST",
    "LOG",
    "PRECISIONS",
    "STATE",
    "TENSORBOARD",
    "WEIGHTS",
    "Epoch",
    "Schedule",
    "TrainingError",
    "clean_accuracy",
    "fit",
    "learning_rate_factor",
    "robust_accuracy",
]
