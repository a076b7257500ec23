"""Runs one after the other and beside each other: none is lost by another's failure, none is done twice."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from robustspike.checkpoints import fingerprint, load_model
from robustspike.experiment import Experiment, Job, Plan, run_jobs
from robustspike.results import load_outcome

SMALL = {"train_limit": 64, "test_limit": 16, "time_steps": 2, "epochs": 1, "accelerator": "cpu"}
PLAN = Plan(eps="0.1", attacks=("fgsm",), estimators=("rga",))
pytestmark = pytest.mark.usefixtures("one_thread")


def job(folder, *plans, **given):
    return Job(experiment=Experiment.of(**SMALL | given), out=folder, plans=plans)


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_plan_names_its_folder_as_the_command_line_does(tmp_path):
    assert Plan(eps="8/255", suite="liu2024", each=False).name == "liu2024-Linf-0.03137"
    assert Plan(eps="8/255", suite="liu2024", limit=9, seed=2).name == "liu2024-Linf-0.03137-n9-seed2-each"
    one = Plan(eps="0.1", suite="ding2022", only="BPTT own surrogate")
    assert [member.name for member in one.suite_on().attacks] == ["FGSM", "PGD-7"]
    assert one.name.startswith("ding2022-BPTT-own-surrogate")
    assert job(tmp_path / "a", PLAN).folder(PLAN) == tmp_path / "a" / "attacks" / PLAN.name


def test_a_failure_keeps_no_other_run_from_being_made(tmp_path):
    jobs = [job(tmp_path / "bad", PLAN, data="nowhere.npz", model="digits-cnn"), job(tmp_path / "good", PLAN)]
    said = []
    errors = run_jobs(jobs, progress=False, ended=lambda job, error: said.append((job.out.name, error)))
    assert "no such file" in errors[0]
    assert errors[1] is None
    assert said == [("bad", errors[0]), ("good", None)]
    assert [one.finished for one in jobs] == [False, True]
    assert load_outcome(jobs[1].folder(PLAN)).header.n == 16


def test_what_is_finished_is_not_touched(tmp_path):
    one = job(tmp_path / "a", PLAN)
    run_jobs([one], progress=False)
    before = files(tmp_path)
    assert run_jobs([one], progress=False) == [None]
    assert run_jobs([one], processes=3, progress=False) == [None]
    assert files(tmp_path) == before
    weights = {path: time for path, time in before.items() if path.suffix == ".safetensors"}
    more = one.model_copy(update={"plans": (PLAN, PLAN.model_copy(update={"eps": "0.2"}))})
    assert not more.finished
    run_jobs([more], progress=False)
    assert more.finished
    assert weights.items() <= files(tmp_path).items()
    other = job(tmp_path / "a", PLAN, lr=0.01)
    assert not other.finished
    assert "holds a run with lr 0.1 (not 0.01)" in run_jobs([other], progress=False)[0]


@pytest.mark.slow
def test_processes_beside_each_other_make_the_same(tmp_path):
    alone = job(tmp_path / "alone", PLAN)
    run_jobs([alone], progress=False)
    beside = [
        job(tmp_path / "beside", PLAN),
        job(tmp_path / "bad", accelerator="abacus"),
        job(tmp_path / "c", epochs=2),
    ]
    errors = run_jobs(beside, processes=2, progress=False)
    assert errors[0] is errors[2] is None
    assert "accelerator 'abacus' cannot be used here" in errors[1]
    assert [one.finished for one in beside] == [True, False, True]
    assert fingerprint(load_model(beside[0].out)) == fingerprint(load_model(alone.out))
    found, expected = (one.outcome(PLAN).summary() for one in (beside[0], alone))
    assert (found.clean, found.robust, found.by_attack) == (expected.clean, expected.robust, expected.by_attack)
    assert [path.parent.name for path in tmp_path.glob("*/output.txt")] == ["bad"]


def test_each_process_gets_its_share_of_the_threads(tmp_path, monkeypatch):
    asked = []

    def popen(*_, env, **__):
        asked.append(env["OMP_NUM_THREADS"])
        return process(["true"], stdin=subprocess.PIPE, text=True)

    process = subprocess.Popen
    monkeypatch.setattr("robustspike.experiment.jobs.subprocess.Popen", popen)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(12), raising=False)
    for threads in (None, "2"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads) if threads else monkeypatch.delenv("OMP_NUM_THREADS", False)
        run_jobs([job(tmp_path / "a")], processes=3, progress=False)
    assert asked == ["4", "2"]


def test_a_killed_process_is_named(tmp_path, monkeypatch):
    process = subprocess.Popen
    kill = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    monkeypatch.setattr("robustspike.experiment.jobs.subprocess.Popen", lambda _, **options: process(kill, **options))
    (error,) = run_jobs([job(tmp_path / "a")], processes=2, progress=False)
    assert error.startswith("killed by signal 9; see ")


def test_unfit_numbers_and_torchrun_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="processes must be ≥ 1, got 0"):
        run_jobs([job(tmp_path / "a")], processes=0)
    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "x", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(ValueError, match="leave torchrun out and use --processes"):
        run_jobs([job(tmp_path / "a")])


@pytest.mark.slow
def test_a_killed_parent_leaves_nothing_running_and_all_can_go_on(tmp_path):
    one = job(tmp_path / "a", PLAN, epochs=200, batch_size=8)
    code = (
        "import sys; from robustspike.experiment import Job, run_jobs; "
        "run_jobs([Job.model_validate_json(sys.argv[1])], processes=2, progress=False)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, one.model_dump_json()])
    log = one.out / "log.jsonl"
    while not (log.is_file() and log.read_text().count("\n") >= 2):
        assert parent.poll() is None
        time.sleep(0.05)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    time.sleep(3)
    done = len(log.read_text().splitlines())
    time.sleep(3)
    assert len(log.read_text().splitlines()) == done < 200
    assert run_jobs([one], progress=False) == [None]
    assert [json.loads(line)["epoch"] for line in log.read_text().splitlines()] == list(range(200))
