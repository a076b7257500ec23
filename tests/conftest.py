"""Networks and data that several tests share."""

import copy
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from robustspike.data import load
from robustspike.defences import vanilla
from robustspike.models import SNN, Settings, digits_cnn
from robustspike.neurons import OverTime, spiking_layers
from robustspike.train import fit

# Where `make install` puts older releases of the SNN frameworks.
os.environ.setdefault("ROBUSTSPIKE_OLDER", str(Path(sys.prefix) / "older-frameworks"))


class InDouble(nn.Module):
    """A network computed in float64 on the float32 images of a Split: no figure depends on rounding."""

    def __init__(self, network):
        super().__init__()
        self.network = network.double()
        self.stochastic = network.stochastic

    def forward(self, x):
        return self.network(x.double())


def small_snn(time_steps=2, channels=1, classes=4, **options):
    """Convolution, BatchNorm, neuron, pooling, linear: [N, channels, 8, 8] to [N, classes], awake in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        options = {"threshold": 0.3, "in_channels": channels, "image_size": 8} | options
        settings = Settings("small", classes, time_steps, **options)
        layers = OverTime(
            nn.Conv2d(channels, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            settings.make_neuron(),
            nn.AvgPool2d(4),
            nn.Flatten(),
        )
        model = SNN(settings, layers, nn.Linear(16, classes))
        nn.init.uniform_(model.layers[1].running_mean, -0.1, 0.1)
        nn.init.uniform_(model.layers[1].running_var, 0.2, 0.5)
        nn.init.normal_(model.head.weight)
        steps = [time_steps] * (settings.encoder == "frames")
        model.eval()
        with torch.no_grad():  # so that every class occurs
            model.head.bias -= model(torch.rand(32, *steps, channels, 8, 8)).mean(0)
        return model.train()


def record_of(model):
    """Everything about a model that an attack must leave alone, copied."""
    layers = [getattr(layer, "gradient_rule", None) for layer in spiking_layers(model).values()]
    return copy.deepcopy(
        {
            "training": [m.training for m in model.modules()],
            "requires_grad": [p.requires_grad for p in model.parameters()],
            "grad": [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
            "state": {name: t.tolist() for name, t in model.state_dict().items()},
            "rules": layers,
            "time": [m.time_collapsed for m in model.modules() if hasattr(m, "time_collapsed")],
        }
    )


@pytest.fixture
def one_thread():
    """Small tensors are faster on one thread, much so where other processes share the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def digits():
    return load("digits")


@pytest.fixture(scope="session")
def trained(digits):
    """(a digits-cnn that knows some digits, its training log); do not train it further."""
    torch.manual_seed(0)
    model = digits_cnn(time_steps=2, threshold=0.5)
    data = digits.train.subset(384)
    options = {"schedule": "one-cycle", "crop_padding": 0, "flip": False, "progress": False, "accelerator": "cpu"}
    log = fit(model, data, vanilla(), epochs=4, batch_size=32, **options)
    return SimpleNamespace(model=model.eval(), log=log)


@pytest.fixture
def double_model():
    """A small deterministic spiking network in float64, in evaluation mode."""
    return small_snn().double().eval()
