"""SpikingJelly's VGG: equal to SpikingJelly's own, its parameters by formula, its dropout, its settings."""

import json
import math

import pytest
import torch
from torch import nn

import robustspike as rs
from robustspike.draws import Draws, sampling
from robustspike.models import SpikingVGGSettings, build
from robustspike.models.spiking_vgg import Dropout

pytestmark = pytest.mark.usefixtures("one_thread")

DEPTHS = (11, 13, 16, 19)
# Simonyan and Zisserman 2015, Table 1, columns A, B, D and E; P: pooling
COLUMNS = {
    11: "64 P 128 P 256 256 P 512 512 P 512 512 P",
    13: "64 64 P 128 128 P 256 256 P 512 512 P 512 512 P",
    16: "64 64 P 128 128 P 256 256 256 P 512 512 512 P 512 512 512 P",
    19: "64 64 P 128 128 P 256 256 256 256 P 512 512 512 512 P 512 512 512 512 P",
}
depths = pytest.mark.parametrize("depth", DEPTHS)
norms = pytest.mark.parametrize("batch_norm", [False, True], ids=["plain", "bn"])
SMALL = {"num_classes": 3, "time_steps": 2, "width": 8, "pooled_size": 1, "threshold": 0.1}


def builder(depth):
    return getattr(rs.models, f"spiking_vgg{depth}")


# --- by formula


@depths
@norms
def test_parameters_are_those_of_the_papers_table(depth, batch_norm):
    with torch.device("meta"):
        model = builder(depth)(num_classes=1000, batch_norm=batch_norm)
    widths, channels, total = [int(w) for w in COLUMNS[depth].split() if w != "P"], 3, 0
    for width in widths:
        total, channels = total + 9 * channels * width + width + 2 * width * batch_norm, width
    total += 512 * 49 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 1000 + 1000
    assert len(widths) + 3 == depth
    assert sum(p.numel() for p in model.parameters()) == total
    if not batch_norm:  # the paper's Table 2
        assert round(total / 1e6) == {11: 133, 13: 133, 16: 138, 19: 144}[depth]


@depths
def test_layers_come_in_the_order_of_the_papers_table(depth):
    with torch.device("meta"):
        features = builder(depth)(batch_norm=True).layers.features
    found, kinds = [], [type(m) for m in features]
    for m in features:
        if isinstance(m, (nn.Conv2d, nn.MaxPool2d)):
            found.append(str(getattr(m, "out_channels", "P")))
    assert " ".join(found) == COLUMNS[depth]
    for i, kind in enumerate(kinds):
        if kind is nn.Conv2d:
            assert kinds[i + 1 : i + 3] == [nn.BatchNorm2d, rs.LIF]


# --- against SpikingJelly


def spikingjelly():
    pytest.importorskip("spikingjelly", reason="SpikingJelly is not installed; `pip install -e .[dev]` does")
    from tests.models import their_vgg

    return their_vgg


def our_name(name):
    return name.replace("classifier.6", "head") if name.startswith("classifier.6.") else f"layers.{name}"


@depths
@norms
def test_full_size_names_and_shapes_are_spikingjellys(depth, batch_norm):
    jelly = spikingjelly()
    with torch.device("meta"):
        theirs = getattr(jelly.spiking_vgg, f"spiking_vgg{depth}{'_bn' * batch_norm}")(num_classes=7, **jelly.NEURONS)
        ours = builder(depth)(num_classes=7, batch_norm=batch_norm)
    shapes = {our_name(name): t.shape for name, t in theirs.state_dict().items()}
    assert {name: t.shape for name, t in ours.state_dict().items()} == shapes
    neurons = [our_name(name) for name, m in theirs.named_modules() if isinstance(m, jelly.neuron.BaseNode)]
    assert list(rs.neurons.spiking_layers(ours)) == neurons
    assert [m.p for m in theirs.modules() if isinstance(m, jelly.layer.Dropout)] == [
        m.p for m in ours.modules() if isinstance(m, Dropout)
    ]


FAST = {(11, False), (11, True), (13, False)}


@pytest.mark.parametrize(
    ("depth", "batch_norm"),
    [
        pytest.param(d, n, id=f"{d}{'-bn' * n}", marks=[] if (d, n) in FAST else [pytest.mark.slow])
        for d in DEPTHS
        for n in (False, True)
    ],
)
def test_equal_to_spikingjelly(depth, batch_norm):
    jelly = spikingjelly()
    model, network, x = jelly.pair(depth, batch_norm)
    model.load_state_dict({our_name(name): t for name, t in network.state_dict().items()})
    jelly.assert_equal(model, network, x)


# --- dropout


def test_dropout_leaves_out_its_share_at_every_step_alike_and_scales_the_rest():
    torch.manual_seed(0)
    x_seq = torch.rand(3, 4, 50, 50) + 0.5
    y = Dropout(0.25)(x_seq)
    kept = y != 0
    assert all(torch.equal(kept[t], kept[0]) for t in range(3))
    torch.testing.assert_close(y[kept], x_seq[kept] / 0.75)
    share = kept[0].float().mean().item()
    assert abs(share - 0.75) < 5 * math.sqrt(0.75 * 0.25 / 10_000)  # five standard deviations
    assert not torch.equal(kept[0, 0], kept[0, 1])  # each sample has its own
    assert torch.equal(Dropout(0.25).eval()(x_seq), x_seq)
    assert torch.equal(Dropout(0.0)(x_seq), x_seq)


def test_dropout_is_as_spikingjellys():
    jelly = spikingjelly()
    torch.manual_seed(0)
    theirs, ones = jelly.layer.Dropout(0.5, step_mode="m"), torch.ones(3, 2, 4000)
    values = [layer(ones) for layer in (theirs, Dropout(0.5))]
    for y in values:
        assert y.unique().tolist() == [0.0, 2.0]
        assert torch.equal(y[0], y[2])
        assert abs(y.mean().item() - 1) < 5 / math.sqrt(8000)


def test_masks_follow_the_streams_of_the_samples_and_tell_layers_apart():
    draws, ones = Draws.of(0, torch.arange(3)), torch.ones(2, 3, 100)
    first, second = Dropout(0.5, "1"), Dropout(0.5, "2")
    with sampling(draws):
        whole, other = first(ones), second(ones)
        assert torch.equal(first(ones), whole)
    assert not torch.equal(whole, other)
    with sampling(draws[torch.tensor([2])]):
        assert torch.equal(first(ones[:, :1]), whole[:, 2:])
    assert not torch.equal(first(ones), first(ones))


def test_a_network_drops_in_training_only():
    torch.manual_seed(0)
    model, x = builder(11)(**SMALL), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), model(x))
        assert not torch.equal(model.train()(x), model(x))
        still = builder(11)(**SMALL, dropout=0.0)
        assert torch.equal(still.train()(x), still(x))


# --- settings


@norms
def test_a_record_builds_the_same_network(batch_norm):
    torch.manual_seed(0)
    model = builder(11)(**SMALL, batch_norm=batch_norm, dropout=0.2)
    again = build(json.loads(json.dumps(model.settings.record())))
    assert isinstance(again.settings, SpikingVGGSettings)
    assert again.settings == model.settings
    again.load_state_dict(model.state_dict())
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again.eval()(x), model.eval()(x))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"width": 0}, r"^width must be a whole number ≥ 1, got 0$"),
        ({"pooled_size": 1.5}, r"^pooled_size must be a whole number ≥ 1, got 1.5$"),
        ({"dropout": 1.0}, r"^dropout must lie in \[0, 1\), got 1.0$"),
        ({"dropout": -0.1}, r"^dropout must lie in \[0, 1\), got -0.1$"),
        ({"image_size": 31}, r"^spiking-vgg11 needs images of 32 pixels or more, got 31$"),
        ({"leak": 2.0}, r"^leak must lie in"),
    ],
)
def test_unfit_settings_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence), torch.device("meta"):
        builder(11)(**options)


def test_other_sizes_of_images_reach_the_same_linear_layers():
    torch.manual_seed(0)
    weights = builder(11)(**SMALL).state_dict()
    for size in (32, 71):
        model = builder(11)(**SMALL, image_size=size)
        model.load_state_dict(weights)
        with torch.no_grad():
            assert model.eval()(torch.rand(1, 3, size, size)).shape == (1, 3)
