"""What is found out about a network before it is used, what is refused, and that finding out leaves no trace."""

import copy
import pickle
import sys

import numpy as np
import pytest
import torch
from tests.adapters.test_stepping import KEEPS, PASSES, Keeps
from torch import nn

import robustspike as rs
from robustspike.adapters import FRAMEWORKS, Adapted, AdaptError, adapt
from robustspike.neurons import spiking_layers
from robustspike.surrogates import spike

pytestmark = pytest.mark.usefixtures("one_thread")
ESTIMATORS = (rs.BPTT(rs.ArcTan()), rs.BPTR(), rs.RGA(), rs.CBA(), rs.HART(), rs.PDSG(), rs.ASSG())


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """The neurons of ten lines are a framework, as long as a test lasts."""
    for record in (KEEPS, PASSES):
        monkeypatch.setitem(FRAMEWORKS, record.name, record)
        monkeypatch.setitem(sys.modules, record.name, sys.modules[__name__])


def images(n=3):
    return torch.rand(n, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


X, Y = images(), torch.tensor([0, 1, 2])


class Net(nn.Module):
    """A step: convolution, BatchNorm, neuron, dropout, linear, neuron; what comes before, between and after is for tests."""

    def __init__(self, before=None, between=None):
        super().__init__()
        self.before, self.between = before or nn.Identity(), between or nn.Identity()
        self.convolution, self.norm, self.one = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), Keeps()
        self.linear, self.two = nn.Linear(48, 4), Keeps()
        with torch.no_grad():
            self.convolution.weight *= 3
            self.linear.weight *= 5

    def forward(self, x):
        z = self.one(self.norm(self.convolution(self.before(x))))
        return self.two(self.linear(self.between(z).flatten(1)))


def network(*args, kind=Net):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = kind(*args).double().eval()
        net.norm.running_mean.uniform_(-0.2, 0.2)
        net.norm.running_var.uniform_(0.1, 0.5)
    return net


def logits_of(net, x, steps=4):
    """As its owner runs it."""
    for module in net.modules():
        if isinstance(module, Keeps):
            KEEPS.reset(module)
    with torch.no_grad():
        return torch.stack([net(x) for _ in range(steps)]).mean(0)


# Refusals


class Counting(nn.Module):
    """Adds more at every call."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, z):
        self.calls += 1
        return z + 0.01 * self.calls


class Buffered(Counting):
    """Keeps a tensor, of as many samples as it saw."""

    def forward(self, z):
        self.calls = 0.5 * self.calls + z
        return self.calls


class Drawing(nn.Module):
    """Draws from a generator of its own: no seed of others reaches it."""

    def __init__(self):
        super().__init__()
        self.generator = np.random.default_rng()

    def forward(self, z):
        return z + torch.from_numpy(self.generator.random(z.shape))


@pytest.mark.parametrize("between", [Counting, Buffered, Drawing])
def test_two_calls_that_differ_are_refused(between):
    net = network(None, between())
    if between is Buffered:  # of another number of samples it could not even run
        with pytest.raises(
            AdaptError, match="two calls with the same images .*keeps state outside its neurons.*reset that"
        ):
            adapt(net, 4, images=X)
        return
    with pytest.raises(
        AdaptError, match=r"two calls .* differ by up to 0\.\d+ in the logits|two calls .* differ by up to"
    ):
        adapt(net, 4, images=X, readout=lambda out: out)


def test_a_refused_network_has_the_attributes_of_before():
    net = network(None, Buffered())
    with pytest.raises(AdaptError):
        adapt(net, 4, images=X)
    assert net.between.calls == 0


def test_random_networks_under_a_seed_are_not_taken_for_leaking():
    net = network(None, nn.Dropout(0.5))
    net.between.forward = lambda z: nn.functional.dropout(z, 0.5, training=True)
    model = adapt(net, 4, images=X)
    assert rs.gradients.is_stochastic(model, X)


class Cut(nn.Module):
    def __init__(self, cut):
        super().__init__()
        self.cut = cut

    def forward(self, z):
        return self.cut(z)


def test_a_gradient_that_is_cut_within_the_network_is_refused():
    class Within(Net):
        def forward(self, x):
            return super().forward(x.round())

    class Detached(Net):
        def forward(self, x):
            return super().forward(x.detach())

    for kind in (Within, Detached):
        with pytest.raises(
            AdaptError, match=r"gradient .* images.*give encoder= to adapt|no gradient reaches the images"
        ):
            adapt(network(kind=kind), 4, images=X)


def test_an_encoder_within_is_found_and_passed_straight_through():
    """A module whose spikes have no gradient: 1 at every place, as our own encoders have it."""
    torch.manual_seed(0)
    rounding = network(Cut(lambda x: (x > 0.5).to(x.dtype)))
    model = adapt(rounding, 4, images=X)
    assert model.straight_through == ("before",)
    plain = network(Cut(lambda x: (x > 0.5).to(x.dtype) + (x - x.detach())))
    other = adapt(plain, 4, images=X)
    assert other.straight_through == ()
    assert torch.equal(model(X), other(X))
    assert torch.equal(model(X), logits_of(rounding, X))
    for estimator in (rs.BPTT(), *ESTIMATORS):
        found, expected = (rs.input_gradient(each, X, Y, estimator=estimator) for each in (model, other))
        assert expected.any()
        assert torch.allclose(found, expected, rtol=1e-12, atol=0)
    with torch.enable_grad():  # the encoder itself is as before
        assert not rounding.before(X.clone().requires_grad_()).requires_grad


def test_a_neuron_without_a_surrogate_is_carried_by_ours():
    net, other = network(), network()
    for neuron in (net.one, net.two):
        neuron.fire = lambda d: (d >= 0).to(d.dtype)
    model, smooth = adapt(net, 4, images=X), adapt(other, 4, images=X)
    assert not rs.input_gradient(model, X, Y).any()
    for estimator in ESTIMATORS:
        found, expected = (rs.input_gradient(each, X, Y, estimator=estimator) for each in (model, smooth))
        assert torch.allclose(found, expected, rtol=1e-12, atol=0), estimator


class Odd(Keeps):
    """Neurons that do not do what estimators count on."""

    def __init__(self, forward):
        super().__init__()
        self.written = forward

    def forward(self, x):
        return self.written(self, x)


def graded(neuron, x):
    neuron.v = 0.5 * neuron.v + x
    return neuron.fire(neuron.v - 1) * neuron.v


def two_thresholds(neuron, x):
    neuron.v = 0.5 * neuron.v + x
    return neuron.fire(neuron.v - 1) * (1 - neuron.fire(neuron.v - 3))


def past_its_function(neuron, x):
    neuron.v = 0.5 * neuron.v + x
    soft = torch.sigmoid(4 * (neuron.v - 1))
    return neuron.fire(neuron.v.detach() - 1) + soft - soft.detach()


def by_another_function(neuron, x):
    neuron.v = 0.5 * neuron.v + x
    return spike(neuron.v - 1, rs.ArcTan())


@pytest.mark.parametrize("odd", [graded, two_thresholds, past_its_function, by_another_function])
def test_a_neuron_that_cannot_carry_an_estimator_is_named(odd):
    net = network()
    net.one = Odd(odd).double()
    model = adapt(net, 4, images=X)
    assert torch.equal(model(X), logits_of(net, X))
    rs.input_gradient(model, X, Y)
    for estimator in (rs.BPTR(), rs.PDSG(), rs.ASSG(), rs.HART()):
        with pytest.raises(AdaptError, match=r"Odd of keeps at one cannot carry .*; use BPTT\("):
            rs.input_gradient(model, X, Y, estimator=estimator)
    if odd in (past_its_function, by_another_function):
        with pytest.raises(AdaptError, match=r"Odd of keeps at one cannot carry BPTT"):
            rs.input_gradient(model, X, Y, estimator=rs.BPTT(rs.ArcTan()))


# No trace


def test_random_streams_are_left_alone():
    net = network(None, nn.Dropout(0.5)).train()
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    model = adapt(net, 4, images=X)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    expected = logits_of(net, X)
    torch.set_rng_state(before[0])
    assert torch.equal(model(X), expected)  # dropout draws as it would


@pytest.mark.parametrize("at_once", [True, False])
def test_batch_statistics_are_those_of_the_owners_calls(at_once):
    net, other = network().train(), network().train()
    model = adapt(net, 4, images=X if at_once else None)
    assert model.training
    if at_once:
        assert torch.equal(net.norm.running_mean, other.norm.running_mean)
        assert net.norm.num_batches_tracked == 0
    model(X)
    logits_of(other, X)
    assert torch.equal(net.norm.running_mean, other.norm.running_mean)
    assert torch.equal(net.norm.running_var, other.norm.running_var)
    assert net.norm.num_batches_tracked == other.norm.num_batches_tracked == 4


def test_modes_and_gradients_wanted_stay():
    net = network().train()
    net.norm.eval()
    net.linear.bias.requires_grad_(False)
    model = adapt(net, 4, images=X)
    assert [module.training for module in (net, net.norm, net.one, net.linear)] == [True, False, True, True]
    assert [p.requires_grad for p in net.parameters()].count(False) == 1
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_the_first_images_may_come_without_gradients(off):
    net = network()
    model = adapt(net, 4)
    with off():
        assert torch.equal(model(X), logits_of(network(), X))
    fresh = adapt(network(), 4, images=X)
    assert torch.equal(
        rs.input_gradient(model, X, Y, estimator=rs.BPTR()), rs.input_gradient(fresh, X, Y, estimator=rs.BPTR())
    )


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_the_first_images_may_come_under_an_estimator(estimator):
    model, fresh = adapt(network(), 4), adapt(network(), 4, images=X)
    expected = rs.input_gradient(fresh, X, Y, estimator=estimator)
    assert torch.equal(rs.input_gradient(model, X, Y, estimator=estimator), expected)
    assert all(layer.gradient_rule is None for layer in spiking_layers(model).values())
    assert not model.time_collapsed


def test_an_estimator_that_the_network_cannot_carry_is_refused_at_the_first_images_too():
    net = network()
    net.one = Odd(two_thresholds).double()
    model = adapt(net, 4)
    for _ in range(2):
        with pytest.raises(AdaptError, match="Odd of keeps at one cannot carry"):
            rs.input_gradient(model, X, Y, estimator=rs.PDSG())
        assert all(layer.gradient_rule is None for layer in spiking_layers(model).values())
    assert torch.equal(model(X), logits_of(net, X))


def test_an_exception_within_leaves_the_network_as_it_was():
    net = network()
    model = adapt(net, 4, images=X)
    records = [
        (dict(vars(m)), {name: dict(v) for name, v in vars(m).items() if isinstance(v, dict)}) for m in net.modules()
    ]

    def fail(module, args, out):
        raise RuntimeError("mid-way")

    for estimator in (rs.BPTT(), *ESTIMATORS):
        handle = net.linear.register_forward_hook(fail)
        with pytest.raises(RuntimeError, match="mid-way"), rs.estimating(model, estimator):
            model(X.clone().requires_grad_())
        handle.remove()
        for module, (attributes, dicts) in zip(net.modules(), records, strict=True):
            assert vars(module).keys() == attributes.keys()
            assert all(vars(module)[name] is value for name, value in attributes.items())
            assert all(vars(module)[name].keys() == value.keys() for name, value in dicts.items())
    assert all(layer.gradient_rule is None and layer.original is None for layer in spiking_layers(model).values())


# Copies


class Surrogate:
    """Spikes with a slope, as something that can be pickled."""

    def __call__(self, d):
        return spike(d, rs.Triangle())


def test_copies_and_pickles_are_networks_of_their_own():
    net = network()
    net.one.fire = net.two.fire = Surrogate()
    model = adapt(net, 4, images=X)
    expected = [rs.input_gradient(model, X, Y, estimator=estimator) for estimator in ESTIMATORS]
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert isinstance(other, Adapted)
        assert other.frameworks[0] is KEEPS
        for path, layer in spiking_layers(other).items():
            assert layer.neuron is other.model.get_submodule(path)
            assert layer.neuron is not net.get_submodule(path)
        found = [rs.input_gradient(other, X, Y, estimator=estimator) for estimator in ESTIMATORS]
        assert all(map(torch.equal, found, expected))
        with torch.no_grad():
            other.model.linear.weight.zero_()
        assert not torch.equal(other(X), model(X))
    assert all(map(torch.equal, [rs.input_gradient(model, X, Y, estimator=each) for each in ESTIMATORS], expected))


def test_weights_are_saved_under_the_networks_own_names():
    net = network()
    model = adapt(net, 4, images=X)
    assert {f"model.{name}" for name in net.state_dict()} == set(model.state_dict())
    other = adapt(network(), 4)
    with torch.no_grad():
        other.model.linear.weight.zero_()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(X), model(X))
    assert [id(p) for p in model.parameters()] == [id(p) for p in net.parameters()]


# Normalisation; networks of ours, and without spikes


def test_normalisation_comes_before_the_network():
    mean, std = 0.3, 0.7
    model = adapt(network(), 4, mean=[mean], std=[std], images=X)
    assert torch.equal(model(X), logits_of(network(), (X - torch.tensor(mean)) / torch.tensor(std)))
    shifted = rs.input_gradient(model, X, Y, estimator=rs.BPTR())
    plain = rs.input_gradient(adapt(network(), 4), (X - torch.tensor(mean)) / torch.tensor(std), Y, estimator=rs.BPTR())
    assert torch.allclose(shifted, plain / torch.tensor(std), rtol=1e-12)


def ann():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)).double()


def test_a_network_without_spikes_comes_back_as_it_is():
    net = ann()
    assert adapt(net) is net
    assert adapt(net, 8, images=X) is net
    with pytest.raises(ValueError, match="found no spiking layer"):
        rs.input_gradient(adapt(net), X, Y, estimator=rs.BPTR())


def test_a_network_without_spikes_is_normalised_and_read_out_if_asked():
    net, mean, std = ann(), torch.tensor([0.25]), torch.tensor([0.5])
    model = adapt(net, mean=[0.25], std=[0.5], images=X)
    assert torch.equal(model(X), net((X - mean) / std))
    assert torch.equal(adapt(net, readout=lambda out: -out)(X), -net(X))
    assert rs.input_gradient(model, X, Y).any()
    assert not spiking_layers(model)


@pytest.mark.parametrize(
    "options",
    [
        {"mean": [0.5], "std": [0.5]},
        {"encoder": "poisson", "time_steps": 4},
        {"takes": "step"},
        {"readout": lambda out: out},
    ],
    ids=lambda options: "-".join(options),
)
def test_nothing_that_is_said_of_a_network_of_ours_is_ignored(options):
    ours = rs.models.digits_cnn(time_steps=2)
    assert adapt(ours) is ours
    assert adapt(ours, images=torch.rand(2, 1, 8, 8)) is ours
    with pytest.raises(AdaptError, match="is for networks of other frameworks, got a network of robustspike"):
        adapt(ours, **options)


def test_an_encoder_has_no_place_before_a_network_without_spikes():
    with pytest.raises(AdaptError, match="encoder.* no spiking neurons"):
        adapt(ann(), 4, encoder="poisson")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_steps": 0}, "time_steps must be a whole number ≥ 1, got 0"),
        ({"takes": "steps"}, "takes must be one of images, step, sequence; got 'steps'"),
        ({"encoder": "rate"}, "encoder must be one of .*; got 'rate'"),
        ({"encoder": "poisson"}, "the encoder 'poisson' has to know how many steps"),
        ({"readout": "voltage"}, "readout must be one of spikes, membrane; got 'voltage'"),
        ({"mean": [0.5]}, "give both mean and std"),
    ],
)
def test_what_is_said_wrongly_is_refused(options, message):
    with pytest.raises(AdaptError, match=message):
        adapt(network(), **options)
