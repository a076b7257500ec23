"""Networks as SpikingJelly's users write them, adapted; with 2.0 here, with 0.0.0.0.14 by test_older.py."""

import copy
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from tests.conftest import record_of
from torch import nn

import robustspike as rs
from robustspike.adapters import AdaptError
from robustspike.gradients import is_stochastic
from robustspike.neurons import spiking_layers

pytest.importorskip("spikingjelly", reason="SpikingJelly is not installed; `pip install -e .[dev]` does")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the older release meets newer releases of what it needs
    from spikingjelly.activation_based import encoding, functional, layer, neuron, rnn, surrogate
    from spikingjelly.activation_based.model import sew_resnet
    from tests.adapters.spikingjelly_networks import (
        CLASSES,
        EXISTING,
        NETWORKS,
        OLDER,
        ConvNet,
        Digits,
        Looping,
        OwnNode,
        T,
        Twice,
        Twin,
        adapted,
        as_owned,
        assert_near,
        bptr_gate,
        chain,
        classifier,
        gate_neurons,
        made,
        network,
        neurons_in_training,
        node_of,
        own_gradient,
        rga_gate,
        spiking,
        train_as_owned,
        with_nodes,
    )

pytestmark = pytest.mark.usefixtures("one_thread")

EXACT = (
    rs.BPTT(),
    rs.BPTT(rs.Triangle()),
    rs.BPTT(rs.Sigmoid(4.0)),
    rs.BPTR(),
    rs.RGA(),
    rs.HART(),
    rs.PDSG(),
    rs.ASSG(),
)
ESTIMATORS = (*EXACT, rs.CBA())
every_exact_one = pytest.mark.parametrize("estimator", EXACT, ids=str)


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(3, 1, 6, 6, dtype=torch.float64, generator=generator), torch.arange(3)


every_network = pytest.mark.parametrize("name", NETWORKS)


# --- their logits, their gradient


@every_network
def test_logits_and_gradient_are_those_of_the_owner(name, batch):
    x, y = batch
    takes = NETWORKS[name][1]
    net = network(name)
    model = adapted(net, takes, x)
    assert (model.takes, model.time_steps) == (takes, T)
    with torch.no_grad():
        expected = as_owned(network(name), takes, x)
    assert expected.abs().max() > 0
    assert torch.equal(model(x), expected)
    assert torch.equal(model(x), expected)  # state is fresh every time
    assert torch.equal(model(x[:2]), expected[:2])  # for another number of images, too
    assert_near(rs.input_gradient(model, x, y), own_gradient(network(name), takes, x, y))


@pytest.mark.parametrize(
    "name", ["images", "loop", "sequence in steps", "soft", "parametric", "sew in steps", "ms", "nested", "stored"]
)
def test_exact_estimators_leave_the_logits_bit_for_bit(name, batch):
    x, _ = batch
    model = adapted(network(name), NETWORKS[name][1], x)
    expected = as_owned(network(name), NETWORKS[name][1], x)
    for estimator in EXACT:
        with rs.estimating(model, estimator):
            assert torch.equal(model(x), expected), estimator
            with torch.no_grad():
                assert torch.equal(model(x), expected), estimator


# --- every estimator, beside our own neurons


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ("loop", "klif")])
def test_every_estimator_has_the_gradient_of_our_own_neurons(name, batch):
    x, y = batch
    takes = NETWORKS[name][1]
    model, twin = adapted(network(name), takes, x), Twin(network(name), takes)
    assert torch.allclose(model(x), twin(x), rtol=1e-12, atol=0)
    for estimator in ESTIMATORS:
        expected = rs.input_gradient(twin, x, y, estimator=estimator)
        assert_near(rs.input_gradient(model, x, y, estimator=estimator), expected)


def test_a_networks_own_loop_is_the_same_network_in_steps(batch):
    x, y = batch
    loop, twin = adapted(made(Looping), "images", x), Twin(made(Looping).net, "step")
    for estimator in ESTIMATORS:
        expected = rs.input_gradient(twin, x, y, estimator=estimator)
        assert_near(rs.input_gradient(loop, x, y, estimator=estimator), expected)


def of_parameters(model, x, y, estimator):
    with rs.estimating(model, estimator):
        loss = F.cross_entropy(model(x), y)
    return torch.autograd.grad(loss, [p for p in model.parameters() if p.dim() > 1])


@pytest.mark.parametrize("name", ["sequence", "sequence in steps", "sew in steps"])
def test_weights_get_the_gradient_too(name, batch):
    x, y = batch
    model, twin = adapted(network(name), NETWORKS[name][1], x), Twin(network(name), "sequence")
    for estimator in ESTIMATORS:
        for found, expected in zip(*(of_parameters(each, x, y, estimator) for each in (model, twin)), strict=True):
            assert_near(found, expected)


@every_exact_one
def test_an_attack_follows_the_same_path_as_on_our_own_network(estimator, batch):
    x, y = batch
    models = (adapted(network("sequence in steps"), "step", x), Twin(network("sequence"), "sequence"))
    attack = rs.PGD(rs.Linf(0.1), steps=4, estimator=estimator, early_stop=False)
    found, expected = (attack(model, x, y, rs.Draws.of(0, torch.arange(3))) for model in models)
    assert (expected - x).abs().max() > 0.05
    assert torch.allclose(found, expected, atol=1e-12)


# --- worked out by hand, and by another way


def test_two_steps_of_an_if_neuron_by_hand():
    """v = 0.7, then u = 1.3 fires. With S' = 1/(1 + (π·d)²) at d = −0.3 and d = 0.3, the same g:

    s₀ + s₁ in x: at step 0 ∂s₀/∂u₀ = g; v₀ = u₀·(1 − s₀), ∂v₀/∂u₀ = 1 − s₀ − u₀·g = 1 − 0.7·g; ∂s₁/∂u₁ = g.
    So ∂(s₀ + s₁)/∂x₀ = g + g·(1 − 0.7·g) and ∂(s₀ + s₁)/∂x₁ = g.
    """
    g = 1 / (1 + (torch.pi * 0.3) ** 2)
    net = nn.Sequential(spiking(neuron.IFNode, step_mode="m")).double().eval()
    x = torch.tensor([[[0.7, 0.6]]], dtype=torch.float64)  # one sample of two steps, each one number
    model = rs.adapt(net, 2, encoder="frames")
    leaf = x.transpose(1, 2).clone().requires_grad_()
    logits = model(leaf)
    assert logits.item() == 0.5
    (gradient,) = torch.autograd.grad(2 * logits.sum(), leaf)
    assert gradient.flatten().tolist() == pytest.approx([g + g * (1 - 0.7 * g), g], rel=1e-12)
    with rs.estimating(model, rs.BPTR()):
        (gradient,) = torch.autograd.grad(2 * model(leaf).sum(), leaf)
    assert gradient.flatten().tolist() == [1.0, 1.0]  # it fired within the window


GATED = {"sequence", "sequence in steps", "step, detached", "images", "loop", "sew", "ms in steps", "nested", "soft"}


@pytest.mark.parametrize(("estimator", "gate"), [(rs.BPTR(), bptr_gate), (rs.RGA(), rga_gate)], ids=["bptr", "rga"])
@pytest.mark.parametrize("name", [*sorted(GATED), "twice", "twice in steps"])
def test_rate_based_gradients_are_those_of_gates_put_in_by_hand(name, estimator, gate, batch):
    x, y = batch
    if name in NETWORKS:
        make, takes = NETWORKS[name]
    else:
        make, takes = (Twice, "sequence") if name == "twice" else (lambda: Twice("s"), "step")
    net = made(make)
    gate_neurons([m for m in net.modules() if hasattr(m, "surrogate_function")], gate)
    model = rs.adapt(made(make), None if takes == "images" else T, images=x, takes=takes)
    found = rs.input_gradient(model, x, y, estimator=estimator)
    assert_near(found, own_gradient(net, takes, x, y))


@pytest.mark.parametrize("mode", ["m", "s"])
def test_a_neuron_in_two_places_keeps_its_own_gradient(mode, batch):
    x, y = batch
    takes = "sequence" if mode == "m" else "step"
    model = rs.adapt(made(lambda: Twice(mode)), T, images=x, takes=takes)
    assert torch.equal(model(x), as_owned(made(lambda: Twice(mode)), takes, x))
    assert_near(rs.input_gradient(model, x, y), own_gradient(made(lambda: Twice(mode)), takes, x, y))
    assert list(spiking_layers(model)) == ["fire"]


# --- what a neuron may be


every_node = pytest.mark.parametrize(("name", "mode"), EXISTING)


@every_node
def test_every_kind_of_node_takes_another_surrogate(name, mode, batch):
    """A network trained with Sigmoid and attacked with ArcTan(2) has the gradient of one built with ATan(2)."""
    x, y = batch
    takes = "sequence" if mode == "m" else "step"
    net = with_nodes(name, mode, surrogate.Sigmoid())
    with torch.no_grad():
        as_owned(net, takes, x)  # leaves state behind
    model = rs.adapt(net, T, images=x)
    with torch.no_grad():
        assert torch.equal(model(x), as_owned(with_nodes(name, mode, surrogate.Sigmoid()), takes, x))
    assert_near(rs.input_gradient(model, x, y), own_gradient(with_nodes(name, mode, surrogate.Sigmoid()), takes, x, y))
    expected = own_gradient(with_nodes(name, mode, surrogate.ATan(2.0)), takes, x, y)
    assert_near(rs.input_gradient(model, x, y, estimator=rs.BPTT(rs.ArcTan(2.0))), expected)


@pytest.mark.parametrize("name", sorted({name for name, mode in EXISTING if (name, "s") in EXISTING and mode == "m"}))
def test_both_step_modes_of_a_node_agree(name, batch):
    x, y = batch
    models = [rs.adapt(with_nodes(name, mode, surrogate.Sigmoid()), T, images=x) for mode in "ms"]
    refused = name in ("QIFNode", "EIFNode", "IzhikevichNode", "HalfThresholdIFNode")
    for estimator in ESTIMATORS:
        if refused and isinstance(estimator, rs.RGA):
            for model in models:
                with pytest.raises(
                    AdaptError, match=rf"{name} of spikingjelly at 2 is no leaky .* use BPTT\(surrogate"
                ):
                    rs.input_gradient(model, x, y, estimator=estimator)
            continue
        one, other = (rs.input_gradient(model, x, y, estimator=estimator) for model in models)
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-15)
        assert one.any() or isinstance(estimator, (rs.BPTR, rs.RGA))


@every_node
def test_the_drive_is_what_an_input_adds_to_the_potential(name, mode):
    """Beside differences of the node's own v, or of what a parallel neuron compares with its threshold."""
    node = node_of(name, surrogate.Sigmoid(), "s" if mode == "s" else "m").double().eval()
    net = nn.Sequential(nn.Identity(), node)
    x = torch.full((T, 2, 3), 0.01, dtype=torch.float64)
    model = rs.adapt(net, T, encoder="frames", images=torch.rand(2, T, 3, dtype=torch.float64))
    (adapted_layer,) = spiking_layers(model).values()
    change = torch.zeros_like(x)
    change[0] = 1e-4
    rises = adapted_layer.drive(x + change) - adapted_layer.drive(x)
    if "PSN" in name:
        seen = []
        node.surrogate_function.register_forward_hook(lambda module, args, out: seen.append(args[0].reshape(-1, 2, 3)))
        for currents in (x, x + change):
            functional.reset_net(net)
            steps = [node(currents)] if mode == "m" else [node(step) for step in currents]
            assert steps
        half = len(seen) // 2
        expected = torch.cat(seen[half:]) - torch.cat(seen[:half])
    else:
        potentials = []
        for currents in (x, x + change):
            functional.reset_net(net)
            first = currents[:1] if mode == "m" else currents[0]
            assert not node(first).any()
            potentials.append(node.v)
        expected = (potentials[1] - potentials[0]).detach()[None]
        rises = rises[:1]
    assert expected[0].abs().max() > 0
    assert torch.allclose(rises, expected, rtol=1e-6, atol=1e-12)


def test_a_users_own_node_has_the_gradient_of_our_own_neuron(batch):
    x, y = batch
    told = {"leak": 0.6, "reset": "soft", "surrogate": rs.Sigmoid(4.0)}
    model, twin = rs.adapt(with_nodes("OwnNode", "s", surrogate.Sigmoid()), T, images=x), Twin(with_lif(told), "step")
    for estimator in ESTIMATORS:
        if isinstance(estimator, rs.RGA):  # the node does not say what its leak is
            with pytest.raises(AdaptError, match="OwnNode of spikingjelly at 2 is no leaky"):
                rs.input_gradient(model, x, y, estimator=estimator)
        else:
            expected = rs.input_gradient(twin, x, y, estimator=estimator)
            assert_near(rs.input_gradient(model, x, y, estimator=estimator), expected)


def with_lif(told):
    net = with_nodes("OwnNode", "s", surrogate.Sigmoid())
    net[2], net[4] = rs.LIF(**told), rs.LIF(**told)
    return net


class Adding(OwnNode):
    """Adds up its last two inputs, from a list that it appends to."""

    def reset(self):
        self.past = []

    def forward(self, x):
        self.past.append(x)
        return self.surrogate_function(sum(self.past[-2:]) - 1.0)


class AddingAnew(Adding):
    def forward(self, x):
        self.past = [*self.past, x]
        return self.surrogate_function(sum(self.past[-2:]) - 1.0)


def test_lists_of_a_users_node_are_no_longer_than_they_were(batch):
    x, y = batch
    models = []
    for kind in (Adding, AddingAnew):
        net = with_nodes("OwnNode", "s", surrogate.Sigmoid())
        for i in (2, 4):
            net[i] = kind(surrogate.Sigmoid())
            net[i].reset()
        models.append(rs.adapt(net, T, images=x))
    for estimator in (rs.BPTT(), rs.BPTR(), rs.HART(), rs.PDSG(), rs.ASSG()):
        one, other = (rs.input_gradient(model, x, y, estimator=estimator) for model in models)
        assert_near(one, other)


class InPlace(neuron.LIFNode):
    """Its reset overwrites the state's memory."""

    def reset(self):
        if isinstance(self.v, torch.Tensor):
            self.v.zero_()
        super().reset()


def test_state_that_is_reset_in_place_is_not_lost(batch):
    x, y = batch
    net = made(lambda: chain("m", InPlace))
    with torch.no_grad():
        net(x.expand(T, 3, 1, 6, 6).contiguous())
    before = net[2].v.clone()
    assert before.any()
    assert rs.input_gradient(rs.adapt(net, T, images=x), x, y).any()
    assert torch.equal(net[2].v, before)


@every_exact_one
def test_a_potential_at_the_threshold_fires(estimator):
    net = nn.Sequential(spiking(neuron.IFNode, step_mode="m"))
    model = rs.adapt(net, 2, images=torch.rand(2, 5))
    with rs.estimating(model, estimator):
        assert model(torch.tensor([[0.5, 1.0]])).tolist() == [[0.5, 1.0]]
    gradient = rs.input_gradient(model, torch.tensor([[0.5, 1.0]]), torch.tensor([0]), estimator=estimator)
    assert gradient.all()


@pytest.mark.skipif(not hasattr(neuron, "GatedLIFNode"), reason="this release has no such node")
def test_a_node_of_unknown_drive_carries_what_does_not_need_it(batch):
    x, y = batch

    def make():
        node = neuron.GatedLIFNode(T=T, surrogate_function=surrogate.Sigmoid())
        return nn.Sequential(layer.Conv2d(1, 4, 3, padding=1), node, layer.Flatten(), layer.Linear(144, CLASSES))

    net = made(make)
    functional.set_step_mode(net, "m")
    model = rs.adapt(net, T, images=x)
    assert_near(rs.input_gradient(model, x, y), own_gradient(copy.deepcopy(net), "sequence", x, y))
    for estimator in ESTIMATORS:
        if isinstance(estimator, (rs.BPTT, rs.PDSG, rs.ASSG)):
            assert rs.input_gradient(model, x, y, estimator=estimator).any()
        else:
            with pytest.raises(AdaptError, match=r"GatedLIFNode .* at 1 .* use BPTT\(surrogate\), PDSG or ASSG"):
                rs.input_gradient(model, x, y, estimator=estimator)


# --- potentials that are read


class Reading(nn.Module):
    """Its logits are the last neuron's potential at the end, or at every step."""

    def __init__(self, mode, what, threshold=1.0):
        super().__init__()
        told = {"store_v_seq": what == "v_seq", "v_threshold": threshold}
        self.first, self.last = chain(mode)[:-1], spiking(**told, step_mode=mode)
        self.what = what

    def forward(self, x):
        self.last(self.first(x))
        return getattr(self.last, self.what)


def read_by_owner(net, mode, x):
    functional.reset_net(net)
    out = net(x.unsqueeze(0).repeat(T, 1, 1, 1, 1)) if mode == "m" else torch.stack([net(x) for _ in range(T)])
    return out if out.dim() == 2 else out.mean(0)


@pytest.mark.parametrize("threshold", [1.0, 1e9])
@pytest.mark.parametrize(("mode", "what"), [("m", "v"), ("m", "v_seq"), ("s", "v")])
def test_a_potential_that_is_read_has_its_own_gradient_under_every_estimator(mode, what, threshold, batch):
    x, y = batch
    make = lambda: Reading(mode, what, threshold)  # noqa: E731
    model, net = rs.adapt(made(make), T, images=x), made(make)
    with torch.no_grad():
        assert torch.equal(model(x), read_by_owner(net, mode, x))
    assert list(spiking_layers(model)) == ["first.2"]
    gate_neurons([net.first[2]], bptr_gate)
    leaf = x.clone().requires_grad_()
    with neurons_in_training(net):
        loss = F.cross_entropy(read_by_owner(net, mode, leaf), y, reduction="sum")
    (expected,) = torch.autograd.grad(loss, leaf)
    assert_near(rs.input_gradient(model, x, y, estimator=rs.BPTR()), expected)
    for estimator in ESTIMATORS:
        assert rs.input_gradient(model, x, y, estimator=estimator).any(), estimator


def test_a_network_first_called_under_an_estimator_is_the_same(batch):
    x, y = batch
    model = rs.adapt(made(lambda: Reading("m", "v")), T)
    first, second = (rs.input_gradient(model, x, y, estimator=rs.BPTR()) for _ in range(2))
    assert_near(first, second)


class Feeding(nn.Module):
    """Its second neuron gets the potential of the first."""

    def __init__(self):
        super().__init__()
        self.flat, self.first, self.last = layer.Flatten(), spiking(store_v_seq=True), spiking()
        self.one, self.two = layer.Linear(36, 12), layer.Linear(12, CLASSES)
        functional.set_step_mode(self, "m")

    def forward(self, x):
        self.first(self.one(self.flat(x)))
        return self.last(self.two(self.first.v_seq))


def test_a_potential_may_be_read_by_the_next_layer(batch):
    x, y = batch
    model = rs.adapt(made(Feeding), T, images=x)
    assert list(spiking_layers(model)) == ["last"]
    for estimator in ESTIMATORS:
        assert rs.input_gradient(model, x, y, estimator=estimator).any(), estimator


def test_a_neuron_read_both_ways_keeps_only_bptt(batch):
    x, y = batch

    class Both(Reading):
        def forward(self, x):
            return self.last(self.first(x)) + self.last.v_seq

    model = rs.adapt(made(lambda: Both("m", "v_seq")), T, images=x)
    assert rs.input_gradient(model, x, y, estimator=rs.BPTT(rs.Triangle())).any()
    with pytest.raises(AdaptError, match=r"at last cannot carry BPTR.*potential besides its spikes.*BPTT\(surrogate\)"):
        rs.input_gradient(model, x, y, estimator=rs.BPTR())


# --- without it


def test_in_evaluation_mode_the_older_release_has_no_gradient_or_a_wrong_one(batch):
    x, y = batch
    leaf = x.clone().requires_grad_()
    plain = as_owned(made(chain), "sequence", leaf)
    assert plain.requires_grad is not OLDER
    ms = network("ms")
    loss = F.cross_entropy(as_owned(ms, "sequence", leaf), y, reduction="sum")
    (naive,) = torch.autograd.grad(loss, leaf)  # no error in either release
    right = rs.input_gradient(adapted(network("ms"), "sequence", x), x, y)
    assert_near(right, own_gradient(network("ms"), "sequence", x, y))
    similarity = F.cosine_similarity(naive.flatten(), right.flatten(), dim=0)
    if OLDER:
        assert similarity < 0.95
        assert (naive.sign() == right.sign()).double().mean() < 0.95
    else:
        assert similarity > 1 - 1e-12


@pytest.mark.skipif(not OLDER, reason="SpikingJelly 2.0 has no backends")
def test_the_older_releases_cupy_kernels_do_not_see_another_surrogate():
    node = spiking(step_mode="m")
    node._backend = "cupy"
    framework = rs.adapters.FRAMEWORKS["spikingjelly"]
    with framework.firing(node, lambda d: d):
        assert node.backend == "torch"
    assert node.backend == "cupy"


# --- the network afterwards


def everything(net):
    """What a network is, object by object."""
    attributes = {path: {key: id(value) for key, value in vars(m).items()} for path, m in net.named_modules()}
    contents = {
        path: [{key: id(v) for key, v in value.items()} for value in vars(m).values() if isinstance(value, dict)]
        for path, m in net.named_modules()
    }
    order = {path: list(vars(m)) for path, m in net.named_modules()}
    return attributes, contents, order, record_of(net), pickle.dumps(net)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["images", "loop", "sequence in steps", "ms", "nested"])
def test_the_network_is_afterwards_as_it_was(name, training, batch):
    x, y = batch
    takes = NETWORKS[name][1]
    net = network(name)
    with torch.no_grad():
        as_owned(net, takes, x)  # so that it has state
    net.train(training)
    net.register_forward_hook(_hook)
    before = everything(net)
    model = adapted(net, takes, x)
    assert everything(net) == before
    for estimator in ESTIMATORS:
        rs.input_gradient(model, x, y, estimator=estimator)
        with pytest.raises(RuntimeError, match="stop"):
            _interrupted(model, x, estimator)
        with pytest.raises(RuntimeError, match="mat1 and mat2"), rs.estimating(model, estimator):
            model(x[..., :4])  # fails after the first neuron has run
        with rs.estimating(model, estimator):
            assert record_of(net)["training"] == before[3]["training"]
    rs.PGD(rs.Linf(0.1), steps=2)(model, x, y, rs.Draws.of(0, torch.arange(3)))
    if not training:
        assert everything(net) == before


def _hook(module, args, out):
    return out


def _interrupted(model, x, estimator):
    with rs.estimating(model, estimator):
        model(x.clone().requires_grad_())
        raise RuntimeError("stop")


def test_while_neurons_run_hooks_see_the_network_in_evaluation_mode(batch):
    x, y = batch
    net, seen = made(chain), []
    for module in net:
        module.register_forward_pre_hook(lambda module, args: seen.append(module.training))
        module.register_forward_hook(lambda module, args, out: seen.append(module.training))
    rs.input_gradient(rs.adapt(net, T, images=x), x, y)
    assert seen
    assert not any(seen)


def test_copies_and_pickles_are_networks_of_their_own(batch):
    x, y = batch
    net = made(chain)
    model = adapted(net, "sequence", x)
    others = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), adapted(copy.deepcopy(net), "sequence", x)]
    expected = {e: rs.input_gradient(model, x, y, estimator=e) for e in ESTIMATORS}
    with torch.no_grad():
        net[0].weight.zero_()
    for other in others:
        assert all(torch.equal(rs.input_gradient(other, x, y, estimator=e), expected[e]) for e in ESTIMATORS)
        assert not torch.equal(other(x), model(x))


# --- encoders


class Encoded(nn.Module):
    """With an encoder of SpikingJelly's, in either mode, or in a loop of its own."""

    def __init__(self, encoder, mode="m", loops=False):
        super().__init__()
        self.encoder, self.net, self.loops = encoder, chain(mode), loops
        self.encoder.step_mode = mode

    def forward(self, x):
        if self.loops:
            return sum(self.net(self.encoder(x).to(x.dtype)) for _ in range(T)) / T
        return self.net(self.encoder(x).to(x.dtype))  # phases are always float32


ENCODERS = {
    "poisson": encoding.PoissonEncoder,
    "latency": lambda: encoding.LatencyEncoder(T),
    "phase": lambda: encoding.WeightedPhaseEncoder(T),
}


@pytest.mark.parametrize("way", ["sequence", "step", "images"])
@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_are_passed_straight_through(name, way, batch):
    x, y = batch[0] * 0.9, batch[1]
    mode = "m" if way == "sequence" else "s"
    make = lambda: Encoded(ENCODERS[name](), mode, way == "images")  # noqa: E731
    model = adapted(made(make), way, x)
    assert (model.takes, model.straight_through) == (way, ("encoder",))
    torch.manual_seed(3)
    logits = model(x)
    torch.manual_seed(3)
    assert torch.equal(logits, as_owned(made(make), way, x))
    frames = made(make)
    functional.reset_net(frames)
    torch.manual_seed(3)
    spikes = (
        frames.encoder(x.repeat(T, 1, 1, 1).unflatten(0, (T, 3)))
        if mode == "m"
        else torch.stack([frames.encoder(x) for _ in range(T)])
    ).to(x.dtype)
    assert set(spikes.unique().tolist()) <= {0.0, 1.0} or name == "phase"
    twin = Twin(frames.net, "sequence")
    for estimator in (rs.BPTT(), rs.BPTR()):
        leaf = spikes.detach().clone().requires_grad_()
        with rs.estimating(twin, estimator):
            loss = F.cross_entropy(twin.net(leaf).mean(0), y, reduction="sum")
        (expected,) = torch.autograd.grad(loss, leaf)
        torch.manual_seed(3)
        rtol = 1e-6 if name == "phase" else 1e-12
        assert_near(rs.input_gradient(model, x, y, estimator=estimator), expected.sum(0), rtol)


def test_our_encoders_give_the_steps(batch):
    x, y = batch
    for encoder, stochastic in (("poisson", True), ("phase", False)):
        model = rs.adapt(made(chain), T, images=x, encoder=encoder)
        assert is_stochastic(model, x) is stochastic
        assert rs.input_gradient(model, x, y, draws=rs.Draws.of(0, torch.arange(3))).any()


# --- refusals


class Analog(neuron.LIFNode):
    """Its output is what is above the threshold, not a spike."""

    def single_step_forward(self, x):
        super().single_step_forward(x)
        return F.relu(self.v + x)

    def multi_step_forward(self, x_seq):
        return torch.stack([self.single_step_forward(x) for x in x_seq])


class Tempered(neuron.LIFNode):
    """Fires by what its surrogate is called."""

    def single_step_forward(self, x):
        return super().single_step_forward(x * (2.0 if type(self.surrogate_function) is surrogate.ATan else 1.0))

    def multi_step_forward(self, x_seq):
        return torch.stack([self.single_step_forward(x) for x in x_seq])


@pytest.mark.parametrize(("mode", "takes"), [("m", "sequence"), ("s", "step")])
def test_a_neuron_that_cannot_carry_an_estimator_is_named_with_what_to_use(mode, takes, batch):
    x, y = batch
    model = rs.adapt(made(lambda: chain(mode, Analog)), T, images=x)
    assert_near(rs.input_gradient(model, x, y), own_gradient(made(lambda: chain(mode, Analog)), takes, x, y))
    for estimator in ESTIMATORS[1:]:
        with pytest.raises(AdaptError) as refused:
            rs.input_gradient(model, x, y, estimator=estimator)
        for part in ("Analog of spikingjelly at 2 cannot carry", str(estimator), "its spike function", "use BPTT(), "):
            assert part in str(refused.value)


def test_a_neuron_that_changes_with_its_surrogate_keeps_its_own_gradient(batch):
    x, y = batch
    model = rs.adapt(made(lambda: chain("m", Tempered)), T, images=x)
    assert_near(rs.input_gradient(model, x, y), own_gradient(made(lambda: chain("m", Tempered)), "sequence", x, y))
    for estimator in (rs.BPTT(rs.Triangle()), rs.BPTR()):
        with pytest.raises(
            AdaptError, match=r"Tempered of spikingjelly at 2 cannot carry.*use BPTT\(\), the network's"
        ):
            rs.input_gradient(model, x, y, estimator=estimator)


class Detaching(nn.Module):
    def __init__(self, where):
        super().__init__()
        self.net, self.where = chain(), where

    def forward(self, x):
        if self.where == "no_grad":
            with torch.no_grad():
                return self.net(x)
        return self.net[3:](self.net[:3](x).detach()) if self.where == "between" else self.net(x.detach())


@pytest.mark.parametrize("where", ["input", "between", "no_grad"])
def test_a_network_that_detaches_is_refused(where, batch):
    with pytest.raises(AdaptError, match="no gradient reaches the images: .*detach"):
        rs.adapt(made(lambda: Detaching(where)), T, images=batch[0])


@pytest.mark.parametrize(
    ("make", "told", "sentence"),
    [
        (chain, {}, r"takes a sequence \[T, N, ...\] per call: say time_steps="),
        (classifier, {}, "takes one step per call: say time_steps="),
        (Looping, {"time_steps": T, "encoder": "poisson"}, "loops over time itself and has no place for Poisson"),
        (Looping, {"time_steps": T + 2}, f"loops over {T} time steps itself, got time_steps={T + 2}"),
        (ConvNet, {"takes": "step", "time_steps": T}, "found no way to call the network"),
        (lambda: Twice("s"), {"time_steps": T}, 'serves in several places, say takes="step"'),
    ],
)
def test_what_cannot_be_called_is_refused_in_a_sentence(make, told, sentence, batch):
    with pytest.raises(AdaptError, match=sentence):
        rs.adapt(made(make), images=batch[0], **told)


@pytest.mark.parametrize("kind", [rnn.SpikingVanillaRNN, rnn.SpikingLSTM])
def test_a_recurrent_network_that_has_no_potentials_keeps_its_own_gradient(kind, batch):
    x, y = batch

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cells, self.head = kind(6, 12, 1), nn.Linear(12, CLASSES)

        def forward(self, x):
            return self.head(self.cells(x.squeeze(1).transpose(0, 1))[0].mean(0))

    torch.manual_seed(0)
    net = Recurrent().double().eval()
    assert rs.adapt(net, images=x) is net
    assert rs.input_gradient(net, x, y).any()
    with pytest.raises(ValueError, match="no spiking layer .* could carry BPTR"):
        rs.input_gradient(net, x, y, estimator=rs.BPTR())


class Remembering(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.last = chain(), None

    def forward(self, x):
        out = self.net(x)
        self.last = out if self.last is None or self.last.shape != out.shape else out + self.last.detach()
        return self.last


def test_state_that_no_reset_reaches_is_refused(batch):
    with pytest.raises(AdaptError, match="keeps state outside its neurons"):
        rs.adapt(made(Remembering), T, images=batch[0])


# --- the model zoo


@pytest.fixture(scope="module")
def luu():
    """(SEW-ResNet-18 of IF neurons as Luu 2025 builds it, awake; images; labels)."""
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        told = {"spiking_neuron": neuron.IFNode, "surrogate_function": surrogate.ATan(2.0), "detach_reset": True}
        net = sew_resnet.sew_resnet18(num_classes=CLASSES, cnf="ADD", **told).double()
        functional.set_step_mode(net, "m")
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.8, 1.6), module.bias.uniform_(0, 0.6)
                module.momentum = 1.0
        net.train()(x.unsqueeze(0).repeat(T, 1, 1, 1, 1))  # the running statistics become those of x
    functional.reset_net(net)
    return net.eval(), x, torch.arange(2)


@pytest.mark.parametrize(("mode", "takes"), [("m", "sequence"), pytest.param("s", "step", marks=pytest.mark.slow)])
def test_a_sew_resnet_18_as_luu_2025_builds_it(mode, takes, luu):
    net, x, y = copy.deepcopy(luu[0]), *luu[1:]
    functional.set_step_mode(net, mode)
    model = adapted(net, takes, x)
    with torch.no_grad():
        assert torch.equal(model(x), as_owned(copy.deepcopy(net), takes, x))
    assert_near(rs.input_gradient(model, x, y), own_gradient(copy.deepcopy(net), takes, x, y))
    expected = rs.input_gradient(Twin(luu[0], "sequence"), x, y, estimator=rs.PDSG())
    assert_near(rs.input_gradient(model, x, y, estimator=rs.PDSG()), expected, rtol=1e-9)


# --- trained, attacked, audited


@pytest.fixture(scope="module")
def taught(digits):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net, order = Digits(), torch.Generator().manual_seed(0)
        batches = [i for _ in range(5) for i in torch.randperm(1000, generator=order).split(64)]
        train_as_owned(net, digits.train.images, digits.train.labels, batches)
    return net.eval()


def plain_pgd(net, x, y, eps, reset, steps=10):
    """Ten steps from the image with torch.autograd.grad, which says nothing about state."""
    adversarial = x.clone()
    functional.reset_net(net)
    for _ in range(steps):
        leaf = adversarial.clone().requires_grad_()
        if reset:
            functional.reset_net(net)
        with neurons_in_training(net):
            (gradient,) = torch.autograd.grad(F.cross_entropy(net(leaf), y, reduction="sum"), leaf)
        adversarial = (adversarial + eps / 4 * gradient.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    functional.reset_net(net)
    return adversarial


def accuracy(net, x, y):
    with torch.no_grad():
        right = (net(x).argmax(1) == y).double().mean().item()
    functional.reset_net(net)
    return right


def test_a_loop_without_reset_overstates_robustness_and_the_adapted_network_does_not(taught, digits):
    data, eps = digits.test.subset(100), 0.15
    x, y = data.images, data.labels
    net = copy.deepcopy(taught)
    leaking, right = (plain_pgd(net, x, y, eps, reset) for reset in (False, True))
    assert accuracy(net, x, y) > 0.8
    assert accuracy(net, leaking, y) > accuracy(net, right, y) + 0.05
    attack = rs.PGD(rs.Linf(eps), 10, step_size=eps / 4, random_start=False)
    with torch.no_grad():
        net(x[:7])  # whatever state there is
    model = rs.adapt(net, images=x[:4])
    assert torch.equal(attack(model, x, y, rs.Draws.of(0, data.ids)), right)
    outcome = rs.evaluate(model, data, [attack], seed=0, doubts=0, progress=False)
    assert outcome.robust_accuracy == pytest.approx(accuracy(copy.deepcopy(taught), right, y))
    assert outcome.clean_accuracy == pytest.approx(accuracy(copy.deepcopy(taught), x, y))


def test_two_steps_of_training_are_those_of_the_owners_loop(taught, digits):
    x, y = digits.train.images[:64], digits.train.labels[:64]
    net = copy.deepcopy(taught).train()
    model, losses = rs.adapt(copy.deepcopy(net), images=x[:4]), []
    objective = rs.defences.vanilla()
    for each, loss_of in ((net, lambda: F.cross_entropy(net(x), y)), (model, lambda: objective(model, x, y))):
        optimiser = torch.optim.SGD(each.parameters(), lr=0.5)
        losses.append([])
        for _ in range(2):
            optimiser.zero_grad()
            loss = loss_of()
            loss.backward()
            optimiser.step()
            functional.reset_net(each)
            losses[-1].append(loss.item())
    assert losses[0] == losses[1]
    assert losses[0][1] < losses[0][0]
    assert all(map(torch.equal, net.parameters(), model.model.parameters()))


def test_after_training_in_their_loop_and_in_ours_the_estimators_are_the_same(digits):
    data = digits.train.subset(128)
    torch.manual_seed(0)
    net = Digits()
    train_as_owned(net, data.images, data.labels, [torch.arange(64), torch.arange(64, 128)])
    model = rs.adapt(net, images=data.images[:4])
    before = copy.deepcopy(net.state_dict())
    attack = rs.PGD(rs.Linf(0.05), 2, estimator=rs.BPTR())
    told = {"crop_padding": 0, "flip": False, "accelerator": "cpu", "progress": False}
    rs.fit(model, data, rs.defences.at(attack), epochs=2, optimizer="adam", lr=1e-2, **told)
    assert not any(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(node.v == 0.0 for node in net.modules() if hasattr(node, "surrogate_function"))
    twin = Twin(net.net.double(), "sequence")
    x, y = digits.test.images[:4].double(), digits.test.labels[:4]
    again = rs.adapt(net, images=x).eval()
    for estimator in EXACT:
        expected = own_through(twin, x, y, estimator)
        assert_near(rs.input_gradient(again, x, y, estimator=estimator), expected)


def own_through(twin, x, y, estimator):
    leaf = x.clone().requires_grad_()
    with rs.estimating(twin, estimator):
        loss = F.cross_entropy(twin.net(rs.repeat(leaf, 2).contiguous()).mean(0), y, reduction="sum")
    return torch.autograd.grad(loss, leaf)[0]


def test_an_evaluation_is_written_and_resumed(taught, digits, tmp_path):
    data = digits.test.subset(12)
    model = rs.adapt(copy.deepcopy(taught), images=data.images[:4])
    suite = rs.suites.liu2024(0.1, steps=(3,), apgd_steps=0)
    told = {"seed": 0, "doubts": 0, "progress": False}
    outcome = rs.evaluate(model, data, suite, out=tmp_path / "run", **told)
    again = rs.evaluate(model, data, suite, out=tmp_path / "run", resume=True, **told)
    alone = rs.evaluate(model, data, suite, batch_size=5, **told)
    assert 0 < outcome.robust_accuracy < outcome.clean_accuracy
    assert again.robust_accuracy == alone.robust_accuracy == outcome.robust_accuracy


def test_audits_run(taught, digits):
    model = rs.adapt(copy.deepcopy(taught), images=digits.test.images[:4])
    attack = rs.PGD(rs.Linf(0.1), 2, estimator=rs.RGA())
    told = {"audits": ["gradients", "confusion"], "doubts": 0, "progress": False}
    report = rs.audit(model, digits.test.subset(8), attacks=attack, eps=0.1, **told)
    assert "PGD-2" in str(report.outcome.table())
    assert (set(report.records), report.notes) == (set(told["audits"]), ())
