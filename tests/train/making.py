"""A small network, small data and a short training run."""

import torch

from robustspike.data import Split
from robustspike.defences import Objective, Part, vanilla
from robustspike.models import digits_cnn
from robustspike.train import fit

QUICK = {"epochs": 4, "batch_size": 8, "crop_padding": 1, "lr": 0.01, "progress": False, "accelerator": "cpu"}


def network(seed=0):
    torch.manual_seed(seed)
    return digits_cnn(num_classes=4, time_steps=1, threshold=0.3)


def data(n=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Split(torch.rand(n, 1, 8, 8, generator=generator), torch.arange(n) % 4)


def train(model=None, objective=None, split=None, **options):
    model = network() if model is None else model
    objective, split = objective or vanilla(), data() if split is None else split
    log = fit(model, split, objective, **QUICK | options)
    return model, log


def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} if folder.exists() else {}


def figures(log):
    """All that a log says but the seconds."""
    return [(r.epoch, r.loss, r.lr, r.validation_accuracy, r.validation_robust) for r in log]


class Watched:
    """Cross-entropy that does something at each call: ``hook(batch, loss, number of the call)`` returns the loss."""

    differentiates_input = False
    reads_layers = False

    def __init__(self, hook):
        self.hook, self.calls = hook, 0

    def __repr__(self):
        return "cross-entropy, watched"

    def __call__(self, batch):
        self.calls += 1
        loss = torch.nn.functional.cross_entropy(batch.point.logits, batch.y)
        return self.hook(batch, loss, self.calls)


def watched(hook, **options):
    return Objective("watched", (Part(Watched(hook)),), **options)


class Killed(BaseException):
    """As a kill would end it: past every `except Exception`."""


def stopping(at):
    """Cross-entropy that kills the process at a given call (0: never)."""

    def hook(batch, loss, call):
        if call == at:
            raise Killed
        return loss

    return watched(hook)
