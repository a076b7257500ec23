"""What an evaluation measures, as a header: suite, data, model and versions."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib import metadata

from torch import nn

from robustspike.adapters import check_adapted
from robustspike.attacks import Attack, Suite
from robustspike.attacks.attempt import calls_for, shared_ball
from robustspike.attacks.suites import describe
from robustspike.checkpoints import fingerprint, settings_text
from robustspike.data import Split
from robustspike.evaluate.blocks import on_device
from robustspike.gradients import check_labels, device_of
from robustspike.results import Header, Member


def check_data(model: nn.Module, data: Split) -> None:
    """Refuse what is no split or an empty one, neurons to be adapted first, a sample that occurs twice, unknown labels.

    Raises:
        ValueError: saying which.
    """
    if not isinstance(data, Split):
        raise ValueError(f"data must be a Split, got a {type(data).__name__}; give rs.data.Split(images, labels)")
    check_adapted(model)
    if len(data) == 0:
        raise ValueError("the split to evaluate is empty; give it at least one image")
    if len(data.ids.unique()) < len(data):
        raise ValueError("a sample occurs twice in the split to evaluate; its random draws could not be its own")
    check_labels(model, on_device(device_of(model), data.images[:1], model), data.labels)


def as_suite(attacks: Suite | Attack | Sequence[Attack]) -> Suite:
    """A suite as it is; attacks as a suite called "custom"."""
    if isinstance(attacks, Suite):
        return attacks
    members = tuple(attacks) if isinstance(attacks, Sequence) else (attacks,)
    if not members:
        raise ValueError("give at least one attack, or a suite such as suites.liu2024('8/255')")
    return Suite("custom", shared_ball(members, "attacks of one evaluation"), members)


def member_of(attack: Attack) -> Member:
    """An attack as listed in tables."""
    name, estimator = describe(attack)
    return Member(
        attack=name,
        estimator=estimator,
        settings=settings_text(attack),
        kind=getattr(attack, "kind", "white-box"),
        caveat=getattr(attack, "caveat", ""),
        steps=getattr(attack, "steps", None),
    )


def versions(model: nn.Module) -> dict[str, str]:
    """Of Python and the packages that figures may depend on: that of an adapted network's framework among them."""
    own = [framework.name for framework in getattr(model, "frameworks", ())]
    packages = {name: metadata.version(name) for name in ("robustspike", "torch", "numpy", *own)}
    return {"python": platform.python_version(), **packages}


def network_name(model: nn.Module) -> str:
    """What a network is called where nobody has said it: by its class, and by the user's where it is adapted."""
    own = getattr(model, "model", model) if hasattr(model, "adapted_layers") else model
    return type(own).__name__


def header_of(
    model: nn.Module, data: Split, suite: Suite, *, seed: int, batch_size: int, survivors_only: bool, budget: int | None,
    model_name: str | None, data_name: str,
) -> Header:  # fmt: skip
    """Everything needed to say what the evaluation measures."""
    device = device_of(model)
    return Header(
        suite=suite.name,
        norm=suite.ball.norm if suite.ball else "Linf",
        eps=suite.ball.eps if suite.ball else float("nan"),
        members=tuple(map(member_of, suite.attacks)),
        survivors_only=survivors_only,
        seed=seed,
        batch_size=batch_size,
        n=len(data),
        data=data_name,
        data_fingerprint=data.fingerprint(),
        model=model_name or network_name(model),
        weights_fingerprint=fingerprint(model),
        calls=calls_for(model, on_device(device, data.images[:2], model)),
        budget=budget,
        versions=versions(model) | {"device": device.type},
    )
