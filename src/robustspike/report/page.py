"""The page: what the template is given, and the file it becomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from robustspike.report.breaks import (
    MISCLASSIFIED,
    STANDING,
    breaks_bars,
    breaks_table,
    by_estimator,
    columns_of,
    counts,
    first_breaks,
)
from robustspike.report.colours import DARK, LIGHT, MUTED, series
from robustspike.report.figures import NARROW, WIDE, Drawing, bars
from robustspike.report.legends import Palette
from robustspike.report.lines import costs, curves, steps
from robustspike.report.sections import Section, audit_sections
from robustspike.report.settings import differing, evaluation_settings, flat
from robustspike.report.svg import plain_style, standalone
from robustspike.report.views import Drawer, Drawn, split
from robustspike.report.words import (
    applied,
    conditions,
    contradictions,
    differences,
    doubts_of,
    epsilon,
    failed_first,
    is_suspect,
    norm_symbol,
    percent,
    ranking,
)
from robustspike.results import MARKS, Comparison, Network, Rate, Table, View, caveats, marked
from robustspike.results.trends import Trend, trend
from robustspike.writing import write_text


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


@dataclass(frozen=True)
class Shown:
    """What the page shows beside the figures that every page has.

    Attributes:
        breaks: which attack broke how many, as bars and as a table; nothing where no network has a worst case.
        trend: the networks against the setting in which they differ; None where there is no such one.
    """

    breaks: tuple[Drawn, ...]
    trend: Trend | None
    trend_views: tuple[Drawn, ...]
    by_estimator: list[Drawn | None]
    differing: Drawn | None

    @classmethod
    def of(cls, networks: Sequence[Network], drawer: Drawer) -> Shown:
        """All of it, drawn."""
        palette = Palette({network.name: i for i, network in enumerate(networks)})
        found = breaks_bars(networks)
        broken: tuple[View, ...] = (found, breaks_table(networks)) if found else ()
        attacks = columns_of([counts(n) for n in networks if n.summary.has_worst_case])[1:-1] if found else []
        special = {STANDING: series(0), MISCLASSIFIED: MUTED} | {name: series(k + 1) for k, name in enumerate(attacks)}
        across = trend(networks)

        def one(view: Table | None) -> Drawn | None:
            return None if view is None else drawer.one(view, palette)

        return cls(
            breaks=drawer.all(broken, Palette(special=special)),
            trend=across,
            trend_views=drawer.all(across.views(), Palette()) if across else (),
            by_estimator=[one(by_estimator(network)) for network in networks],
            differing=one(differing(networks)),
        )


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
    made.globals.update(split=split)
    return made


def html_of(comparison: Comparison) -> str:
    """One self-contained page: no script, font, style or image from elsewhere; equal records give equal text.

    Raises:
        ValueError: if there is no network to show.
    """
    if not comparison.networks:
        raise ValueError("expected a comparison of at least one network, got none; evaluate a network first")
    with plain_style():
        return environment().get_template("page.html.jinja").render(**content(comparison)) + "\n"


def content(comparison: Comparison) -> dict[str, Any]:
    """What the template is given."""
    attacks = attacks_of(comparison)
    networks, drawer = comparison.networks, Drawer()
    headers = [network.summary.header for network in networks]
    figures, shown, sections = drawn(comparison), Shown.of(networks, drawer), audit_sections(networks, drawer)
    return {
        "contents": contents(comparison, figures, shown, sections),
        "comparison": comparison,
        "networks": networks,
        "attacks": [name for name in attacks if any(name in n.summary.by_attack for n in networks)],
        "contradictions": contradictions,
        "missing": any(name not in n.summary.by_attack for n in networks for name in attacks),
        "best": max(network.summary.robust.value for network in networks),
        "differences": differences(headers),
        "conditions": conditions,
        "norm_symbol": norm_symbol,
        "doubts": [doubts_of(network) for network in networks],
        "ranking": ranking(networks),
        "settings": [evaluation_settings(network) for network in networks],
        "training": [list(flat(network.training)) for network in networks],
        "figures": figures,
        "shown": shown,
        "sections": sections,
        "first_breaks": first_breaks,
        "colours": list(zip(LIGHT, DARK, strict=True)),
        "series": series_of(comparison),
        "values_of": values_of,
        "caveats": list(dict.fromkeys(text for header in headers for text in caveats(header.members))),
        "applied": applied,
        "failed_first": failed_first,
        "marks": MARKS,
        "marked": marked,
        "span": span,
        "is_suspect": is_suspect,
    }


def contents(
    comparison: Comparison, figures: dict[str, Any], shown: Shown, sections: Sequence[Section]
) -> list[tuple[str, list[tuple[str, str]]]]:
    """The page's sections in groups: their ids and titles."""
    robustness = [
        ("verdict", "Verdict", True),
        ("accuracy", "Accuracy under each attack", True),
        ("worst", "Worst case per network", True),
        ("breaks", "Which attack broke how many", bool(shown.breaks)),
        ("curve", "Robust accuracy against ε", bool(figures["curves"])),
        ("costs", "Robust accuracy against what was spent", bool(figures["costs"])),
        ("steps", "Accuracy against the attack's steps", bool(figures["steps"])),
        ("trend", f"Against {shown.trend.setting}" if shown.trend else "", shown.trend is not None),
    ]
    behind = [
        ("networks", "Each network in full", True),
        ("reproduce", "Settings to reproduce", True),
        ("notes", "Notes", bool(comparison.notes)),
    ]
    groups = {
        "Robustness": [(name, title) for name, title, there in robustness if there],
        "Audits": [(section.id, section.title) for section in sections],
        "Behind the figures": [(name, title) for name, title, there in behind if there],
    }
    return [(name, entries) for name, entries in groups.items() if entries]


def span(rate: Rate) -> str:
    """The interval alone, as in the text form of a rate."""
    return f"[{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def write_html(comparison: Comparison, path: str | Path) -> None:
    """Write the page; a file that was there is replaced only once the new one is complete.

    Args:
        comparison: the networks and their figures.
        path: the file; its folder is made where missing.
    """
    write_text(Path(path), html_of(comparison))


def write_curves(comparison: Comparison, path: str | Path) -> None:
    """Write the ε-curves alone as an SVG file that follows the reader's light or dark setting.

    Raises:
        ValueError: if no network has a curve.
    """
    if not any(network.curve for network in comparison.networks):
        raise ValueError("expected a network with an ε-curve, got none; attack it at several ε first")
    write_text(Path(path), standalone(curves(comparison.networks, WIDE).svg))
