"""A gradient that is cut on one of several paths fails; kinks, ties and functions of the framework do not."""

import copy

import pytest
import torch
from tests.doctor.records import everything_of
from torch import nn

from robustspike.doctor import NETWORK, cutting
from robustspike.doctor.calling import Patient, Way
from robustspike.doctor.checks import finding
from robustspike.doctor.trying import found_way

pytest.importorskip("spikingjelly", reason="SpikingJelly is not installed; `pip install -e .[dev]` does")
pytest.importorskip("snntorch", reason="snnTorch is not installed; `pip install -e .[dev]` does")
pytest.importorskip("norse", reason="Norse is not installed; `pip install -e .[dev]` does")

import norse.torch as norse
import snntorch as snn
from spikingjelly.activation_based import encoding, neuron
from tests.doctor.jelly import convolutional, jelly

import robustspike as rs

IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))


class Skipping(nn.Module):
    """Two layers of neurons and a path beside the first; ``between`` is what its spikes go through."""

    def __init__(self, between=lambda spikes: spikes):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.a, self.b, self.skip = nn.Linear(64, 32), nn.Linear(32, 10), nn.Linear(64, 10)
        self.l1, self.l2 = neuron.LIFNode(v_threshold=0.2), neuron.IFNode(v_threshold=0.3)
        self.between = between

    def forward(self, x):
        x, total = x.flatten(1), 0
        for _ in range(4):
            total = total + self.l2(self.b(self.between(self.l1(self.a(x)))) + self.skip(x))
        return total / 4


def without_grad(spikes):
    with torch.no_grad():
        return 1.0 * spikes


def half(spikes):
    return torch.cat([spikes[:, :16].detach(), spikes[:, 16:]], 1)


def last_two(spikes):
    return torch.cat([spikes[:, :30], spikes[:, 30:].detach()], 1)


class Loop(nn.Module):
    """As snnTorch's tutorials write it; the potential of the first layer may be cut."""

    def __init__(self, cut=False):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.fc1, self.fc2 = nn.Linear(64, 32), nn.Linear(32, 10)
        self.lif1, self.lif2 = (snn.Leaky(beta=0.9, threshold=0.2) for _ in range(2))
        self.cut = cut

    def forward(self, x):
        mem1, mem2, spikes = self.lif1.init_leaky(), self.lif2.init_leaky(), []
        for _ in range(5):
            spk, mem1 = self.lif1(self.fc1(x.flatten(1)), mem1)
            if self.cut:
                mem1 = mem1.detach()
            spk, mem2 = self.lif2(self.fc2(spk), mem2)
            spikes.append(spk)
        return torch.stack(spikes)


class Residual(nn.Module):
    """Max pooling of spikes, which are full of ties; BatchNorm; ReLU of currents that are 0; a residual path."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.c1, self.n1 = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
            self.c2, self.n2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
            self.fc = nn.Linear(64, 10)
        self.l1, self.l2 = (neuron.LIFNode(v_threshold=0.1) for _ in range(2))
        self.pool = nn.MaxPool2d(2)

    def forward(self, x):
        total = 0
        for _ in range(4):
            h = self.pool(self.l1(self.n1(self.c1(x))))
            h = h + self.l2(torch.relu(self.n2(self.c2(h))))
            total = total + self.fc(h.flatten(1))
        return total / 4


def cells():
    own = norse.LIFParameters(v_th=torch.tensor(0.1))
    return norse.SequentialState(
        nn.Flatten(1), nn.Linear(64, 32), norse.LIFCell(own), nn.Linear(32, 10), norse.LIFCell(own)
    )


SICK = {
    "detach": (lambda: Skipping(torch.Tensor.detach), "from l1 to what l2 is given"),
    "no_grad": (lambda: Skipping(without_grad), "from l1 to what l2 is given"),
    "half a detach": (lambda: Skipping(half), "from l1 to what l2 is given"),
    "a detach of two neurons": (lambda: Skipping(last_two), "from l1 to what l2 is given"),
    "a potential": (lambda: Loop(cut=True), "from lif1 to what lif1 is given"),
}
HEALTHY = {
    "plain": Skipping,
    "SpikingJelly, step": jelly,
    "SpikingJelly, sequence": lambda: jelly("m"),
    "SpikingJelly, convolutional": convolutional,
    "snnTorch": Loop,
    "Norse": cells,
    "residual": Residual,
    "ours": lambda: nn.Sequential(rs.OverTime(nn.Flatten(), nn.Linear(64, 8), rs.LIF(threshold=0.2), nn.Linear(8, 3))),
}


def patient_of(model, images=IMAGES):
    way = Way("sequence", 4, 1) if isinstance(model, nn.Sequential) and isinstance(model[0], rs.OverTime) else None
    return Patient(model, way or found_way(model, images, None), images, torch.zeros(len(images)).long(), True, False)


def examined(model):
    return finding("cut gradient", NETWORK["cut gradient"], patient_of(model))


@pytest.mark.parametrize("name", SICK)
@pytest.mark.parametrize("double", [True, False])
def test_a_path_that_is_cut_is_found_and_named(name, double, one_thread, monkeypatch):
    make, path = SICK[name]
    in_double(monkeypatch, double)
    found = examined(make())
    assert found.passed is False, found.evidence
    assert path in found.evidence
    assert ("float64" if double else "float32") in found.evidence
    assert "detach()" in found.remedy


@pytest.mark.parametrize("name", HEALTHY)
@pytest.mark.parametrize("double", [True, False])
def test_a_healthy_network_stays_far_below_the_threshold(name, double, one_thread, monkeypatch):
    in_double(monkeypatch, double)
    model = HEALTHY[name]()
    before = everything_of(model)
    patient = patient_of(model)
    gaps = cutting._measured(cutting._in_double(patient) if double else patient)
    assert max(gap.relative for gap in gaps) < (1e-5 if double else 2e-2)
    assert examined(model).passed
    assert everything_of(model) == before


def in_double(monkeypatch, double):
    if not double:

        def refused(patient):
            raise RuntimeError("float32 only")

        monkeypatch.setattr(cutting, "_in_double", refused)


@pytest.mark.parametrize("name", ["detach", "a potential"])
def test_adapted_it_is_found_too(name, one_thread):
    model = SICK[name][0]()
    adapted = rs.adapt(model, images=IMAGES)
    found = finding("cut gradient", NETWORK["cut gradient"], patient_of(adapted))
    assert found.passed is False
    assert finding("cut gradient", NETWORK["cut gradient"], patient_of(rs.adapt(Skipping(), images=IMAGES))).passed


def test_the_share_that_is_missing(one_thread, monkeypatch):
    """Two numbers of one neuron's output, weights 3 and 4, the second cut: 4/5 of the derivative's size is missing."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.node = neuron.IFNode()

        def forward(self, x):
            s = self.node(x.flatten(1))
            return 3 * torch.cat([s[:, :32], torch.zeros_like(s[:, 32:])], 1) + 4 * torch.cat(
                [torch.zeros_like(s[:, :32]), s[:, 32:].detach()], 1
            )

    monkeypatch.setattr(cutting, "WEIGHTS", 100)
    monkeypatch.setattr(cutting, "DIRECTIONS", 9)
    worst = max(cutting._measured(cutting._in_double(patient_of(Two()))), key=lambda gap: gap.relative)
    assert (worst.source, worst.target) == ("node", cutting.LOGITS)
    assert worst.relative == pytest.approx(0.8, abs=0.1)  # directions are random


def test_more_than_there_is_does_not_fail(one_thread):
    """A rounding that is passed straight through has a gradient where the function is flat."""
    found = examined(Skipping(lambda s: s + (torch.round(4 * s) / 4 - s).detach()))
    assert found.passed
    assert "straight-through" in found.evidence


def test_encoders_that_adapt_passes_straight_through_do_not_fail(one_thread):
    adapted = rs.adapt(jelly(encoder=encoding.PoissonEncoder()), 4, images=IMAGES)
    found = finding("cut gradient", NETWORK["cut gradient"], patient_of(adapted))
    assert found.passed
    assert "from the images" in found.evidence


def test_float32_inside_is_no_cut(one_thread):
    """Differences this small drown in the rounding of a network that goes through float32."""
    assert examined(Skipping(lambda s: s.float().to(s.dtype))).passed


def test_where_it_cannot_run_the_reason_is_said(one_thread):
    class Reading(Skipping):
        """Needs the neuron's state, which held neurons do not have."""

        def forward(self, x):
            return super().forward(x) + self.l2.v.sum()

    found = examined(Reading())
    assert found.passed is None
    assert "held: AttributeError" in found.evidence
    plain = finding("cut gradient", NETWORK["cut gradient"], patient_of(nn.Sequential(nn.Flatten(), nn.Linear(64, 3))))
    assert (plain.passed, plain.evidence) == (None, "no neurons of a known framework")


def test_equal_seeds_give_equal_findings(one_thread):
    model = SICK["half a detach"][0]()
    assert examined(model) == examined(copy.deepcopy(model))
