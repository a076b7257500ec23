"""The same run with some settings varied: every combination trained, attacked, and set into one table and one curve."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from robustspike.experiment.jobs import Ended, Job, Plan, run_jobs
from robustspike.experiment.names import near, parse_defence
from robustspike.experiment.points import Point, Sweep, written
from robustspike.experiment.recipes import default_eps, suited
from robustspike.experiment.record import Experiment
from robustspike.writing import write_text

FIGURES = "sweep.json", "sweep.md", "sweep.csv", "sweep.svg"


def parse_over(texts: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """{"weight": ("0.01", "0.1")} from "weight=0.01,0.1"; values that hold commas are parted by semicolons.

    Raises:
        ValueError: for another form, or a field named twice.

    Example:
        >>> parse_over(["weight=0.01,0.1", "train_estimators=bptt;bptt,bptr"])
        {'weight': ('0.01', '0.1'), 'train_estimators': ('bptt', 'bptt,bptr')}
    """
    over: dict[str, tuple[str, ...]] = {}
    for text in texts:
        field, equals, values = text.partition("=")
        field = field.strip().removeprefix("--").replace("-", "_")
        found = tuple(v.strip() for v in values.split(";" if ";" in values else ",") if v.strip())
        if not equals or not found:
            raise ValueError(f"--over: expected a setting and its values, such as weight=0.01,0.1, got {text!r}")
        if field in over:
            raise ValueError(f"--over: {field} is named twice; write all its values into one")
        over[field] = found
    return over


def points_of(
    over: Mapping[str, Sequence[Any]], make: Callable[..., Experiment], settings: Mapping[str, Any]
) -> dict[str, tuple[dict[str, Any], Experiment]]:
    """Every combination by its name: the varied values, typed, and the whole record.

    A setting that only some of the defences take is left to these.
    """
    for field in over:
        if field not in Experiment.model_fields:
            raise ValueError(f"unknown setting {field!r}; {near(field, Experiment.model_fields)}")
    if not over or not all(len(values) for values in over.values()):
        raise ValueError("nothing to sweep over; name a setting and its values, such as weight=0.01,0.1")
    everyone = {name for text in over.get("defence", ()) for name, _ in parse_defence(str(text))}
    points = {}
    for combination in itertools.product(*over.values()):
        values, given = dict(zip(over, combination, strict=True)), dict(settings)
        if everyone:
            given = suited(given, [name for name, _ in parse_defence(str(values["defence"]))], everyone)
        experiment = make(**given | values)
        typed = {field: getattr(experiment, field) for field in over}
        name = "_".join(f"{field}={written(value)}" for field, value in typed.items())
        points[re.sub(r"[^A-Za-z0-9.+=_-]+", "-", name)] = (typed, experiment)
    return points


def sweep(
    over: Mapping[str, Sequence[Any]],
    out: str | Path,
    *,
    suite: str = "standard",
    eps: str | None = None,
    processes: int = 1,
    recipe: str | None = None,
    scale: str = "paper",
    evaluation: Mapping[str, Any] | None = None,
    progress: bool = True,
    ended: Ended = lambda job, error: None,
    **settings: Any,
) -> Sweep:
    """Train and attack a network for every combination of the values of some settings, and compare.

    Each point is a run of its own in ``out``, named by its values; run again, finished points are only read and others go
    on. A point that fails does not keep the others from running. Writes sweep.json, sweep.md, sweep.csv and, where a
    setting is a number, sweep.svg.

    Args:
        over: fields of :class:`Experiment` and the values of each. Figures are averaged over ``seed``, if it is one.
        out: the folder.
        suite: see :func:`make_suite`.
        eps: radius in pixel units; None: the recipe's for the data.
        processes: so many points at a time.
        recipe, scale: a published row to start from, see :meth:`Experiment.published`; None: the data's recipe alone.
        evaluation: other fields of :class:`Plan`, such as ``limit``.
        progress: show progress bars on a terminal.
        ended: see :func:`run_jobs`.
        settings: the other fields of :class:`Experiment`, for all points.

    Returns:
        All points; those that failed have no figures.

    Raises:
        ValueError: for unfit settings or values, before anything is trained.

    Example:
        >>> tiny = {"train_limit": 64, "test_limit": 10, "time_steps": 2, "epochs": 1}
        >>> how = {"attacks": ["fgsm"], "estimators": ["rga"]}
        >>> found = sweep({"lr": [0.01, 0.1]}, tmp_path, evaluation=how, progress=False, **tiny)
        >>> [row[0] for row in found.table().rows]
        ['0.01', '0.1']
    """

    def make(**given: Any) -> Experiment:
        return Experiment.published(recipe, scale, **given) if recipe else Experiment.of(**given)

    out, points = Path(out), points_of(over, make, settings)
    radii = {eps or default_eps(experiment.data) for _, experiment in points.values()}
    if len(radii) > 1:
        raise ValueError(f"the data have recipes with different ε ({', '.join(sorted(radii))}); give one with --eps")
    plan = Plan(suite=suite, eps=radii.pop(), **evaluation or {})
    plan.suite_on()
    jobs = [Job(experiment=experiment, out=out / name, plans=(plan,)) for name, (_, experiment) in points.items()]
    errors = run_jobs(jobs, processes=processes, progress=progress, ended=ended)
    made = []
    for (name, (values, _)), job, error in zip(points.items(), jobs, errors, strict=True):
        summary = job.outcome(plan).summary() if error is None else None
        made.append(Point(name=name, values=values, folder=str(job.out), summary=summary, error=error))
    found = Sweep(over=tuple(over), title=_title(e for _, e in points.values()), points=tuple(made))
    _write(found, out)
    return found


def _title(experiments: Iterable[Experiment]) -> str:
    """Networks, defences and data."""
    experiments = list(experiments)
    words = []
    for field in ("model", "defence", "data"):
        names = list(dict.fromkeys(str(getattr(e, field)) for e in experiments))
        words.append(", ".join(names) if len(names) <= 3 else f"{len(names)} {field}s")
    return f"{words[0]} with {words[1]} on {words[2]}"


def _write(found: Sweep, out: Path) -> None:
    json_file, page, lines, figure = (out / name for name in FIGURES)
    write_text(json_file, found.model_dump_json(indent=1) + "\n")
    write_text(page, found.table().markdown() + "\n")
    write_text(lines, found.csv())
    field, drawn = found.lines()
    if drawn:
        from robustspike.report.sweep import sweep_curve  # draws with matplotlib: loaded when needed

        write_text(figure, sweep_curve(field, drawn, found.caption()))
    else:
        figure.unlink(missing_ok=True)  # of an earlier sweep
