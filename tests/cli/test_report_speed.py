"""How long a report of many large evaluations takes, and how large its pages are."""

import json
import resource
import shutil
import subprocess
import sys

import pytest
from tests.experiment.made_runs import change_header, write_run, write_weights

from robustspike.results import Member

NETWORKS, SAMPLES, NAME = 10, 10_000, "standard-Linf-0.1"
DEFENCES = ("vanilla", "at", "trades", "sr", "sr-star", "gr", "rat", "tgo", "clp", "mppd")
MEMBERS = tuple(
    Member(attack=f"PGD-{steps}", estimator=f"E{k}", settings=f"PGD(steps={steps}, E{k})", steps=steps)
    for steps in (10, 20, 30, 40, 50, 60)
    for k in range(4)
)


def write_runs(folder):
    """Ten runs; the rows of two, tried by every member on every sample, serve all of them."""
    for k, defence in enumerate(DEFENCES):
        run = folder / f"r{k}"
        if k < 2:
            write_run(run, seed=k, defence=defence, n=SAMPLES, strength=0.5 + 0.2 * k, members=MEMBERS)
            continue
        write_run(run, seed=k, defence=defence, evaluations=())
        shutil.copytree(folder / f"r{k % 2}" / "attacks", run / "attacks")
        code = write_weights(run / "weights.safetensors", k)
        change_header(run / "attacks" / NAME, weights_fingerprint=code)


@pytest.mark.slow
def test_ten_networks_of_ten_thousand_samples_and_24_members(tmp_path):
    """Processor time, which other work on the machine lengthens less than the clock's: on a quiet core both are equal."""
    write_runs(tmp_path)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "robustspike.cli", "report", str(tmp_path)], capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{used:.1f} s of processor time")
    assert used < 20
    board = json.loads((tmp_path / "index.json").read_text())
    assert [len(group["places"]) for group in board["groups"]] == [NETWORKS]
    assert board["unranked"] == board["missing"] == []
    for path in [*tmp_path.glob("*.*"), *tmp_path.glob("*/report.*")]:
        assert path.stat().st_size < 5e6
