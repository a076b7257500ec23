"""The settings of networks and evaluations, line by line, and those in which networks differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from robustspike.results import Network, Table


@dataclass(frozen=True)
class Setting:
    """One line of a table of settings."""

    name: str
    value: str


def flat(settings: dict[str, Any], prefix: str = "") -> Iterator[Setting]:
    """Nested settings as lines, ``optimizer.lr`` for ``{"optimizer": {"lr": ...}}``."""
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            yield Setting(f"{prefix}{key}", text)


def evaluation_settings(network: Network) -> list[Setting]:
    """Everything of the header but the members, which have a list of their own."""
    header = network.summary.header.model_dump(exclude={"members"})
    versions = header.pop("versions")
    return list(flat({**header, "versions": versions}))


def differing(networks: Sequence[Network]) -> Table | None:
    """One row for each setting in which training or evaluation differ, one column for each network; None where none does."""
    columns = []
    for network in networks:
        found = {f"training: {one.name}": one.value for one in flat(network.training)}
        columns.append(found | {f"evaluation: {one.name}": one.value for one in evaluation_settings(network)})
    names = dict.fromkeys(name for found in columns for name in found)
    rows = [(name, *(found.get(name, "·") for found in columns)) for name in names]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    if not rows:
        return None
    return Table(
        title="Settings in which the networks differ; all others are equal",
        columns=("setting", *(network.name for network in networks)),
        rows=tuple(rows),
    )
