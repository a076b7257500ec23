"""The networks against the plain implementation in plain.py, their parameters by formula, and their settings."""

import json

import pytest
import torch
from tests.models import plain
from torch import nn

from robustspike.checkpoints import load_model, save_model, write_tensors
from robustspike.draws import Draws, sampling
from robustspike.encoders import Frames
from robustspike.gradients import BPTR, BPTT, CBA, RGA, estimating, input_gradient
from robustspike.models import MODELS, build, digits_cnn, vgg5, vgg11, wrn16
from robustspike.models.vgg import AvgPool2d
from robustspike.neurons import DLIF, LIF, spiking_layers
from robustspike.surrogates import SURROGATES, ArcTan, Sigmoid, Triangle

ESTIMATORS = {
    "bptt": BPTT(),
    "bptt-sigmoid": BPTT(Sigmoid(4.0)),
    "bptt-arctan": BPTT(ArcTan(2.0)),
    "bptr": BPTR(),
    "rga": RGA(),
    "cba": CBA(),
}
MEAN, STD = (0.5, 0.375, 0.625), (0.25, 0.5, 0.25)  # exact in float32


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def awake(model, x):
    """Statistics and weights with which neurons of every layer fire, in float64."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.8, 1.6), module.bias.uniform_(-0.1, 0.5)
                module.momentum = 1.0
            elif isinstance(module, nn.Linear):
                module.weight.mul_(4), module.bias.uniform_(-0.1, 0.2)
            elif hasattr(module, "shortcut"):
                module.mixing.weight.copy_(torch.tensor([0.7, 0.4]))
        model.train()(x)  # the running statistics become those of x
    return model.double().eval()


# name: builder, options, batch, plain neuron constants
CASES = {
    "digits-cnn": (digits_cnn, {"time_steps": 4}, 3),
    "digits-cnn, soft reset": (digits_cnn, {"time_steps": 4, "leak": 0.5, "threshold": 0.6, "reset": "soft"}, 3),
    "digits-cnn, detached": (digits_cnn, {"time_steps": 4, "leak": 0.9, "threshold": 0.5, "detach_reset": True}, 3),
    "vgg5": (vgg5, {"time_steps": 3, "image_size": 8, "leak": 0.75, "threshold": 0.75}, 2),
    "vgg11": (vgg11, {"time_steps": 2, "image_size": 16, "threshold": 0.5}, 2),
    "wrn16": (wrn16, {"time_steps": 3, "image_size": 16, "leak": 0.5, "threshold": 0.5}, 2),
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    builder, options, batch = CASES[request.param]
    torch.manual_seed(0)
    channels = 1 if builder is digits_cnn else 3
    model = builder(mean=MEAN[:channels], std=STD[:channels], **options)
    size = model.settings.image_size
    x, y = torch.rand(batch, channels, size, size), torch.arange(batch)
    return awake(model, x), x.double(), y


def by_plain(model, x, y, estimator):
    s = model.settings
    weights = {name: value.detach() for name, value in model.state_dict().items()}
    constants = {"leak": s.leak, "threshold": s.threshold, "hard": s.reset == "hard", "detach": s.detach_reset}
    return plain.logits_and_gradient(s.name, weights, x, y, s.mean, s.std, s.time_steps, estimator, **constants)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_logits_and_input_gradients_equal_the_plain_implementation(case, estimator):
    model, x, y = case
    logits, gradient, neurons = by_plain(model, x, y, estimator)
    with torch.no_grad(), estimating(model, ESTIMATORS[estimator]):
        torch.testing.assert_close(model(x), logits, rtol=1e-9, atol=1e-9)
    got = input_gradient(model, x, y, ESTIMATORS[estimator], loss=plain.margin)
    torch.testing.assert_close(got, gradient, rtol=1e-7, atol=1e-9 * gradient.abs().max().item())
    if estimator == "bptt":  # the comparison is worth something
        assert gradient.abs().amax((1, 2, 3)).min() > 0
        for layer, spikes in neurons.spikes.items():
            assert 0.005 < torch.stack(spikes).mean() < 0.9, layer


def count(model):
    return sum(p.numel() for p in model.parameters())


def conv_bn(channels, width, kernel=9, bias=True):
    return kernel * channels * width + width * bias + 2 * width


def vgg_parameters(layout, features, hidden, classes, channels=3):
    total = 0
    for width in layout:
        total += conv_bn(channels, width)
        channels = width
    for width in (*hidden, classes):
        total += features * width + width
        features = width
    return total


def wrn_parameters(classes):
    total = 27 * 16
    for channels, width in ((16, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256)):
        total += 2 * channels + 9 * channels * width + 2 * width + 9 * width * width + 2  # BN, conv, BN, conv, mixing
        total += channels * width if channels != width else 0  # 1 × 1 shortcut
    return total + 2 * 256 + 256 * classes + classes


@pytest.mark.parametrize(
    ("builder", "options", "parameters"),
    [
        (digits_cnn, {}, vgg_parameters((32, 64, 64), 64 * 2 * 2, (), 10, channels=1)),
        (vgg5, {}, vgg_parameters((64, 128, 128), 128 * 8 * 8, (4096, 4096), 10)),
        (vgg11, {"num_classes": 100}, vgg_parameters(
            (64, 128, 256, 512, 512, 512, 512, 512), 512 * 4 * 4, (4096, 4096), 100)),
        (wrn16, {"num_classes": 100}, wrn_parameters(100)),
    ],
    ids=["digits-cnn", "vgg5", "vgg11", "wrn16"],
)  # fmt: skip
def test_parameter_counts_by_formula(builder, options, parameters):
    with torch.device("meta"):
        assert count(builder(**options)) == parameters


def forward_order(model, x):
    order, modules = [], {m: name for name, m in model.named_modules() if m._parameters}
    hooks = [m.register_forward_pre_hook(lambda m, _: order.append(modules[m])) for m in modules]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return order, list(modules.values())


def test_parameters_are_registered_in_forward_order(case):
    model, x, _ = case
    order, registered = forward_order(model, x)
    if model.settings.name == "wrn16":  # the shortcut may run at any time; it is registered after the main branch
        registered_branches = [name.split(".", 2)[2] for name in registered if name.startswith("layers.1.")]
        assert registered_branches == ["before.0", "main.0", "main.1", "main.3", "shortcut", "mixing"]
        order, registered = ([n for n in names if "shortcut" not in n] for names in (order, registered))
    assert order == registered


def test_the_mixing_weights_start_at_one_half_and_linear_biases_at_zero():
    model = wrn16(time_steps=1)
    assert all(block.mixing.weight.tolist() == [0.5, 0.5] for block in list(model.layers)[1:7])
    assert not model.head.bias.any()
    assert model.head.weight.any()
    # He, fan out: variance 2 / (3 · 3 · 256) in the last 3 × 3 convolution
    assert model.layers[6].main[3].weight.var().item() == pytest.approx(2 / (9 * 256), rel=0.02)


@pytest.mark.parametrize("name", SURROGATES)
def test_a_record_survives_json_and_builds_the_same_network(name):
    torch.manual_seed(0)
    model = digits_cnn(
        num_classes=7, time_steps=3, mean=[0.5], std=[0.25], encoder="phase", leak=0.9, threshold=0.8, reset="soft",
        detach_reset=True, surrogate=SURROGATES[name](), readout="spikes",
    )  # fmt: skip
    record = model.settings.record()
    again = build(json.loads(json.dumps(record)))
    assert again.settings.record() == record
    assert again.settings.surrogate == SURROGATES[name]()
    again.load_state_dict(model.state_dict())
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(again.eval()(x), model.eval()(x))


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_built_from_its_name_alone(name):
    with torch.device("meta"):
        model = build({"name": name})
    assert model.settings.name == name
    assert model.head.out_features == 10
    assert model.time_steps == (10 if "resnet" in name else 8)


class Homemade:
    def slope(self, d):
        return d


def test_records_refuse_what_they_cannot_hold():
    with pytest.raises(ValueError, match=r"^model must be one of digits-cnn, .*got 'resnet1'"):
        build({"name": "resnet1"})
    with pytest.raises(ValueError, match=r"^only the surrogates of robustspike can be saved"):
        digits_cnn(surrogate=Homemade()).settings.record()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"time_steps": 0}, r"^time_steps must be a whole number ≥ 1, got 0"),
        ({"num_classes": 2.5}, r"^num_classes must be a whole number ≥ 1, got 2.5"),
        ({"encoder": "morse"}, r"^encoder must be one of direct, poisson, phase, frames; got 'morse'"),
        ({"reset": "medium"}, r"^reset must be"),
        ({"leak": 2.0}, r"^leak must lie in"),
        ({"neuron": "izhikevich"}, r"^neuron must be \"lif\" or \"dlif\", got 'izhikevich'"),
        ({"readout": "voltage"}, r"^readout must be \"current\" or \"spikes\", got 'voltage'"),
        ({"mean": (0.5,)}, r"^give both mean and std"),
        ({"std": (0.5,)}, r"^give both mean and std"),
        ({"mean": (0.5, 0.5), "std": (1.0, 1.0)}, r"^mean and std need 1 number"),
        ({"image_size": 3}, r"^digits-cnn needs images of 4 pixels or more, got 3"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        digits_cnn(**options)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 1, 8, 9), (1, 8, 8), (2, 4, 1, 8, 8)])
def test_inputs_of_the_wrong_shape_are_refused_with_the_right_one(shape):
    with pytest.raises(ValueError, match=r"^digits-cnn takes inputs \[N, 1, 8, 8\], got \["):
        digits_cnn(time_steps=2)(torch.rand(shape))


def test_frames_are_inputs_with_a_time_axis():
    torch.manual_seed(0)
    model = digits_cnn(time_steps=3, in_channels=2, encoder="frames", threshold=0.25).eval()
    x = torch.rand(2, 2, 8, 8)
    still = x[:, None].repeat(1, 3, 1, 1, 1)
    direct = digits_cnn(time_steps=3, in_channels=2, threshold=0.25).eval()
    direct.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(still), direct(x))
    assert not torch.equal(model(torch.rand_like(still)), model(still))
    for wrong in (x, still[:, :2]):
        with pytest.raises(ValueError, match=r"T = 3|\[N, 3, 2, 8, 8\]"):
            model(wrong)


def test_what_a_network_takes_is_up_to_its_encoder():
    torch.manual_seed(0)
    model = digits_cnn(time_steps=3, encoder="phase", threshold=0.25).eval()
    x = torch.rand(2, 1, 8, 8)
    logits, code = model(x), model.encoder(x).transpose(0, 1)
    model.encoder = Frames(3)
    assert torch.equal(model(code), logits)
    with pytest.raises(ValueError, match=r"^digits-cnn takes inputs \[N, 3, 1, 8, 8\], got \[2, 1, 8, 8\]"):
        model(x)


def test_reading_out_spikes_counts_the_output_neurons():
    torch.manual_seed(0)
    model = digits_cnn(time_steps=5, readout="spikes", leak=0.5, threshold=0.25).eval()
    currents, x = [], torch.rand(4, 1, 8, 8)
    model.output_neuron.register_forward_pre_hook(lambda module, args: currents.append(args[0]))
    logits = model(x)
    assert currents[0].shape == (5, 4, 10)
    assert torch.equal(logits, LIF(0.5, 0.25)(currents[0]).sum(0))
    assert set(logits.unique().tolist()) <= set(range(6))
    assert logits.sum() > 0
    current = digits_cnn(time_steps=5, leak=0.5, threshold=0.25).eval()
    current.load_state_dict(model.state_dict())
    torch.testing.assert_close(current(x), currents[0].mean(0))


def test_normalisation_happens_inside():
    torch.manual_seed(0)
    model = digits_cnn(time_steps=2, mean=[0.25], std=[0.5], threshold=0.3).eval()
    bare = digits_cnn(time_steps=2, threshold=0.3).eval()
    bare.load_state_dict(model.state_dict())
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(model(x), bare((x - 0.25) / 0.5))
    assert not torch.equal(model(x), bare(x))


def test_the_poisson_model_is_stochastic_and_follows_the_streams_of_its_samples():
    torch.manual_seed(0)
    model = digits_cnn(time_steps=4, encoder="poisson", threshold=0.25).double().eval()
    x, draws = torch.rand(3, 1, 8, 8, dtype=torch.float64), Draws.of(0, torch.arange(3))
    assert model.stochastic
    assert not digits_cnn().stochastic
    with sampling(draws):
        whole = model(x)
    with sampling(draws[torch.tensor([1])]):
        torch.testing.assert_close(model(x[[1]]), whole[[1]])
    with sampling(draws.fork(1)):
        assert not torch.equal(model(x), whole)


def test_every_neuron_of_a_network_carries_its_settings():
    with torch.device("meta"):
        layers = spiking_layers(
            wrn16(leak=0.5, threshold=2.0, reset="soft", detach_reset=True, surrogate=Triangle(0.3))
        )
    assert len(layers) == 13
    for layer in layers.values():
        assert (layer.leak, layer.threshold, layer.reset, layer.detach_reset) == (0.5, 2.0, "soft", True)
        assert layer.surrogate == Triangle(0.3)


def with_weights(**options):
    """A digits-cnn of DLIF neurons with weights that are not 1."""
    torch.manual_seed(0)
    model = digits_cnn(time_steps=3, neuron="dlif", threshold=0.25, readout="spikes", **options).eval()
    for name, p in model.named_parameters():
        if name.endswith(".p"):
            p.data.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_dlif_makes_all_neurons_of_a_network_so(name):
    with torch.device("meta"):
        plain, model = (MODELS[name](time_steps=5, readout="spikes", neuron=neuron) for neuron in ("lif", "dlif"))
    weights = [p for n, p in model.named_parameters() if n.endswith(".p")]
    assert len(weights) == len(spiking_layers(model)) == len(spiking_layers(plain))
    assert {tuple(p.shape) for p in weights} == {(5,)}
    assert {id(m.neuron) for m in model.modules() if isinstance(m, DLIF)} == set(
        map(id, spiking_layers(model).values())
    )
    assert not [m for m in plain.modules() if isinstance(m, DLIF)]


def test_dlif_with_weights_of_one_is_lif_in_a_network():
    plain = digits_cnn(time_steps=3, threshold=0.25).eval()
    model = digits_cnn(time_steps=3, threshold=0.25, neuron="dlif").eval()
    assert model.load_state_dict(plain.state_dict(), strict=False).unexpected_keys == []
    x, y = torch.rand(4, 1, 8, 8), torch.arange(4)
    assert torch.equal(model(x), plain(x))
    for estimator in ESTIMATORS.values():
        torch.testing.assert_close(input_gradient(model, x, y, estimator), input_gradient(plain, x, y, estimator))


def test_every_weight_of_dlif_gets_a_gradient_and_every_estimator_passes():
    model, x, y = with_weights().train(), torch.rand(8, 1, 8, 8), torch.arange(8)
    torch.nn.functional.cross_entropy(model(x), y).backward()
    grads = {name: p.grad for name, p in model.named_parameters() if name.endswith(".p")}
    assert len(grads) == 4
    assert all(g.isfinite().all() and (g != 0).any() for g in grads.values())
    for estimator in ESTIMATORS.values():
        assert input_gradient(model.eval(), x, y, estimator).isfinite().all()


def test_dlif_travels_with_its_checkpoint(tmp_path):
    model, x = with_weights(), torch.rand(4, 1, 8, 8)
    save_model(model, tmp_path / "weights.safetensors")
    again = load_model(tmp_path)
    assert again.settings == model.settings
    assert torch.equal(again(x), model(x))
    assert not torch.equal(digits_cnn(time_steps=3, threshold=0.25, readout="spikes").eval()(x), model(x))


def test_a_checkpoint_from_before_there_was_a_choice_holds_lif(tmp_path):
    model = digits_cnn(time_steps=2, threshold=0.25)
    record = model.settings.record()
    assert record.pop("neuron") == "lif"
    write_tensors(tmp_path / "weights.safetensors", model.state_dict(), {"model": record})
    assert load_model(tmp_path).settings == model.settings


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (3, 2, 5, 7), (1, 4, 9, 4)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_lean_pooling_is_pytorchs_bit_for_bit(shape, dtype):
    x = torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    results = []
    for pool in (AvgPool2d(), nn.AvgPool2d(2)):
        y = pool(x)
        (gradient,) = torch.autograd.grad(y, x, y.detach().cos())
        results.append((y.detach(), gradient))
    for mine, theirs in zip(*results, strict=True):
        assert torch.equal(mine, theirs)
        assert mine.stride() == theirs.stride()


def test_the_lean_pooling_can_be_differentiated_twice():
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda v: AvgPool2d()(v.pow(3)), x)


def test_the_lean_pooling_keeps_nothing_and_has_the_name_of_pytorchs():
    x, kept = torch.rand(2, 3, 4, 4, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = AvgPool2d()(x)
    y.sum().backward()
    assert kept == []
    assert repr(AvgPool2d()) == repr(nn.AvgPool2d(2))  # the fingerprint of a model is made of it
