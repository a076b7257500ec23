"""Spiking networks: builders by name, and the record they are rebuilt from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from robustspike.models.settings import Settings, from_record
from robustspike.models.snn import SNN
from robustspike.models.vgg import digits_cnn, vgg5, vgg11
from robustspike.models.wideresnet import wrn16

__all__ = ["MODELS", "SNN", "Settings", "build", "digits_cnn", "vgg5", "vgg11", "wrn16"]

MODELS: dict[str, Callable[..., SNN]] = {
    "digits-cnn": digits_cnn,
    "vgg5": vgg5,
    "vgg11": vgg11,
    "wrn16": wrn16,
}


def build(record: dict[str, Any]) -> SNN:
    """The untrained network of a record that :meth:`Settings.record` wrote.

    Raises:
        ValueError: for a network or a setting that this version does not know.
    """
    if record.get("name") not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}; got {record.get('name')!r}")
    settings = vars(from_record(record)).copy()
    return MODELS[settings.pop("name")](**settings)
