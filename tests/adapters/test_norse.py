"""Networks of Norse as its users write them: values, gradients of every estimator, state, threads, refusals."""

import copy
import pickle
import sys
import threading
from dataclasses import dataclass
from functools import cache, partial
from types import ModuleType
from typing import ClassVar

import norse.torch as nt
import pytest
import torch
import torch.nn.functional as F
from norse.torch.functional.iaf import IAFParameters
from norse.torch.functional.izhikevich import tonic_spiking
from norse.torch.functional.lif import lif_feed_forward_step
from norse.torch.functional.threshold import threshold
from norse.torch.models.conv import ConvNet
from torch import nn

import robustspike as rs
from robustspike.adapters import Adapted, AdaptError
from robustspike.gradients import ESTIMATORS
from robustspike.neurons import spiking_layers
from robustspike.surrogates import with_slope

pytestmark = pytest.mark.usefixtures("one_thread")
BOX = nt.LIFBoxParameters(tau_mem_inv=torch.tensor(500.0))  # leak 0.5 with steps of 1 ms
SURE = {name: make() for name, make in ESTIMATORS.items()} | {"bptt triangle": rs.BPTT(rs.Triangle(0.5))}
EXACT = {name: estimator for name, estimator in SURE.items() if estimator.exact}
T = 8


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def images(n=3, kind=torch.float64):
    return torch.rand(n, 1, 6, 6, dtype=kind, generator=torch.Generator().manual_seed(1))


X, Y = images(), torch.tensor([0, 1, 2])


def weights(kind=torch.float64, scale=12.0):
    """A convolution 1 → 3 and a linear layer 27 → 4 that keep neurons firing."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        convolution, linear = nn.Conv2d(1, 3, 3, padding=1).to(kind), nn.Linear(27, 4).to(kind)
        with torch.no_grad():
            convolution.weight *= scale
            linear.weight *= scale
    return convolution, linear


def stepwise(cell=nt.LIFCell, scale=12.0):
    convolution, linear = weights(scale=scale)
    return nt.SequentialState(convolution, cell(), nn.MaxPool2d(2), nn.Flatten(), linear, cell())


def over_time(cell=nt.LIF):
    convolution, linear = weights()
    pool = nt.Lift(nn.MaxPool2d(2))
    return nt.SequentialState(nt.Lift(convolution), cell(), pool, nn.Flatten(2), nt.Lift(linear), cell())


class Looping(nn.Module):
    """Its own time loop; the largest voltage of a readout is the answer."""

    def __init__(self, recurrent=False, steps=T, p=None):
        super().__init__()
        self.steps, self.p = steps, p or nt.LIFParameters()
        self.convolution, self.linear = weights()
        self.lif0 = nt.LIFCell(self.p)
        self.lif1 = nt.LIFRecurrentCell(4, 5, self.p).double() if recurrent else nt.LIFCell(self.p)
        self.out = nt.LILinearCell(5 if recurrent else 4, 4).double()

    def voltages(self, x, s0=None, s1=None, so=None):
        found = []
        for _ in range(self.steps):
            z, s0 = self.lif0(self.convolution(x), s0)
            z, s1 = self.lif1(self.linear(F.max_pool2d(z, 2).flatten(1)), s1)
            v, so = self.out(z, so)
            found.append(v)
        return torch.stack(found)

    def forward(self, x):
        return self.voltages(x).amax(0)


def looping(**options):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Looping(**options)


class Residual(nn.Module):
    """One step per call, the state a tuple that goes in and comes out; spikes are added to those of an earlier layer.

    It keeps the parameters of its neurons, and is none itself.
    """

    def __init__(self):
        super().__init__()
        convolution, linear = weights()
        self.first, self.linear = convolution, linear
        self.second = nn.Conv2d(3, 3, 3, padding=1).double()
        self.p = nt.LIFParameters()
        self.lif = nt.LIFCell(self.p)  # has no weights: one for all places

    def forward(self, x, state=(None, None, None)):
        s0, s1, s2 = state
        z0, s0 = self.lif(self.first(x), s0)
        z1, s1 = self.lif(3 * self.second(z0), s1)
        z2, s2 = self.lif(self.linear(F.max_pool2d(z0 + z1, 2).flatten(1)), s2)
        return z2, (s0, s1, s2)


class Apart(Residual):
    """Its states are arguments and results of their own."""

    def forward(self, x, s0=None, s1=None, s2=None):
        z, (s0, s1, s2) = super().forward(x, (s0, s1, s2))
        return z, s0, s1, s2


def residual(kind=Residual):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return kind()


def nested():
    convolution, linear = weights()
    inner = nt.SequentialState(convolution, nt.LIFCell())
    return nt.SequentialState(inner, nn.MaxPool2d(2), nn.Flatten(), nt.SequentialState(linear, nt.LIFCell()))


def recurrent_over_time():
    with torch.random.fork_rng():
        torch.manual_seed(2)
        layer, linear = nt.LIFRecurrent(36, 8).double(), nn.Linear(8, 4).double()
    with torch.no_grad():
        linear.weight *= 6
    return nt.SequentialState(nn.Flatten(2), layer, nt.Lift(linear), nt.LIF())


def fed_back():
    """Norse's own module for it: what comes out is added to what goes in at the next step."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        linear, back = nn.Linear(36, 36).double(), nn.Linear(36, 36).double()
    with torch.no_grad():
        linear.weight *= 20
    layers = nt.RecurrentSequential(linear, nt.LIFCell(), back, output_modules=2)
    return Flat(layers, features=36)


class Flat(nn.Module):
    """Images as vectors, all classes but four left out."""

    def __init__(self, net, features):
        super().__init__()
        self.net, self.features = net, features

    def forward(self, x, state=None):
        out, state = self.net(x.flatten(1), state)
        return out[:, :4], state


def convnet():
    """As the package has it, for smaller images: voltages are written into one tensor step by step."""

    class Enlarged(ConvNet):
        def forward(self, x):
            return super().forward(60 * F.interpolate(x.flatten(0, 1), 16).unflatten(0, x.shape[:2]))

    with torch.random.fork_rng():
        torch.manual_seed(6)
        return Enlarged(feature_size=16, dtype=torch.float64).double()


def calls(net, x):
    """The spikes of a network whose owner passes on what it returns, averaged over time."""
    found, state = [], ()
    for _ in range(T):
        z, *state = net(x, *state)
        found.append(z)
    return torch.stack(found).mean(0)


def whole(net, x):
    return net(x.expand(T, *x.shape))[0].mean(0)


def itself(net, x):
    return net(x)


STEPWISE = {
    "LIF": stepwise,
    "IAF": partial(stepwise, lambda: nt.IAFCell(IAFParameters())),
    "LIF box": partial(stepwise, lambda: nt.LIFBoxCell(BOX)),
    "LIF refractory": partial(stepwise, nt.LIFRefracCell),
    "AdEx": partial(stepwise, nt.LIFAdExCell),
    "Ex": partial(stepwise, nt.LIFExCell),
    "LSNN": partial(stepwise, nt.LSNNCell),
    "Izhikevich": partial(stepwise, lambda: nt.IzhikevichCell(tonic_spiking), 400.0),
    "residual": residual,
    "residual, states apart": partial(residual, Apart),
    "nested": nested,
}
NETWORKS = {
    **{name: (make, "step", T, calls) for name, make in STEPWISE.items()},
    "sequence": (over_time, "sequence", T, whole),
    "IAF sequence": (partial(over_time, lambda: nt.IAF(IAFParameters())), "sequence", T, whole),
    "recurrent sequence": (recurrent_over_time, "sequence", T, whole),
    "fed back": (fed_back, "step", T, calls),
    "Norse's ConvNet": (convnet, "sequence", T, lambda net, x: net(x.expand(T, *x.shape)).mean(0)),
    "loop": (looping, "images", None, itself),
    "recurrent loop": (partial(looping, recurrent=True), "images", None, itself),
}


@cache
def adapted(name, readout="spikes"):
    """Shared by tests: nothing done to it lasts."""
    make, _, steps, _ = NETWORKS[name]
    return rs.adapt(make(), steps, images=X, readout=readout)


def gap(found, expected):
    """The largest difference, relative to the largest entry."""
    return float((found - expected).abs().max() / expected.abs().max())


def carried(net, estimator):
    """The gradient; None where the network's neurons cannot carry the estimator and say so."""
    try:
        return rs.input_gradient(net, X, Y, estimator=estimator)
    except AdaptError:
        return None


# What networks do


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_of_the_network_as_its_owner_runs_it(name):
    make, takes, _, owner = NETWORKS[name]
    net = adapted(name)
    assert (net.takes, net.time_steps) == (takes, T)
    with torch.no_grad():
        expected = owner(make(), X)
        assert torch.equal(net(X), expected)
        assert torch.equal(net(X), expected)  # fresh state each time
        assert torch.allclose(net(X[1:2]), expected[1:2], atol=1e-12)
    assert len(expected.unique()) > 1


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_stay_the_same_under_exact_estimators(name):
    net = adapted(name)
    expected, seen = net(X), 0
    for estimator in EXACT.values():
        try:
            with rs.estimating(net, estimator):
                assert torch.equal(net(X), expected), estimator
                assert torch.equal(net(X.clone().requires_grad_()), expected), estimator
            seen += 1
        except AdaptError:
            continue
    assert seen >= 2
    assert torch.equal(net(X), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_networks_own_gradient_is_its_owners(name):
    make, _, _, owner = NETWORKS[name]
    net, x = make(), X.clone().requires_grad_()
    expected = torch.autograd.grad(F.cross_entropy(owner(net, x), Y, reduction="sum"), x)[0]
    assert gap(rs.input_gradient(adapted(name), X, Y), expected) < 1e-12


@dataclass(frozen=True)
class Through:
    """Back-propagation through time, for the adapter an estimator like any other: joined after the pass."""

    exact: ClassVar[bool] = True
    without_time: ClassVar[bool] = False

    def __call__(self, layer, currents):
        return layer.fire(currents, rs.ArcTan())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_joined_after_the_pass_is_that_of_the_pass(name):
    net = adapted(name)
    expected = rs.input_gradient(net, X, Y, estimator=rs.BPTT(rs.ArcTan()))
    if name == "LIF refractory":
        with pytest.raises(AdaptError, match="cannot carry"):
            rs.input_gradient(net, X, Y, estimator=Through())
        return
    assert expected.any()
    assert gap(rs.input_gradient(net, X, Y, estimator=Through()), expected) < 1e-12


# Gradients: neurons of ours on the same weights, and a loop written by hand


class Ours(nn.Module):
    """The same network of our own neurons, which are IAF cells with leak 1, and box cells where currents are halved."""

    def __init__(self, leak, gain):
        super().__init__()
        (self.convolution, self.linear), self.gain = weights(), gain
        self.first, self.second = rs.LIF(leak=leak), rs.LIF(leak=leak)
        self.time_collapsed = False

    def forward(self, x):
        x_seq = rs.repeat(x, 1 if self.time_collapsed else T)
        z = self.first(self.gain * rs.OverTime(self.convolution)(x_seq))
        z = rs.OverTime(nn.MaxPool2d(2), nn.Flatten(), self.linear)(z)
        return self.second(self.gain * z).mean(0)


OUR_NEURON = {"IAF": (1.0, 1.0), "LIF box": (0.5, 0.5), "IAF sequence": (1.0, 1.0)}


@pytest.mark.parametrize("name", OUR_NEURON)
@pytest.mark.parametrize("estimator", [name for name in SURE if name != "bptt"])
def test_gradients_are_those_of_our_own_neurons(name, estimator):
    net, ours = adapted(name), Ours(*OUR_NEURON[name])
    found = rs.input_gradient(net, X, Y, estimator=SURE[estimator])
    expected = rs.input_gradient(ours, X, Y, estimator=SURE[estimator])
    assert expected.abs().max() > 1e-4
    assert gap(found, expected) < 1e-12
    if SURE[estimator].exact:
        assert torch.equal(net(X), ours(X))


class Fires(torch.autograd.Function):
    @staticmethod
    def forward(ctx, d, slope):
        ctx.save_for_backward(slope)
        return (d > 0).to(d.dtype)

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0], None


def spread(u, t):
    """σ of the potentials up to t, over a channel's places, or over all features."""
    axes = (0, 3, 4) if u.dim() == 5 else (0, 2)
    sigma = u[: t + 1].double().std(axes, unbiased=False, keepdim=True)[0]
    return torch.where(sigma > 1e-6, sigma, torch.ones_like(sigma))


def normal(d):
    return torch.exp(-d.square() / 2) / (2 * torch.pi) ** 0.5


def own_slope(d):
    """Norse's "super", which ignores alpha in 1.1.0."""
    return (1 + d.abs()) ** -2


def slopes_by_hand(estimator, u):
    """∂s/∂u of estimators that go through time, from the potentials [T, N, ...]; threshold 1."""
    d = u - 1
    if estimator == "pdsg":
        sigma = torch.stack([spread(u, t) for t in range(len(u))])
        return normal(d / sigma - 0.5) / sigma
    if estimator == "assg":
        distance = d.abs()
        mean = 0.9 + 0.1 * distance
        deviation = 0.1 * (distance - mean).abs()
        alpha = 2 * torch.tan(torch.tensor(torch.pi * 0.85 / 2, dtype=u.dtype)) / torch.pi
        alpha = alpha / (mean + 1.5 * deviation + 1e-4)
        return alpha * 0.5 / (1 + (torch.pi / 2 * alpha * d) ** 2)
    return own_slope(d) if estimator == "bptt" else (0.5 - d.abs()).clamp(min=0) / 0.25


def lif_by_hand(estimator, x_seq, recurrent=None):
    """Spikes [T, N, ...] of LIF neurons with a synapse, differentiated as the estimator says."""
    gain, decay = (
        float(torch.tensor(0.1)),
        1 - float(torch.tensor(0.2)),
    )  # 1 ms of 10 ms and of 5 ms, as float32 has them

    def run(slopes):
        i = v = z = torch.zeros_like(x_seq[0] if recurrent is None else x_seq[0] @ recurrent[0].T)
        spikes, potentials, drives = [], [], []
        for t, x in enumerate(x_seq):
            i = i + (x if recurrent is None else x @ recurrent[0].T + z @ recurrent[1].T)
            v = v + gain * (i - v)
            potentials.append(v)
            drives.append(gain * i)
            z = Fires.apply(v - 1, torch.zeros_like(v) if slopes is None else slopes[t])
            detached = estimator == "assg" or recurrent is not None  # Norse detaches it in recurrent cells
            v = (1 - (z.detach() if detached else z)) * v
            i = decay * i
            spikes.append(z)
        return torch.stack(spikes), torch.stack(potentials), torch.stack(drives)

    with torch.no_grad():
        spikes, u, _ = run(None)
    if estimator in ("bptt", "bptt triangle", "pdsg", "assg"):
        return run(slopes_by_hand(estimator, u))[0]
    drive, i = [], 0
    for x in x_seq:
        i = i + (x if recurrent is None else x @ recurrent[0].T)
        drive.append(gain * i)
        i = decay * i
    drive = torch.stack(drive)
    if estimator == "bptr":
        return with_slope(spikes, drive, (spikes.amax(0) > 0).double().expand_as(spikes))
    if estimator == "rga":
        mean, leak = drive.detach().mean(0), 1 - gain
        low, high = ((mean >= a) & (mean <= b) for a, b in ((0, gain), (gain, 2)))
        slope = 0.2 * low.double() + (1 - 0.2 + 0.2 * leak) / (leak + 1) * high.double()
        return with_slope(spikes, drive, slope.expand_as(spikes))
    drive.register_hook(lambda g: g.mean(0, keepdim=True).expand_as(g))  # HART
    return with_slope(spikes, drive, (1 - (u - 1).abs()).clamp(min=0))


def network_by_hand(estimator, x):
    convolution, linear = weights()
    if estimator == "cba":
        gain = float(torch.tensor(0.1))
        return F.relu(gain * linear(F.max_pool2d(F.relu(gain * convolution(x)), 2).flatten(1)))
    z = lif_by_hand(estimator, torch.stack([convolution(x)] * T))
    z = torch.stack([linear(F.max_pool2d(each, 2).flatten(1)) for each in z])
    return lif_by_hand(estimator, z).mean(0)


def gradient_by_hand(network, estimator):
    x = X.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(network(estimator, x), Y, reduction="sum"), x)[0]


@pytest.mark.parametrize("name", ["LIF", "sequence"])
@pytest.mark.parametrize("estimator", SURE)
def test_gradients_of_lif_cells_are_those_of_a_loop_by_hand(name, estimator):
    found = rs.input_gradient(adapted(name), X, Y, estimator=SURE[estimator])
    expected = gradient_by_hand(network_by_hand, estimator)
    assert expected.abs().max() > 1e-5
    assert gap(found, expected) < 1e-12


def recurrent_by_hand(estimator, x):
    net = recurrent_over_time()
    cell, linear = net[1], net[2].lifted_module
    if estimator == "cba":
        gain = float(torch.tensor(0.1))
        return F.relu(gain * linear(F.relu(gain * x.flatten(1) @ cell.input_weights.T)))
    z = lif_by_hand(estimator, torch.stack([x.flatten(1)] * T), (cell.input_weights, cell.recurrent_weights))
    return lif_by_hand(estimator, linear(z)).mean(0)


@pytest.mark.parametrize("estimator", SURE)
def test_gradients_of_recurrent_cells_are_those_of_a_loop_by_hand(estimator):
    """Estimators through time follow the cell's own feedback; those of rates see the input's way alone."""
    found = rs.input_gradient(adapted("recurrent sequence"), X, Y, estimator=SURE[estimator])
    assert gap(found, gradient_by_hand(recurrent_by_hand, estimator)) < 1e-12


@pytest.mark.parametrize("estimator", SURE)
def test_cells_and_sequences_have_the_same_gradients(estimator):
    cell = nt.LIFRecurrentCell(36, 8).double()
    layer = nt.LIFRecurrent(36, 8).double()
    layer.load_state_dict(cell.state_dict())
    linear = nn.Linear(8, 4).double()
    step = rs.adapt(nt.SequentialState(nn.Flatten(), cell, linear, nt.LICell()), T, images=X)
    whole = rs.adapt(nt.SequentialState(nn.Flatten(2), layer, nt.Lift(linear), nt.LI()), T, images=X)
    one, other = (rs.input_gradient(net, X, Y, estimator=SURE[estimator]) for net in (step, whole))
    assert other.abs().max() > 0
    assert gap(one, other) < 1e-12


@pytest.mark.parametrize("estimator", SURE)
@pytest.mark.parametrize("name", ["residual", "recurrent loop"])
def test_parameters_get_the_gradient_too(name, estimator):
    """A step at a time as in one piece: two forms of one network, weights of neurons included."""
    net = adapted(name)
    with rs.estimating(net, SURE[estimator]):
        F.cross_entropy(net(X), Y).backward()
    got = {name for name, p in net.named_parameters() if p.grad is not None and p.grad.isfinite().all()}
    feedback = set() if SURE[estimator].exact else {"model.lif1.recurrent_weights"}  # without time there is none
    assert got >= {name for name, _ in net.named_parameters()} - feedback


@pytest.mark.parametrize("estimator", SURE)
def test_weights_of_recurrent_cells_get_the_gradient_of_a_layer_over_time(estimator):
    cell = nt.LIFRecurrentCell(36, 4).double()
    layer = nt.LIFRecurrent(36, 4).double()
    layer.load_state_dict(cell.state_dict())
    grads = []
    for net in (nt.SequentialState(nn.Flatten(), cell), nt.SequentialState(nn.Flatten(2), layer)):
        adapted = rs.adapt(net, T, images=X)
        with rs.estimating(adapted, SURE[estimator]):
            F.cross_entropy(adapted(X), Y).backward()
        grads.append(net[1].input_weights.grad)
        if estimator in ("bptt", "bptt triangle", "pdsg", "assg"):
            grads[-1] = torch.cat([grads[-1], net[1].recurrent_weights.grad], 1)
    assert grads[1].abs().max() > 0
    assert gap(*grads) < 1e-12


def hand_numbers(cell, weight, x, estimator):
    """∂(mean spike)/∂x of one neuron over two steps with inputs of their own; the mean of two halves it, 2 undoes that."""
    linear = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(linear.weight, weight)
    net = rs.adapt(nt.SequentialState(linear, cell), 2, encoder="frames", images=torch.zeros(1, 2, 1).double())
    x = torch.tensor(x, dtype=torch.float64).reshape(1, 2, 1).requires_grad_()
    with rs.estimating(net, estimator):
        logits = net(x)
        gradient = torch.autograd.grad(2 * logits.sum(), x)[0]
    return logits.item(), gradient.flatten().tolist()


def test_two_steps_of_a_box_cell_by_pencil():
    """Currents 1.6 and 1.4, halved: u = 0.8, then 0.5·0.8 + 0.7 = 1.1 and a spike; slopes 1 − |u − 1| are 0.8 and 0.9."""
    mean, gradient = hand_numbers(nt.LIFBoxCell(BOX), 2.0, [0.8, 0.7], rs.BPTT(rs.Triangle()))
    assert mean == 0.5
    # ∂s1/∂u1·½·∂v0/∂u0 with ∂v0/∂u0 = 1 − u0·0.8 = 0.36; each current is half of 2·x
    assert gradient == pytest.approx([0.8 + 0.9 * 0.5 * 0.36, 0.9], abs=1e-7)
    assert hand_numbers(nt.LIFBoxCell(BOX), 2.0, [0.8, 0.7], rs.BPTR())[1] == [1.0, 1.0]


def test_two_steps_of_an_iaf_cell_by_pencil():
    """u = 0.6, then 1.2 and a spike. Triangle: slopes 0.6 and 0.8, ∂v0/∂u0 = 1 − 0.6·0.6; "super": 1/1.4² and 1/1.2²."""
    cell = nt.IAFCell(IAFParameters())
    mean, gradient = hand_numbers(cell, 1.0, [0.6, 0.6], rs.BPTT(rs.Triangle()))
    assert mean == 0.5
    assert gradient == pytest.approx([0.6 + 0.8 * 0.64, 0.8], abs=1e-12)
    one, two = 1 / 1.4**2, 1 / 1.2**2
    assert hand_numbers(cell, 1.0, [0.6, 0.6], rs.BPTT())[1] == pytest.approx([one + two * (1 - 0.6 * one), two])


def test_alpha_of_super_changes_nothing_but_a_surrogate_of_ours_does():
    gradients = []
    for alpha in (1.0, 100.0):
        p = nt.LIFParameters(alpha=torch.tensor(alpha))
        gradients.append(rs.input_gradient(rs.adapt(stepwise(lambda p=p: nt.LIFCell(p)), T, images=X), X, Y))
    assert torch.equal(*gradients)
    net = adapted("LIF")
    sharp, flat = (rs.input_gradient(net, X, Y, estimator=rs.BPTT(rs.ArcTan(a))) for a in (8.0, 0.5))
    assert gap(sharp, flat) > 0.1


def test_parameters_that_do_not_follow_double_and_ones_that_differ_between_neurons():
    net = stepwise().double()
    assert net[1].p.v_th.dtype == torch.float32
    assert rs.input_gradient(rs.adapt(net, T, images=X), X, Y, estimator=rs.RGA()).dtype == torch.float64
    rates = torch.linspace(100, 500, 4, dtype=torch.float64)
    p = nt.LIFBoxParameters(tau_mem_inv=rates)
    net = nt.SequentialState(nn.Flatten(), nn.Linear(36, 4).double(), nt.LIFBoxCell(p))
    with torch.no_grad():
        net[1].weight *= 8
    model = rs.adapt(net, T, images=X)
    (layer,) = spiking_layers(model).values()
    assert torch.allclose(layer.leak, 1 - rates / 1000)
    for estimator in SURE.values():
        assert rs.input_gradient(model, X, Y, estimator=estimator).isfinite().all()


def test_a_resting_potential_counts_from_there():
    """The same neuron, all potentials moved by −2."""

    def moved(by):
        at = lambda value: torch.tensor(value + by)  # noqa: E731
        return nt.LIFBoxParameters(torch.tensor(500.0), at(0.0), at(1.0), at(0.0))

    nets = [rs.adapt(stepwise(lambda by=by: nt.LIFBoxCell(moved(by))), T, images=X) for by in (0.0, -2.0)]
    for estimator in SURE.values():
        one, other = (rs.input_gradient(net, X, Y, estimator=estimator) for net in nets)
        assert gap(other, one) < 1e-9 or estimator == rs.BPTT()
    iaf = rs.adapt(stepwise(lambda: nt.IAFCell(IAFParameters(torch.tensor(0.5), torch.tensor(-0.5)))), T, images=X)
    plain = rs.adapt(stepwise(lambda: nt.IAFCell(IAFParameters())), T, images=X)
    one, other = (rs.input_gradient(net, X, Y, estimator=rs.RGA()) for net in (iaf, plain))
    assert gap(one, other) < 1e-12


def test_one_cell_at_several_places_is_several_layers_in_time():
    """`Residual` has one LIFCell for three places: as if each had its own."""
    shared, own = residual(), residual()

    class Several(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net, self.cells = net, nn.ModuleList(nt.LIFCell() for _ in range(3))

        def forward(self, x, state=(None, None, None)):
            s0, s1, s2 = state
            z0, s0 = self.cells[0](self.net.first(x), s0)
            z1, s1 = self.cells[1](3 * self.net.second(z0), s1)
            z2, s2 = self.cells[2](self.net.linear(F.max_pool2d(z0 + z1, 2).flatten(1)), s2)
            return z2, (s0, s1, s2)

    del own.lif
    one, several = rs.adapt(shared, T, images=X), rs.adapt(Several(own), T, images=X)
    assert len(spiking_layers(one)) == 1
    for name, estimator in SURE.items():
        found, expected = (rs.input_gradient(net, X, Y, estimator=estimator) for net in (one, several))
        assert gap(found, expected) < 1e-12, name


def test_recording_a_cell_at_several_places_gives_each_its_currents():
    net = adapted("residual")
    shapes = [(T, 3, 3, 6, 6), (T, 3, 3, 6, 6), (T, 3, 4)]
    for estimator in (rs.BPTT(), rs.BPTT(rs.Triangle()), rs.BPTR()):
        with rs.estimating(net, estimator), rs.gradients.recording(net) as notes:
            net(X.clone().requires_grad_())
        assert [tuple(currents.shape) for _, currents in notes] == shapes, estimator


# Encoders of Norse within the network


def encoding(encoder):
    linear = nn.Linear(36, 4)
    with torch.no_grad():
        linear.weight *= 40
    return nt.SequentialState(encoder, nn.Flatten(2), nt.Lift(linear), nt.LIF())


def test_a_poisson_encoder_is_passed_straight_through():
    torch.manual_seed(0)
    x = images(kind=torch.float32)
    net = rs.adapt(encoding(nt.PoissonEncoder(8, f_max=1000)), images=x)
    assert (net.takes, net.time_steps, net.straight_through) == ("images", 8, ("0",))
    assert rs.gradients.is_stochastic(net, x)
    assert list(spiking_layers(net)) == ["3"]
    torch.manual_seed(1)
    with torch.no_grad():
        expected = net.model(x)[0].mean(0)
    torch.manual_seed(1)
    assert torch.equal(net(x), expected)
    for name, estimator in SURE.items():
        assert rs.input_gradient(net, x, Y, estimator=estimator).abs().max() > 0, name


@pytest.mark.parametrize("encoder", [nt.ConstantCurrentLIFEncoder, nt.SpikeLatencyLIFEncoder])
def test_encoders_with_neurons_in_them_keep_their_gradient_and_are_no_layers(encoder):
    torch.manual_seed(0)
    x = 4 * images(kind=torch.float32)
    net = rs.adapt(encoding(encoder(8)), images=x)
    assert (net.takes, net.time_steps, net.straight_through) == ("images", 8, ())
    assert list(spiking_layers(net)) == ["3"]
    point = x.clone().requires_grad_()
    expected = torch.autograd.grad(F.cross_entropy(net.model(point)[0].mean(0), Y, reduction="sum"), point)[0]
    assert gap(rs.input_gradient(net, x, Y), expected) < 1e-6
    for name, estimator in SURE.items():
        assert rs.input_gradient(net, x, Y, estimator=estimator).abs().max() > 0, name


def test_an_encoder_that_is_no_module_is_refused():
    class Drawing(Looping):
        def forward(self, x):
            return super().forward((torch.rand_like(x) < x).to(x.dtype))

    with pytest.raises(AdaptError, match=r"no gradient reaches the images.*give encoder="):
        rs.adapt(Drawing(), images=X)


# Neurons that cannot carry everything


def test_without_a_surrogate_of_their_own_neurons_are_seen_by_ours():
    net = rs.adapt(stepwise(lambda: nt.LIFCell(nt.LIFParameters(method="heaviside"))), T, images=X)
    assert not rs.input_gradient(net, X, Y).any()  # as its owner would have it
    expected = rs.input_gradient(adapted("LIF"), X, Y, estimator=rs.BPTT(rs.Triangle()))
    assert gap(rs.input_gradient(net, X, Y, estimator=rs.BPTT(rs.Triangle())), expected) < 1e-12


def test_what_norse_cannot_run_itself_is_refused_in_a_sentence():
    with pytest.raises(AdaptError, match=r"LIFCell of norse at 1 .*adjoint.*super") as refusal:
        rs.adapt(stepwise(lambda: nt.LIFCell(nt.LIFParameters(method="adjoint"))), T, images=X)
    assert "\n" not in str(refusal.value)


def test_a_cell_whose_input_norse_drops_is_refused():
    """CobaLIFCell: its conductances are overwritten by those of its feedback."""
    cell = nt.CobaLIFCell(36, 4)
    x = torch.rand(2, 36)
    assert torch.equal(cell(x)[0], cell(100 * x)[0])
    with pytest.raises(AdaptError, match="no gradient reaches the images"):
        rs.adapt(nt.SequentialState(nn.Flatten(), cell), T, images=X.float())


def test_a_backward_pass_of_norses_own_takes_no_surrogate():
    net = rs.adapt(stepwise(lambda: nt.LSNNCell(adjoint=True)), T, images=X)
    rs.input_gradient(net, X, Y)
    for estimator in (rs.BPTT(rs.Triangle()), rs.PDSG()):
        with pytest.raises(AdaptError, match=r"LSNNCell of norse at 1 cannot carry"):
            rs.input_gradient(net, X, Y, estimator=estimator)


REFUSED = {
    "LIF refractory": set(SURE) - {"bptt", "bptt triangle"},
    "AdEx": {"rga"},
    "Ex": {"rga"},
    "LSNN": {"bptr", "rga", "hart", "cba"},
    "Izhikevich": {"rga"},
}


@pytest.mark.parametrize("name", STEPWISE)
def test_an_estimator_that_a_neuron_cannot_carry_is_refused_by_its_path(name):
    net = adapted(name)
    for known, estimator in SURE.items():
        if known not in REFUSED.get(name, ()):
            assert rs.input_gradient(net, X, Y, estimator=estimator).isfinite().all()
            continue
        with pytest.raises(AdaptError, match=r"of norse at [15] .*; use BPTT") as refusal:
            rs.input_gradient(net, X, Y, estimator=estimator)
        assert known in refusal.value.args[0].lower()


def test_refractory_layers_over_time_are_refused_the_same():
    def make():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return nt.SequentialState(nn.Flatten(2), nt.LIFRefracRecurrent(36, 4).double())

    net = rs.adapt(make(), T, images=X)
    assert rs.input_gradient(net, X, Y, estimator=rs.BPTT(rs.Triangle())).any()
    for estimator in (rs.HART(), rs.PDSG(), rs.ASSG()):
        with pytest.raises(AdaptError, match="LIFRefracRecurrent of norse at 1"):
            rs.input_gradient(net, X, Y, estimator=estimator)


class Custom(nn.Module):
    """A cell of the user's: Norse's own step with Norse's threshold, in a module of the user's."""

    def __init__(self, step):
        super().__init__()
        self.p, self.step = nt.LIFBoxParameters(tau_mem_inv=torch.tensor(500.0)), step

    def forward(self, x, state=None):
        v = torch.zeros_like(x) if state is None else state
        v = v + 0.5 * (x - v)
        z = self.step(v - self.p.v_th, self.p.method, self.p.alpha)
        return z, (1 - z) * v


class ByName(Custom):
    def __init__(self):
        super().__init__(None)
        self.step = self.of_module

    def of_module(self, d, method, alpha):
        return threshold(d, method, alpha)


def test_a_users_own_cell_carries_everything_if_its_module_names_norses_threshold():
    net = rs.adapt(stepwise(ByName), T, images=X)
    box = adapted("LIF box")
    for name, estimator in SURE.items():
        found, expected = (rs.input_gradient(model, X, Y, estimator=estimator) for model in (net, box))
        assert gap(found, expected) < 1e-12, name


def test_a_users_own_cell_that_fires_by_a_function_of_its_own_is_refused():
    from norse.torch.functional.superspike import super_fn

    net = rs.adapt(stepwise(lambda: Custom(lambda d, method, alpha: super_fn(d, alpha))), T, images=X)
    rs.input_gradient(net, X, Y)
    for name, estimator in SURE.items():
        if name == "bptt":
            continue
        with pytest.raises(AdaptError, match="Custom of norse at 1"):
            rs.input_gradient(net, X, Y, estimator=estimator)


# State


class Keeping(nn.Module):
    """Keeps its neurons' states and the sum of its voltages from one call to the next; `fresh` is what repairs it."""

    def __init__(self, fresh):
        super().__init__()
        self.fresh, self.kept = fresh, (None, None, 0.0)
        self.hidden, self.lif = nn.Linear(64, 40), nt.LIFCell()
        self.linear, self.out = nn.Linear(40, 10), nt.LICell()

    def forward(self, x):
        first, last, total = (None, None, 0.0) if self.fresh else self.kept
        for _ in range(8):
            z, first = self.lif(self.hidden(x.flatten(1)), first)
            v, last = self.out(self.linear(z), last)
            total = total + v
        if not self.fresh:
            self.kept = (first, last, total)
        return total


@pytest.fixture(scope="module")
def keeping(digits):
    """(a network that keeps state and was trained with a reset before every batch, test images, labels)."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net, train = Keeping(fresh=True), digits.train.subset(500)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(4):
        for part in torch.randperm(len(train.labels)).split(50):
            optimiser.zero_grad()
            F.cross_entropy(net(train.images[part]), train.labels[part]).backward()
            optimiser.step()
    test = digits.test.subset(100)
    return net, test.images, test.labels


def plain_pgd(net, x, y, eps=0.15, steps=10):
    here = x.clone()
    for _ in range(steps):
        here.requires_grad_()
        gradient = torch.autograd.grad(F.cross_entropy(net(here), y, reduction="sum"), here)[0]
        here = (here.detach() + 0.25 * eps * gradient.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    return here


def accuracy(net, x, y):
    with torch.no_grad():
        return float((net(x).argmax(1) == y).double().mean())


def test_a_leak_of_state_overstates_robustness_and_is_refused(keeping):
    net, x, y = keeping
    leaking = copy.deepcopy(net)
    leaking.fresh = False
    with pytest.raises(AdaptError, match=r"keeps state outside its neurons.*reset that state in its forward"):
        rs.adapt(copy.deepcopy(leaking), images=x[:4])
    overstated = accuracy(net, plain_pgd(leaking, x, y), y)
    right = accuracy(net, plain_pgd(net, x, y), y)
    attack = rs.PGD(rs.Linf(0.15), 10, step_size=0.0375, random_start=False)
    model = rs.adapt(copy.deepcopy(net), images=x[:4])
    assert accuracy(model, attack(model, x, y), y) == right
    assert accuracy(model, x, y) > 0.85
    assert overstated > right + 0.2


def test_a_refused_network_is_left_as_it_was(keeping):
    leaking = copy.deepcopy(keeping[0])
    leaking.fresh = False
    before = dict(vars(leaking))
    with pytest.raises(AdaptError):
        rs.adapt(leaking, images=keeping[1][:4])
    assert vars(leaking) == before
    assert leaking.kept == (None, None, 0.0)


def test_steps_without_memory_are_refused():
    """A step that neither takes nor returns state begins anew at every step."""

    class Forgetful(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = stepwise()

        def forward(self, x):
            return self.net(x)[0]

    with pytest.raises(AdaptError, match=r"one step per call.*state"):
        rs.adapt(Forgetful(), T, images=X)
    assert rs.adapt(Forgetful(), 1, images=X).takes == "step"


def test_a_membrane_readout_is_the_voltage_of_the_last_neuron_at_each_step():
    net = adapted("LIF", readout="membrane")
    own, state, voltages = stepwise(), None, []
    with torch.no_grad():
        for _ in range(T):
            _, state = own(X, state)
            voltages.append(state[-1].v)
        assert torch.equal(net(X), torch.stack(voltages).mean(0))


class Regularised(Looping):
    """Norse's regularisation cell counts spikes, over all calls unless somebody stops it."""

    def __init__(self):
        super().__init__()
        self.count = nt.RegularizationCell()

    def forward(self, x):
        s0 = s1 = so = None
        for _ in range(T):
            z, s0 = self.lif0(self.convolution(x), s0)
            z, _ = self.count(z, s0)
            z, s1 = self.lif1(self.linear(F.max_pool2d(z, 2).flatten(1)), s1)
            v, so = self.out(z, so)
        return v


def test_what_a_regularisation_cell_counts_does_not_pile_up():
    net = Regularised()
    model = rs.adapt(net, images=X)
    for estimator in SURE.values():
        rs.input_gradient(model, X, Y, estimator=estimator)
        assert net.count.state is None


def test_initial_states_as_cells_make_them_may_be_given():
    class Beginning(Looping):
        def forward(self, x):
            s0 = self.lif0.initial_state(self.convolution(x))
            return self.voltages(x, s0).amax(0)

    with torch.random.fork_rng():
        torch.manual_seed(3)
        nets = rs.adapt(Beginning(), images=X), adapted("loop")
    for name, estimator in SURE.items():
        found, expected = (rs.input_gradient(net, X, Y, estimator=estimator) for net in nets)
        assert gap(found, expected) < 1e-12, name


def test_a_loop_that_changes_the_state_between_steps_is_refused_under_estimators():
    class Fading(Looping):
        def forward(self, x):
            s0 = s1 = so = None
            for _ in range(T):
                z, s0 = self.lif0(self.convolution(x), s0)
                s0 = s0._replace(v=0.9 * s0.v)
                z, s1 = self.lif1(self.linear(F.max_pool2d(z, 2).flatten(1)), s1)
                v, so = self.out(z, so)
            return v

    net = rs.adapt(Fading(), images=X)
    assert rs.input_gradient(net, X, Y, estimator=rs.BPTT(rs.Triangle())).any()
    with pytest.raises(AdaptError, match="the state of LIFCell of norse at lif0"):
        rs.input_gradient(net, X, Y, estimator=rs.BPTR())


# Nothing is left behind


def thresholds():
    modules = [
        m for name, m in sys.modules.items() if name.startswith("norse.torch.functional") and isinstance(m, ModuleType)
    ]
    return {m.__name__: vars(m)["threshold"] for m in modules if callable(vars(m).get("threshold"))}


def record(net):
    hooks = [[dict(value) for name, value in vars(m).items() if name.endswith("_hooks")] for m in net.modules()]
    return [dict(vars(m)) for m in net.modules()], hooks, [m.training for m in net.modules()]


@pytest.mark.parametrize("name", ["LIF", "sequence", "recurrent loop"])
def test_an_exception_leaves_nothing_behind(name):
    make, _, steps, _ = NETWORKS[name]
    net = make()
    fires, state = thresholds(), {key: value.clone() for key, value in net.state_dict().items()}
    assert len(fires) >= 8
    assert set(fires.values()) == {threshold}
    attributes, hooks, training = record(net)
    text = pickle.dumps(net.state_dict())
    model = rs.adapt(net, steps, images=X)
    for estimator in SURE.values():
        rs.PGD(rs.Linf(0.1), 2, estimator=estimator)(model, X, Y)
        handle = list(net.modules())[-1].register_forward_hook(_fail)
        with pytest.raises(RuntimeError, match="mid-way"), rs.estimating(model, estimator):
            model(X.clone().requires_grad_())
        handle.remove()
    assert thresholds() == fires
    assert record(net)[1:] == (hooks, training)
    for before, now in zip(attributes, record(net)[0], strict=True):
        assert before.keys() == now.keys()
        assert all(before[key] is now[key] for key in before)
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in state.items())
    assert pickle.dumps(net.state_dict()) == text


def _fail(module, args, out):
    raise RuntimeError("mid-way")


def test_copies():
    net = adapted("residual")
    other = copy.deepcopy(net)
    assert other.model.lif is spiking_layers(other)["lif"].neuron
    assert other.model.lif is not net.model.lif
    for name, estimator in SURE.items():
        found, expected = (rs.input_gradient(each, X, Y, estimator=estimator) for each in (other, net))
        assert torch.equal(found, expected), name
    again = rs.adapt(copy.deepcopy(net.model), T, images=X)
    assert torch.equal(again(X), net(X))


def test_pickles_where_norse_has_them():
    net = adapted("IAF")
    other = pickle.loads(pickle.dumps(net))
    assert isinstance(other, Adapted)
    for estimator in SURE.values():
        found, expected = (rs.input_gradient(each, X, Y, estimator=estimator) for each in (other, net))
        assert torch.equal(found, expected)
    with pytest.raises(pickle.PicklingError, match="LIFParameters"):
        pickle.dumps(nt.LIFCell())


def test_two_threads_do_not_disturb_each_other():
    """Each with a network and a surrogate of its own, switched as often as Python can."""
    jobs = [
        ("LIF", rs.BPTT(rs.Triangle(0.5))),
        ("IAF", rs.BPTT(rs.ArcTan(2.0))),
        ("sequence", rs.PDSG()),
        ("LIF", rs.BPTT()),
    ]
    nets = [rs.adapt(NETWORKS[name][0](), NETWORKS[name][2], images=X) for name, _ in jobs]
    alone = [rs.input_gradient(net, X, Y, estimator=estimator) for net, (_, estimator) in zip(nets, jobs, strict=True)]
    wrong, interval = [], sys.getswitchinterval()

    def work(k):
        try:
            for _ in range(6):
                if not torch.equal(rs.input_gradient(nets[k], X, Y, estimator=jobs[k][1]), alone[k]):
                    wrong.append(k)
        except Exception as error:  # a thread's would be lost
            wrong.append(error)

    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(k,)) for k in range(len(jobs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []
    assert set(thresholds().values()) == {threshold}


# With the rest of the package


@pytest.fixture
def model(keeping):
    return rs.adapt(copy.deepcopy(keeping[0]), images=keeping[1][:4])


def test_an_evaluation_is_written_and_resumed(model, digits, tmp_path):
    data = digits.test.subset(12)
    suite = [rs.PGD(rs.Linf(0.1), 3, estimator=estimator) for estimator in (rs.BPTT(), rs.BPTR(), rs.CBA())]
    options = {"out": tmp_path / "run", "seed": 0, "doubts": 0, "progress": False}
    outcome = rs.evaluate(model, data, suite, **options)
    again = rs.evaluate(model, data, suite, resume=True, **options)
    assert again.robust_accuracy == outcome.robust_accuracy <= outcome.clean_accuracy
    in_one = rs.evaluate(model, data, suite, batch_size=5, **(options | {"out": None}))
    assert in_one.robust_accuracy == outcome.robust_accuracy
    assert outcome.clean_accuracy == accuracy(model.model, data.images, data.labels)


def test_audits_run(model, digits):
    attack = rs.PGD(rs.Linf(0.1), 2, estimator=rs.RGA())
    report = rs.audit(
        model,
        digits.test.subset(6),
        attacks=attack,
        audits=["gradients", "confusion"],
        eps=0.1,
        doubts=0,
        progress=False,
    )
    assert "PGD-2" in str(report.outcome.table())


def test_two_steps_of_training_are_those_of_the_owners_loop(keeping):
    _, x, y = keeping
    torch.manual_seed(0)
    own = Keeping(fresh=True)
    model, objective = rs.adapt(copy.deepcopy(own), images=x[:4]), rs.defences.vanilla()
    losses = []
    for net, loss_of in ((own, lambda net: F.cross_entropy(net(x), y)), (model, lambda net: objective(net, x, y))):
        optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
        losses.append([])
        for _ in range(2):
            optimiser.zero_grad()
            loss = loss_of(net)
            loss.backward()
            optimiser.step()
            losses[-1].append(loss.item())
    assert losses[0] == losses[1]
    assert losses[0][1] != losses[0][0]
    for one, other in zip(own.parameters(), model.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_fit_trains_the_network_itself(digits):
    torch.manual_seed(0)
    net = Keeping(fresh=True)
    before = net.hidden.weight.detach().clone()
    model, data = rs.adapt(net), digits.train.subset(60)
    options = {
        "crop_padding": 0,
        "flip": False,
        "progress": False,
        "accelerator": "cpu",
        "optimizer": "adam",
        "lr": 5e-3,
    }
    rs.fit(model, data, rs.defences.at(rs.PGD(rs.Linf(0.05), 2)), epochs=1, batch_size=20, **options)
    assert not torch.equal(net.hidden.weight, before)
    assert accuracy(net, data.images, data.labels) == accuracy(model, data.images, data.labels)


def test_steps_of_ours_of_a_cell_of_norses_are_what_it_says():
    """The step that the oracle above writes out is Norse's."""
    x, p = torch.rand(5, 2, 3, dtype=torch.float64) * 3, nt.LIFParameters()
    state, zero = None, torch.zeros(2, 3, dtype=torch.float64)
    found = []
    for each in x:
        state = nt.LIFFeedForwardState(zero, zero) if state is None else state
        z, state = lif_feed_forward_step(each, state, p)
        found.append(z)
    assert torch.equal(torch.stack(found), lif_by_hand("bptt", x))
