"""The page: what the template is given, and the file it becomes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from robustspike.report.colours import DARK, LIGHT
from robustspike.report.figures import NARROW, WIDE, Drawing, bars
from robustspike.report.lines import costs, curves, steps
from robustspike.report.svg import standalone
from robustspike.report.words import (
    applied,
    conditions,
    differences,
    doubts_of,
    epsilon,
    failed_first,
    is_suspect,
    norm_symbol,
    percent,
    ranking,
)
from robustspike.results import MARKS, Comparison, Network, Rate, caveats, marked


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


def attacks_of(comparison: Comparison) -> list[str]:
    """The attacks of all networks in the order in which they ran."""
    summaries = [network.summary for network in comparison.networks]
    ran = [marked(member.attack, member.caveat) for summary in summaries for member in summary.header.members]
    return list(dict.fromkeys([*ran, *(name for summary in summaries for name in summary.by_attack)]))


@dataclass(frozen=True)
class Series:
    """One line of a table beside a chart: the figures of a network at some values, and the chart's seed."""

    name: str
    seed: int
    at: dict[float, Rate]

    @property
    def n(self) -> str:
        return ", ".join(dict.fromkeys(str(one.n) for one in self.at.values()))


def series_of(comparison: Comparison) -> dict[str, list[Series]]:
    """The figures behind the charts of one line per network."""
    curves = [(n.name, n.curve) for n in comparison.networks if n.curve]
    spent = [(n.name, n.summary.cost) for n in comparison.networks if n.summary.cost]
    return {
        "curves": [Series(name, c.seed, dict(zip(c.eps, c.robust, strict=True))) for name, c in curves],
        "costs": [Series(name, c.seed, dict(zip(c.gradients, c.robust, strict=True))) for name, c in spent],
    }


def values_of(series: list[Series]) -> list[float]:
    """Every value at which some line has a point, from the smallest."""
    return sorted({value for one in series for value in one.at})


def drawn(comparison: Comparison) -> dict[str, tuple[Drawing, Drawing] | None]:
    """Each figure for a wide and for a narrow screen; None where no network has what it shows."""
    networks, summaries = comparison.networks, [network.summary for network in comparison.networks]
    shown = {
        "bars": (bars, True),
        "curves": (curves, any(network.curve for network in networks)),
        "costs": (costs, any(s.cost and len(s.cost.gradients) > 1 for s in summaries)),
        "steps": (steps, any(s.steps for s in summaries)),
    }
    return {
        name: (draw(networks, WIDE), draw(networks, NARROW)) if there else None for name, (draw, there) in shown.items()
    }


def environment() -> Environment:
    """Jinja with everything escaped and no forgotten name."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(percent=percent, epsilon=epsilon, markup=Markup)
    return made


def html_of(comparison: Comparison) -> str:
    """One self-contained page: no script, font, style or image from elsewhere; equal records give equal text.

    Raises:
        ValueError: if there is no network to show.
    """
    if not comparison.networks:
        raise ValueError("expected a comparison of at least one network, got none; evaluate a network first")
    attacks = attacks_of(comparison)
    headers = [network.summary.header for network in comparison.networks]
    return (
        environment()
        .get_template("page.html.jinja")
        .render(
            comparison=comparison,
            networks=comparison.networks,
            attacks=attacks,
            missing=any(name not in n.summary.by_attack for n in comparison.networks for name in attacks),
            best=max(network.summary.robust.value for network in comparison.networks),
            differences=differences(headers),
            conditions=conditions,
            norm_symbol=norm_symbol,
            doubts=[doubts_of(network) for network in comparison.networks],
            ranking=ranking(comparison.networks),
            settings=[evaluation_settings(network) for network in comparison.networks],
            training=[list(flat(network.training)) for network in comparison.networks],
            figures=drawn(comparison),
            colours=list(zip(LIGHT, DARK, strict=True)),
            series=series_of(comparison),
            values_of=values_of,
            caveats=list(dict.fromkeys(text for header in headers for text in caveats(header.members))),
            applied=applied,
            failed_first=failed_first,
            marks=MARKS,
            marked=marked,
            span=span,
            is_suspect=is_suspect,
        )
        + "\n"
    )


def span(rate: Rate) -> str:
    """The interval alone, as in the text form of a rate."""
    return f"[{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def write_html(comparison: Comparison, path: str | Path) -> None:
    """Write the page; a file that was there is replaced only once the new one is complete.

    Args:
        comparison: the networks and their figures.
        path: the file; its folder is made where missing.
    """
    _write(html_of(comparison), Path(path))


def write_curves(comparison: Comparison, path: str | Path) -> None:
    """Write the ε-curves alone as an SVG file that follows the reader's light or dark setting.

    Raises:
        ValueError: if no network has a curve.
    """
    if not any(network.curve for network in comparison.networks):
        raise ValueError("expected a network with an ε-curve, got none; attack it at several ε first")
    _write(standalone(curves(comparison.networks, WIDE).svg), Path(path))


def _write(text: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
