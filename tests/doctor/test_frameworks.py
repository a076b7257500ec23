"""Networks of the three frameworks as their owners run them: how they are called, what is wrong, what rs.adapt repairs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.doctor.records import everything_of
from torch import nn

import robustspike as rs
from robustspike.doctor import Diagnosis, diagnosing, doctor
from robustspike.doctor.calling import Patient, answer
from robustspike.doctor.known import known_defects
from robustspike.doctor.trying import found_way

pytest.importorskip("spikingjelly", reason="SpikingJelly is not installed; `pip install -e .[dev]` does")
pytest.importorskip("snntorch", reason="snnTorch is not installed; `pip install -e .[dev]` does")
pytest.importorskip("norse", reason="Norse is not installed; `pip install -e .[dev]` does")

import norse.torch as norse
import snntorch as snn
from snntorch import spikegen, surrogate
from spikingjelly.activation_based import encoding
from tests.doctor.jelly import convolutional, jelly


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def digits_like():
    return torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(1))


class Torch(nn.Module):
    """As snnTorch's tutorials write it, with the loop over time in forward."""

    def __init__(self, resets=True, spike_grad=None, encodes=False, steps=6):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(64, 32), nn.Linear(32, 10)
        self.lif1 = snn.Leaky(beta=0.9, threshold=0.2, spike_grad=spike_grad)
        self.lif2 = snn.Leaky(beta=0.9, threshold=0.1, spike_grad=spike_grad)
        self.resets, self.encodes, self.steps = resets, encodes, steps

    def forward(self, x):
        if self.resets:
            self.lif1.reset_mem()
            self.lif2.reset_mem()
        x = x.flatten(1)
        spikes = []
        for given in spikegen.rate(x, num_steps=self.steps) if self.encodes else [x] * self.steps:
            spk1, _ = self.lif1(self.fc1(given))
            spk2, mem2 = self.lif2(self.fc2(spk1))
            spikes.append(spk2)
        return torch.stack(spikes), mem2


def cells(kind="LIF", **p):
    """As Norse writes it: SequentialState passes the state on."""
    own = norse.LIFParameters(v_th=torch.tensor(0.1), **p)
    make = getattr(norse, kind)
    flat = nn.Flatten(1 if kind.endswith("Cell") else 2)
    return norse.SequentialState(flat, nn.Linear(64, 32), make(own), nn.Linear(32, 10), make(own))


NETWORKS = {
    "SpikingJelly, step": (jelly, ("step", 8, 0), {"time axis", "state leak"}),
    "SpikingJelly, sequence": (lambda: jelly("m"), ("sequence", 8, 1), {"time axis", "state leak"}),
    "snnTorch": (Torch, ("images", 8, 1), set()),
    "snnTorch, never reset": (lambda: Torch(resets=False), ("images", 8, 1), {"state leak"}),
    "snnTorch, sigmoid": (
        lambda: Torch(spike_grad=surrogate.sigmoid()), ("images", 8, 1), {"NaN gradients", "known defects"},
    ),
    "snnTorch, spikegen.rate": (
        lambda: Torch(encodes=True), ("images", 8, 1), {"randomness", "zero gradients"},
    ),
    "Norse, sequence": (cells, ("sequence", 8, 1), {"time axis"}),
    "Norse, cells": (lambda: cells("LIFCell"), ("step", 8, 0), {"time axis"}),
    "Norse, alpha set": (lambda: cells(alpha=torch.tensor(10.0)), ("sequence", 8, 1), {"time axis", "known defects"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def known():
    """What is known of the releases here, run once."""
    return known_defects()


@pytest.fixture
def examine(monkeypatch, one_thread, known):
    monkeypatch.setattr(diagnosing, "INSTALLATION", {})
    monkeypatch.setattr(diagnosing, "known_defects", lambda: known)
    return doctor


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_as_the_tutorials_write_them(name, examine, digits_like):
    make, (takes, steps, batch), sick = NETWORKS[name]
    model = make()
    before = everything_of(model)
    way = found_way(model, digits_like, None)
    assert (way.takes, way.time_steps, way.batch) == (takes, steps, batch)
    found = examine(model, digits_like)
    assert set(found.failed) == sick, [one.evidence for one in found.network if one.passed is False]
    assert set(found.repaired) >= sick - {"randomness", "zero gradients"}
    assert everything_of(model) == before


def test_a_network_that_was_used_before_is_examined_from_fresh_state(examine, digits_like):
    new, used = convolutional().eval(), convolutional().eval()
    used.load_state_dict(new.state_dict())
    used(torch.rand(3, 12, 1, 8, 8)).sum().backward()  # as many as are examined: a state that fits stays
    before = everything_of(used)
    assert examine(used, digits_like).network == examine(new, digits_like).network
    assert everything_of(used) == before
    assert torch.is_tensor(used[2].v)
    alone = [
        Patient(net, found_way(net, digits_like, 3), digits_like, torch.zeros(12).long(), True, False)
        for net in (new, used)
    ]
    left = new(digits_like.repeat(3, 1, 1, 1, 1)).mean(0)
    assert all(torch.equal(patient.once(), left) for patient in alone)
    assert not torch.equal(used(digits_like.repeat(3, 1, 1, 1, 1)).mean(0), left)


def test_the_way_can_be_said(examine, digits_like):
    found = examine(jelly("m"), digits_like, takes="sequence", time_steps=5)
    assert found.model == "Sequential, sequences [T, N, …] (T = 5)"
    steps = next(one for one in found.network if one.check == "time steps")
    assert (steps.passed, steps.evidence) == (True, "runs 5 time steps")
    as_images = examine(jelly("m"), digits_like, takes="images")
    assert "batch dependence" in as_images.failed


def test_one_step_with_a_state_of_its_own_is_no_step_of_many(digits_like):
    class Once(Torch):
        """A single time step, from a state that it hands over itself."""

        def forward(self, x):
            return self.lif1(self.fc2(torch.relu(self.fc1(x.flatten(1)))), torch.zeros(len(x), 10))

    class Kept(Once):
        def forward(self, x):
            return self.lif1(self.fc2(torch.relu(self.fc1(x.flatten(1)))))

    assert found_way(Once(), digits_like, None).takes == "images"
    assert found_way(Kept(), digits_like, None).takes == "step"


def test_the_membrane_can_be_read_out(examine, digits_like):
    model = Torch()
    expected = model(digits_like)[1]
    found = examine(model, digits_like, readout="membrane")
    assert found.healthy
    way = found_way(model, digits_like, None, None, "membrane")
    assert torch.equal(answer(model, way, digits_like), expected)
    assert torch.equal(answer(model, found_way(model, digits_like, None), digits_like), model(digits_like)[0].mean(0))


def test_the_number_of_steps_that_fits_is_found(examine, digits_like):
    class FixedToSix(nn.Module):
        """A weight for each step."""

        def __init__(self):
            super().__init__()
            self.net, self.p = jelly("m"), nn.Parameter(torch.linspace(0.5, 1.5, 6))

        def forward(self, x_seq):
            return self.net(torch.stack([x * p for x, p in zip(x_seq, self.p, strict=True)]))

    found = examine(FixedToSix(), digits_like, time_steps=8)
    steps = next(one for one in found.network if one.check == "time steps")
    assert (steps.passed, steps.evidence) == (False, "runs 6 time steps, 8 were given")


@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_an_encoder_of_spikingjelly_in_the_network(step_mode, examine, digits_like):
    found = examine(jelly(step_mode, encoding.PoissonEncoder()), digits_like)
    assert set(found.failed) >= {"randomness", "gradient in eval", "known defects"}
    evidence = next(one.evidence for one in found.network if one.check == "known defects")
    assert "SpikingJelly's encoders (at 0)" in evidence
    assert found.carried[-1] == "SpikingJelly's encoders"


def test_where_adapt_refuses_the_reason_is_said(examine, digits_like):
    class OfItsOwn(nn.Module):
        """Adds what it remembers of earlier calls, outside of any neuron."""

        def __init__(self):
            super().__init__()
            self.net, self.calls = Torch(), 0

        def forward(self, x):
            self.calls += 1
            return self.net(x)[0] + self.calls * torch.arange(10.0)

    found = examine(OfItsOwn(), digits_like)
    assert found.failed == ("state leak",)
    assert found.adapted == () == found.repaired
    assert found.unadapted.startswith("AdaptError: two calls with the same images and the same seed differ")
    assert found.unadapted in found.table().note


def test_an_adapted_network_is_healthy(examine, digits_like):
    net = rs.adapters.adapt(jelly("m"), time_steps=4, images=digits_like)
    found = examine(net, digits_like)
    assert found.healthy, [one.evidence for one in found.network if one.passed is False]
    assert (found.adapted, found.unadapted) == ((), "")


OLDER = """
import warnings
warnings.simplefilter("ignore")
import torch
from tests.doctor.jelly import convolutional
from robustspike.doctor import INSTALLATION, KNOWN, doctor
INSTALLATION.clear()
for name in [name for name, known in KNOWN.items() if known.framework != "spikingjelly"]:
    del KNOWN[name]
torch.manual_seed(0)
print(doctor(convolutional(), torch.rand(12, 1, 8, 8)).model_dump_json())
"""


def test_an_older_release_without_gradient_in_eval_mode():
    older = os.environ.get("ROBUSTSPIKE_OLDER", "")
    if not (Path(older) / "spikingjelly-0.0.0.0.14.dist-info").is_dir():
        pytest.skip("ROBUSTSPIKE_OLDER names no folder with SpikingJelly 0.0.0.0.14")
    environment, run = os.environ | {"PYTHONPATH": older}, [sys.executable, "-c", OLDER]
    done = subprocess.run(run, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-3000:]
    found = Diagnosis.model_validate_json(done.stdout.splitlines()[-1])
    assert found.surroundings["spikingjelly"] == "0.0.0.0.14"
    verdicts = {one.check: one for one in (*found.network, *found.frameworks)}
    assert verdicts["SpikingJelly's eval mode"].passed is False
    assert 'IFNode(step_mode="s")' in verdicts["SpikingJelly's eval mode"].evidence
    assert verdicts["SpikingJelly's reset_net"].passed is True  # this release keeps no list of modules
    assert set(found.failed) == {"time axis", "state leak", "gradient in eval", "BatchNorm drift", "known defects"}
    assert set(found.repaired) == set(found.failed)
    assert "SpikingJelly's eval mode (at 2, 5)" in verdicts["known defects"].evidence
