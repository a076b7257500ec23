"""A known defect is found where it is, by running it, and not where it is repaired; nobody else's networks are touched."""

import copy
import sys
import types

import pytest
import torch
from tests.doctor.records import everything_of
from torch import nn

from robustspike.doctor import KNOWN, known, spikingjelly_defects
from robustspike.doctor.checks import version
from robustspike.doctor.known import affected, known_defects

FRAMEWORKS = ("spikingjelly", "snntorch", "norse")
for framework in FRAMEWORKS:
    pytest.importorskip(framework, reason=f"{framework} is not installed; `pip install -e .[dev]` does")


@pytest.fixture
def judge(monkeypatch, one_thread):
    """The finding of one known defect."""

    def judged(name):
        with monkeypatch.context() as only:
            only.setattr(known, "KNOWN", {name: KNOWN[name]})
            [found] = known_defects()
        return found

    return judged


def test_each_defect_is_found_in_the_releases_that_have_it(judge):
    """As verified by hand for these releases; others are judged by running them."""
    present = {"spikingjelly": {"2.0.0"}, "snntorch": {"1.0.0", "0.9.4"}, "norse": {"1.1.0"}}
    absent = {"SpikingJelly's eval mode", "SpikingJelly's forced CUDA kernels"}
    for name, defect in KNOWN.items():
        if version(defect.framework) in present.get(defect.framework, ()):
            found = judge(name)
            assert found.passed is (name in absent), found
            assert defect.framework in found.evidence
            assert found.remedy


def repaired_sigmoid(slope=25):
    return lambda u: torch.sigmoid(slope * u)


class Straight(torch.autograd.Function):
    """Bernoulli spikes whose gradient is that of the mean."""

    @staticmethod
    def forward(ctx, p):
        return torch.bernoulli(p)

    @staticmethod
    def backward(ctx, grad):
        return grad


def reset_all(net):
    for module in net.modules():
        if hasattr(module, "reset_mem"):
            module.reset_mem()


def reset_jelly(net):
    for module in net.modules():
        if hasattr(module, "reset"):
            module.reset()


def straight_encoder(x, *given, **named):
    return Straight.apply(x.expand(8, *x.shape))


def with_its_alpha(u, method, alpha):
    return torch.sigmoid(float(alpha) * u)


def straight_module(*given):
    return straight_encoder


REPAIRS = {
    "snnTorch's sigmoid": [("snntorch.surrogate.sigmoid", repaired_sigmoid)],
    "snnTorch's triangular": [("snntorch.surrogate.triangular", repaired_sigmoid)],
    "snnTorch's LSO": [("snntorch.surrogate.LSO", repaired_sigmoid)],
    "snnTorch's spikegen.rate": [("snntorch.spikegen.rate", straight_encoder)],
    "snnTorch's encoders": [
        ("snntorch.spikegen.latency", straight_encoder), ("snntorch.spikegen.delta", straight_encoder),
    ],
    "snnTorch's reset of nested neurons": [("snntorch.utils.reset", reset_all)],
    "snnTorch's reset of copies": [("snntorch.utils.reset", reset_all)],
    "snnTorch's reset of one network": [("snntorch.utils.reset", reset_all)],
    "SpikingJelly's reset_net": [
        ("spikingjelly.activation_based.functional.reset_net", reset_jelly),
    ],
    "SpikingJelly's encoders": [
        (f"spikingjelly.activation_based.encoding.{name}", straight_module)
        for name in ("PoissonEncoder", "LatencyEncoder", "WeightedPhaseEncoder")
    ],
    "Norse's alpha": [("norse.torch.functional.threshold.threshold", with_its_alpha)],
    "Norse's encoders": [
        ("norse.torch.functional.encode.poisson_encode", straight_encoder),
        ("norse.torch.functional.encode.spike_latency_lif_encode", straight_encoder),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", REPAIRS)
def test_a_repaired_release_passes(name, judge, monkeypatch):
    for place, repair in REPAIRS[name]:
        monkeypatch.setattr(place, repair)
    found = judge(name)
    assert found.passed is True, found


def test_nodes_with_a_surrogate_each_pass(judge, monkeypatch):
    from spikingjelly.activation_based import neuron, surrogate

    for kind in ("IFNode", "LIFNode"):
        make = getattr(neuron, kind)
        monkeypatch.setattr(neuron, kind, lambda make=make: make(surrogate_function=surrogate.ATan()))
    assert judge("SpikingJelly's default surrogates").passed is True


@pytest.mark.parametrize("lost", ["IFNode", "LIFNode"])
def test_nodes_without_a_gradient_in_eval_mode_fail(lost, judge, monkeypatch):
    from spikingjelly.activation_based import neuron

    class Blind(getattr(neuron, lost)):
        def forward(self, x):
            return super().forward(x if self.training or self.step_mode == "s" else x.detach())

    monkeypatch.setattr(neuron, lost, Blind)
    found = judge("SpikingJelly's eval mode")
    assert found.passed is False
    assert found.evidence.startswith(f'in eval mode no gradient passes through {lost}(step_mode="m") (')


def test_every_defect_has_a_test_of_its_repair():
    elsewhere = {"SpikingJelly's default surrogates", "SpikingJelly's eval mode", "SpikingJelly's forced CUDA kernels"}
    assert set(REPAIRS) | elsewhere | {"torchattacks' modes", "foolbox's imports"} == set(KNOWN)


def test_forced_kernels_matter_on_a_gpu_only(judge, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("SJ_LIF_CUDA_IMPLEMENTATION", "auto")
    assert judge("SpikingJelly's forced CUDA kernels").passed is True
    monkeypatch.setenv("SJ_LIF_CUDA_IMPLEMENTATION", "triton")
    found = judge("SpikingJelly's forced CUDA kernels")
    assert found.passed is None
    assert found.evidence.startswith("SJ_LIF_CUDA_IMPLEMENTATION=triton is set; it would matter on a GPU only")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(spikingjelly_defects, "_refusal", lambda device: "RuntimeError: no")
    found = judge("SpikingJelly's forced CUDA kernels")
    assert found.passed is False
    assert "a LIFNode with another surrogate raises RuntimeError: no" in found.evidence


def test_a_surrogate_of_another_module_runs_where_nothing_is_forced():
    assert spikingjelly_defects._refusal(torch.device("cpu")) == ""


class FGSM:
    """torchattacks' way with modes, or one that leaves them alone."""

    flattens = True

    def __init__(self, model, eps):
        self.model = model

    def __call__(self, x, y):
        if self.flattens:
            self.model.eval()
        return self.model(x)


@pytest.mark.parametrize("flattens", [True, False])
def test_the_modes_of_torchattacks(flattens, judge, monkeypatch):
    """A stand-in that does with modes what 3.5.1 does; the real one is not among this project's dependencies."""
    stand_in = types.ModuleType("torchattacks")
    stand_in.FGSM = FGSM
    monkeypatch.setattr(FGSM, "flattens", flattens)
    monkeypatch.setitem(sys.modules, "torchattacks", stand_in)
    monkeypatch.setattr(known, "version", lambda name: "3.5.1")
    found = judge("torchattacks' modes")
    assert found.passed is not flattens
    assert f"in {'eval' if flattens else 'training'} mode during an attack" in found.evidence


def test_the_modes_of_the_real_torchattacks(judge):
    pytest.importorskip("torchattacks", reason="torchattacks is not installed; `make oracles` has it")
    assert judge("torchattacks' modes").passed is False


def test_a_framework_that_is_not_installed_is_not_applicable(judge, monkeypatch):
    monkeypatch.setattr(known, "version", lambda name: None)
    found = judge("Norse's alpha")
    assert (found.passed, found.evidence) == (None, "norse is not installed")


def test_a_framework_that_cannot_be_imported_has_failed(judge, monkeypatch):
    monkeypatch.setitem(sys.modules, "snntorch", None)
    found = judge("snnTorch's sigmoid")
    assert found.passed is False
    assert "is installed but cannot be imported: ModuleNotFoundError" in found.evidence
    assert found.remedy.startswith("Install snntorch anew")


def test_a_foolbox_that_its_scipy_breaks(judge, monkeypatch):
    monkeypatch.setattr(known, "version", lambda name: "3.3.4")
    monkeypatch.setitem(sys.modules, "foolbox", None)
    found = judge("foolbox's imports")
    assert found.passed is False
    assert "scipy<2" in found.remedy
    monkeypatch.setitem(sys.modules, "foolbox", types.ModuleType("foolbox"))
    assert judge("foolbox's imports").passed is True


def test_a_release_without_the_function_is_not_applicable(judge, monkeypatch):
    monkeypatch.delattr("snntorch.surrogate.LSO")
    found = judge("snnTorch's LSO")
    assert found.passed is None
    assert "has no such thing: AttributeError" in found.evidence


def test_nothing_is_imported_where_nothing_is_installed(monkeypatch):
    def refuse(name):
        raise AssertionError(f"imports {name}")

    monkeypatch.setattr(known, "version", lambda name: None)
    monkeypatch.setattr(known.importlib, "import_module", refuse)
    found = known_defects()
    assert len(found) == len(KNOWN)
    assert [one.evidence for one in found if not one.evidence.endswith(" is not installed")] == []


# --- what a network carries


def test_a_network_carries_what_its_layers_use():
    import norse.torch as norse
    import snntorch as snn
    from snntorch import surrogate
    from spikingjelly.activation_based import encoding, neuron

    def sigmoid(slope=25):
        """Of the owner's, although of that name."""

        def inner(u):
            return torch.sigmoid(slope * u)

        inner.__qualname__ = "sigmoid.<locals>.inner"
        return inner

    net = nn.ModuleDict(
        {
            "a": snn.Leaky(beta=0.9, spike_grad=surrogate.sigmoid()),
            "b": snn.Leaky(beta=0.9, spike_grad=surrogate.atan()),
            "c": snn.Leaky(beta=0.9, spike_grad=surrogate.triangular()),
            "d": norse.LIFCell(norse.LIFParameters(alpha=torch.tensor(3.0))),
            "e": norse.LIFCell(),
            "f": norse.LIFCell(norse.LIFParameters(alpha=torch.tensor(3.0), method="tanh")),
            "g": neuron.IFNode(),
            "h": neuron.ParametricLIFNode(),
            "i": encoding.PoissonEncoder(),
            "j": snn.Leaky(beta=0.9, spike_grad=repaired_sigmoid()),
            "k": snn.Leaky(beta=0.9, spike_grad=sigmoid()),
        }
    )
    findings = known_defects()
    worst = tuple(one.model_copy(update={"passed": False}) for one in findings)
    assert affected(net, worst) == {
        "SpikingJelly's eval mode": ["g"],
        "SpikingJelly's encoders": ["i"],
        "snnTorch's sigmoid": ["a"],
        "snnTorch's triangular": ["c"],
        "Norse's alpha": ["d"],
    }
    assert affected(net, tuple(one.model_copy(update={"passed": True}) for one in findings)) == {}


def test_the_networks_of_others_are_left_alone(one_thread):
    import snntorch as snn
    from spikingjelly.activation_based import neuron

    torch_, jelly = (
        nn.Sequential(snn.Leaky(beta=0.9, init_hidden=True)),
        nn.Sequential(neuron.LIFNode(), neuron.IFNode()),
    )
    both = nn.ModuleList([torch_, jelly, copy.deepcopy(torch_)])
    for net in both:
        net(torch.full((2, 3), 0.4))
    both.train()  # the default surrogates as well, which all share
    before, listed = everything_of(both), list(snn.SpikingNeuron.instances)
    known_defects()
    assert everything_of(both) == before
    assert list(map(id, snn.SpikingNeuron.instances)) == list(map(id, listed))
