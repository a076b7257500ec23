"""Networks of snnTorch, as its users write them, under every estimator, attack, evaluation and audit; 1.0 and 0.9."""

import copy
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import robustspike as rs
from robustspike.neurons import spiking_layers

pytest.importorskip("snntorch", reason="snnTorch is not installed; `pip install -e .[dev]` does")

from tests.adapters.snntorch_networks import (
    STEPS,
    FullyConnected,
    Membrane,
    OneNeuronTwice,
    Ours,
    OverSequence,
    Parallel,
    Plain,
    Recurrent,
    Residual,
    Shortcut,
    alpha_zero,
    awake,
    by_hand,
    convolutional,
    hidden,
    lapicque_subtract,
    leaky_none,
    leaky_subtract,
    leaky_subtract_at_once,
    leaky_zero,
    rectified,
    rleaky_subtract,
    seeded,
    snn,
    spikegen,
    surrogate,
    synaptic_subtract,
)

pytestmark = pytest.mark.usefixtures("one_thread")

ATAN = rs.ArcTan(2.0)  # what snnTorch has where nothing is said
EXACT = (rs.BPTT(), rs.BPTT(rs.Triangle()), rs.BPTR(), rs.RGA(), rs.HART(), rs.PDSG(), rs.ASSG())
ESTIMATORS = (*EXACT, rs.CBA())


@dataclass(frozen=True)
class FastSigmoid:
    sharpness: float

    def slope(self, d):
        return 1 / (1 + self.sharpness * d.abs()) ** 2


def images(samples=3, seed=1):
    draws = torch.Generator().manual_seed(seed)
    return torch.rand(samples, 1, 8, 8, generator=draws), torch.arange(samples) % 10


def adapted(net, x, **options):
    """Adapted, the steps said only where the network does not loop over them itself."""
    loops = isinstance(net, FullyConnected | OneNeuronTwice | Recurrent)
    return rs.adapt(net, None if loops else STEPS, images=x, **options)


# Ours, by the weights of the user's network.
def lif(own=ATAN):
    return rs.LIF(leak=0.5, detach_reset=True, surrogate=own)


def plain(step, **constants):
    constants = {"beta": 0.5} | constants
    return Plain(step, ATAN, **constants)


def two_layers(make):
    return lambda net: Ours(STEPS, nn.Flatten(), net.fc1, make(), net.fc2, make())


def chain(make):
    return lambda net: Ours(STEPS, nn.Flatten(), net[1], make(), net[3], make())


def ours_convolutional(net):
    return Ours(STEPS, net[0], lif(), net[2], net[3], net[4], lif(), nn.Flatten(), net[7], lif())


def ours_residual(net):
    def make():
        return lif(FastSigmoid(5.0))

    blocks = [Shortcut(block.layers[0], make()) for stage in net.stages for block in stage]
    head = nn.MaxPool2d(2), nn.Flatten(), net.head["fc"], make()
    return Ours(STEPS, net.stem[0], make(), *blocks, *head)


def ours_twice(net):
    return Ours(STEPS, nn.Flatten(), net.fc1, lif(), net.fc2, lif(), net.fc3)


BETAS = torch.linspace(0.2, 0.9, 20), torch.linspace(0.9, 0.2, 10)


def of_betas():
    return awake(
        hidden(*(snn.Leaky(beta=b, reset_mechanism="zero", init_hidden=True, output=b is BETAS[1]) for b in BETAS))
    )


def ours_of_betas(net):
    neurons = [plain(leaky_zero, beta=b, leak=b) for b in BETAS]
    return Ours(STEPS, nn.Flatten(), net[1], neurons[0], net[3], neurons[1])


def graded(factors, **constants):
    def make():
        first = snn.Leaky(0.5, graded_spikes_factor=factors, reset_mechanism="zero", init_hidden=True, **constants)
        return awake(hidden(first))

    return make


FACTORS = torch.linspace(-1.0, 3.0, 20)


def ours_graded(net):
    return Ours(STEPS, nn.Flatten(), net[1], plain(leaky_zero, leak=0.5, factor=FACTORS.double()), net[3], lif())


def filtered(x, decay):
    weights = torch.tensor([[decay ** (t - s) if s <= t else 0.0 for s in range(len(x))] for t in range(len(x))]).to(x)
    return torch.einsum("ts,s...->t...", weights, x)


def synaptic():
    return plain(synaptic_subtract, alpha=0.8, leak=0.5, drive=lambda x: filtered(x, 0.8))


def alpha():
    ratio = torch.tensor(0.8).log() / (torch.tensor(0.5).log() - torch.tensor(0.8).log()) + 1

    def drive(x):
        return ratio * ((1 / 0.2 - 1 / 0.5) * x if len(x) == 1 else filtered(x, 0.8) - filtered(x, 0.5))

    return plain(alpha_zero, alpha=0.8, drive=drive)


CIRCUIT = {"R": 5.0, "C": 0.2, "time_step": 0.4}


def lapicque():
    return plain(lapicque_subtract, leak=0.6, drive=lambda x: x * 2.0, **CIRCUIT)


def recurrent():
    """RLeaky with a linear layer from its spikes to itself, and with one weight."""
    first = snn.RLeaky(beta=0.5, linear_features=20, init_hidden=True)
    return awake(hidden(first, snn.RLeaky(beta=0.5, all_to_all=False, V=0.4, init_hidden=True, output=True)))


def ours_recurrent(net):
    back = net[2].recurrent
    bias = back.bias.detach().double()
    first = plain(rleaky_subtract, weight=back.weight, bias=bias, drive=lambda x: x + bias)
    return Ours(STEPS, nn.Flatten(), net[1], first, net[3], plain(rleaky_subtract, V=0.4))


def parallel(**constants):
    net = seeded(lambda: Parallel(**constants))
    with torch.no_grad():
        for lif in (net.lif1, net.lif2):
            lif.rnn.weight_ih_l0.mul_(5)
    return net


def ours_parallel(net, factor=1.0):
    def layers(rnn):
        weights = nn.Linear(rnn.input_size, rnn.hidden_size)
        weights.load_state_dict({"weight": rnn.weight_ih_l0, "bias": rnn.bias_ih_l0 + rnn.bias_hh_l0})
        return weights, plain(rectified, factor=factor)

    return Ours(STEPS, nn.Flatten(), *layers(net.lif1.rnn), *layers(net.lif2.rnn))


def shared(make, **constants):
    """A hidden-state network whose two neurons are made alike."""
    return lambda: awake(hidden(make(init_hidden=True, **constants), make(init_hidden=True, output=True, **constants)))


# name: (the user's network, the same in ours)
TWINS = {
    "explicit potentials": (lambda: awake(FullyConnected()), two_layers(lif)),
    "explicit, by subtraction": (
        lambda: awake(FullyConnected(reset_mechanism="subtract")), two_layers(lambda: plain(leaky_subtract, leak=0.5)),
    ),
    "convolutional, hidden state": (lambda: awake(convolutional()), ours_convolutional),
    "a sequence": (lambda: awake(OverSequence()), two_layers(lif)),
    "residual, nested, one surrogate": (lambda: awake(Residual(), 1.5), ours_residual),
    "one neuron for two layers": (lambda: awake(OneNeuronTwice(), 3.0), ours_twice),
    "a decay for each neuron": (of_betas, ours_of_betas),
    "learned decay and threshold": (
        shared(snn.Leaky, beta=0.5, threshold=0.8, learn_beta=True, learn_threshold=True, reset_mechanism="zero"),
        chain(lambda: rs.LIF(leak=0.5, threshold=0.8, detach_reset=True, surrogate=ATAN)),
    ),
    "reset by subtraction": (
        shared(snn.Leaky, beta=0.5, reset_mechanism="subtract"), chain(lambda: plain(leaky_subtract, leak=0.5)),
    ),
    "no reset": (shared(snn.Leaky, beta=0.5, reset_mechanism="none"), chain(lambda: plain(leaky_none, leak=0.5))),
    "reset without delay": (
        shared(snn.Leaky, beta=0.5, reset_mechanism="zero", reset_delay=False),
        chain(lambda: rs.LIF(leak=0.5, surrogate=ATAN)),
    ),
    "by subtraction, without delay": (
        shared(snn.Leaky, beta=0.5, reset_mechanism="subtract", reset_delay=False),
        chain(lambda: plain(leaky_subtract_at_once, leak=0.5)),
    ),
    "graded spikes": (graded(FACTORS), ours_graded),
    "Synaptic": (shared(snn.Synaptic, alpha=0.8, beta=0.5), chain(synaptic)),
    "Synaptic, explicit": (
        lambda: awake(FullyConnected(snn.Synaptic, alpha=0.8, reset_mechanism="subtract")), two_layers(synaptic),
    ),
    "Alpha": (lambda: awake(shared(snn.Alpha, alpha=0.8, beta=0.5)(), 12.0), chain(alpha)),
    "RLeaky": (recurrent, ours_recurrent),
    "RLeaky, explicit": (
        lambda: awake(FullyConnected(snn.RLeaky, all_to_all=False, V=0.4, reset_mechanism="subtract")),
        two_layers(lambda: plain(rleaky_subtract, V=0.4)),
    ),
    "LeakyParallel": (parallel, ours_parallel),
    "LeakyParallel, graded": (lambda: parallel(graded_spikes_factor=2.5), lambda net: ours_parallel(net, 2.5)),
    "Lapicque": (shared(snn.Lapicque, **CIRCUIT), chain(lapicque)),
}  # fmt: skip


NO_LEAK = ("Alpha", "RLeaky", "LeakyParallel")


@pytest.mark.parametrize("name", TWINS)
def test_every_estimator_gives_the_gradient_of_ours(name):
    make, twin = TWINS[name]
    net = make()
    ours = twin(net)
    x, y = clear_images(ours)
    model = adapted(net, x)
    clean = model(x)
    assert torch.equal(clean, by_hand_logits(net, x))
    assert torch.allclose(model(x).double(), ours(x), rtol=1e-6, atol=1e-7)
    for estimator in ESTIMATORS:
        if isinstance(estimator, rs.RGA) and name.split(",")[0] in NO_LEAK:
            with pytest.raises(rs.AdaptError, match=r"no leak that\s+RGA could use"):
                rs.input_gradient(model, x, y, estimator)
            continue
        expected = rs.input_gradient(ours, x, y, estimator)
        found = rs.input_gradient(model, x, y, estimator).double()
        assert expected.abs().max() > 1e-4, estimator
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max(), estimator
        with rs.estimating(model, estimator), rs.estimating(ours, estimator):
            exact = torch.equal(model(x), clean)
            assert exact if estimator in EXACT else torch.allclose(model(x).double(), ours(x), rtol=1e-5, atol=1e-6)


def by_hand_logits(net, x):
    out = by_hand(net, x)
    return (out[0] if isinstance(out, tuple) else out).mean(0)


def clear_images(ours):
    """The first images for which no potential is so near a threshold that rounding decides; all layers fire at times."""
    for seed in range(30):
        x, y = images(seed=seed)
        with rs.gradients.recording(ours) as seen, torch.no_grad():
            ours(x)
        shares = [float(layer.fire(currents).mean()) for layer, currents in seen]
        distances = [float((layer.potentials(currents) - layer.threshold).abs().min()) for layer, currents in seen]
        if min(distances) > 1e-4:
            assert all(0.02 < share < 0.98 for share in shares), shares
            return x, y
    raise AssertionError("no seed gives clear images")


# Potentials that are read out, by plain autograd: no estimator changes a neuron that is only read.
READOUTS = {
    "membrane": ("membrane", lambda mem: mem.mean(0)),
    "the largest potential": (lambda out: out[1].amax(0), lambda mem: mem.amax(0)),
    "the last potential": (lambda out: out[1][-1], lambda mem: mem[-1]),
}


@pytest.mark.parametrize("name", READOUTS)
def test_a_potential_is_read_out(name):
    readout, of_ours = READOUTS[name]
    net = awake(FullyConnected(), 3.0)
    layers = nn.Flatten(), net.fc1, lif(), net.fc2
    x, y = clear_images(Ours(STEPS, *layers, lif()))
    ours = Ours(STEPS, *layers, Membrane(plain(leaky_zero)), readout=of_ours)
    model = adapted(net, x, readout=readout)
    assert torch.equal(model(x), of_ours(by_hand(net, x)[1]))
    for estimator in ESTIMATORS:
        expected = rs.input_gradient(ours, x, y, estimator)
        found = rs.input_gradient(model, x, y, estimator).double()
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max(), estimator
        if estimator in EXACT:
            with rs.estimating(model, estimator):
                assert torch.equal(model(x), of_ours(by_hand(net, x)[1])), estimator


def test_spikes_are_counted():
    net, (x, y) = awake(FullyConnected(reset_mechanism="subtract")), images()
    model = adapted(net, x, readout=lambda out: out[0].sum(0))
    assert torch.equal(model(x), by_hand(net, x)[0].sum(0))
    mean = adapted(net, x)
    assert torch.allclose(
        rs.input_gradient(model, x, y, rs.BPTR(), loss=_first),
        STEPS * rs.input_gradient(mean, x, y, rs.BPTR(), loss=_first),
    )


def _first(logits, y):
    return logits[:, 0]


def recurrent_gradient(net, x, y, estimator):
    """Through a loop with spikes fed back, by plain autograd in float64: slopes are found first, constants then."""
    into, back, out = (copy.deepcopy(layer).double() for layer in (net.into, net.back, net.out))
    x = x.double().requires_grad_()

    def loop(fires):
        mem = [torch.zeros(len(x), width, dtype=torch.float64) for width in (20, 10)]
        spk, seen = [torch.zeros_like(each) for each in mem], ([], [])
        for t in range(STEPS):
            for k in range(2):
                current = into(x.flatten(1)) + back(spk[0]) if k == 0 else out(spk[0])
                mem[k] = 0.5 * mem[k] * (1 - spk[k].detach()) + current
                seen[k].append((current, mem[k], spk_of := fires(k, t, current, mem[k])))
                spk[k] = spk_of
        return [[torch.stack(each) for each in zip(*layer, strict=True)] for layer in seen]

    with torch.no_grad():
        first = loop(lambda k, t, current, u: (u > 1).double())
    slopes = [slopes_of(estimator, *layer) for layer in first]
    temporal = not isinstance(estimator, rs.BPTR | rs.RGA)

    def fires(k, t, current, u):
        return rs.surrogates.with_slope((u > 1).double(), u if temporal else current, slopes[k][t])

    logits = loop(fires)[1][2].mean(0)
    return torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), x)[0]


def slopes_of(estimator, currents, u, spikes):
    """∂s/∂u or ∂s/∂I of every step, from an estimator's definition."""
    if isinstance(estimator, rs.BPTT):
        return (estimator.surrogate or ATAN).slope(u - 1)
    if isinstance(estimator, rs.BPTR):
        return (spikes.amax(0) > 0).double().expand_as(u)
    if isinstance(estimator, rs.RGA):
        return estimator.slope(currents.mean(0), 0.5).expand_as(u)
    if isinstance(estimator, rs.PDSG):
        sigma = torch.stack([u[: t + 1].transpose(0, 1).flatten(1).std(1, correction=0) for t in range(len(u))])[
            ..., None
        ]
        return torch.exp(-0.5 * ((u - 1) / sigma - 0.5) ** 2) / sigma / (2 * torch.pi) ** 0.5
    distance = (u - 1).abs()
    mean = 0.9 + 0.1 * distance
    sharpness = estimator.omega / (mean + 1.5 * 0.1 * (distance - mean).abs() + 1e-4)
    return sharpness * rs.ArcTan(1.0).slope(sharpness * (u - 1))


def test_spikes_fed_back_by_the_user():
    net, (x, y) = awake(Recurrent(), 1.5), images(seed=3)
    model = adapted(net, x)
    assert torch.equal(model(x), by_hand_logits(net, x))
    for estimator in EXACT:
        if isinstance(estimator, rs.HART):
            with pytest.raises(rs.AdaptError, match=r"HART.*recurrent"):
                rs.input_gradient(model, x, y, estimator)
            continue
        expected = recurrent_gradient(net, x, y, estimator)
        found = rs.input_gradient(model, x, y, estimator).double()
        assert expected.abs().max() > 1e-3
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max(), estimator


def test_the_reset_of_the_hidden_state_is_the_adapters():
    net, (x, _) = awake(convolutional(beta=0.9, reset_mechanism="subtract")), images()
    fresh = by_hand_logits(net, x)
    nested = nn.Sequential(nn.Sequential(copy.deepcopy(net)), nn.Identity())  # what utils.reset finds nothing in
    with torch.no_grad():
        for _ in range(3):
            nested(1 - x)
    assert not torch.equal(torch.stack([nested(x)[0] for _ in range(STEPS)]).mean(0), fresh)
    model = adapted(nested, x)
    assert all(torch.equal(model(x), fresh) for _ in range(2))


def two_steps(reset_mechanism, **constants):
    """One pixel, one neuron, weight 1: u = .8, then .4 + .8 = 1.2, which fires; by subtraction .6 + .8 − 1 = .4 follows."""
    net = hidden(beta=0.5, reset_mechanism=reset_mechanism)[2:3]
    net[0].output = True
    return net.eval(), torch.full((1, 1), 0.8)


def test_two_steps_by_hand():
    """u = .8, 1.2: with a rectangle of width 1 both slopes are 1 and ∂s₂/∂x = 1 + ½; with an arctan 1/(1 + (.2π)²)."""
    net, x = two_steps("subtract")
    model = rs.adapt(net, 2, images=x)
    with torch.no_grad():
        assert model(x).tolist() == [[0.5]]
    (neuron,) = spiking_layers(model).values()
    currents = torch.full((3, 1, 1), 0.8)
    assert neuron.potentials(currents).flatten().tolist() == pytest.approx([0.8, 1.2, 0.4])
    assert neuron.fire(currents).flatten().tolist() == [0, 1, 0]
    assert (neuron.leak, neuron.threshold) == (0.5, 1.0)
    at_threshold = neuron.fire(
        torch.ones(2, 1, 1), rs.Triangle()
    )  # u = 1, then 1.5: it fires above, not at, the threshold
    assert at_threshold.flatten().tolist() == neuron.fire(torch.ones(2, 1, 1)).flatten().tolist() == [0, 1]
    arctan = 1 / (1 + (0.2 * torch.pi) ** 2)
    for estimator, expected in [
        (rs.BPTT(rs.Rectangle(1.0)), (1 + 1.5) / 2),
        (rs.BPTT(), arctan * (1 + 1.5) / 2),
        (rs.BPTR(), 1.0),  # it fired at least once
        (rs.RGA(0.2), 0.2 * 0 + (1 - 0.2 + 0.1) / 1.5),  # x̄ = .8 > 1 − λ
        (rs.HART(1.0), 0.8),  # the triangle at ±.2
    ]:
        found = rs.input_gradient(model, x, torch.zeros(1, dtype=torch.int64), estimator, loss=_first)
        assert found.item() == pytest.approx(expected), estimator


def test_two_steps_by_hand_reset_to_zero():
    """u = .8, 1.2, then from 0 again: .8."""
    net, x = two_steps("zero")
    (neuron,) = spiking_layers(rs.adapt(net, 2, images=x)).values()
    assert neuron.potentials(torch.full((3, 1, 1), 0.8)).flatten().tolist() == pytest.approx([0.8, 1.2, 0.8])


def record(net):
    """All that a network and its framework hold: values, and which objects they are."""
    held = []
    for module in net.modules():
        for name, value in vars(module).items():
            inner = value.items() if isinstance(value, dict) else [("", value)]
            held += [(id(module), name, key, id(each), _value(each)) for key, each in inner]
    return held, list(map(id, snn.SpikingNeuron.instances)), list(net.state_dict())


def _value(value):
    if not isinstance(value, torch.Tensor):
        return value if isinstance(value, bool | int | float | str) else None
    grad = value.grad.tolist() if value.is_leaf and value.grad is not None else None
    return value.detach().tolist(), value.requires_grad, grad, id(value.grad_fn)


class Fuse(nn.Module):
    """Fails when it is called once more than it stands."""

    def __init__(self):
        super().__init__()
        self.left = None

    def forward(self, x):
        if self.left is not None:
            self.left[0] -= 1
            if self.left[0] < 0:
                raise OSError("blown")
        return x


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_nothing_is_left_behind(estimator):
    (x, y), calls = images(), []
    net = awake(hidden(beta=0.9, learn_beta=True)).train()
    net[1].eval()
    net.insert(3, Fuse())
    net[2].register_forward_hook(lambda *given: calls.append(1))
    net(x)[0].sum().backward()  # as after training: gradients, and a state with a graph
    before = record(net)
    model = adapted(net, x)
    rs.PGD(rs.Linf(0.1), steps=2, estimator=estimator)(model, x, y)
    assert record(net) == before
    assert calls
    net[3].left = [2]
    before = record(net)
    with pytest.raises(OSError, match="blown"), rs.estimating(model, estimator):  # noqa: PT012
        model(x[:1] if getattr(estimator, "without_time", False) else x)
        model(x)
        model(x)
    assert record(net) == before
    assert all(layer.gradient_rule is None and layer.original is None for layer in spiking_layers(model).values())


def test_copies():
    net, (x, y) = awake(hidden(beta=0.9)), images()
    model = adapted(net, x)
    model(x.clone().requires_grad_()).sum().backward()
    fresh, copied = copy.deepcopy(net), copy.deepcopy(model)
    net[1].weight.data.zero_()
    for each in (adapted(fresh, x), copied):
        assert torch.equal(each(x), by_hand_logits(fresh, x))
        assert torch.equal(
            rs.input_gradient(each, x, y, rs.RGA()), rs.input_gradient(adapted(fresh, x), x, y, rs.RGA())
        )
    assert not torch.equal(model(x), copied(x))


def test_a_copy_after_a_loop_of_the_owners():
    """snnTorch's state then holds a graph, which PyTorch does not copy."""
    net, (x, _) = (
        awake(
            hidden(
                snn.Leaky(beta=0.9, init_hidden=True),
                snn.RLeaky(beta=0.9, all_to_all=False, init_hidden=True, output=True),
            )
        ),
        images(),
    )
    fresh = by_hand_logits(net, x)
    net(x)
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(net)
    copied = copy.deepcopy(adapted(net, x))
    assert torch.equal(copied(x), fresh)
    assert net[2].mem.requires_grad  # the owner's is as it was


def test_how_the_owner_froze_parts_of_the_network_stays():
    net = awake(hidden()).train()
    net[1].eval()
    model = rs.adapt(net, STEPS)
    assert model.training
    assert not net[1].training


def test_one_part_of_the_state_is_given_by_name():
    class Charged(FullyConnected):
        def forward(self, x):
            mem = torch.full((len(x), 20), 0.9)
            return self.fc2(self.lif1(self.fc1(x.flatten(1)), mem=mem)[0])

    net, (x, y) = awake(Charged(snn.Synaptic, alpha=0.8, reset_mechanism="subtract")), images()
    model = rs.adapt(net, 1, images=x)
    assert torch.equal(model(x), by_hand(net, x))
    assert not torch.equal(model(x), net.fc2((net.fc1(x.flatten(1)) > 1).float()))
    assert torch.equal(rs.input_gradient(model, x, y, rs.BPTT(ATAN)), rs.input_gradient(model, x, y))


def test_a_network_that_was_never_called_stays_so_and_the_class_wide_list_of_neurons_does_not_grow():
    net, (x, y) = awake(hidden()), images()
    before, untouched = list(snn.SpikingNeuron.instances), record(net)
    model = adapted(net, x)
    rs.evaluate(model, split(x, y), rs.PGD(rs.Linf(0.1), steps=1), doubts=0, progress=False)
    assert all(a is b for a, b in zip(before, snn.SpikingNeuron.instances, strict=True))
    assert record(net) == untouched


def split(x, y):
    return rs.data.Split(x, y)


def owners_loop(net, x, steps, fresh=True):
    """Spikes and potentials [T, N, K] of a network with hidden state, as its owner trains and attacks it."""
    for module in net.modules():
        if fresh and hasattr(module, "reset_mem"):
            module.reset_mem()
    return map(torch.stack, zip(*(net(x) for _ in range(steps)), strict=True))


TRAINED_STEPS = 4


@pytest.fixture(scope="module")
def learned(digits):
    """A network with hidden state that knows some digits, trained by a loop of its owner's."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 32), snn.Leaky(beta=0.95, init_hidden=True),
            nn.Linear(32, 10), snn.Leaky(beta=0.95, init_hidden=True, output=True),
        )  # fmt: skip
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        data = digits.train.subset(400)
        for _ in range(6):
            for batch in torch.randperm(400).split(50):
                spk, mem = owners_loop(net, data.images[batch], TRAINED_STEPS)
                loss = F.cross_entropy(mem.mean(0), data.labels[batch]) + F.cross_entropy(
                    4 * spk.mean(0), data.labels[batch]
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    torch.set_num_threads(threads)
    return net


EPS = 0.15


def plain_pgd(net, x, y, fresh):
    """Ten steps as a script would take them."""
    found = x
    for _ in range(10):
        found = found.detach().requires_grad_()
        spk, _ = owners_loop(net, found, TRAINED_STEPS, fresh)
        (gradient,) = torch.autograd.grad(F.cross_entropy(spk.mean(0), y), found)
        found = (found + EPS / 4 * gradient.sign()).clamp(x - EPS, x + EPS).clamp(0, 1)
    return found.detach()


def plain_accuracy(net, x, y, fresh):
    with torch.no_grad():
        spk, _ = owners_loop(net, x, TRAINED_STEPS, fresh)
    return float((spk.mean(0).argmax(1) == y).float().mean())


def test_a_state_that_leaks_looks_robust_and_is_none_here(learned, digits):
    data = digits.test.subset(100)
    x, y = data.images, data.labels
    leaking, right = (plain_accuracy(learned, plain_pgd(learned, x, y, fresh), y, fresh) for fresh in (False, True))
    assert plain_accuracy(learned, x, y, fresh=True) > 0.9
    assert leaking > right + 0.1
    model = rs.adapt(learned, TRAINED_STEPS, images=x[:2])
    attack = rs.PGD(rs.Linf(EPS), steps=10, step_size=EPS / 4, random_start=False)
    with torch.no_grad():
        learned(x)  # a state left over from elsewhere
    assert torch.equal(attack(model, x, y), plain_pgd(learned, x, y, fresh=True))
    outcome = rs.evaluate(model, data, attack, doubts=0, progress=False)
    assert outcome.robust_accuracy == pytest.approx(right)


def test_a_surrogate_that_is_nan_looks_robust_and_is_said_to_be(learned, digits):
    """sigmoid(25)'s derivative is exp(25·|d|)/exp(25·|d|)²: inf/inf for potentials 3.5 below the threshold."""
    net, data = copy.deepcopy(adapted_learned(learned)).model, digits.test.subset(24)
    for lif in net[2], net[4]:
        lif.spike_grad = surrogate.sigmoid(25)
    model = rs.adapt(net, TRAINED_STEPS, images=data.images[:2])
    attacks = [
        rs.PGD(rs.Linf(EPS), steps=5, random_start=False, estimator=e) for e in (rs.BPTT(), rs.BPTT(rs.ArcTan()))
    ]
    assert rs.input_gradient(model, data.images, data.labels).isnan().any()
    with torch.no_grad():
        right = model(data.images).argmax(1) == data.labels
    blind, seeing = (attack(model, data.images, data.labels) for attack in attacks)
    assert (blind == data.images).flatten(1).all(1)[right].float().mean() > 0.8
    outcome = rs.evaluate(model, data, attacks, survivors_only=False, doubts=4, progress=False)
    own, ours = outcome.summary().members
    assert own.nan_share > 0.8
    assert ours.nan_share == 0
    assert own.alone.value > outcome.clean_accuracy - 0.1
    assert ours.alone.value < outcome.clean_accuracy - 0.5
    assert any(not finding.passed and "NaN" in finding.evidence for finding in outcome.doubts.findings)
    assert rs.input_gradient(model, seeing, data.labels, rs.BPTT(rs.ArcTan())).isfinite().all()


def adapted_learned(learned):
    return rs.adapt(learned, TRAINED_STEPS, images=torch.rand(2, 1, 8, 8))


class Rate(nn.Module):
    """The tutorials' encoder within the network: a function, or a module, whose gradient is 0."""

    def __init__(self, encode):
        super().__init__()
        self.encode, self.net = encode, awake(OverSequence())

    def forward(self, x):
        return self.net(self.encode(x))


class RateModule(nn.Module):
    def forward(self, x):
        return spikegen.rate(x, num_steps=STEPS)


@pytest.mark.parametrize(
    "encode", [lambda x: spikegen.rate(x, num_steps=STEPS), lambda x: spikegen.latency(x, num_steps=STEPS)]
)
def test_an_encoder_without_gradient_is_refused(encode):
    x, _ = images()
    with pytest.raises(rs.AdaptError, match=r"gradient (that )?reaches the images.*give encoder= to adapt"):
        rs.adapt(Rate(encode), images=x)


def test_an_encoder_that_is_a_module_is_passed_straight_through():
    x, y = images()
    model = rs.adapt(Rate(RateModule()), images=x)
    assert model.straight_through == ("encode",)
    assert rs.input_gradient(model, x, y).any()


def test_silent_and_unlearnt_networks_are_not_refused():
    """No spike, no weight in the last layer, a surrogate that is 0 far from the threshold: the gradient is 0 in honesty."""
    x, _ = images()
    dead = awake(hidden())
    dead[1].bias.data.fill_(-50.0)
    unlearnt = awake(hidden())
    unlearnt[3].weight.data.zero_()
    blunt = awake(hidden(spike_grad=surrogate.custom_surrogate(lambda u, g, out: g * (u.abs() < 1e-6))))
    for net in (dead, unlearnt, blunt):
        assert torch.equal(adapted(net, x)(x), by_hand_logits(net, x))


def test_a_network_without_surrogate_is_attacked_with_ours():
    net, (x, y) = awake(hidden(surrogate_disable=True)), images()
    twin = awake(hidden())
    assert not rs.input_gradient(adapted(net, x), x, y).any()
    for estimator in (rs.BPTT(rs.Triangle()), *EXACT[2:]):
        expected = rs.input_gradient(adapted(twin, x), x, y, estimator)
        assert torch.equal(rs.input_gradient(adapted(net, x), x, y, estimator), expected)


class Decaying(FullyConnected):
    """The potential is weakened between steps, in one of several ways."""

    def __init__(self, weaken):
        super().__init__()
        self.weaken = weaken

    def forward(self, x):
        mem, rec = self.lif1.init_leaky(), []
        for _ in range(STEPS):
            spk, mem = self.lif1(self.fc1(x.flatten(1)), mem)
            mem = self.weaken(mem)
            rec.append(self.fc2(spk))
        return torch.stack(rec)


@pytest.mark.parametrize("weaken", [lambda mem: mem * 0.9, lambda mem: mem.mul_(0.9), lambda mem: (mem * 0.9).detach()])
def test_a_state_changed_between_steps_is_followed_by_bptt_alone(weaken):
    net, (x, y) = awake(Decaying(weaken)), images()
    model = rs.adapt(net, images=x)
    assert torch.equal(model(x), by_hand_logits(net, x))
    for estimator in (rs.BPTT(), rs.BPTT(rs.ArcTan())):
        assert torch.equal(rs.input_gradient(model, x, y, estimator), rs.input_gradient(model, x, y))
    for estimator in EXACT[2:]:
        with pytest.raises(
            rs.AdaptError, match=r"state of Leaky of snntorch at lif1 is not passed on .* use BPTT\(surrogate\)"
        ):
            rs.input_gradient(model, x, y, estimator)


def test_hidden_state_changed_between_steps():
    class Meddling(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = awake(hidden())

        def forward(self, x):
            rec = []
            for _ in range(STEPS):
                rec.append(self.net(x)[0])
                self.net[2].mem = self.net[2].mem * 0.9
            return torch.stack(rec)

    x, y = images()
    model = rs.adapt(Meddling(), images=x)
    with pytest.raises(rs.AdaptError, match=r"state of Leaky of snntorch at net.2 is not passed on"):
        rs.input_gradient(model, x, y, rs.BPTR())


def test_a_neuron_run_twice_from_fresh_state_is_two_neurons():
    """Layer by layer instead of step by step, with one instance that is reset between the layers."""

    class LayerByLayer(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2, self.fc3 = nn.Linear(64, 20), nn.Linear(20, 20), nn.Linear(20, 10)
            self.lif = snn.Leaky(beta=0.5, reset_mechanism="zero", init_hidden=True)

        def forward(self, x):
            first = [self.lif(self.fc1(x.flatten(1))) for _ in range(STEPS)]
            self.lif.reset_mem()
            return torch.stack([self.fc3(self.lif(self.fc2(spk))) for spk in first])

    net = awake(LayerByLayer(), 3.0)
    ours = ours_twice(net)
    x, y = clear_images(ours)
    model = rs.adapt(net, images=x)
    for estimator in ESTIMATORS[:-1]:
        expected = rs.input_gradient(ours, x, y, estimator)
        found = rs.input_gradient(model, x, y, estimator).double()
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max(), estimator


def test_only_the_largest_potential_fires():
    with pytest.warns(UserWarning, match="Inhibition is an unstable feature"):
        net = awake(hidden(snn.Leaky(beta=0.5, inhibition=True, init_hidden=True)), 4.0)
    x, y = images()
    model = adapted(net, x)
    assert torch.equal(model(x), by_hand_logits(net, x))
    assert torch.equal(rs.input_gradient(model, x, y, rs.BPTT(ATAN)), rs.input_gradient(model, x, y))


def test_a_decay_is_held_between_0_and_1():
    x, _ = images()
    layers = spiking_layers(adapted(awake(hidden(beta=torch.tensor(1.4))), x)).values()
    assert [float(layer.leak) for layer in layers] == [1.0, 1.0]


class Analog(snn.Leaky):
    """Its output is no spike."""

    def forward(self, input_, mem=None):
        spk, mem = super().forward(input_, mem)
        return spk * mem, mem


def test_neurons_that_carry_no_estimator():
    x, y = images()
    model = adapted(awake(hidden(Analog(beta=0.5, init_hidden=True, output=True), None)[:3] + nn.Sequential(Tail())), x)
    for estimator in EXACT[2:]:
        with pytest.raises(rs.AdaptError, match=rf"Analog of snntorch at 2 cannot carry {type(estimator).__name__}"):
            rs.input_gradient(model, x, y, estimator)
    assert rs.input_gradient(model, x, y).any()


class Tail(nn.Module):
    """Reads a neuron with output=True."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 10)

    def forward(self, given):
        return self.fc(given[0])


@pytest.mark.parametrize("make", [lambda: snn.SLSTM(20, 20, threshold=0.1, init_hidden=True), lambda: conv_lstm()])
def test_neurons_whose_input_is_no_current(make):
    neuron, (x, y) = seeded(make), images()
    before = [nn.Flatten(), nn.Linear(64, 20)] if isinstance(neuron, snn.SLSTM) else []
    between = nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
    net = nn.Sequential(*before, neuron, between, snn.Leaky(beta=0.5, init_hidden=True, output=True))
    by_hand(net, x)
    net = awake(net)
    model = adapted(net, x)
    assert torch.equal(model(x), by_hand_logits(net, x))
    for estimator in (rs.BPTR(), rs.RGA(), rs.HART(), rs.CBA()):
        with pytest.raises(
            rs.AdaptError, match=r"LSTM of snntorch at \d does not say how its input reaches its membrane"
        ):
            rs.input_gradient(model, x, y, estimator)
    for estimator in (rs.BPTT(), rs.BPTT(rs.Triangle(4.0)), rs.PDSG(), rs.ASSG()):
        assert rs.input_gradient(model, x, y, estimator).any()


def conv_lstm():
    return snn.SConv2dLSTM(1, 3, 3, max_pool=2, threshold=0.1, init_hidden=True)


# Those of both releases and those of 1.0: (what makes one of 20 inputs, the estimators that it refuses).
OTHERS = {
    "RSynaptic": (lambda: snn.RSynaptic(0.8, 0.5, linear_features=20, threshold=0.5, init_hidden=True), (rs.RGA,)),
    "DeltaLeaky": (lambda: snn.DeltaLeaky(delta_threshold=0.3, beta=0.5, init_hidden=True), (rs.RGA,)),
    "StateLeaky": (lambda: snn.StateLeaky(0.5, 20), (rs.RGA,)),
    "AssociativeLeaky": (
        lambda: snn.AssociativeLeaky(20, 4, 5, 20, use_q_projection=False),
        (rs.BPTR, rs.RGA, rs.HART, rs.CBA),
    ),
}


class First(nn.Module):
    """What a neuron returned first."""

    def __init__(self, neuron):
        super().__init__()
        self.neuron = neuron

    def forward(self, x):
        out = self.neuron(x)
        return out[0] if isinstance(out, tuple) else out


@pytest.mark.parametrize("name", OTHERS)
def test_other_neurons(name):
    if not hasattr(snn, name):
        pytest.skip(f"snnTorch {snn.__version__} has no {name}")
    make, refused = OTHERS[name]
    net, (x, y) = (
        awake(nn.Sequential(nn.Flatten(-3), nn.Linear(64, 20), First(seeded(make)), nn.Linear(20, 10)), 3.0),
        images(),
    )
    model = adapted(net, x)
    clean = by_hand_logits(net, x) if model.takes == "step" else net(torch.stack([x] * STEPS)).mean(0)
    assert torch.equal(model(x), clean)
    assert torch.equal(rs.input_gradient(model, x, y, rs.BPTT(ATAN)), rs.input_gradient(model, x, y))
    for estimator in ESTIMATORS:
        if isinstance(estimator, refused):
            with pytest.raises(rs.AdaptError, match=f"{name} of snntorch at 2.neuron"):
                rs.input_gradient(model, x, y, estimator)
        else:
            assert rs.input_gradient(model, x, y, estimator).any()


def test_time_steps_that_are_missing_or_wrong():
    x, _ = images()
    with pytest.raises(rs.AdaptError, match=r"takes one step per call: say time_steps="):
        rs.adapt(hidden(), images=x)
    with pytest.raises(rs.AdaptError, match=r"takes a sequence \[T, N, ...\] per call: say time_steps="):
        rs.adapt(OverSequence(), images=x)
    with pytest.raises(rs.AdaptError, match=r"loops over 5 time steps itself, got time_steps=8"):
        rs.adapt(FullyConnected(), 8, images=x)
    with pytest.raises(rs.AdaptError, match=r"no way to call the network: .*check the images' shape"):
        rs.adapt(nn.Sequential(*hidden()[1:]), STEPS, images=x)


def test_how_a_network_is_called_is_found():
    x, _ = images()
    found = [
        (m.takes, m.time_steps)
        for m in (adapted(net, x) for net in (FullyConnected(), hidden(), OverSequence(), Parallel()))
    ]
    assert found == [("images", STEPS), ("step", STEPS), ("sequence", STEPS), ("sequence", STEPS)]


def test_second_derivatives_through_an_estimator_are_refused():
    net, (x, _) = awake(hidden()), images()
    model = adapted(net, x)
    x.requires_grad_()
    with rs.estimating(model, rs.BPTR()), pytest.raises(rs.AdaptError, match="second derivatives"):
        torch.autograd.grad(model(x).sum(), x, create_graph=True)


@pytest.mark.skipif(not hasattr(snn, "LinearLeaky"), reason="new in snnTorch 1.0")
def test_neurons_that_return_the_state_of_all_steps():
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.lif1, self.lif2 = snn.LinearLeaky(0.5, 64, 20), snn.LinearLeaky(0.5, 20, 10)

        def forward(self, x):
            spk, _ = self.lif1(x.flatten(2))
            return self.lif2(spk)

    net, (x, y) = awake(Whole()), images()
    model = adapted(net, x, readout="membrane")
    assert model.takes == "sequence"
    whole = net(torch.stack([x] * STEPS))[1].mean(0)
    for estimator in ESTIMATORS:
        if isinstance(estimator, rs.RGA):
            continue
        assert rs.input_gradient(model, x, y, estimator).any(), estimator
        if estimator in EXACT:
            with rs.estimating(model, estimator):
                assert torch.equal(model(x), whole)


def test_an_evaluation_is_resumed(learned, digits, tmp_path):
    data, model = digits.test.subset(12), adapted_learned(learned)
    suite = [rs.fgsm(rs.Linf(0.1)), rs.PGD(rs.Linf(0.1), steps=4, estimator=rs.RGA())]
    whole = rs.evaluate(model, data, suite, batch_size=6, doubts=0, progress=False)
    whole_again = rs.evaluate(model, data, suite, out=tmp_path, batch_size=6, doubts=0, progress=False)
    assert whole_again.fooled.tolist() == whole.fooled.tolist()
    rows = (tmp_path / "samples.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "samples.jsonl").write_text("".join(rows[: len(rows) // 2]))
    with torch.no_grad():
        learned(data.images)  # the neurons' state is no part of what the network is
    rest = rs.evaluate(
        adapted_learned(learned), data, suite, out=tmp_path, resume=True, batch_size=6, doubts=0, progress=False
    )
    assert rest.fooled.tolist() == whole.fooled.tolist()
    assert rest.robust_accuracy < rest.clean_accuracy


def test_audits(learned, digits):
    data, model = digits.test.subset(4), adapted_learned(learned)
    attack = rs.PGD(rs.Linf(0.1), steps=2)
    outcome = rs.evaluate(model, data, attack, doubts=0, progress=False)
    report = rs.audit(model, data, attacks=outcome, eps=0.1, audits=["gradients", "confusion"], progress=False)
    assert report.outcome.robust_accuracy == outcome.robust_accuracy


def test_training_is_that_of_the_owners_loop():
    net, (x, y) = awake(hidden(beta=0.9, learn_beta=True, learn_threshold=True)).train(), images()
    model = adapted(net, x)
    spk, _ = owners_loop(net, x, STEPS)
    F.cross_entropy(spk.mean(0), y).backward()
    theirs = [p.grad for p in net.parameters()]
    net.zero_grad()
    rs.defences.vanilla()(model, x, y).backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), theirs, strict=True))
    assert any(g.any() for g in theirs)


def test_adversarial_training_changes_the_owners_weights(digits):
    net = awake(hidden(beta=0.9)).train()
    before = copy.deepcopy(net.state_dict())
    attack = rs.PGD(rs.Linf(0.05), steps=2, estimator=rs.BPTR())
    options = {"schedule": "constant", "crop_padding": 0, "flip": False, "progress": False, "accelerator": "cpu"}
    rs.fit(
        adapted(net, images()[0]), digits.train.subset(20), rs.defences.at(attack), epochs=1, batch_size=10, **options
    )
    assert not torch.equal(net[1].weight, before["1.weight"])
    assert net.state_dict().keys() == before.keys()
