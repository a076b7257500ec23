"""Runs to be trained and attacked, one after the other or several at once, each in its folder; done ones are left alone."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from robustspike.attacks import Suite
from robustspike.attacks.suites import describe
from robustspike.experiment.evaluations import attack, evaluation_name
from robustspike.experiment.making import make_suite
from robustspike.experiment.record import NO_DIFFERENCE, Experiment, read_experiment
from robustspike.experiment.runs import EVALUATIONS, train
from robustspike.experiment.sources import sources
from robustspike.processes import several
from robustspike.progress import progress_bar
from robustspike.results import Outcome, ResultError, load_outcome
from robustspike.train import LOG

# What users can cause, or the machine: the other jobs go on.
REFUSALS = (ValueError, RuntimeError, OSError)


class Plan(BaseModel):
    """One evaluation of a trained network, by names.

    Attributes:
        suite, attacks, estimators, norm, steps: see :func:`robustspike.experiment.make_suite`.
        eps: radius in pixel units.
        only: keep the members under this estimator, as tables name it, or of this kind, such as "black-box"; None: all.
        limit: test images, stratified by class; None: all.
        seed: of the attacks' random draws.
        each: run every attack on every sample, so that each has an accuracy of its own.
        doubts: samples probed for gradient masking.
        transfer_from: folders of runs, see :func:`robustspike.experiment.sources`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    suite: str = "standard"
    eps: str
    attacks: tuple[str, ...] = ()
    estimators: tuple[str, ...] = ()
    norm: str = "Linf"
    steps: tuple[int, ...] = ()
    only: str | None = None
    limit: int | None = None
    seed: int = 0
    each: bool = True
    doubts: int = 0
    transfer_from: tuple[str, ...] = ()

    def suite_on(self, models: Sequence[Any] = ()) -> Suite:
        """The attacks, those of other models with them.

        Raises:
            ValueError: for names that do not exist or do not go together.
        """
        made = make_suite(
            self.eps, self.suite, attacks=self.attacks, estimators=self.estimators, norm=self.norm, steps=self.steps,
            sources=models,
        )  # fmt: skip
        if self.only is None:
            return made
        members = tuple(m for m in made.attacks if self.only in (describe(m)[1], getattr(m, "kind", "")))
        return Suite(f"{made.name}, {self.only}", made.ball, members)

    @property
    def name(self) -> str:
        """Of the folder inside the run."""
        plain = evaluation_name(self.suite_on(), limit=self.limit, seed=self.seed, survivors_only=not self.each)
        return f"{plain}-transferred" if self.transfer_from and self.only is None else plain


class Job(BaseModel):
    """One run: its record, its folder, its evaluations."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: Experiment
    out: Path
    plans: tuple[Plan, ...] = ()

    def folder(self, plan: Plan) -> Path:
        """Where an evaluation is."""
        return self.out / EVALUATIONS / plan.name

    def outcome(self, plan: Plan) -> Outcome:
        """A finished evaluation.

        Raises:
            ResultError: if there is none.
        """
        found = load_outcome(self.folder(plan))
        if plan.doubts and found.doubts is None:
            raise ResultError(f"{self.folder(plan)}: the masking checks are missing")
        return found

    @property
    def epochs_done(self) -> int:
        """Lines of the run's log."""
        log = self.out / LOG
        return log.read_text().count("\n") if log.is_file() else 0

    @property
    def finished(self) -> bool:
        """Whether the folder holds this run, trained and evaluated."""
        try:
            theirs, mine = (e.model_dump(exclude=NO_DIFFERENCE) for e in (read_experiment(self.out), self.experiment))
            return theirs == mine and self.epochs_done >= mine["epochs"] and all(map(self.outcome, self.plans))
        except ValueError:
            return False

    def run(self, progress: bool = True) -> None:
        """Train and evaluate, or go on with what is there.

        Raises:
            ValueError, RuntimeError, OSError: see :func:`robustspike.experiment.train` and ``attack``.
        """
        accelerator = self.experiment.accelerator
        train(self.experiment, self.out, resume=True, progress=progress)
        for plan in self.plans:
            models = sources(self.out, plan.transfer_from, accelerator=accelerator, progress=progress)
            attack(
                self.out, plan.suite_on(models), limit=plan.limit, out=self.folder(plan), resume=True, seed=plan.seed,
                survivors_only=not plan.each, doubts=plan.doubts, accelerator=accelerator, progress=progress,
            )  # fmt: skip


Ended = Callable[[Job, str | None], None]


def run_jobs(
    jobs: Sequence[Job], *, processes: int = 1, progress: bool = True, ended: Ended = lambda job, error: None
) -> list[str | None]:
    """Run all jobs; one that fails does not keep the others from running.

    Args:
        jobs: with different folders. Those that are finished are not touched.
        processes: so many jobs at a time, each in a process of its own with its share of the threads; 1: in this one.
        progress: show progress bars on a terminal.
        ended: called with each job when it has ended, and with the sentence about what it failed of, or None.

    Returns:
        For each job that sentence, or None.

    Raises:
        ValueError: for fewer than one process, or under ``torchrun``.
    """
    if processes < 1:
        raise ValueError(f"processes must be ≥ 1, got {processes}")
    if several():
        raise ValueError("several runs start their own processes; leave torchrun out and use --processes")
    if processes == 1:
        return [_here(job, progress, ended) for job in jobs]
    return _beside_each_other(jobs, processes, progress, ended)


def _here(job: Job, progress: bool, ended: Ended) -> str | None:
    error = None
    if not job.finished:
        try:
            job.run(progress)
        except REFUSALS as failure:
            error = " ".join(str(failure).split())
    ended(job, error)
    return error


def _beside_each_other(jobs: Sequence[Job], processes: int, progress: bool, ended: Ended) -> list[str | None]:
    waiting = [k for k, job in enumerate(jobs) if not job.finished]
    errors: list[str | None] = [None] * len(jobs)
    running: dict[int, subprocess.Popen[str]] = {}
    for k, job in enumerate(jobs):
        if k not in waiting:
            ended(job, None)
    total = sum(job.experiment.epochs + 1 for job in jobs)
    with progress_bar(progress) as bar, _ended_with_us(running):
        task = bar.add_task(f"{len(jobs)} runs, {processes} at a time", total=total)
        while waiting or running:
            while waiting and len(running) < processes:
                k = waiting.pop(0)
                running[k] = _started(jobs[k], processes)
            time.sleep(0.1)
            for k in [k for k, process in running.items() if process.poll() is not None]:
                errors[k] = _why(jobs[k], running.pop(k).returncode)
                ended(jobs[k], errors[k])
            open_ones = {*waiting, *running}
            done = sum(j.epochs_done if k in open_ones else j.experiment.epochs + 1 for k, j in enumerate(jobs))
            bar.update(task, completed=done)
    return errors


@contextlib.contextmanager
def _ended_with_us(running: dict[int, subprocess.Popen[str]]) -> Iterator[None]:
    """No process outlives the block."""
    try:
        yield
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def _log(job: Job) -> Path:
    return job.out / "output.txt"


def _started(job: Job, processes: int) -> subprocess.Popen[str]:
    """The job in a process of its own, which reads it from its standard input."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = int(os.environ.get("OMP_NUM_THREADS") or cores)
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, min(most, cores // processes)))}
    code = "from robustspike.experiment.jobs import alone; alone()"
    job.out.mkdir(parents=True, exist_ok=True)
    with _log(job).open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            text=True,
        )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has ended already, and says why
        process.stdin.write(job.model_dump_json())
        process.stdin.close()
    return process


def alone() -> None:
    """Run the job on standard input; what a started process does."""
    job = Job.model_validate(json.loads(sys.stdin.read()))
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    try:
        job.run(progress=False)
    except REFUSALS as error:
        sys.exit(" ".join(str(error).split()))


def _end_with(parent: int) -> None:
    """End this process once its parent is gone: a sweep that was killed leaves nothing running."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _why(job: Job, code: int) -> str | None:
    """What a process that ended says it failed of."""
    if code == 0:
        _log(job).unlink(missing_ok=True)
        return None
    lines = [line for line in _log(job).read_text().splitlines() if line.strip()]
    if code < 0:
        return f"killed by signal {-code}; see {_log(job)}"
    return lines[-1] if lines else f"ended with code {code}"
