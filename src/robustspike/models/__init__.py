"""Spiking networks: builders by name, and the record they are rebuilt from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from robustspike.models.resnet import (
    ResNetSettings,
    SEWSettings,
    sew_resnet18,
    sew_resnet34,
    sew_resnet50,
    spiking_resnet18,
    spiking_resnet34,
    spiking_resnet50,
)
from robustspike.models.settings import Settings, from_record
from robustspike.models.snn import SNN
from robustspike.models.spiking_vgg import (
    SpikingVGGSettings,
    spiking_vgg11,
    spiking_vgg13,
    spiking_vgg16,
    spiking_vgg19,
)
from robustspike.models.vgg import digits_cnn, vgg5, vgg11
from robustspike.models.wideresnet import wrn16

__all__ = [
    "MODELS", "SETTINGS", "SNN", "ResNetSettings", "SEWSettings", "Settings", "SpikingVGGSettings", "build", "digits_cnn",
    "sew_resnet18", "sew_resnet34", "sew_resnet50", "spiking_resnet18", "spiking_resnet34", "spiking_resnet50",
    "spiking_vgg11", "spiking_vgg13", "spiking_vgg16", "spiking_vgg19", "vgg5", "vgg11", "wrn16",
]  # fmt: skip

MODELS: dict[str, Callable[..., SNN]] = {
    "digits-cnn": digits_cnn,
    "vgg5": vgg5,
    "vgg11": vgg11,
    "wrn16": wrn16,
    "sew-resnet18": sew_resnet18,
    "sew-resnet34": sew_resnet34,
    "sew-resnet50": sew_resnet50,
    "spiking-resnet18": spiking_resnet18,
    "spiking-resnet34": spiking_resnet34,
    "spiking-resnet50": spiking_resnet50,
    "spiking-vgg11": spiking_vgg11,
    "spiking-vgg13": spiking_vgg13,
    "spiking-vgg16": spiking_vgg16,
    "spiking-vgg19": spiking_vgg19,
}

# What each of them can be told.
SETTINGS: dict[str, type[Settings]] = dict.fromkeys(MODELS, Settings)
SETTINGS |= {name: SEWSettings for name in MODELS if name.startswith("sew-")}
SETTINGS |= {name: ResNetSettings for name in MODELS if name.startswith("spiking-resnet")}
SETTINGS |= {name: SpikingVGGSettings for name in MODELS if name.startswith("spiking-vgg")}


def build(record: dict[str, Any]) -> SNN:
    """The untrained network of a record that :meth:`Settings.record` wrote.

    Raises:
        ValueError: for a network or a setting that this version does not know.
    """
    name = record.get("name")
    if name not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}; got {name!r}")
    settings = vars(from_record(record, SETTINGS[name])).copy()
    return MODELS[settings.pop("name")](**settings)
