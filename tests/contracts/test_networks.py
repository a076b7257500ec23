"""What every estimator, model, surrogate, encoder and ball promises, for each entry of its dict."""

import inspect
import json

import pytest
import torch
from tests.conftest import record_of, small_snn

from robustspike.balls import BALLS
from robustspike.draws import Draws
from robustspike.encoders import ENCODERS
from robustspike.gradients import ESTIMATORS, estimating, input_gradient
from robustspike.models import MODELS, build
from robustspike.neurons import LIF, spiking_layers
from robustspike.surrogates import SURROGATES, spike

SMALL = {
    "digits-cnn": {},
    "vgg5": {"image_size": 4, "in_channels": 1},
    "vgg11": {"image_size": 16, "in_channels": 1},
    "wrn16": {"image_size": 4, "in_channels": 1},
    **{name: {"image_size": 8, "in_channels": 1} for name in MODELS if "resnet" in name},
    **{
        name: {"image_size": 32, "in_channels": 1, "width": 16, "pooled_size": 1}
        for name in MODELS
        if "spiking-vgg" in name
    },
}
pytestmark = pytest.mark.usefixtures("one_thread")
estimators = pytest.mark.parametrize("estimator", [make() for make in ESTIMATORS.values()], ids=ESTIMATORS)
encoders = pytest.mark.parametrize("encoder", ENCODERS)
names = pytest.mark.parametrize("name", MODELS)


def images(encoder="direct", n=3):
    torch.manual_seed(2)
    return torch.rand(n, *([2] * (encoder == "frames")), 1, 8, 8), torch.arange(n)


@estimators
@encoders
def test_an_estimator_keeps_its_promise_on_the_logits(estimator, encoder):
    model, (x, _) = small_snn(encoder=encoder).eval(), images(encoder)
    torch.manual_seed(0)
    before = model(x)
    torch.manual_seed(0)
    with estimating(model, estimator):
        inside = model(x)
    torch.manual_seed(0)
    assert torch.equal(inside, before) == estimator.exact
    assert torch.equal(model(x), before)


@estimators
@encoders
@pytest.mark.parametrize("reset", ["hard", "soft"])
def test_an_estimator_gives_a_finite_gradient_and_leaves_the_model(estimator, encoder, reset):
    model, (x, y) = small_snn(encoder=encoder, reset=reset, leak=0.9).train(), images(encoder)
    before = record_of(model)
    gradient = input_gradient(model, x, y, estimator, draws=Draws.of(0, torch.arange(len(x))))
    assert gradient.shape == x.shape
    assert gradient.dtype == x.dtype
    assert gradient.isfinite().all()
    assert gradient.abs().amax(tuple(range(1, x.dim()))).min() > 0
    assert record_of(model) == before


@estimators
def test_an_estimator_is_a_value(estimator):
    assert estimator == type(estimator)()
    assert hash(estimator) == hash(type(estimator)())
    assert isinstance(estimator.exact, bool)
    assert isinstance(estimator.without_time, bool)


@pytest.mark.parametrize("name", SURROGATES)
def test_a_surrogate_is_an_even_slope_that_is_largest_at_the_threshold(name):
    surrogate = SURROGATES[name]()
    d = torch.linspace(-3, 3, 601, dtype=torch.float64)
    slope = surrogate.slope(d)
    assert slope.shape == d.shape
    assert slope.isfinite().all()
    assert (slope >= 0).all()
    torch.testing.assert_close(slope, slope.flip(0))
    assert slope.argmax() == 300 or slope[300] == slope.max()
    assert surrogate == SURROGATES[name]()


@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_spike_is_a_step_with_the_slope_of_its_surrogate(name, dtype):
    d = torch.tensor([-0.5, 0.0, 0.25], dtype=dtype, requires_grad=True)
    s = spike(d, SURROGATES[name]())
    assert s.tolist() == [0.0, 1.0, 1.0]
    s.sum().backward()
    torch.testing.assert_close(d.grad, SURROGATES[name]().slope(d.detach()))


@names
def test_a_model_maps_images_to_logits_and_says_what_it_takes(name):
    model = MODELS[name](num_classes=3, time_steps=2, **SMALL[name]).eval()
    size = model.settings.image_size
    x = torch.rand(2, 1, size, size)
    with torch.no_grad():
        assert model(x).shape == (2, 3)
    assert spiking_layers(model)
    for wrong in (torch.rand(2, 3, size, size), torch.rand(2, 1, size + 1, size), torch.rand(1, size, size), x[None]):
        with pytest.raises(ValueError, match=rf"^{name} takes inputs \[N, 1, {size}, {size}\], got "):
            model(wrong)


@names
def test_a_model_is_rebuilt_from_its_record(name):
    options = {"leak": 0.5, "threshold": 0.75, "reset": "soft", "detach_reset": True, "readout": "spikes"}
    options |= {"encoder": "phase", "surrogate": SURROGATES["gaussian"](0.3), "mean": (0.25,), "std": (0.5,)}
    model = MODELS[name](num_classes=3, time_steps=2, **SMALL[name], **options)
    again = build(json.loads(json.dumps(model.settings.record())))
    assert again.settings.record() == model.settings.record()
    assert str(again) == str(model)
    again.load_state_dict(model.state_dict())
    x = torch.rand(1, 1, model.settings.image_size, model.settings.image_size)
    with torch.no_grad():
        assert torch.equal(again.eval()(x), model.eval()(x))


@names
def test_every_parameter_of_a_model_gets_a_gradient(name):
    torch.manual_seed(0)
    model = MODELS[name](num_classes=3, time_steps=1, threshold=0.1, **SMALL[name]).train()
    model(torch.rand(4, 1, model.settings.image_size, model.settings.image_size)).square().sum().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert silent == []
    assert [p.grad.abs().max() > 0 for p in model.head.parameters()] == [True, True]


def test_another_model_is_refused():
    with pytest.raises(ValueError, match=r"^model must be one of digits-cnn, .*; got 'resnet'"):
        build({"name": "resnet"})


@encoders
def test_an_encoder_gives_time_and_a_rate(encoder):
    layer, (x, _) = ENCODERS[encoder](2), images(encoder)
    x_seq = layer(x)
    assert x_seq.shape == (2, 3, 1, 8, 8)
    assert layer.rate(x).shape == (3, 1, 8, 8)
    assert isinstance(layer.stochastic, bool)
    assert x_seq.min() >= 0
    assert x_seq.max() <= 1


@pytest.mark.parametrize("name", BALLS)
def test_a_ball_is_a_value_of_its_norm(name):
    ball = BALLS[name]("8/255")
    assert (ball.norm, ball.eps) == (name, 8 / 255)
    assert ball.with_eps(0.5) == BALLS[name](0.5)


DICTS = {"estimator": ESTIMATORS, "model": MODELS, "surrogate": SURROGATES, "encoder": ENCODERS, "ball": BALLS}
ENTRIES = {f"{kind} {name}": entry for kind, dict_ in DICTS.items() for name, entry in dict_.items()}


@pytest.mark.parametrize("entry", [*ENTRIES.values(), LIF], ids=[*ENTRIES, "neuron"])
def test_is_documented_in_its_own_words(entry):
    text = inspect.getdoc(entry)
    assert text
    assert text.splitlines()[0].endswith(".")
