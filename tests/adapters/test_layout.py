"""How a network is called is found by trial calls: a table of networks, sizes that look like others, errors."""

import pytest
import torch
from tests.adapters.test_stepping import KEEPS, PASSES, Keeps, Passes
from torch import nn

import robustspike as rs
from robustspike.adapters import Adapted, AdaptError, Framework
from robustspike.encoders import ENCODERS
from robustspike.neurons import spiking_layers

pytestmark = pytest.mark.usefixtures("one_thread")
SAMPLES = 5  # of the trial calls


class Whole(Keeps):
    """The neuron of the other tests, for a whole sequence at once."""

    def forward(self, x_seq):
        return torch.stack([super(Whole, self).forward(x) for x in x_seq])


WHOLE = Framework(
    **vars(KEEPS) | {"name": "whole", "is_neuron": lambda m: isinstance(m, Whole), "covers_time": lambda m: True}
)


class Each(nn.Module):
    """A layer at every step, one after the other."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x_seq):
        return torch.stack([self.layer(x) for x in x_seq])


class Function(nn.Module):
    """Layers, and a forward written for the test."""

    def __init__(self, forward, *layers):
        super().__init__()
        self.layers, self.written = nn.ModuleList(layers), forward

    def forward(self, x, *states):
        return self.written(self.layers, x, *states)


def strong(layer):
    with torch.no_grad():
        layer.weight *= 8
    return layer.double()


def linear(features=16, classes=4):
    return strong(nn.Linear(features, classes))


def own_loop(steps, read=torch.stack, neuron=Keeps, classes=4):
    def forward(layers, x):
        return read([layers[1](layers[0](x.flatten(1))) for _ in range(steps)])

    return Function(forward, linear(classes=classes), neuron().double())


def step(classes=4):
    return nn.Sequential(nn.Flatten(), linear(classes=classes), Keeps().double())


def passing_step():
    def forward(layers, x, state=None):
        return layers[1](layers[0](x.flatten(1)), state)

    return Function(forward, linear(), Passes().double())


def convolution(channels, into=1):
    return strong(nn.Conv2d(into, channels, 3, padding=1))


def sequence(channels=3):
    """Lets images in without a batch axis, as convolutions do."""
    head = linear(16 * channels)
    return nn.Sequential(Each(convolution(channels)), Whole().double(), nn.Flatten(2), Each(head), Whole().double())


def pooled_sequence():
    """Five channels, averaged over their places: with five samples in the place of time all shapes fit."""
    pool = Each(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(-3)))
    return nn.Sequential(Each(convolution(SAMPLES)), Whole().double(), pool, Each(linear(SAMPLES)))


def sequence_of_steps(channels=3):
    """Loops over the first axis of what it is given."""

    def forward(layers, x_seq):
        found = []
        for x in x_seq:
            z = layers[1](layers[0](x))
            found.append(layers[2](z.reshape(-1, 16 * channels)))
        return torch.stack(found)

    return Function(forward, convolution(channels), Keeps().double(), linear(16 * channels))


def events(steps):
    """Frames [N, T, ...] in, its own loop over them."""

    def forward(layers, x):
        return torch.stack([layers[1](layers[0](x[:, t].flatten(1))) for t in range(x.shape[1])])

    return Function(forward, linear(), Keeps().double())


def images(n=2, *shape):
    return torch.rand(n, *(shape or (1, 4, 4)), dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def adapted(net, x, steps=None, framework=KEEPS, encoder=None, readout="spikes", takes=None):
    made = ENCODERS[encoder](steps or 0) if isinstance(encoder, str) else encoder
    model = Adapted(net, [framework], steps, takes, made, None, None, readout)
    model(x)
    return model


TABLE = {
    "own loop, [T, N, K]": (lambda: own_loop(7), None, KEEPS, "images", 7),
    "own loop, [N, K]": (lambda: own_loop(7, lambda z: torch.stack(z).sum(0)), None, KEEPS, "images", 7),
    "own loop, (spikes, potentials)": (lambda: own_loop(7, lambda z: (torch.stack(z), z[0])), None, KEEPS, "images", 7),
    "own loop, a list of steps": (lambda: own_loop(7, lambda z: [torch.stack(z)]), None, KEEPS, "images", 7),
    "own loop, steps said": (lambda: own_loop(7), 7, KEEPS, "images", 7),
    "own loop of as many steps as trial samples": (lambda: own_loop(SAMPLES), None, KEEPS, "images", SAMPLES),
    "own loop, as many classes as trial samples": (lambda: own_loop(3, classes=SAMPLES), None, KEEPS, "images", 3),
    "step": (step, 6, KEEPS, "step", 6),
    "step, one": (lambda: step(8), 1, KEEPS, "step", 1),
    "step, as many steps as trial samples": (step, SAMPLES, KEEPS, "step", SAMPLES),
    "step, as many classes as trial samples": (lambda: step(SAMPLES), 3, KEEPS, "step", 3),
    "step that passes state": (passing_step, 6, PASSES, "step", 6),
    "sequence": (sequence, 6, WHOLE, "sequence", 6),
    "sequence, as many steps as trial samples": (sequence, SAMPLES, WHOLE, "sequence", SAMPLES),
    "sequence, as many channels as trial samples": (lambda: sequence(SAMPLES), 6, WHOLE, "sequence", 6),
    "sequence, channels and steps as trial samples": (lambda: sequence(SAMPLES), SAMPLES, WHOLE, "sequence", SAMPLES),
    "sequence, pooled, channels as trial samples": (pooled_sequence, 6, WHOLE, "sequence", 6),
    "sequence, pooled, all as trial samples": (pooled_sequence, SAMPLES, WHOLE, "sequence", SAMPLES),
    "sequence of steps": (sequence_of_steps, 6, KEEPS, "sequence", 6),
    "sequence of steps, channels as trial samples": (lambda: sequence_of_steps(SAMPLES), 6, KEEPS, "sequence", 6),
}


@pytest.mark.parametrize("name", TABLE)
def test_what_a_network_takes_is_found(name):
    make, steps, framework, takes, found = TABLE[name]
    torch.manual_seed(0)
    net, x = make(), images(3)
    model = adapted(net, x, steps, framework)
    assert (model.takes, model.time_steps) == (takes, found)
    assert model(x).shape[0] == 3
    assert model(x).unique().numel() > 1


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("samples", [1, 2, SAMPLES, 7])
def test_samples_do_not_see_each_other_however_many_there_are(name, samples):
    """Also where N is the number of steps, of classes, or of trial samples."""
    make, steps, framework, _, _ = TABLE[name]
    torch.manual_seed(0)
    net, x = make(), images(7)
    with torch.no_grad():
        one_by_one = torch.cat([adapted(net, each[None], steps, framework)(each[None]) for each in x[:samples]])
        model = adapted(net, x[:samples], steps, framework)
        assert torch.allclose(model(x[:samples]), one_by_one, atol=1e-12)


@pytest.mark.parametrize("takes", ["images", "step", "sequence"])
def test_what_is_said_is_taken_or_refused(takes):
    makes = {"images": (lambda: own_loop(4), KEEPS), "step": (step, KEEPS), "sequence": (sequence, WHOLE)}
    for kind, (make, framework) in makes.items():
        steps = None if kind == "images" else 4
        if kind == takes:
            assert adapted(make(), images(), steps, framework, takes=takes).takes == takes
        else:
            with pytest.raises(
                AdaptError, match="found no way to call the network: with .*say takes=|the readout must give"
            ):
                adapted(make(), images(), 4, framework, takes=takes)


@pytest.mark.parametrize("steps", [4, SAMPLES])
@pytest.mark.parametrize("kind", ["step", "sequence"])
def test_event_frames_have_their_own_time_axis(kind, steps):
    x = images(2, steps, 1, 4, 4)
    make, framework = {"step": (step, KEEPS), "sequence": (sequence, WHOLE)}[kind]
    torch.manual_seed(0)
    model = adapted(make(), x, steps, framework, encoder="frames")
    assert (model.takes, model.time_steps) == (kind, steps)
    with torch.no_grad():
        frames = x.transpose(0, 1)
        expected = [model.model(each) for each in frames] if kind == "step" else model.model(frames)
        for module in model.model.modules():
            if isinstance(module, Keeps):
                KEEPS.reset(module)
        expected = [model.model(each) for each in frames] if kind == "step" else model.model(frames)
    assert torch.equal(model(x), torch.stack(list(expected)).mean(0))


@pytest.mark.parametrize("steps", [4, SAMPLES])
def test_a_network_that_loops_over_event_frames_takes_them_as_images(steps):
    model = adapted(events(steps), images(2, steps, 1, 4, 4))
    assert (model.takes, model.time_steps) == ("images", steps)


def test_encoders_stand_in_front():
    torch.manual_seed(0)
    net, x = step(), images(4)
    for name in ("direct", "phase"):
        model = adapted(net, x, 6, encoder=name)
        x_seq = ENCODERS[name](6)(x)
        KEEPS.reset(net[2])
        with torch.no_grad():
            expected = torch.stack([net(each) for each in x_seq]).mean(0)
        assert torch.equal(model(x), expected)
    assert rs.gradients.is_stochastic(adapted(net, x, 6, encoder="poisson"))


def test_readouts():
    torch.manual_seed(0)
    x, spikes = images(3), adapted(own_loop(4), images(3))(images(3))

    def make(read):
        torch.manual_seed(0)
        return own_loop(4, read)

    assert torch.equal(
        adapted(make(lambda z: (torch.stack(z), 3 * torch.stack(z))), x, readout="membrane")(x), 3 * spikes
    )
    assert torch.equal(adapted(make(torch.stack), x, readout=lambda out: 2 * out.sum(0))(x), 8 * spikes)
    assert torch.equal(adapted(make(torch.stack), x, readout=lambda out: 2 * out)(x), 2 * spikes)


def test_as_many_steps_as_samples_in_batch_first_answers_are_not_mistaken():
    """[N, T, K] with N = T in the trial would be averaged over the samples."""
    for steps in (SAMPLES, 4):
        net = own_loop(steps, lambda z: torch.stack(z, 1))
        with pytest.raises(AdaptError, match=r"the readout must give logits \[N, K\] or \[T, N, K\].*give readout="):
            adapted(net, images())
        model = adapted(net, images(), readout=lambda out: out.mean(1))
        assert model(images()).shape == (2, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: adapted(step(), images()), "takes one step per call: say time_steps="),
        (lambda: adapted(sequence(), images(), None, WHOLE), r"takes a sequence \[T, N, ...\] per call: say time_steps="),
        (lambda: adapted(own_loop(4), images(), 5), "loops over 4 time steps itself, got time_steps=5"),
        (lambda: adapted(own_loop(4), images(), 4, encoder="poisson"), "loops over time .* has no place for Poisson"),
        (lambda: adapted(step(), images(2, 3, 5, 5), 4), r"found no way to call .*Images are \[3, 5, 5\]"),
        (lambda: adapted(step(), images()[:0], 4), "checked on its first images, got none"),
        (lambda: adapted(Function(lambda layers, x: x.flatten(1), Keeps()), images(), 4), "no neuron was called"),
        (lambda: adapted(own_loop(4, lambda z: z[0].sum()), images()), r"must give logits .* got a tensor \[\]"),
        (lambda: adapted(own_loop(4, lambda z: None), images()), "must give logits .* got a NoneType"),
        (lambda: adapted(own_loop(4, lambda z: torch.stack(z)[..., None]), images()), r"got a tensor \[4, 5, 4, 1\]"),
        (lambda: adapted(Function(_fails, Keeps()), images(), 4), "with images, RuntimeError: a matter of the user's;"),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(make, message):
    with pytest.raises(AdaptError, match=message) as refusal:
        make()
    assert "\n" not in str(refusal.value)


def _fails(layers, x):
    raise RuntimeError("a matter of the user's\nand more")


def test_trials_leave_state_and_attributes_alone():
    def forward(layers, x):
        net.seen = x.shape
        return torch.stack([layers[1](layers[0](x.flatten(1))) for _ in range(4)])

    net = Function(forward, linear(), Keeps().double())
    net.layers[1].v = torch.full((2, 4), 0.25)
    held, net.seen = net.layers[1].v, None
    model = Adapted(net, [KEEPS], None, None, None, None, None, "spikes")
    rs.adapters.prepare(model, images())
    assert net.layers[1].v is held
    assert net.seen is None
    model(images())
    assert net.layers[1].v is held
    assert list(spiking_layers(model)) == ["layers.1"]
