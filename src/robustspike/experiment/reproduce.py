"""Published tables run again: our figures beside the paper's, with the differences and the settings that differ."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustspike.attacks import SUITES
from robustspike.balls import parse_eps
from robustspike.data import DATA, DataError, load
from robustspike.evaluate.settings import member_of
from robustspike.experiment.compare import comparison
from robustspike.experiment.jobs import Ended, Job, Plan, run_jobs
from robustspike.experiment.names import chosen, parse_defence, taken_by
from robustspike.experiment.recipes import REACHES, default_eps, figures_of, scale_of, suited, tables
from robustspike.experiment.record import NO_DIFFERENCE, Experiment
from robustspike.experiment.rows import PAPER, Figure, Reproduction, Row
from robustspike.experiment.runs import load_data
from robustspike.results import Summary, caveats, doubts_sentence, under
from robustspike.writing import write_text

BLACK_BOX = ", black box"
CLASSES = {"cifar10": 10, "cifar100": 100}


@dataclass(frozen=True)
class _Task:
    """A row: its record, how many images it trains on or why there are none, and its job, which equal rows share."""

    recipe: str
    experiment: Experiment
    images: int | str
    job: Job


@dataclass(frozen=True)
class _Evaluations:
    """How the rows of a table are attacked: the paper's own suite, others, examples from other networks."""

    table: str
    out: Path
    suites: Sequence[str]
    limit: int | None
    doubts: int
    black_box: bool

    @property
    def published(self) -> dict[str, Any]:
        """What ``recipes/tables.yaml`` says of the table."""
        return tables()[self.table]

    @property
    def publishes_black_box(self) -> bool:
        """Whether the table has such columns."""
        return any(
            attack.endswith(BLACK_BOX) for row in self.published["rows"] for attack in figures_of(row)[self.table]
        )

    def eps(self, recipe: str, experiment: Experiment) -> str:
        """The paper's radius; on other data, that data's."""
        return default_eps(experiment.data) if _other_data(recipe, experiment) else str(self.published["eps"])

    def own(self, eps: str) -> Plan:
        """The paper's suite."""
        return Plan(suite=self.published["suite"], only=self.published.get("estimator"), eps=eps, limit=self.limit)

    def others(self, eps: str) -> list[Plan]:
        """The other suites, which only attack what still stands."""
        return [Plan(suite=s, eps=eps, limit=self.limit, each=False, doubts=self.doubts) for s in self.suites]

    def transferred(self, eps: str, recipe: str, experiment: Experiment) -> Plan:
        """The paper's attacks, made on another network."""
        source = str(self.source_folder(recipe, experiment))
        return Plan(suite=self.published["suite"], only="black-box", eps=eps, limit=self.limit, transfer_from=(source,))

    def plans(self, recipe: str, experiment: Experiment) -> tuple[Plan, ...]:
        """All of them."""
        eps = self.eps(recipe, experiment)
        black_box = [self.transferred(eps, recipe, experiment)] if self.black_box else []
        return (self.own(eps), *self.others(eps), *black_box)

    def folder(self, recipe: str, experiment: Experiment) -> Path:
        """Of a run."""
        return self.out / _slug(recipe, experiment, experiment.defence, experiment.seed)

    def source_folder(self, recipe: str, experiment: Experiment) -> Path:
        """Of the run that examples for this one come from."""
        return self.out / "sources" / _slug(recipe, experiment, "vanilla", experiment.seed + 1)


def reproduce(
    table: str,
    out: str | Path,
    *,
    scale: str = "paper",
    suites: Sequence[str] = ("standard",),
    limit: int | None = None,
    black_box: bool = False,
    processes: int = 1,
    progress: bool = True,
    ended: Ended = lambda job, error: None,
    data: str | None = None,
    **settings: Any,
) -> Reproduction:
    """Train the rows of a published table, attack them with the paper's own suite and others, and compare.

    Run again, it goes on where it was stopped. Writes results.json, table.md and a report.html for each data set. Rows that
    a scale makes equal are trained once.

    Args:
        table: a name in ``recipes/tables.yaml``, such as "liu2024-table1".
        out: the folder.
        scale: "smoke", "short" or "paper".
        suites: beyond the paper's own; only their worst case is reported.
        limit: test images; None: the scale's.
        black_box: also attack with examples made on another network of the same kind, trained without defence.
        processes: so many rows at a time.
        progress: show progress bars on a terminal.
        ended: see :func:`run_jobs`.
        data: where the data is, "cifar10=c10.npz,cifar100=c100.npz"; a path alone is that of the data with as many classes.
        settings: fields of :class:`Experiment` that replace the rows'.

    Returns:
        All rows; those whose data cannot be had or that failed have no figures.

    Raises:
        ValueError: for unknown names or unfit settings, before anything is trained.
    """
    chosen("table", table, tables())
    if "defence" in settings:
        raise ValueError("the rows of a table name the defence; leave it out, or use `robustspike train --recipe`")
    how = scale_of(scale).get("evaluation", {})
    limit = how.get("limit") if limit is None else limit
    evaluations = _Evaluations(table, Path(out), suites, limit, how.get("doubts", 0), black_box)
    if black_box and not evaluations.publishes_black_box:
        raise ValueError(f"{table} has no black-box figures; leave --black-box out")
    for plan in (evaluations.own("0.1"), *evaluations.others("0.1")):
        plan.suite_on()
    places, rows = _places(data), evaluations.published["rows"]
    everyone = [Experiment.published(recipe).defence for recipe in rows]
    made = {
        recipe: Experiment.published(
            recipe, scale, **_with_data(recipe, places), **suited(settings, [defence], everyone)
        )
        for recipe, defence in zip(rows, everyone, strict=True)
    }
    had = _images(made.values())
    tasks = [_task(recipe, e, had[_data_of(e)], evaluations) for recipe, e in made.items()]
    failures = _run(tasks, evaluations, processes=processes, progress=progress, ended=ended)
    found = tuple(_row(task, failures.get(task.job.out), evaluations) for task in tasks)
    notes = _notes(found, tasks, evaluations)
    pages = _pages([task for task, row in zip(tasks, found, strict=True) if row.skipped is None])
    whole = Reproduction(about=evaluations.published["about"], scale=scale, rows=found, notes=notes, pages=tuple(pages))
    _write(whole, pages, evaluations)
    return whole


# --- data


def _places(data: str | None) -> dict[str, str]:
    """Where each data set is."""
    if data is None:
        return {}
    if "=" in data:
        return dict(_place(part.strip()) for part in data.split(","))
    names = {count: name for name, count in CLASSES.items()}
    if (classes := load(data).num_classes) not in names:
        raise ValueError(f"{data} has {classes} classes, the tables' data 10 or 100; check the path")
    return {names[classes]: data}


def _place(text: str) -> tuple[str, str]:
    """The name of a data set and where it is; data that cannot be had there, or has other classes, is refused."""
    name, _, path = map(str.strip, text.partition("="))
    if not path:
        raise ValueError(
            f"--data: expected a path for each name, such as cifar10=c10.npz,cifar100=c100.npz, got {text!r}"
        )
    wanted = chosen("data", name, CLASSES)
    if (classes := load(path).num_classes) != wanted:
        raise ValueError(f"{path} has {classes} classes, {name} has {wanted}; check which path belongs to which name")
    return name, path


def _with_data(recipe: str, places: Mapping[str, str]) -> dict[str, str]:
    name = Experiment.published(recipe).data
    return {"data": places[name]} if name in places else {}


def _data_of(experiment: Experiment) -> tuple[Any, ...]:
    return tuple(
        getattr(experiment, name) for name in ("data", "train_limit", "test_limit", "validation_share", "seed")
    )


def _images(experiments: Iterable[Experiment]) -> dict[tuple[Any, ...], int | str]:
    """How many images the experiments train on, or why their data cannot be had."""
    found: dict[tuple[Any, ...], int | str] = {}
    for experiment in experiments:
        if (key := _data_of(experiment)) not in found:
            try:
                found[key] = len(load_data(experiment).train)
            except DataError as error:
                found[key] = " ".join(str(error).split())
    return found


# --- runs


def _task(recipe: str, experiment: Experiment, images: int | str, evaluations: _Evaluations) -> _Task:
    plans = evaluations.plans(recipe, experiment)
    return _Task(
        recipe, experiment, images, Job(experiment=experiment, out=evaluations.folder(recipe, experiment), plans=plans)
    )


def _other_data(recipe: str, experiment: Experiment) -> bool:
    return experiment.data in DATA and experiment.data != Experiment.published(recipe).data


def _data_name(recipe: str, experiment: Experiment) -> str:
    """Of the data; where the record has a path, the name that the paper's data have."""
    return experiment.data if experiment.data in DATA else Experiment.published(recipe).data


def _slug(recipe: str, experiment: Experiment, defence: str, seed: int) -> str:
    words = "-".join(filter(None, (_data_name(recipe, experiment), experiment.model, experiment.pooling, defence)))
    return re.sub(r"[^A-Za-z0-9.]+", "-", words) + (f"-seed{seed}" if seed else "")


def _source(experiment: Experiment) -> Experiment:
    """Another network of the same kind: no defence, another seed."""
    own = {name: value for name, value in experiment.model_dump().items() if name not in REACHES}
    return Experiment.of(**own | {"defence": "vanilla", "seed": experiment.seed + 1})


def _run(tasks: Sequence[_Task], evaluations: _Evaluations, **options: Any) -> dict[Path, str | None]:
    """Train and evaluate the rows whose data is there; what each folder failed of, or None."""
    tasks = [task for task in tasks if isinstance(task.images, int)]
    if evaluations.black_box:
        sources = {evaluations.source_folder(t.recipe, t.experiment): _source(t.experiment) for t in tasks}
        run_jobs([Job(experiment=e, out=folder) for folder, e in sources.items()], **options)
    jobs = {task.job.out: task.job for task in tasks}
    return dict(zip(jobs, run_jobs(list(jobs.values()), **options), strict=True))


# --- figures


def _row(task: _Task, error: str | None, evaluations: _Evaluations) -> Row:
    if isinstance(task.images, str):
        return Row(recipe=task.recipe, skipped=task.images)
    if error is not None:
        return Row(recipe=task.recipe, folder=str(task.job.out), skipped=error)
    eps = evaluations.eps(task.recipe, task.experiment)
    own = task.job.outcome(evaluations.own(eps)).summary()
    others = [task.job.outcome(plan).summary() for plan in evaluations.others(eps)]
    rates = {"clean": own.clean, **own.by_attack}
    if evaluations.black_box:
        transferred = task.job.outcome(evaluations.transferred(eps, task.recipe, task.experiment)).summary()
        rates |= {name.split(" from ")[0] + BLACK_BOX: found for name, found in transferred.by_attack.items()}
    figures = [
        Figure(attack=attack, published=value, ours=rates.get(attack))
        for attack, value in figures_of(task.recipe)[evaluations.table].items()
        if evaluations.black_box or not attack.endswith(BLACK_BOX)
    ]
    return Row(
        recipe=task.recipe, folder=str(task.job.out), figures=tuple(figures),
        worst={s.header.suite: s.robust for s in others},
        under=tuple(under(s.header) for s in (own, *others)), differing=_differing(task, own, evaluations),
        doubts=tuple(f"{s.header.suite}: {doubts_sentence(s.doubts)}" for s in others),
    )  # fmt: skip


def _differing(task: _Task, summary: Summary, evaluations: _Evaluations) -> tuple[str, ...]:
    """Every setting of the record, every number of images and every ε that is not the paper's."""
    paper = Experiment.published(task.recipe)
    pairs = [
        (name, getattr(task.experiment, name), getattr(paper, name))
        for name in Experiment.model_fields
        if name not in NO_DIFFERENCE | {"seed"} | _unused(task.experiment, paper)  # no paper names its seed
    ]
    images, eps = evaluations.published["images"], evaluations.published["eps"]
    pairs += [("training images", task.images, images["train"]), ("test images", summary.header.n, images["test"])]
    if summary.header.eps != parse_eps(eps):
        pairs.append(("ε of the attacks", f"{summary.header.eps:.4g}", eps))
    return tuple(f"{name}: {_said(ours)}{PAPER}{_said(theirs)})" for name, ours, theirs in pairs if ours != theirs)


def _unused(*experiments: Experiment) -> set[str]:
    """Settings of an attack in training that none of these runs."""
    unused = {"train_eps", "train_steps", "train_step_size"}
    for experiment in experiments:
        attack = experiment.train_attack
        if attack not in (None, "none") or any(
            "eps" in taken_by(name) for name, _ in parse_defence(experiment.defence)
        ):
            unused -= {"train_eps"}
        if attack in ("pgd", "apgd"):
            unused -= {"train_steps"}
        if attack == "pgd":
            unused -= {"train_step_size"}
    return unused


def _said(value: Any) -> Any:
    return "not set" if value is None else value


def at_chance(row: Row, classes: int) -> bool:
    """Whether the interval of a row's clean accuracy holds that of guessing.

    Example:
        >>> from robustspike.results import rate
        >>> figure = Figure(attack="clean", published=90.44, ours=rate(2, 20))
        >>> at_chance(Row(recipe="at", figures=(figure,)), classes=10)
        True
    """
    clean = [figure.ours for figure in row.figures if figure.attack == "clean" and figure.ours is not None]
    return any(found.low <= 1 / classes for found in clean)


def _notes(rows: Sequence[Row], tasks: Sequence[_Task], evaluations: _Evaluations) -> tuple[str, ...]:
    notes = ["Each attack: robust only if it fails under every estimator. An accuracy under attack is an upper bound."]
    done = [row for row in rows if row.skipped is None]
    if any(row.differing for row in done):
        notes.append(
            "These are NOT the paper's settings, so the differences say little of the paper; every setting that differs is "
            "listed below."
        )
    if any(_other_data(task.recipe, task.experiment) for task in tasks):
        notes.append("Measured on OTHER DATA than the paper's: there, the differences mean nothing.")
    classes = [CLASSES.get(_data_name(task.recipe, task.experiment), 10) for task in tasks]  # digits: 10
    if lost := [row.recipe for row, count in zip(rows, classes, strict=True) if at_chance(row, count)]:
        notes.append(
            f"NOTHING WAS LEARNED in {', '.join(lost)}: the clean accuracy may be that of guessing, so the figures under "
            "attack mean nothing; train for longer or on more images."
        )
    folders = [row.folder for row in done]
    if twice := sorted({Path(folder).name for folder in folders if folders.count(folder) > 1}):
        notes.append(f"Rows that are equal at this scale were trained once: {', '.join(twice)}.")
    notes += caveats(
        tuple(map(member_of, SUITES[evaluations.published["suite"]](str(evaluations.published["eps"])).attacks))
    )
    if evaluations.black_box:
        notes.append("Black box: made on a network of the same kind, trained without defence from another seed.")
    elif evaluations.publishes_black_box:
        notes.append("The black-box columns were left out; --black-box trains the networks that they need.")
    notes.append(f"Training seed {tasks[0].experiment.seed}.")
    doubts: dict[str, dict[str, None]] = {}
    for row in done:
        for sentence in row.doubts:
            doubts.setdefault(sentence, {})[Path(row.folder).name] = None
    every = len(dict.fromkeys(folders))
    for sentence, names in doubts.items():
        notes.append(
            f"Doubts under {sentence}" if len(names) == every else f"Doubts, {', '.join(names)}, under {sentence}"
        )
    return tuple(notes)


def _pages(tasks: Sequence[_Task]) -> dict[str, list[_Task]]:
    """The rows of each data set by the name of their page."""
    by_data: dict[str, list[_Task]] = {}
    for task in tasks:
        by_data.setdefault(_data_name(task.recipe, task.experiment), []).append(task)
    alone = len(by_data) == 1
    return {"report.html" if alone else f"report-{name}.html": group for name, group in by_data.items()}


def _write(found: Reproduction, pages: Mapping[str, Sequence[_Task]], evaluations: _Evaluations) -> None:
    out = evaluations.out
    write_text(out / "results.json", found.model_dump_json(indent=1) + "\n")
    write_text(out / "table.md", found.markdown())
    for page, group in pages.items():
        from robustspike.report import write_html  # draws with matplotlib: loaded when needed

        folders = list(dict.fromkeys(task.job.out for task in group))
        plan = evaluations.own(evaluations.eps(group[0].recipe, group[0].experiment))
        title = f"{found.about} (scale {found.scale})"
        write_html(comparison(folders, evaluation=plan.name, title=title, notes=found.notes), out / page)
