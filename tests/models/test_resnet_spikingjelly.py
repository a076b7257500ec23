"""The ResNets against SpikingJelly's, with its weights: equal spikes, logits and input gradients in float64."""

import pytest
import torch
from torch import nn

import robustspike as rs
from robustspike.neurons import spiking_layers

pytest.importorskip("spikingjelly", reason="SpikingJelly is not installed; `pip install -e .[dev]` does")

from spikingjelly.activation_based import functional, layer, neuron, surrogate
from spikingjelly.activation_based.model import sew_resnet, spiking_resnet

pytestmark = pytest.mark.usefixtures("one_thread")

DEPTHS = (18, 34, 50)
# Mean of the BatchNorms' biases: neurons must fire often where branches are multiplied, seldom where one silences the other.
BIAS = {"add": 0.3, "and": 1.2, "iand": 0.1, None: 0.3}
CASES = [(depth, connect) for depth in DEPTHS for connect in BIAS]
ALWAYS = {(18, "add"), (18, "and"), (18, "iand"), (18, None), (50, "add"), (50, None)}  # the others take longer
cases = pytest.mark.parametrize(
    ("depth", "connect"),
    [
        pytest.param(
            depth, connect, id=f"{connect or 'spiking'}-{depth}",
            marks=[] if (depth, connect) in ALWAYS else [pytest.mark.slow],
        )
        for depth, connect in CASES
    ],
)  # fmt: skip


def theirs(depth, connect, pooling="max"):
    """SpikingJelly's network as Luu 2025 builds it, in float64 and multi-step mode."""
    kind, told = (sew_resnet, {"cnf": connect.upper()}) if connect else (spiking_resnet, {})
    builder = getattr(kind, f"{'sew' if connect else 'spiking'}_resnet{depth}")
    neurons = {"spiking_neuron": neuron.IFNode, "surrogate_function": surrogate.ATan(alpha=2.0), "detach_reset": True}
    network = builder(num_classes=5, **told, **neurons)
    if pooling == "avg":
        network.maxpool = layer.AvgPool2d(kernel_size=3, stride=2, padding=1)
    functional.set_step_mode(network, "m")
    return network.double()


def awaken(network, x_seq, bias):
    """Random weights and BatchNorm statistics with which neurons of every layer fire."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.8, 1.6), module.bias.uniform_(bias - 0.3, bias + 0.3)
                module.momentum = 1.0
            elif isinstance(module, nn.Linear):
                module.weight.normal_(), module.bias.normal_()
        network.train()(x_seq)  # the running statistics become those of x_seq
    functional.reset_net(network)
    return network.eval()


def renamed(weights):
    """Their state_dict under our names."""
    return {
        key.replace("fc.", "head.") if key.startswith("fc.") else f"layers.{key}": value
        for key, value in weights.items()
    }


def pair(depth, connect, pooling="max"):
    torch.manual_seed(0)
    steps, size = (3, 32) if depth == 18 else (2, 16)  # at 32 pixels the last stride still makes a difference
    x = torch.rand(2, steps, 3, size, size, dtype=torch.float64)
    network = awaken(theirs(depth, connect, pooling), x.transpose(0, 1), BIAS[connect])
    builder = getattr(rs.models, f"{'sew' if connect else 'spiking'}_resnet{depth}")
    told = {"connect": connect} if connect else {}
    model = builder(
        num_classes=5, time_steps=steps, image_size=size, encoder="frames", pooling=pooling, **told
    ).double()
    model.load_state_dict(renamed(network.state_dict()))  # strict: every name has its counterpart
    return model.eval(), network, x


def run(network, x, layers):
    """Spikes of every layer, logits and input gradient."""
    spikes, leaf = {}, x.clone().requires_grad_()
    hooks = [
        module.register_forward_hook(lambda m, args, out, name=name: spikes.update({name: out.detach()}))
        for name, module in layers.items()
    ]
    logits = network(leaf)
    (gradient,) = torch.autograd.grad((logits * torch.arange(1.0, 6.0)).sum(), leaf)
    for hook in hooks:
        hook.remove()
    return spikes, logits.detach(), gradient


def by_them(network, x):
    found = run(lambda leaf: network(leaf.transpose(0, 1)).mean(0), x, {
        name: module for name, module in network.named_modules() if isinstance(module, neuron.IFNode)
    })  # fmt: skip
    functional.reset_net(network)
    return found


def assert_equal(model, network, x):
    spikes, logits, gradient = run(model, x, spiking_layers(model))
    their_spikes, their_logits, their_gradient = by_them(network, x)
    assert set(spikes) == {f"layers.{name}" for name in their_spikes}
    for name, value in their_spikes.items():
        assert torch.equal(spikes[f"layers.{name}"], value), name
        assert 0.02 < value.mean() < 0.98, (name, value.mean())  # awake
        assert (value[:, 0] != value[:, 1]).any(), name  # and its input is not: the two images differ
    torch.testing.assert_close(logits, their_logits, rtol=1e-10, atol=1e-10)
    assert logits.std(0).min() > 1e-3
    torch.testing.assert_close(gradient, their_gradient, rtol=1e-9, atol=1e-10 * their_gradient.abs().max().item())
    assert their_gradient.abs().amax((2, 3, 4)).min() > 0  # of every image and every step


@pytest.fixture
def their_connections(monkeypatch):
    """Fang's IAND in SpikingJelly's bottleneck, which gives the two branches in the other order."""
    original = sew_resnet.sew_function
    monkeypatch.setattr(sew_resnet, "sew_function", lambda x, y, cnf: original(y, x, cnf))


@cases
def test_equal_to_spikingjelly(depth, connect, request):
    if (depth, connect) == (50, "iand"):
        request.getfixturevalue("their_connections")
    assert_equal(*pair(depth, connect))


@pytest.mark.parametrize(("depth", "connect"), [(18, "add"), (50, "add"), (18, None)], ids=["18", "50", "spiking-18"])
def test_equal_to_spikingjelly_with_average_pooling(depth, connect):
    assert_equal(*pair(depth, connect, "avg"))


def test_iand_of_a_bottleneck_is_fangs_and_not_spikingjellys():
    model, network, x = pair(50, "iand")
    with torch.no_grad():
        got, found = model(x), network(x.transpose(0, 1)).mean(0)
    assert not torch.allclose(got, found)


def test_the_surrogate_is_theirs():
    d = torch.linspace(-3, 3, 25, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(surrogate.ATan(alpha=2.0)(d).sum(), d)
    torch.testing.assert_close(rs.ArcTan(2.0).slope(d.detach()), slope, rtol=1e-13, atol=0)
