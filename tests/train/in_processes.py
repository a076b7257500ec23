"""What each process of test_together.py runs: ``torchrun in_processes.py SCENARIO FOLDER``."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from tests.conftest import InDouble, small_snn
from tests.train.making import data, train, watched

from robustspike.attacks import PGD
from robustspike.balls import Linf
from robustspike.checkpoints import CheckpointError, tensors_fingerprint
from robustspike.defences import Objective, at, rat, sr_star, vanilla
from robustspike.processes import launched
from robustspike.train import TrainingError

RANK = int(os.environ.get("RANK", 0))
ATTACK = PGD(Linf(0.05), steps=2)


def double(seed=0, **options):
    model = small_snn(**options)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.nn.init.normal_(model.head.weight)
    return InDouble(model)


# 21 samples in mini-batches of 10, 10 and 1: shared by two processes, the last one computed by both.
RUNS = {
    "vanilla": (vanilla(), {}),
    "at": (at(ATTACK), {"validation": data(13, seed=1), "validation_attack": ATTACK, "validation_limit": 9}),
    "sr*": (sr_star(ATTACK, 0.1), {"optimizer": "adam", "ema": 0.9, "clip_norm": 0.5}),
    "rat": (rat(ATTACK, 0.01), {"augmentation": "cutout", "warmup_epochs": 1}),
}


class Branching(torch.nn.Module):
    """A layer for dark images and one for light ones, computed only where there is such an image; odd types of buffers."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Linear(64, 4), torch.nn.Linear(64, 4, bias=False)]).double()
        for layer in self.layers:
            torch.nn.init.constant_(layer.weight, 0.1)
        torch.nn.init.zeros_(self.layers[0].bias)
        for name, kind in (("flag", torch.bool), ("short", torch.int16), ("pair", torch.complex64)):
            self.register_buffer(name, torch.full((3,), RANK, dtype=kind)[::2])

    def forward(self, x):
        z = x.flatten(1).double()
        out = z[:, :4] * 0.1
        for layer, these in zip(self.layers, (z[:, 0] < 0.75, z[:, 0] >= 0.75), strict=True):
            if these.any():
                out = out + torch.where(these[:, None], layer(z), 0)
        return out


def branching():
    return train(Branching(), vanilla(), data(21), batch_size=10, crop_padding=0, flip=False)[0]


def trained(name, model=None, **options):
    objective, special = RUNS[name]
    return train(double() if model is None else model, objective, data(21), batch_size=10, **special | options)


def refusal(call):
    try:
        call()
    except (CheckpointError, TrainingError, OSError) as error:
        return str(error)
    return None


def hashed(model):
    return tensors_fingerprint({**dict(model.named_parameters()), **dict(model.named_buffers())})


def several(folder):
    """All that can be seen within two processes, in one start of them."""
    found, weights = {}, {}
    for name in RUNS:
        model, log = trained(name, double(seed=RANK) if name == "at" else None)
        found[name] = {
            "hash": hashed(model),
            "log": [[r.loss, r.validation_accuracy, r.validation_robust] for r in log],
        }
        weights[name] = model.state_dict()
    trained("vanilla", out=folder / "whole", save_every=1, tensorboard=True)
    found["micro"] = hashed(trained("vanilla", micro_batch=2)[0])
    weights["micro"] = trained("vanilla", micro_batch=2)[0].state_dict()
    found["resumed"] = resumed(folder)
    model = branching()
    found["branching"], weights["branching"] = hashed(model), model.state_dict()
    found["refused"] = refusal(lambda: trained("vanilla", out=folder / "whole"))
    found["unlike"] = refusal(lambda: trained("vanilla", seed=RANK))
    found["nan"] = refusal(lambda: train(double(), watched(sick), data(21), batch_size=10))
    with launched():  # inside, each process is by itself
        found["inside"] = hashed(trained("vanilla", seed=RANK)[0])
    found["group"] = dist.is_initialized()
    (folder / f"found.{RANK}.json").write_text(json.dumps(found))
    torch.save(weights, folder / f"weights.{RANK}.pt")


def sick(batch, loss, call):
    """Not a number in one process only."""
    return loss * (float("nan") if (call, RANK) == (2, 1) else 1)


def resumed(folder):
    """Both processes are stopped in the middle of the second epoch, then go on."""
    call, calls = Objective.__call__, []

    def counted(self, *arguments, **options):
        calls.append(None)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return call(self, *arguments, **options)

    Objective.__call__ = counted
    try:
        trained("vanilla", out=folder / "cut", save_every=1)
    except KeyboardInterrupt:
        Objective.__call__ = call
    if RANK == 0:
        shutil.copytree(folder / "cut", folder / "left")
    return hashed(trained("vanilla", double(seed=RANK + 5), out=folder / "cut", save_every=1, resume=True)[0])


def killed(folder):
    """Process 1 is killed in the second epoch."""
    call, calls = Objective.__call__, []

    def counted(self, *arguments, **options):
        calls.append(None)
        if RANK == 1 and len(calls) == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(self, *arguments, **options)

    Objective.__call__ = counted
    trained("vanilla", out=folder, save_every=1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"several": several, "killed": killed}[sys.argv[1]](Path(sys.argv[2]))
