"""The points of a sweep, and the table, the lines and the figure that they make."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import statistics
from collections.abc import Sequence
from typing import Any

from scipy import special

from robustspike.balls import parse_eps
from robustspike.results import Rate, Record, Summary, Table, caveats, doubts_sentence, under


class Point(Record):
    """One combination of the settings.

    Attributes:
        name: also of its folder.
        values: of the fields that vary.
        folder: of the run.
        summary: its evaluation; None where it failed.
        error: what it failed of.
    """

    name: str
    values: dict[str, Any]
    folder: str
    summary: Summary | None = None
    error: str | None = None


class Sweep(Record):
    """All points of a sweep.

    Attributes:
        over: the fields that vary.
        title: what was trained on what.
    """

    over: tuple[str, ...]
    title: str
    points: tuple[Point, ...]

    @property
    def failed(self) -> tuple[Point, ...]:
        """The points without figures."""
        return tuple(point for point in self.points if point.summary is None)

    @property
    def axes(self) -> tuple[str, ...]:
        """The fields that vary, but for the seed, over which figures are averaged."""
        return tuple(field for field in self.over if field != "seed")

    def groups(self) -> dict[tuple[Any, ...], list[Summary]]:
        """The figures of the seeds at each combination of the other fields."""
        found: dict[tuple[Any, ...], list[Summary]] = {}
        for point in self.points:
            here = found.setdefault(tuple(point.values[field] for field in self.axes), [])
            if point.summary is not None:
                here.append(point.summary)
        return found

    def table(self) -> Table:
        """One row per combination; with several seeds, mean ± standard deviation over them."""
        groups, seeds = self.groups(), "seed" in self.over
        known = [summary for found in groups.values() for summary in found]
        # Where attacks ran on survivors only, some networks have a figure of their own for one and others have not.
        attacks = [a for a in (known[0].by_attack if known else ()) if all(a in s.by_attack for s in known)]
        rows = []
        for values, found in groups.items():
            figures = [[s.clean for s in found], [s.robust for s in found if s.has_worst_case]]
            figures += [[s.by_attack[name] for s in found] for name in attacks]
            count = [str(len(found))] if seeds else []
            rows.append((*map(written, values), *count, *(_cell(rates, seeds) for rates in figures)))
        shown = "mean ± standard deviation over seeds" if seeds else "[95 % interval]"
        measured = f"under {under(known[0].header)}" if known else "no point has figures"
        return Table(
            title=f"{self.title}: accuracy in % {shown} {measured}",
            columns=(*self.axes, *(["seeds"] if seeds else []), "clean", "worst case", *attacks),
            rows=tuple(rows),
            note=" ".join(self._notes(known)),
        )

    def _notes(self, known: Sequence[Summary]) -> list[str]:
        notes = [
            "Each attack: robust only if it fails under every estimator. An accuracy under attack is an upper bound."
        ]
        if known:
            notes += caveats(known[0].header.members)
            doubts: dict[str, int] = {}
            for summary in known:
                sentence = doubts_sentence(summary.doubts)
                doubts[sentence] = doubts.get(sentence, 0) + 1
            notes.append(
                f"Doubts: {' '.join(text if len(doubts) == 1 else f'{count}: {text}' for text, count in doubts.items())}"
            )
        return [*notes, *(f"{point.name} failed: {point.error}." for point in self.failed)]

    def csv(self) -> str:
        """One line per point, shares in [0, 1]."""
        attacks = list(dict.fromkeys(n for p in self.points if p.summary for n in p.summary.by_attack))
        columns = [f"{name}{end}" for name in ("clean", "worst case", *attacks) for end in ("", " low", " high")]
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow([*self.over, "suite", "norm", "eps", "n", "evaluation seed", *columns, "failed of"])
        for point in self.points:
            cells: list[Any] = [point.values[field] for field in self.over]
            if (s := point.summary) is None:
                cells += [""] * (5 + len(columns))
            else:
                cells += [s.header.suite, s.header.norm, s.header.eps, s.header.n, s.header.seed]
                for r in (s.clean, s.robust if s.has_worst_case else None, *map(s.by_attack.get, attacks)):
                    cells += ["", "", ""] if r is None else [r.value, r.low, r.high]
            writer.writerow([*cells, point.error or ""])
        return buffer.getvalue()

    def lines(self) -> tuple[str, list[tuple[str, list[float], list[Rate], list[Rate]]]]:
        """What a figure shows: the first field that is a number, and for each combination of the others a label, the
        numbers, clean and robust accuracy; "" and nothing where no field has two numbers."""
        groups = {values: found for values, found in self.groups().items() if found}
        for k, field in enumerate(self.axes):
            numbers = [_number(values[k]) for values in groups]
            if None in numbers or len(set(numbers)) < 2:
                continue
            lines: dict[tuple[Any, ...], list[tuple[float, Rate, Rate]]] = {}
            for (values, found), x in zip(groups.items(), numbers, strict=True):
                rest = values[:k] + values[k + 1 :]
                over_seeds = (_mean([s.clean for s in found]), _mean([s.robust for s in found]))
                lines.setdefault(rest, []).append((x or 0.0, *over_seeds))
            drawn = []
            for rest, points in lines.items():
                xs, clean, robust = map(list, zip(*sorted(points, key=lambda point: point[0]), strict=True))
                names = [name for name in self.axes if name != field]
                label = ", ".join(f"{name} {written(value)}" for name, value in zip(names, rest, strict=True))
                drawn.append((label, xs, clean, robust))
            return field, drawn
        return "", []

    def caption(self) -> str:
        """What the figure was measured under, in one line."""
        known = [point.summary for point in self.points if point.summary]
        seeds = len({point.values["seed"] for point in self.points}) if "seed" in self.over else 1
        bands = f"95 % t-interval of the mean over {seeds} training seeds" if seeds > 1 else "95 % interval"
        return f"under {under(known[0].header)}; {bands}"


def _number(value: Any) -> float | None:
    """A value as a number, "2/255" too; None if it is none."""
    if isinstance(value, bool) or value is None:
        return None
    with contextlib.suppress(ValueError):
        return parse_eps(value) if isinstance(value, str) else float(value)
    return None


def _mean(rates: Sequence[Rate]) -> Rate:
    """The mean over seeds with its 95 % t-interval, cut to [0, 1]; one seed: its own interval."""
    if len(rates) == 1:
        return rates[0]
    mean, deviation = statistics.mean(r.value for r in rates), statistics.stdev(r.value for r in rates)
    half = float(special.stdtrit(len(rates) - 1, 0.975)) * deviation / math.sqrt(len(rates))
    return Rate(value=mean, low=max(0.0, mean - half), high=min(1.0, mean + half), n=sum(r.n for r in rates))


def _cell(rates: Sequence[Rate], seeds: bool) -> str:
    if not rates:
        return "·"
    if not seeds:
        return str(rates[0])
    values = [100 * r.value for r in rates]
    return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def written(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
