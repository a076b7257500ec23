"""Estimators for neurons that take one step per call: gradients joined over time equal those of plain loops."""

import gc
import weakref
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import robustspike as rs
from robustspike.adapters import Adapted, AdaptError, Framework
from robustspike.adapters.framework import Membrane, replaced
from robustspike.adapters.stepping import Unrolled
from robustspike.gradients import ESTIMATORS, Memory, recording
from robustspike.neurons import spiking_layers
from robustspike.surrogates import Surrogate, Triangle, spike, with_slope

pytestmark = pytest.mark.usefixtures("one_thread")
T, OWN = 5, Triangle(0.8)


class Keeps(nn.Module):
    """A leaky neuron that keeps its potential; its currents are weighted by a parameter."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.1))
        self.register_buffer("v", torch.zeros(()), persistent=False)
        self.fire = lambda d: spike(d, OWN)

    def forward(self, x):
        u = 0.5 * self.v + self.gain * x
        s = self.fire(u - 1)
        self.v = u * (1 - s)
        return s


class Passes(Keeps):
    """The same neuron, whose potential goes in and comes out."""

    def forward(self, x, state=None):
        u = 0.5 * (0.0 if state is None else state) + self.gain * x
        s = self.fire(u - 1)
        return s, u * (1 - s)


def empty(neuron):
    neuron.v = torch.zeros((), dtype=neuron.gain.dtype)


KEEPS = Framework(
    name="keeps",
    is_neuron=lambda module: isinstance(module, Keeps),
    is_stateful=lambda module: False,
    covers_time=lambda neuron: False,
    reset=empty,
    spike_function=lambda neuron: neuron.fire,
    firing=lambda neuron, function: replaced(neuron, "fire", function),
    membrane=lambda neuron: Membrane(0.5, 1.0, lambda x: neuron.gain * x),
    strict=False,
)
PASSES = Framework(**vars(KEEPS) | {"name": "passes", "passes_state": True, "returns_state": True})


@dataclass(frozen=True)
class Through:
    """Back-propagation through time, for the adapter an estimator like any other."""

    exact: ClassVar[bool] = True
    without_time: ClassVar[bool] = False
    surrogate: Surrogate = OWN

    def __call__(self, layer, currents):
        return layer.fire(currents, self.surrogate)


class Loop(nn.Module):
    """Five inputs, two layers of neurons, four answers; what is wired to what is for those below."""

    def __init__(self, neuron):
        super().__init__()
        self.one, self.two = neuron(), neuron()
        self.a, self.b, self.back = nn.Linear(5, 6), nn.Linear(6, 4), nn.Linear(4, 6)
        self.skip, self.again = nn.Linear(5, 4), nn.Linear(6, 6)
        with torch.no_grad():
            for each in (self.a, self.b, self.again):
                each.weight *= 2.5
                each.bias += 0.4
            self.back.weight *= 3

    def start(self, x):
        """What calls of a neuron get and give beside currents and spikes."""
        return [None, None, None]

    def call(self, neuron, x, states, place):
        if type(neuron) is Keeps:
            return neuron(x)
        s, states[place] = neuron(x, states[place])
        return s

    def forward(self, x):
        states, found = self.start(x), []
        self.begin(x)
        for t in range(T):
            found.append(self.step(x * (1 + 0.2 * t), states))
        return torch.stack(found)

    def begin(self, x):
        pass


class Chain(Loop):
    def step(self, x, states):
        s = self.call(self.one, self.a(x), states, 0)
        return self.call(self.two, self.b(s), states, 1)


class Skips(Loop):
    """The first layer's spikes and the images reach the answer past the second."""

    def step(self, x, states):
        s = self.call(self.one, self.a(x), states, 0)
        z = self.call(self.two, self.b(s) + self.skip(x), states, 1)
        return z + 0.3 * self.b(s).tanh() * z + 0.1 * self.skip(x)


class InPlace(Loop):
    """Spikes are changed in place by the network."""

    def step(self, x, states):
        s = self.call(self.one, self.a(x), states, 0)
        s *= 1.5
        s += 0.1 * x.sum(1, keepdim=True)
        z = self.call(self.two, self.b(s), states, 1)
        return z.mul_(2.0)


class Twice(Loop):
    """One neuron at two places."""

    def step(self, x, states):
        s = self.call(self.one, self.a(x), states, 0)
        s = self.call(self.one, self.again(s), states, 1)
        return self.call(self.two, self.b(s), states, 2)


class Once(Loop):
    """The currents are the same tensor at every step and go to both layers."""

    def begin(self, x):
        self.currents = self.b(self.a(x))

    def step(self, x, states):
        s = self.call(self.one, self.currents, states, 0)
        return self.call(self.two, self.currents + s, states, 1) + s


class Bare(Loop):
    """Images are currents and spikes the answer."""

    def step(self, x, states):
        return self.call(self.one, x, states, 0)[:, :4]


class Itself(Loop):
    """A layer's spikes come back to it."""

    def begin(self, x):
        self.spikes = x.new_zeros(len(x), 6)

    def step(self, x, states):
        self.spikes = self.call(self.one, self.a(x) + self.again(self.spikes), states, 0)
        return self.call(self.two, self.b(self.spikes), states, 1)


class Earlier(Loop):
    """The second layer's spikes come back to the first."""

    def begin(self, x):
        self.spikes = x.new_zeros(len(x), 4)

    def step(self, x, states):
        s = self.call(self.one, self.a(x) + self.back(self.spikes), states, 0)
        self.spikes = self.call(self.two, self.b(s), states, 1)
        return self.spikes


class Membranes(Loop):
    """Potentials are read out, of both layers, and go on to the second."""

    def step(self, x, states):
        s = self.call(self.one, self.a(x), states, 0)
        z = self.call(self.two, self.b(s + states[0].relu()), states, 1)
        return z + states[1].tanh() + self.b(states[0])


FORWARD = (Chain, Skips, InPlace, Once, Bare)
RECURRENT = (Itself, Earlier)
NEURONS = {Keeps: KEEPS, Passes: PASSES}
CASES = [(kind, neuron) for neuron in NEURONS for kind in (*FORWARD, Twice, *RECURRENT)] + [(Membranes, Passes)]


def network(kind, neuron=Keeps):
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return kind(neuron).double()


def adapted(net, neuron=Keeps):
    return Adapted(net, [NEURONS[neuron]], None, None, None, None, None, "spikes")


X = torch.rand(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
Y = torch.tensor([0, 1, 2])


def loss_of(logits):
    return F.cross_entropy(3 * logits, Y)


def plain(net):
    """Loss, ∂/∂x and ∂/∂parameters of the network by itself from fresh state: (x's, {name: …})."""
    for module in net.modules():
        if isinstance(module, Keeps):
            empty(module)
    x = X.clone().requires_grad_()
    return grads_of(loss_of(net(x).mean(0)), x, net)


def grads_of(loss, x, net):
    names, parameters = zip(*net.named_parameters(), strict=True)
    of_x, *others = torch.autograd.grad(loss, [x, *parameters], allow_unused=True)
    return loss.item(), of_x, dict(zip(names, others, strict=True))


def seen_by(model, estimator):
    x = X.clone().requires_grad_()
    with rs.estimating(model, estimator):
        return grads_of(loss_of(model(x)), x, model.model)


def gap(one, other):
    return float((one - other).abs().max() / other.abs().max().clamp(min=1e-3))


def assert_alike(found, expected):
    assert found[0] == expected[0]
    assert expected[1].abs().max() > 1e-3
    assert gap(found[1], expected[1]) < 1e-12
    for name, gradient in expected[2].items():
        other = found[2][name]
        assert (gradient is None or not gradient.any()) if other is None else gap(other, gradient) < 1e-12, name


@pytest.mark.parametrize(("kind", "neuron"), CASES, ids=lambda each: each.__name__)
def test_a_rule_through_time_is_plain_autograd(kind, neuron):
    """Of images and of every parameter, those of the neurons included."""
    net = network(kind, neuron)
    expected = plain(net)
    assert_alike(seen_by(adapted(net, neuron), Through()), expected)
    assert_alike(seen_by(adapted(net, neuron), rs.BPTT()), expected)
    assert_alike(seen_by(adapted(net, neuron), rs.BPTT(OWN)), expected)


@pytest.mark.parametrize(("kind", "neuron"), CASES, ids=lambda each: each.__name__)
def test_logits_are_the_networks_own_with_gradients_and_without(kind, neuron):
    net = network(kind, neuron)
    model = adapted(net, neuron)
    plain(net)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, Keeps):
                empty(module)
        expected = net(X).mean(0)
    assert len(expected.unique()) > 1
    for estimator in (Through(), rs.BPTR(), rs.ASSG(), rs.BPTT(OWN)):
        with rs.estimating(model, estimator):
            assert torch.equal(model(X.clone().requires_grad_()), expected)
            with torch.no_grad():
                assert torch.equal(model(X), expected)
                assert not model(X).requires_grad


class Fixed(nn.Module):
    """A neuron for the oracle: its spikes are known, and their slope, the same at every step."""

    def __init__(self, spikes, gain):
        super().__init__()
        self.spikes, self.gain = iter(spikes), gain
        self.slope = (torch.stack(spikes).amax(0) > 0).double()

    def forward(self, x):
        return with_slope(next(self.spikes), self.gain * x, self.slope)


@pytest.mark.parametrize("kind", [*FORWARD, *RECURRENT], ids=lambda kind: kind.__name__)
def test_a_rule_of_rates_is_a_loop_with_known_slopes(kind):
    """BPTR: a neuron that fired at all passes the gradient of every step, in a loop that autograd walks."""
    net = network(kind)
    fired = {net.one: [], net.two: []}
    handles = [
        each.register_forward_hook(lambda module, args, out: fired[module].append(out.detach().clone()))
        for each in fired
    ]
    plain(net)
    for handle in handles:
        handle.remove()
    oracle = network(kind)
    for name in ("one", "two"):
        if fired[getattr(net, name)]:
            setattr(oracle, name, Fixed(fired[getattr(net, name)], getattr(net, name).gain))
    oracle.call = lambda neuron, x, states, place: neuron(x)
    x = X.clone().requires_grad_()
    expected = torch.autograd.grad(loss_of(oracle(x).mean(0)), x)[0]
    assert expected.abs().max() > 1e-3
    assert gap(seen_by(adapted(net), rs.BPTR())[1], expected) < 1e-12


class Ours(nn.Module):
    """`Chain` of our own neurons."""

    def __init__(self, net):
        super().__init__()
        self.net, self.one, self.two = net, rs.LIF(leak=0.5), rs.LIF(leak=0.5)
        self.time_collapsed = False

    def forward(self, x):
        rises = torch.tensor([1 + 0.2 * t for t in range(T)], dtype=x.dtype)
        currents = 1.1 * torch.stack([self.net.a(x * rise) for rise in rises])
        return self.two(1.1 * self.net.b(self.one(currents))).mean(0)


@pytest.mark.parametrize("name", [name for name, make in ESTIMATORS.items() if make().exact])
@pytest.mark.parametrize("neuron", NEURONS, ids=lambda neuron: neuron.__name__)
def test_every_estimator_is_that_of_our_own_neurons(name, neuron):
    net = network(Chain, neuron)
    for parameter in (net.one.gain, net.two.gain):
        parameter.data.fill_(1.1)
    estimator = rs.BPTT(rs.ArcTan()) if name == "bptt" else ESTIMATORS[name]()
    found, ours = (rs.input_gradient(each, X, Y, estimator=estimator) for each in (adapted(net, neuron), Ours(net)))
    assert ours.abs().max() > 1e-4
    assert gap(found, ours) < 1e-12


def test_what_an_estimator_remembers_over_an_attack_is_remembered_as_by_our_own_network():
    net = network(Chain)
    for parameter in (net.one.gain, net.two.gain):
        parameter.data.fill_(1.1)
    model, ours = adapted(net), Ours(net)
    memories, first = (Memory(), Memory()), None
    for k in range(4):
        x, gradients = (X + 0.02 * k).clamp(0, 1), []
        for each, memory in zip((model, ours), memories, strict=True):
            with rs.gradients.frozen(each), rs.estimating(each, rs.ASSG(), memory):
                gradients.append(rs.gradients.look(each, x, Y, rs.gradients.cross_entropy, 1, None, memory)[2])
        assert gap(*gradients) < 1e-12
        assert first is None or gap(gradients[0], first) > 1e-3
        first = gradients[0]
    attack = rs.SAPGD(rs.Linf(0.1), 6, estimator=rs.ASSG())
    draws = rs.draws.Draws.of(0, torch.arange(3))
    found, expected = (attack.run(each, X, Y, draws).x_adv for each in (model, ours))
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    assert not torch.equal(found, X)


@pytest.mark.parametrize("kind", RECURRENT, ids=lambda kind: kind.__name__)
def test_a_rule_that_looks_ahead_has_no_gradient_in_a_recurrent_network(kind):
    with pytest.raises(AdaptError, match=r"HART.* recurrent .*use BPTT\(surrogate\), BPTR"):
        seen_by(adapted(network(kind)), rs.HART())
    seen_by(adapted(network(Chain)), rs.HART())


@dataclass(frozen=True)
class Trembling(Through):
    """Its gradient is rounded otherwise at every call, as on a GPU."""

    def __call__(self, layer, currents):
        fired = super().__call__(layer, currents)
        if fired.requires_grad:
            fired.register_hook(lambda g: g * (1 + 4e-16 * torch.randn_like(g)))
        return fired


@pytest.mark.parametrize("kind", RECURRENT, ids=lambda kind: kind.__name__)
def test_rounding_that_is_another_at_every_call_is_no_look_ahead(kind):
    net = network(kind)
    assert_alike(seen_by(adapted(net), Trembling()), plain(net))


def test_second_derivatives_are_refused_under_estimators_and_not_without():
    model, x = adapted(network(Chain)), X.clone().requires_grad_()
    with rs.estimating(model, rs.BPTR()), pytest.raises(AdaptError, match="second derivatives .* one step at a time"):
        torch.autograd.grad(loss_of(model(x)), x, create_graph=True)
    with rs.estimating(model, rs.BPTT(OWN)):
        (gradient,) = torch.autograd.grad(loss_of(model(x)), x, create_graph=True)
    assert torch.autograd.grad(gradient.square().sum(), x)[0].any()


def test_backward_twice_adds_up_and_after_the_block_counts_too():
    model, x = adapted(network(Earlier)), X.clone().requires_grad_()
    expected = seen_by(model, rs.BPTR())[1]
    with rs.estimating(model, rs.BPTR()):
        loss = loss_of(model(x))
    loss.backward(retain_graph=True)
    assert torch.equal(x.grad, expected)
    loss.backward()
    assert torch.equal(x.grad, 2 * expected)


def test_the_images_need_no_gradient_where_parameters_do_and_the_other_way_round():
    model = adapted(network(Chain))
    with rs.estimating(model, Through()):
        loss_of(model(X)).backward()
        expected = plain(model.model)
        for name, parameter in model.model.named_parameters():
            assert expected[2][name] is None or gap(parameter.grad, expected[2][name]) < 1e-12
        model.requires_grad_(False)
        x = X.clone().requires_grad_()
        assert gap(torch.autograd.grad(loss_of(model(x)), x)[0], expected[1]) < 1e-12
        assert not model(X).requires_grad


def test_blocks_within_blocks():
    model = adapted(network(Skips))
    expected = {estimator: seen_by(model, estimator)[1] for estimator in (rs.BPTR(), rs.PDSG())}
    assert gap(*expected.values()) > 1e-3
    with rs.estimating(model, rs.BPTR()):
        assert torch.equal(seen_by(model, rs.PDSG())[1], expected[rs.PDSG()])
        x = X.clone().requires_grad_()
        assert torch.equal(torch.autograd.grad(loss_of(model(x)), x)[0], expected[rs.BPTR()])


@pytest.mark.parametrize("neuron", NEURONS, ids=lambda neuron: neuron.__name__)
@pytest.mark.parametrize("estimator", [rs.BPTT(), rs.BPTT(OWN), rs.BPTR(), rs.ASSG()], ids=str)
def test_recorded_currents_are_those_of_every_step(neuron, estimator):
    net = network(Chain, neuron)
    model = adapted(net, neuron)
    expected = {"one": [], "two": []}
    handles = [
        getattr(net, name).register_forward_hook(lambda module, args, out, seen=seen: seen.append(args[0].detach()))
        for name, seen in expected.items()
    ]
    plain(net)
    for handle in handles:
        handle.remove()
    model(X)
    with rs.estimating(model, estimator), recording(model) as notes:
        model(X.clone().requires_grad_())
    assert [layer for layer, _ in notes] == list(spiking_layers(model).values())
    for (_, currents), steps in zip(notes, expected.values(), strict=True):
        assert torch.equal(currents, torch.stack(steps))


def test_a_neuron_that_passes_state_is_recorded_apart_at_each_place():
    model = adapted(network(Twice, Passes), Passes)
    model(X)
    for estimator in (rs.BPTT(), rs.BPTR()):
        with rs.estimating(model, estimator), recording(model) as notes:
            model(X.clone().requires_grad_())
        assert [tuple(currents.shape) for _, currents in notes] == [(T, 3, 6), (T, 3, 6), (T, 3, 4)]


def test_places_are_told_apart_by_states_of_the_start_too():
    """As in snnTorch: the state goes in from the first call on, but there are neurons that keep it themselves."""

    class Given(Twice):
        def start(self, x):
            return [x.new_zeros(len(x), features) for features in (6, 6, 4)]

    model = Adapted(
        network(Given, Passes), [Framework(**vars(PASSES) | {"passes_state": False})], *[None] * 5, "spikes"
    )
    model(X)
    for estimator in (rs.BPTT(), rs.BPTR()):
        with rs.estimating(model, estimator), recording(model) as notes:
            model(X.clone().requires_grad_())
        assert [tuple(currents.shape) for _, currents in notes] == [(T, 3, 6), (T, 3, 6), (T, 3, 4)]


def test_memory_is_freed_with_the_logits(monkeypatch):
    alive = weakref.WeakSet()

    class Watched(Unrolled):
        def __init__(self):
            super().__init__()
            alive.add(self)

    monkeypatch.setattr("robustspike.adapters.adapting.Unrolled", Watched)
    model, x = adapted(network(Earlier)), X.clone().requires_grad_()
    model(X)
    gc.collect()
    gc.disable()  # what references alone free
    try:
        for _ in range(3):
            with rs.estimating(model, rs.BPTR()):
                loss = loss_of(model(x))
            assert len(alive) == 1
            loss.backward()
            del loss
            assert len(alive) == 0
    finally:
        gc.enable()


class Hooked(Chain):
    """A parameter without use in the loop, and one with, both with hooks that expect a gradient."""

    def __init__(self, neuron):
        super().__init__(neuron)
        for each in (self.skip, self.a):
            each.weight.register_hook(lambda gradient: 2 * gradient)


def test_hooks_of_parameters_get_gradients():
    net = network(Hooked)
    model = adapted(net)
    with rs.estimating(model, Through()):
        loss_of(model(X)).backward()
    assert not net.skip.weight.grad.any()
    assert gap(net.a.weight.grad, 2 * plain(network(Chain))[2]["a.weight"]) < 1e-12


class Learned(nn.Module):
    """An encoder with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.2, dtype=torch.float64))

    def forward(self, x):
        return (self.scale * x).expand(T, *x.shape)


def test_an_encoders_parameters_get_the_gradient():
    net = network(Chain)

    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net.step(x, None)

    model, grads = Adapted(Step(), [KEEPS], T, None, Learned(), None, None, "spikes"), []
    for estimator in (rs.BPTT(), Through()):
        model.zero_grad()
        with rs.estimating(model, estimator):
            loss_of(model(X)).backward()
        grads.append(model.encoder.scale.grad)
    assert grads[0] != 0
    assert gap(grads[1], grads[0]) < 1e-12


class Altered(Chain):
    """Changes the potential between steps."""

    def step(self, x, states):
        out = super().step(x, states)
        if type(self.one) is Passes:
            states[0] = 0.5 * states[0]
        else:
            self.one.v = 0.5 * self.one.v
        return out


@pytest.mark.parametrize("neuron", NEURONS, ids=lambda neuron: neuron.__name__)
def test_a_loop_that_changes_the_state_between_steps_is_refused(neuron):
    net = network(Altered, neuron)
    model = adapted(net, neuron)
    assert_alike(seen_by(model, rs.BPTT(OWN)), plain(net))
    with pytest.raises(AdaptError, match=r"the state of .* at one is not passed on as it was returned"):
        seen_by(model, rs.BPTR())


class Recomputed(Chain):
    def step(self, x, states):
        def both(x, one, two):
            states = [one, two]
            return super(Recomputed, self).step(x, states), *states

        z, *states[:2] = checkpoint(both, x, *states[:2], use_reentrant=False)
        return z


def test_steps_that_the_backward_pass_computes_again_are_refused_under_estimators():
    """By then the network is as it was: what is computed again would have its own gradient, silently."""
    model = adapted(network(Recomputed, Passes), Passes)
    model(X)
    for estimator in (rs.BPTT(rs.ArcTan()), rs.BPTR()):
        with pytest.raises(AdaptError, match="Passes of passes at one cannot carry .* computes it again"):
            seen_by(model, estimator)
    assert_alike(seen_by(model, rs.BPTT()), plain(network(Chain, Passes)))
