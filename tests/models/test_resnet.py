"""The ResNets of Luu 2025 by hand, against a plain loop over time, against torchvision's parameters; their settings."""

import json

import pytest
import torch
import torch.nn.functional as F
import torchvision
from tests.models import plain
from torch import nn

import robustspike as rs
from robustspike.gradients import BPTR, BPTT, CBA, RGA, estimating, input_gradient
from robustspike.models import SETTINGS, ResNetSettings, Settings, SEWSettings, build
from robustspike.models.resnet import ResidualBlock
from robustspike.neurons import spiking_layers
from robustspike.surrogates import ArcTan, Triangle

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = [f"{kind}-resnet{depth}" for kind in ("sew", "spiking") for depth in (18, 34, 50)]
names = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name.endswith("34") else []) for name in NAMES]
)
MEAN, STD = (0.5, 0.375, 0.625), (0.25, 0.5, 0.25)  # exact in float32
ESTIMATORS = {"bptt-arctan": BPTT(), "bptt": BPTT(Triangle()), "bptr": BPTR(), "rga": RGA(), "cba": CBA()}


def builder(name):
    return getattr(rs.models, name.replace("-", "_"))


# --- against a plain loop over time


def resnet_step(s, weights, x, neurons):
    """One step of a network with the settings s, on the tensors of its state_dict."""

    def conv_bn(x, conv, bn, stride=1):
        kernel = weights[f"{conv}.weight"]
        return plain.normalised(weights, bn, F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2))

    x = neurons("layers.sn1", conv_bn(x, "layers.conv1", "layers.bn1", 2 if s.stem == "imagenet" else 1))
    if s.pooling != "none":
        x = {"max": F.max_pool2d, "avg": F.avg_pool2d}[s.pooling](x, 3, 2, 1)
    for stage in (1, 2, 3, 4):
        blocks = {key.split(".")[2] for key in weights if key.startswith(f"layers.layer{stage}.")}
        for i in sorted(map(int, blocks)):
            at, stride = f"layers.layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1
            deep = f"{at}.conv3.weight" in weights
            main = conv_bn(x, f"{at}.conv1", f"{at}.bn1", 1 if deep else stride)
            main = conv_bn(neurons(f"{at}.sn1", main), f"{at}.conv2", f"{at}.bn2", stride if deep else 1)
            if deep:
                main = conv_bn(neurons(f"{at}.sn2", main), f"{at}.conv3", f"{at}.bn3")
            shortcut, changed, last = x, f"{at}.downsample.0.weight" in weights, f"{at}.sn{3 if deep else 2}"
            if changed:
                shortcut = conv_bn(x, f"{at}.downsample.0", f"{at}.downsample.1", stride)
            if s.name.startswith("spiking"):
                x = neurons(last, main + shortcut)
                continue
            main = neurons(last, main)
            shortcut = neurons(f"{at}.downsample_sn", shortcut) if changed else shortcut
            gate = torch.where(main > 1, torch.ones_like(main), main)  # a spike as it is
            x = {"add": main + shortcut, "and": gate * shortcut, "iand": (1 - gate) * shortcut}[s.connect]
    return x.mean((2, 3))


# name: network, options, mean of the BatchNorms' biases; images of 8 × 8 for the CIFAR stem, of 32 × 32 or 16 × 16 else
CASES = {
    "sew-18": ("sew-resnet18", {}, 0.3, 32),
    "sew-18, and, cifar stem": ("sew-resnet18", {"stem": "cifar", "connect": "and", "leak": 0.5}, 1.2, 8),
    "sew-18, iand, cifar stem, max": ("sew-resnet18", {"stem": "cifar", "connect": "iand", "pooling": "max"}, 0.1, 8),
    "sew-18, soft reset": ("sew-resnet18", {"detach_reset": False, "reset": "soft", "threshold": 0.75}, 0.3, 16),
    "sew-34, avg": ("sew-resnet34", {"pooling": "avg"}, 0.3, 16),
    "sew-50, iand": ("sew-resnet50", {"connect": "iand"}, 0.1, 16),
    "spiking-18, none": ("spiking-resnet18", {"pooling": "none", "leak": 0.75}, 0.3, 16),
    "spiking-34, cifar stem, avg": ("spiking-resnet34", {"stem": "cifar", "pooling": "avg"}, 0.3, 8),
    "spiking-50": ("spiking-resnet50", {}, 0.3, 16),
}


def awake(model, x, bias):
    """Statistics and weights with which neurons of every layer fire, in float64."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.8, 1.6), module.bias.uniform_(bias - 0.3, bias + 0.3)
                module.momentum = 1.0
        model.head.weight.normal_(), model.head.bias.normal_()
        model.double().train()(x)  # the running statistics become those of x
    return model.eval()


@pytest.fixture(scope="module", params=CASES)
def case(request):
    name, options, bias, size = CASES[request.param]
    torch.manual_seed(0)
    model = builder(name)(time_steps=2, image_size=size, encoder="direct", mean=MEAN, std=STD, **options)
    x = torch.rand(3, 3, size, size, dtype=torch.float64)
    return awake(model, x, bias), x, torch.arange(3)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_logits_and_input_gradients_equal_the_plain_implementation(case, estimator, monkeypatch):
    model, x, y = case
    s = model.settings
    monkeypatch.setitem(plain.NETWORKS, s.name, lambda w, x, n: resnet_step(s, w, x, n))
    weights = {name: value.detach() for name, value in model.state_dict().items()}
    constants = {"leak": s.leak, "threshold": s.threshold, "hard": s.reset == "hard", "detach": s.detach_reset}
    logits, gradient, neurons = plain.logits_and_gradient(
        s.name, weights, x, y, s.mean, s.std, s.time_steps, estimator, **constants
    )
    with torch.no_grad(), estimating(model, ESTIMATORS[estimator]):
        torch.testing.assert_close(model(x), logits, rtol=1e-9, atol=1e-9)
    got = input_gradient(model, x, y, ESTIMATORS[estimator], loss=plain.margin)
    torch.testing.assert_close(got, gradient, rtol=1e-7, atol=1e-9 * gradient.abs().max().item())
    if estimator == "bptt-arctan":  # the comparison is worth something
        assert gradient.abs().amax((1, 2, 3)).min() > 0
        assert set(neurons.spikes) == set(spiking_layers(model))
        for layer, spikes in neurons.spikes.items():
            assert 0.02 < torch.stack(spikes).mean() < 0.98, layer
            assert (torch.stack(spikes)[:, 0] != torch.stack(spikes)[:, 1]).any(), layer


def test_each_image_has_its_own_logits(case):
    model, x, _ = case
    with torch.no_grad():
        torch.testing.assert_close(torch.cat([model(x[[i]]) for i in range(3)]), model(x), rtol=1e-10, atol=1e-10)


# --- by hand


def small_block(kind=SEWSettings, weights=(2.0, 2.0), biases=(0.0, 0.0), **options):
    """A block of one channel and 1 × 1 images: currents are weight·x + bias."""
    block = ResidualBlock(kind("small", **options), channels=1, width=1, stride=1, bottleneck=False).double().eval()
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True), 1):
        norm = getattr(block, f"bn{i}")
        norm.eps = 0.0
        nn.init.constant_(getattr(block, f"conv{i}").weight, weight)
        nn.init.constant_(norm.bias, bias)
    return block


def through(block, *values):
    with torch.no_grad():
        return block(torch.tensor(values, dtype=torch.float64).reshape(-1, 1, 1, 1, 1)).flatten().tolist()


@pytest.mark.parametrize(
    ("connect", "both", "main_alone", "shortcut_alone", "neither"),
    [("add", 2, 1, 1, 0), ("and", 1, 0, 0, 0), ("iand", 0, 0, 1, 0)],
)
def test_the_three_ways_to_connect_as_fang_2021_has_them(connect, both, main_alone, shortcut_alone, neither):
    always, never = {"weights": (0, 0), "biases": (0, 2)}, {"weights": (0, 0), "biases": (0, 0)}
    assert through(small_block(connect=connect, **always), 1, 0) == [both, main_alone]
    assert through(small_block(connect=connect, **never), 1, 0) == [shortcut_alone, neither]


def test_a_sew_block_by_hand():
    # main: x = 1, 0, 1 gives currents 0.5, 0, 0.5, so spikes 0, 0, 1; these times 2 fire again
    assert through(small_block(weights=(0.5, 2)), 1, 0, 1) == [1, 0, 2]


def test_a_spiking_block_adds_currents_before_they_fire():
    block = small_block(ResNetSettings, weights=(0, 0), biases=(0, 0.4))
    assert through(block, 0, 0, 0) == [0, 0, 1]  # 0.4, 0.8, 1.2
    assert through(block, 0.5, 0, 0.5) == [0, 1, 0]  # 0.9, 1.3, 0.9
    assert block.connect is None


def halves(pooling, channels_last):
    """Output and gradient of a pooling on spikes of 4 × 4 with a lone one, ties and zeros alone in its windows."""
    pool = builder("sew-resnet18")(image_size=8, pooling=pooling).layers.pool
    spikes = torch.tensor([[0, 0, 0, 1], [0, 0, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0]], dtype=torch.float64)
    leaf = spikes.expand(1, 2, 4, 4).clone()
    leaf = (leaf.contiguous(memory_format=torch.channels_last) if channels_last else leaf).requires_grad_()
    out = pool(leaf)
    (gradient,) = torch.autograd.grad((out * torch.tensor([[1.0, 2.0], [3.0, 4.0]])).sum(), leaf)
    return out[0, 1].detach(), gradient[0, 1]


@pytest.mark.parametrize("channels_last", [False, True])
def test_of_equal_spikes_max_pooling_gives_all_of_the_gradient_to_the_first(channels_last):
    out, gradient = halves("max", channels_last)
    assert out.tolist() == [[0, 1], [1, 1]]
    # windows: rows and columns −1 … 1 and 1 … 3; one holds zeros alone, one a lone one, two of them ties
    assert gradient.tolist() == [[1, 0, 0, 2], [0, 0, 4, 0], [0, 0, 0, 0], [3, 0, 0, 0]]


@pytest.mark.parametrize("channels_last", [False, True])
def test_average_pooling_gives_every_spike_its_share_and_counts_the_padding(channels_last):
    out, gradient = halves("avg", channels_last)
    torch.testing.assert_close(9 * out, torch.tensor([[0.0, 3.0], [1.0, 2.0]], dtype=torch.float64))
    rows, weights = torch.tensor([[1.0, 0], [1, 1], [0, 1], [0, 1]]), torch.tensor([[1.0, 2], [3, 4]])
    torch.testing.assert_close(9 * gradient, (rows @ weights @ rows.T).double())
    assert gradient.min() > 0


def test_average_pooling_leaves_no_zero_where_max_pooling_leaves_many():
    torch.manual_seed(0)
    shares = {}
    for pooling in ("max", "avg"):
        model = builder("sew-resnet18")(time_steps=2, image_size=32, pooling=pooling)
        x = torch.rand(4, 3, 32, 32, dtype=torch.float64)
        awake(model, x, 0.3)
        seen = []
        model.layers.pool.register_full_backward_hook(lambda m, into, out, seen=seen: seen.append(into[0]))
        input_gradient(model, x, torch.arange(4))
        shares[pooling] = (seen[0] == 0).double().mean().item()
    assert shares["avg"] == 0
    assert (
        0.5 < shares["max"] < 0.9
    )  # at most 64 windows over 256 positions: 0.75 and more, less where windows tie apart


# --- names, parameters, settings


@names
def test_parameters_are_those_of_torchvisions_resnets(name):
    with torch.device("meta"):
        model, theirs = builder(name)(num_classes=7), getattr(torchvision.models, name.split("-")[1])(num_classes=7)
    ours = {key.removeprefix("layers.").replace("head.", "fc."): v.shape for key, v in model.state_dict().items()}
    assert ours == {key: value.shape for key, value in theirs.state_dict().items()}


def test_only_the_first_convolution_differs_between_the_stems():
    with torch.device("meta"):
        one, other = (builder("sew-resnet18")(stem=stem).state_dict() for stem in ("imagenet", "cifar"))
    assert one.keys() == other.keys()
    assert [key for key in one if one[key].shape != other[key].shape] == ["layers.conv1.weight"]
    assert other["layers.conv1.weight"].shape == (64, 3, 3, 3)


@names
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_modules_are_registered_in_forward_order_the_main_branch_first(name, stem):
    model = builder(name)(time_steps=1, image_size=8, stem=stem, pooling="avg").eval()
    kinds = (nn.Conv2d, nn.BatchNorm2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Linear, rs.LIF)
    leaves = {module: key for key, module in model.named_modules() if isinstance(module, kinds)}
    order = []
    for module in leaves:
        module.register_forward_pre_hook(lambda m, _: order.append(leaves[m]))
    with torch.no_grad():
        model(torch.rand(1, 3, 8, 8))
    # a SEW block's last neurons are of the main branch, but the shortcut's convolution may run before them
    main, shortcut = ([key for key in order if ("downsample" in key) == which] for which in (False, True))
    assert [key for key in leaves.values() if "downsample" not in key] == main
    assert [key for key in leaves.values() if "downsample" in key] == shortcut
    at = list(leaves.values()).index("layers.layer2.0.downsample.0")
    assert list(leaves.values())[at - 1].startswith(
        "layers.layer2.0.sn" if name.startswith("sew") else "layers.layer2.0.bn"
    )


@names
def test_the_defaults_are_those_of_luu_2025(name):
    with torch.device("meta"):
        model = builder(name)()
    s = model.settings
    assert (s.time_steps, s.encoder, s.phases, s.detach_reset, s.surrogate) == (10, "phase", 8, True, ArcTan(2.0))
    assert (s.leak, s.threshold, s.reset, s.readout, s.stem, s.pooling) == (1, 1, "hard", "current", "imagenet", "max")
    assert isinstance(model.layers.pool, nn.MaxPool2d)
    assert getattr(s, "connect", None) == ("add" if name.startswith("sew") else None)
    neurons = {"18": (17, 3), "34": (33, 3), "50": (49, 4)}[name[-2:]]
    assert len(spiking_layers(model)) == neurons[0] + neurons[1] * name.startswith("sew")


@pytest.mark.parametrize(
    ("options", "pooling"),
    [
        ({"stem": "cifar"}, "none"),
        ({"stem": "cifar", "pooling": "avg"}, "avg"),
        ({"stem": "imagenet", "pooling": "none"}, "none"),
        ({"stem": "imagenet"}, "max"),
    ],
)
def test_each_stem_has_its_own_pooling_unless_one_is_given(options, pooling):
    model = builder("spiking-resnet18")(time_steps=1, image_size=32, **options).eval()
    assert model.settings.pooling == pooling
    assert hasattr(model.layers, "pool") == (pooling != "none")
    sizes = []
    model.layers.layer1.register_forward_hook(lambda m, args, out: sizes.append(out.shape[-1]))
    with torch.no_grad():
        model(torch.rand(1, 3, 32, 32))
    assert sizes == [(32 if options["stem"] == "cifar" else 16) // (1 if pooling == "none" else 2)]


@names
def test_a_record_survives_json_and_builds_the_same_network(name):
    options = {"stem": "cifar", "pooling": "avg"} | ({"connect": "iand"} if name.startswith("sew") else {})
    model = builder(name)(time_steps=1, image_size=4, threshold=0.3, **options)
    record = model.settings.record()
    assert {key: record[key] for key in options} == options
    again = build(json.loads(json.dumps(record)))
    assert again.settings == model.settings
    assert type(again.settings) is SETTINGS[name]
    assert str(again) == str(model)
    again.load_state_dict(model.state_dict())
    x = torch.rand(2, 3, 4, 4)
    with torch.no_grad():
        assert torch.equal(again.eval()(x), model.eval()(x))


def test_a_saved_network_comes_back(tmp_path):
    model = builder("sew-resnet18")(time_steps=1, image_size=8, connect="and", pooling="avg").eval()
    rs.save_model(model, tmp_path / "weights.safetensors")
    again = rs.load_model(tmp_path)
    assert again.settings == model.settings
    x = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))


def test_networks_that_differ_in_one_setting_look_different():
    from robustspike.checkpoints import architecture

    with torch.device("meta"):
        ways = [{}, {"connect": "and"}, {"connect": "iand"}, {"pooling": "avg"}, {"pooling": "none"}, {"stem": "cifar"}]
        models = [builder("sew-resnet18")(**way) for way in ways] + [builder("spiking-resnet18")()]
    assert len({architecture(model) for model in models}) == len(models)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "avrg"}, "^pooling must be one of max, avg, none; got 'avrg'$"),
        ({"connect": "or"}, "^connect must be one of add, and, iand; got 'or'$"),
        ({"stem": "mnist"}, "^stem must be one of imagenet, cifar; got 'mnist'$"),
        ({"encoder": "phases"}, "^encoder must be one of"),
        ({"time_steps": 0}, "^time_steps must be a whole number"),
    ],
)
def test_unfit_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        builder("sew-resnet34")(**options)


@pytest.mark.parametrize(
    ("name", "unknown"), [("spiking-resnet18", "connect"), ("vgg11", "pooling"), ("sew-resnet18", "groups")]
)
def test_records_with_settings_that_the_network_has_not_are_refused(name, unknown):
    sentence = rf"^this version cannot build the network: unknown settings \['{unknown}'\] of '{name}'$"
    with pytest.raises(ValueError, match=sentence):
        build({"name": name, unknown: "add"})


def test_a_record_without_a_surrogate_has_the_networks_own_and_one_with_a_strange_one_is_refused():
    with torch.device("meta"):
        assert build({"name": "spiking-resnet18"}).settings.surrogate == ArcTan(2.0)
        assert build({"name": "vgg5"}).settings.surrogate == Triangle()
        assert build({"name": "vgg5"}).settings == Settings("vgg5")
    for strange in ({}, {"name": "step"}):
        with pytest.raises(ValueError, match=r"^this version cannot build the network: unknown surrogate"):
            build({"name": "sew-resnet18", "surrogate": strange})


def test_adam_learns_four_images():
    torch.manual_seed(0)
    model, x = builder("sew-resnet18")(num_classes=4, time_steps=2, image_size=8).train(), torch.rand(4, 3, 8, 8)
    optimizer, losses = torch.optim.Adam(model.parameters(), 1e-3), []
    for _ in range(8):
        losses.append(F.cross_entropy(model(x), torch.arange(4)))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("connect", ["and", "iand"])
def test_as_a_relu_network_gates_end_at_one(connect):
    block = small_block(connect=connect, weights=(1, 1), biases=(0, 0.5))
    x_seq = torch.tensor([0.25, 3.0], dtype=torch.float64).reshape(1, 2, 1, 1, 1).requires_grad_()
    for layer in spiking_layers(block).values():
        layer.gradient_rule = lambda _, currents: currents.relu()
    out = block(x_seq)
    (gradient,) = torch.autograd.grad(out.sum(), x_seq)
    # gates: 0.25 + 0.5 and, of 3.5, 1; each times its x, or what is left of it
    assert out.flatten().tolist() == ([0.1875, 3] if connect == "and" else [0.0625, 0])
    assert gradient.flatten().tolist() == ([1.0, 1] if connect == "and" else [0.0, 0])


@pytest.mark.parametrize("connect", ["and", "iand"])
def test_the_relu_network_of_a_deep_one_with_gates_does_not_overflow(connect):
    torch.manual_seed(0)
    model = builder("sew-resnet34")(time_steps=2, image_size=16, connect=connect)
    x = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    awake(model, x, 0.3).float()
    gradient = input_gradient(model, x.float(), torch.arange(3), CBA(), loss=plain.margin)
    assert gradient.isfinite().all()
    assert gradient.abs().amax((1, 2, 3)).min() > 0
