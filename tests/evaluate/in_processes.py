"""What each process of test_processes.py runs: ``torchrun in_processes.py SCENARIO FOLDER``."""

import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from tests.test_evaluate import attacks, data, run, small_snn

from robustspike.evaluate import evaluate
from robustspike.results import Doubts, ResultError

RANK = int(os.environ["RANK"])


def doubts(model, split, outcome, suite, *, samples, seed):
    """Checks that evaluate something themselves, in the one process that they run in."""
    inner = evaluate(model, split.subset(2), suite, doubts=0, progress=False)
    return Doubts(findings=(), checklist=None, samples=len(inner.samples), seed=seed, gradients=RANK, seconds=0)


def refusal(call):
    try:
        call()
    except ResultError as error:
        return str(error)
    return None


def several(folder):
    """All that can be seen within two processes, in one start of them."""
    model = small_snn()
    sys.modules["robustspike.doubts"] = SimpleNamespace(doubts=doubts)
    options = {"batch_size": 2, "doubts": 0}
    whole = run(model, out=folder / "whole", batch_size=2, doubts=3)
    found = {
        "whole": whole.attempts.tolist(),
        "doubts": [whole.doubts.asked, whole.doubts.samples, whole.doubts.gradients],
        "memory": run(model, **options).attempts.tolist(),
        "cut": run(model, out=folder / "cut", resume=True, **options).attempts.tolist(),
        "one block": run(model, split=data(2), **options).attempts.tolist(),
        "refused": refusal(lambda: run(model, out=folder / "whole", **options)),
        "unlike": refusal(lambda: run(model, seed=RANK, **options)),
    }
    (folder / f"found.{RANK}.json").write_text(json.dumps(found))


def killed(folder):
    """Process 1 is killed after its first block."""
    model, calls = small_snn(), 0

    def count(*_):
        nonlocal calls
        calls += 1
        if RANK == 1 and (folder / "samples.rank1.jsonl").exists():
            os.kill(os.getpid(), signal.SIGKILL)

    model.register_forward_hook(count)
    run(model, out=folder, batch_size=2, doubts=0, members=attacks())


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"several": several, "killed": killed}[sys.argv[1]](Path(sys.argv[2]))
