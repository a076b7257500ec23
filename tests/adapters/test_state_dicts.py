"""Weights of SpikingJelly's networks in ours: equal spikes, logits and gradients; what does not fit is refused."""

import copy

import pytest
import torch
from torch import nn

import robustspike as rs
from robustspike.adapters import adapt
from robustspike.adapters.state_dicts import load_spikingjelly, neuron_settings
from robustspike.gradients import BPTR, BPTT, CBA, RGA, input_gradient
from robustspike.surrogates import ArcTan, Exponential, Gaussian, Rectangle, Sigmoid, StraightThrough, Triangle

pytest.importorskip("spikingjelly", reason="SpikingJelly is not installed; `pip install -e .[dev]` does")

from spikingjelly.activation_based import encoding, functional, layer, neuron, surrogate
from spikingjelly.activation_based.model import sew_resnet, spiking_resnet
from tests.models import their_vgg
from tests.models.test_resnet_spikingjelly import awaken
from tests.models.their_vgg import assert_equal, by_them, run

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = 5
AS_LUU = {"spiking_neuron": neuron.IFNode, "surrogate_function": surrogate.ATan(), "detach_reset": True}
IF_NEURONS = neuron_settings(surrogate=ArcTan(2.0), detach_reset=True)


def their_resnet(kind, depth, x_seq, bias=0.3, pooling="max", **told):
    """SpikingJelly's network with random weights and BatchNorm statistics with which it is awake, in float64."""
    module, more = (sew_resnet, {"cnf": "ADD"}) if kind == "sew" else (spiking_resnet, {})
    network = getattr(module, f"{kind}_resnet{depth}")(num_classes=CLASSES, **more | AS_LUU | told)
    if pooling == "avg":
        network.maxpool = layer.AvgPool2d(kernel_size=3, stride=2, padding=1)
    functional.set_step_mode(network, "m")
    return awaken(network.double(), x_seq, bias)


def our_resnet(kind, depth, x, **options):
    steps, size = x.shape[1], x.shape[-1]
    options = {"encoder": "frames", "image_size": size} | IF_NEURONS | options
    return getattr(rs.models, f"{kind}_resnet{depth}")(CLASSES, steps, **options).double().eval()


def frames(size=16, steps=2):
    torch.manual_seed(0)
    return torch.rand(2, steps, 3, size, size, dtype=torch.float64)


@pytest.fixture(scope="module")
def sew18():
    """(SpikingJelly's SEW-ResNet-18, awake; images); leave both as they are."""
    x = frames()
    return their_resnet("sew", 18, x.transpose(0, 1)), x


def same_weights(model, network):
    ours = list(model.state_dict().values())
    return len(ours) == len(network.state_dict()) and all(map(torch.equal, ours, network.state_dict().values()))


# --- every architecture


RESNETS = [
    pytest.param(kind, depth, id=f"{kind}-{depth}", marks=[] if depth == 18 else [pytest.mark.slow])
    for kind in ("sew", "spiking")
    for depth in (18, 34, 50)
]


@pytest.mark.parametrize(("kind", "depth"), RESNETS)
def test_a_resnet_gives_the_logits_of_spikingjellys(kind, depth):
    x = frames()
    network = their_resnet(kind, depth, x.transpose(0, 1))
    model = our_resnet(kind, depth, x)
    load_spikingjelly(model, network.state_dict())
    assert same_weights(model, network)
    assert_equal(model, network, x)


VGGS = [
    pytest.param(depth, norm, id=f"{depth}{'-bn' * norm}", marks=[] if depth == 11 else [pytest.mark.slow])
    for depth in (11, 13, 16, 19)
    for norm in (False, True)
]


@pytest.mark.parametrize(("depth", "batch_norm"), VGGS)
def test_a_vgg_gives_the_logits_of_spikingjellys(depth, batch_norm):
    model, network, x = their_vgg.pair(depth, batch_norm, IF_NEURONS)
    load_spikingjelly(model, network.state_dict())
    assert_equal(model, network, x)


@pytest.mark.slow
def test_a_vgg_with_all_its_4096_neurons():
    torch.manual_seed(0)
    network = their_vgg.spiking_vgg.spiking_vgg11_bn(num_classes=CLASSES, **AS_LUU)
    functional.set_step_mode(network, "m")
    x = torch.rand(2, 2, 3, 32, 32)
    their_vgg.awaken(network, x.transpose(0, 1))
    model = rs.models.spiking_vgg11(CLASSES, 2, encoder="frames", batch_norm=True, **IF_NEURONS).eval()
    load_spikingjelly(model, network.state_dict())
    logits, found = model.double()(x.double()), network.double()(x.double().transpose(0, 1)).mean(0)
    torch.testing.assert_close(logits, found, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("which", ["sew", "vgg"])
def test_in_float32_the_classes_are_the_same_and_hardly_a_spike_differs(which, sew18):
    if which == "sew":
        network, x = sew18
        model = our_resnet("sew", 18, x)
    else:
        model, network, x = their_vgg.pair(11, True, IF_NEURONS)
    load_spikingjelly(model, network.state_dict())
    model, network, x = model.float(), copy.deepcopy(network).float(), x.float()
    spikes, logits, _ = run(model, x, rs.neurons.spiking_layers(model))
    their_spikes, found, _ = by_them(network, x)
    assert torch.equal(logits.argmax(1), found.argmax(1))
    for name, value in their_spikes.items():
        assert (spikes[f"layers.{name}"] != value).float().mean() < 0.01, name
    assert (logits - found).abs().max() < 0.1 * found.std()


class AsLuu(nn.Module):
    """How Luu 2025 builds a network: under one name, mean over time; a checkpoint holds more than weights."""

    def __init__(self, network):
        super().__init__()
        self.snn = network

    def forward(self, x_seq):
        return self.snn(x_seq).mean(0)

    def checkpoint(self):
        return {
            "epoch": 3,
            "model_state_dict": self.state_dict(),
            "optimizer_state_dict": {"state": {}},
            "val_loss": 0.5,
        }


LUU = [
    pytest.param(kind, depth, pooling, id=f"{kind}-{depth}-{pooling}", marks=[] if depth == 18 else [pytest.mark.slow])
    for depth in (18, 34, 50)
    for kind, pooling in (("sew", "max"), ("sew", "avg"), ("spiking", "max"))
]


@pytest.mark.parametrize(("kind", "depth", "pooling"), LUU)
def test_models_of_luu_2025_as_built_with_spikingjelly(kind, depth, pooling):
    torch.manual_seed(0)
    pixels, encoder = torch.randint(0, 256, (2, 3, 16, 16)), encoding.WeightedPhaseEncoder(K=8)
    bits = torch.stack([encoder(pixels.double() / 256) for _ in range(4)]).double()  # zeros and ones, without weights
    detach = {"detach_reset": kind == "sew"}
    theirs = AsLuu(their_resnet(kind, depth, bits, pooling=pooling, **detach))
    model = our_resnet(kind, depth, bits.transpose(0, 1), pooling=pooling, **detach)
    load_spikingjelly(model, theirs.checkpoint())
    _, logits, gradient = run(model, bits.transpose(0, 1), {})
    _, found, their_gradient = run(lambda x: theirs(x.transpose(0, 1)), bits.transpose(0, 1), {})
    torch.testing.assert_close(logits, found, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradient, their_gradient, rtol=1e-9, atol=1e-10 * their_gradient.abs().max().item())
    model.encoder = rs.encoders.Phase(4)  # the same bits with the paper's weights are another input
    assert not torch.allclose(model(pixels.double() / 255), found)


# --- neurons


def test_a_leaky_neuron_by_hand():
    # tau = 2: H = 0.6, 0.3 + 0.6 = 0.9, 0.45 + 0.6 = 1.05 fires, then anew; twice as large with threshold 2 here
    settings = neuron_settings(tau=2.0)
    assert (settings["leak"], settings["threshold"], settings["reset"]) == (0.5, 2.0, "hard")
    currents = torch.full((5, 1), 1.2)
    assert rs.LIF(**settings)(currents).flatten().tolist() == [0, 0, 1, 0, 0]
    assert rs.LIF(**settings).potentials(currents).flatten().tolist() == pytest.approx([1.2, 1.8, 2.1, 1.2, 1.8])


NODES = {
    "if": (neuron.IFNode, {}),
    "if, soft": (neuron.IFNode, {"v_reset": None, "v_threshold": 0.75}),
    "if, rest": (neuron.IFNode, {"v_reset": -0.25, "v_threshold": 0.5}),
    "lif": (neuron.LIFNode, {"tau": 2.0}),
    "lif, tau 1.7": (neuron.LIFNode, {"tau": 1.7, "detach_reset": True}),
    "lif, soft": (neuron.LIFNode, {"tau": 3.0, "v_reset": None, "v_threshold": 0.5}),
    "lif, rest": (neuron.LIFNode, {"tau": 3.0, "v_reset": 0.25, "v_threshold": 0.75}),
    "lif, whole input": (neuron.LIFNode, {"tau": 1.25, "decay_input": False}),
    "lif, whole input, rest": (neuron.LIFNode, {"tau": 4.0, "decay_input": False, "v_reset": -0.5}),
}
SURROGATES = {
    "atan": (surrogate.ATan(3.0), ArcTan(3.0)),
    "sigmoid": (surrogate.Sigmoid(2.0), Sigmoid(2.0)),
    "quadratic": (surrogate.PiecewiseQuadratic(0.5), Triangle(2.0)),
    "exponential": (surrogate.PiecewiseExp(2.0), Exponential(1.0, 2.0)),
    "erf": (surrogate.Erf(2.0), Gaussian(1 / (2.0 * 2**0.5))),
    "default": (None, None),
}


@pytest.mark.parametrize("slope", SURROGATES)
@pytest.mark.parametrize("node", NODES)
def test_neurons_of_the_settings_fire_as_theirs_and_have_their_gradients(node, slope):
    kind, told = NODES[node]
    theirs, ours = SURROGATES[slope]
    node = kind(step_mode="m", **told | ({"surrogate_function": theirs} if theirs else {})).double()
    layer = rs.LIF(**neuron_settings(surrogate=ours, **told))
    torch.manual_seed(0)
    scale = told.get("tau", 1.0) if told.get("decay_input", True) else 1.0
    x = (torch.rand(6, 200, dtype=torch.float64) * scale).requires_grad_()
    weights = torch.randn(6, 200, dtype=torch.float64)
    spikes, found = layer(x), node(x)
    assert torch.equal(spikes, found)
    assert 0.05 < found.mean() < 0.95
    got, gradient = (torch.autograd.grad((s * weights).sum(), x)[0] for s in (spikes, found))
    torch.testing.assert_close(got, gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "ours", [Triangle(0.7), Sigmoid(3.0), ArcTan(1.5), Rectangle(0.8), Exponential(0.4, 2.0), Gaussian(0.6)], ids=str
)
def test_the_surrogate_is_stretched_with_the_threshold(ours):
    d = torch.linspace(-2, 2, 401, dtype=torch.float64) + 1e-3
    stretched = neuron_settings(tau=1.6, surrogate=ours)["surrogate"]
    torch.testing.assert_close(stretched.slope(1.6 * d), ours.slope(d) / 1.6)
    assert neuron_settings(tau=1.6, decay_input=False, surrogate=ours)["surrogate"] == ours


@pytest.mark.parametrize("which", ["vgg", "spiking", "sew"])
def test_leaky_networks_give_the_logits_of_spikingjellys(which):
    constants = {"tau": 2.0, "v_threshold": 0.5}
    told = {"spiking_neuron": neuron.LIFNode} | constants
    settings = neuron_settings(surrogate=ArcTan(2.0), detach_reset=True, **constants)
    if which == "vgg":
        model, network, x = their_vgg.pair(11, False, settings, **told)
    else:
        x = frames()
        network = their_resnet(which, 18, x.transpose(0, 1), **told)
        model = our_resnet(which, 18, x, **settings)
    load_spikingjelly(model, network.state_dict())
    assert_equal(model, network, x)


@pytest.mark.parametrize("which", ["vgg", pytest.param("vgg-bn", marks=pytest.mark.slow), "sew"])
def test_with_divided_weights_every_estimator_sees_what_it_sees_in_their_network(which, sew18):
    constants = {"tau": 2.5, "v_threshold": 0.5}
    told = {"spiking_neuron": neuron.LIFNode} | constants
    settings = neuron_settings(surrogate=ArcTan(2.0), detach_reset=True, decay_input=False, **constants)
    if which == "sew":
        x = frames()
        network = their_resnet("sew", 18, x.transpose(0, 1), **told)
        model = our_resnet("sew", 18, x, **settings)
    else:
        model, network, x = their_vgg.pair(11, which == "vgg-bn", settings, **told)
    load_spikingjelly(model, network.state_dict(), decay_input_tau=2.5)
    assert_equal(model, network, x)
    adapted, y = adapt(network, time_steps=2, encoder="frames", takes="sequence"), torch.tensor([0, 3])
    for estimator in (BPTT(Triangle()), BPTR(), RGA(), CBA())[: 4 if which == "sew" else 2]:
        got, found = (input_gradient(net, x, y, estimator) for net in (model, adapted))
        assert found.abs().amax((1, 2, 3, 4)).min() > 0
        torch.testing.assert_close(got, found, rtol=1e-8, atol=1e-9 * found.abs().max().item())


def test_without_division_estimators_with_a_rule_of_their_own_see_larger_currents():
    settings = neuron_settings(tau=2.0, v_threshold=0.5, surrogate=ArcTan(2.0))
    model, network, x = their_vgg.pair(11, False, settings, spiking_neuron=neuron.LIFNode, tau=2.0, v_threshold=0.5)
    load_spikingjelly(model, network.state_dict())
    adapted, y = adapt(network, time_steps=2, encoder="frames", takes="sequence"), torch.tensor([0, 3])
    got, found = (input_gradient(net, x, y, BPTR()) for net in (model, adapted))
    torch.testing.assert_close(got, found * 2.0**10, rtol=1e-8, atol=0)  # ten layers of neurons


@pytest.mark.parametrize(
    ("name", "settings", "tau", "sentence"),
    [
        (
            "sew_resnet18",
            {"leak": 0.5},
            3.0,
            r"^decay_input_tau must be the tau of the model's neurons, .* got 3.0 and a leak",
        ),
        (
            "sew_resnet18",
            {},
            1.0,
            r"^decay_input_tau must be the tau .* got 1.0 and a leak of 1.0; build the model with",
        ),
        (
            "sew_resnet18",
            {},
            0.0,
            r"^decay_input_tau must be the tau .* got 0.0 and a leak of 1.0; build the model with",
        ),
        (
            "spiking_resnet18",
            {"leak": 0.5},
            2.0,
            r"^shortcuts of spiking-resnet18 .* neuron_settings\(2.0, decay_input=True\)",
        ),
    ],
)
def test_weights_that_cannot_be_divided_are_refused(name, settings, tau, sentence):
    with torch.device("meta"):
        model = getattr(rs.models, name)(CLASSES, **settings)
    with pytest.raises(ValueError, match=sentence):
        load_spikingjelly(model, {}, decay_input_tau=tau)


def test_time_constants_that_all_layers_share_are_the_models_leak(sew18):
    _, x = sew18
    network = their_resnet("sew", 18, x.transpose(0, 1), bias=1.0, spiking_neuron=neuron.ParametricLIFNode)
    weights = network.state_dict()
    assert weights["layer1.0.sn1.w"] == 0  # tau = 2
    model = our_resnet("sew", 18, x, **neuron_settings(tau=2.0, surrogate=ArcTan(2.0), detach_reset=True))
    load_spikingjelly(model, weights)
    assert_equal(model, network, x)
    before = copy.deepcopy(model.state_dict())
    weights["layer1.0.sn1.w"] = torch.tensor(1.0)
    weights["fc.bias"] = torch.zeros(CLASSES)
    with pytest.raises(
        ValueError, match=r"^layer1\.0\.sn1\.w of ParametricLIFNode is a leak of 0\.268941, .* have 0\.5; "
    ):
        load_spikingjelly(model, weights)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tau": 1.0}, r"^tau must be above 1, as LIFNode demands, or None for IFNode; got 1.0"),
        ({"v_threshold": 0.5, "v_reset": 0.5}, r"^v_threshold must be above v_reset, got 0.5 and 0.5"),
        ({"v_threshold": 0.0, "v_reset": None}, r"^v_threshold must be above v_reset, got 0.0 and None"),
        (
            {"tau": 2.0, "surrogate": StraightThrough()},
            r"^decay_input=True needs a surrogate .* got StraightThrough\(\)",
        ),
    ],
)
def test_neurons_that_have_no_counterpart_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        neuron_settings(**options)


# --- how weights are saved


class Container(nn.Module):
    def __init__(self, *modules):
        super().__init__()
        self.module = nn.Sequential(*modules)


def by_the_authors(network, kind, container=Container):
    """The modules of SpikingJelly's network under the names of the SEW-ResNet authors' own: containers in every block."""
    stages = {}
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        blocks = []
        for block in getattr(network, stage):
            named = {f"conv{i}": container(getattr(block, f"conv{i}"), getattr(block, f"bn{i}")) for i in (1, 2)}
            if block.downsample is not None:
                shortcut = container(*block.downsample)
                named["downsample"] = nn.Sequential(shortcut, neuron.IFNode()) if kind == "sew" else shortcut
            blocks.append(nn.ModuleDict(named))
        stages[stage] = nn.ModuleList(blocks)
    return nn.ModuleDict({"conv1": network.conv1, "bn1": network.bn1, **stages, "fc": network.fc}).state_dict()


WAYS = {
    "state_dict": lambda network: {"state_dict": network.state_dict(), "epoch": 3},
    "net": lambda network: {"net": network.state_dict(), "optimizer": {"lr": 0.1}},
    "data parallel": lambda network: nn.DataParallel(network).state_dict(),
    "data parallel, saved": lambda network: {"model": nn.DataParallel(network).state_dict(), "max_test_acc1": 0.5},
    "wrapped twice": lambda network: nn.DataParallel(AsLuu(network)).state_dict(),
    "alpha": lambda network: network.state_dict() | alphas(network, 2.0),
    "alpha in a container": lambda network: network.state_dict() | alphas(network, 2.0, ".module"),
    "the authors'": lambda network: {"model": by_the_authors(network, "sew")},
    "the authors', later containers": lambda network: by_the_authors(network, "sew", nn.Sequential),
    "the authors' spiking": lambda network: {"model": by_the_authors(network, "spiking")},
}


def alphas(network, value, below=""):
    """What old releases kept of the surrogates."""
    nodes = [name for name, module in network.named_modules() if isinstance(module, neuron.IFNode)]
    return {f"{name}{below}.surrogate_function.alpha": torch.tensor(value) for name in nodes}


@pytest.mark.parametrize("way", WAYS)
def test_weights_are_found_however_they_were_saved(way, sew18):
    network, x = sew18
    model, saved = our_resnet("sew", 18, x), WAYS[way](network)
    keys = list(saved)
    load_spikingjelly(model, saved)
    assert same_weights(model, network)
    assert list(saved) == keys


def test_an_old_alpha_may_be_that_before_the_input_decays(sew18):
    network, x = sew18
    saved = network.state_dict() | alphas(network, 2.0)
    model = our_resnet("sew", 18, x, **neuron_settings(tau=2.5, surrogate=ArcTan(2.0)))
    load_spikingjelly(model, saved)
    assert same_weights(model, network)
    for own in (ArcTan(3.0), Triangle(2.0)):
        with pytest.raises(
            ValueError, match=r"^sn1\.surrogate_function\.alpha is 2 and the surrogate .*; build it with"
        ):
            load_spikingjelly(our_resnet("sew", 18, x, surrogate=own), saved)


def test_a_file_is_read_without_running_its_code(sew18, tmp_path):
    network, x = sew18
    torch.save({"net": network.state_dict(), "epoch": 3}, tmp_path / "checkpoint.pth")
    model = our_resnet("sew", 18, x)
    load_spikingjelly(model, torch.load(tmp_path / "checkpoint.pth", weights_only=True))
    assert same_weights(model, network)


# --- refusals


def without(weights, *names):
    return {name: t for name, t in weights.items() if name not in names}


def test_what_does_not_fit_is_named_and_nothing_is_changed(sew18):
    network, x = sew18
    weights = network.state_dict()
    cases = {
        r"layer1\.0\.conv1\.weight is missing; build": without(weights, "layer1.0.conv1.weight"),
        r"norm\.mean is unexpected; build": weights | {"norm.mean": torch.zeros(3)},
        r"sn1\.w is unexpected; build": weights | {"sn1.w": torch.zeros(3)},  # of no ParametricLIFNode
        r"fc\.weight is \[10, 512\] and should be \[5, 512\]; fc\.bias is \[10\] and should be \[5\]; build": weights
        | {"fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)},
        r"conv1\.weight is missing; bn1\.weight is missing; bn1\.bias is missing; and \d+ more; build": {
            "features.0.weight": torch.zeros(1)
        },
    }
    model = our_resnet("sew", 18, x)
    before = copy.deepcopy(model.state_dict())
    for sentence, wrong in cases.items():
        with pytest.raises(ValueError, match="^the weights do not fit sew-resnet18: " + sentence) as error:
            load_spikingjelly(model, wrong)
        assert "the depth, stem, in_channels and num_classes that they were trained with" in str(error.value)
        assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def small_vgg(**settings):
    """A network of ours, and another's weights under SpikingJelly's names."""
    torch.manual_seed(0)
    model, other = (rs.models.spiking_vgg11(2, 1, width=8, pooled_size=1, **settings) for _ in range(2))
    named = {name.replace("head", "classifier.6").removeprefix("layers."): t for name, t in other.state_dict().items()}
    return model, named


SPOILED = {
    "is of complex64 and should be of float32": lambda t: t + 1j,
    "is of int8 and should be of float32": lambda t: t.to(torch.int8),
    "is of bool and should be of float32": lambda t: t > 0,
    "has values that are not finite": lambda t: t * float("nan"),
    "has values too large for float32": lambda t: t.double() * 1e300,
    "is on the meta device and has no values": lambda t: t.to("meta"),
    "is sparse_coo and should be dense": lambda t: t.to_sparse(),
}


@pytest.mark.parametrize("sentence", SPOILED)
def test_what_cannot_be_weights_is_refused_and_nothing_is_changed(sentence):
    model, weights = small_vgg()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="^the weights do not fit spiking-vgg11: classifier.6.weight ") as error:
        load_spikingjelly(model, weights | {"classifier.6.weight": SPOILED[sentence](weights["classifier.6.weight"])})
    assert f"classifier.6.weight {sentence}; take the weights as they were trained" in str(error.value)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("nowhere.w", 0.0),
        ("features.0.w", 0.0),  # a convolution
        ("nowhere.surrogate_function.alpha", 2.0),
        ("surrogate_function.alpha", 2.0),
        ("features.1.w", float("nan")),
        ("features.1.w", 0j),
    ],
)
def test_constants_of_neurons_that_the_model_does_not_have_are_refused(name, value):
    model, weights = small_vgg(leak=0.5, surrogate=ArcTan(2.0))
    with pytest.raises(ValueError, match=f"^the weights do not fit spiking-vgg11: {name} is unexpected; build"):
        load_spikingjelly(model, weights | {name: torch.tensor(value)})


def test_constants_of_the_models_neurons_are_compared():
    model, weights = small_vgg(leak=0.5, surrogate=ArcTan(2.0))
    places = ("features.1", "classifier.4.module")
    fine = {f"{place}.w": torch.tensor(0.0) for place in places}
    fine |= {f"{place}.surrogate_function.alpha": torch.tensor([2.0]) for place in places}
    load_spikingjelly(model, weights | fine)
    assert torch.equal(model.head.weight, weights["classifier.6.weight"])
    for name in fine:
        with pytest.raises(ValueError, match=rf"^{name} (is 1000 and|of ParametricLIFNode is a leak of 9.85968e-305,)"):
            load_spikingjelly(model, weights | fine | {name: torch.tensor(1000.0)})


def test_the_neuron_of_a_shortcut_in_the_authors_networks_is_one_of_the_models(sew18):
    network, x = sew18
    saved = by_the_authors(network, "sew")
    alpha = {"layer2.0.downsample.1.surrogate_function.alpha": torch.tensor(2.0)}
    model = our_resnet("sew", 18, x)
    load_spikingjelly(model, saved | alpha)
    assert same_weights(model, network)
    with pytest.raises(
        ValueError, match=r"^the weights do not fit sew-resnet18: layer1\.0\.downsample\.1\.\S+ is unexp"
    ):
        load_spikingjelly(model, saved | {name.replace("layer2", "layer1"): t for name, t in alpha.items()})


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("sew_resnet34", {}, r"^the weights do not fit sew-resnet34: layer1\.2\.conv1\.weight is missing"),
        ("sew_resnet50", {}, r"^the weights do not fit sew-resnet50: layer1\.0\.conv3\.weight is missing"),
        ("sew_resnet18", {"stem": "cifar"}, r"conv1\.weight is \[64, 3, 7, 7\] and should be \[64, 3, 3, 3\]"),
        ("sew_resnet18", {"in_channels": 1}, r"conv1\.weight is \[64, 3, 7, 7\] and should be \[64, 1, 7, 7\]"),
        ("sew_resnet18", {"neuron": "dlif"}, r"^the weights do not fit sew-resnet18: sn1\.p is missing"),
        ("spiking_vgg11", {}, r"features\.0\.weight is missing.* build the model with the depth, batch_norm, width, "),
        ("vgg11", {}, r"^load_spikingjelly expects a SEW-ResNet, .* got vgg11; any other network .* through rs.adapt"),
    ],
)
def test_another_architecture_is_refused(sew18, name, options, sentence):
    with torch.device("meta"):
        model = getattr(rs.models, name)(CLASSES, **options)
    with pytest.raises(ValueError, match=sentence):
        load_spikingjelly(model, sew18[0].state_dict())


def test_batch_norm_that_only_one_side_has_is_refused():
    with torch.device("meta"):
        plain = their_vgg.spiking_vgg.spiking_vgg11(num_classes=CLASSES, **AS_LUU).state_dict()
        ours = rs.models.spiking_vgg11(CLASSES, batch_norm=True)
    with pytest.raises(
        ValueError, match=r"^the weights do not fit spiking-vgg11: .*; build the model with .*batch_norm"
    ):
        load_spikingjelly(ours, plain)


def test_gates_of_bottlenecks_are_refused_and_others_taken(sew18):
    network, x = sew18
    with torch.device("meta"):
        model = rs.models.sew_resnet50(CLASSES, connect="iand")
    with pytest.raises(ValueError, match=r"^SpikingJelly's sew_resnet50 computes A·\(1 − S\) for IAND and ours"):
        load_spikingjelly(model, {})
    model = our_resnet("sew", 18, x, connect="iand")
    load_spikingjelly(model, network.state_dict())
    assert same_weights(model, network)


@pytest.mark.parametrize(
    ("weights", "got"),
    [
        ({}, "nothing"),
        ({"model": {}}, "nothing"),
        ("checkpoint.pth", "str"),
        (nn.Linear(2, 2), "Linear"),
        ({"model": nn.Linear(2, 2), "epoch": 3}, "'model' of type Linear"),
        ({"conv1.weight": torch.zeros(1), "epoch": 3}, "'epoch' of type int"),
        ({0: torch.zeros(1)}, "0 of type Tensor"),
    ],
)
def test_what_is_no_state_dict_is_refused(weights, got):
    with torch.device("meta"):
        model = rs.models.sew_resnet18(CLASSES)
    with pytest.raises(ValueError, match="^expected a state_dict, names to tensors, or a mapping") as error:
        load_spikingjelly(model, weights)
    assert str(error.value).endswith(f"; got {got}")


def test_a_network_that_is_not_ours_is_refused():
    with pytest.raises(ValueError, match=r"^load_spikingjelly expects a SEW-ResNet, .* got Linear;"):
        load_spikingjelly(nn.Linear(2, 2), {})
