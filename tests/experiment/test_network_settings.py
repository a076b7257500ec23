"""Settings that only some networks have: given by flag, record or recipe, and refused by the others."""

import pytest
import torch
from torch import nn

from robustspike.experiment import Experiment, read_experiment
from robustspike.experiment.record import GROUPS, OF_NETWORKS
from robustspike.experiment.runs import load_data, make_model, train
from robustspike.models import MODELS, SETTINGS, ResNetSettings, Settings, SEWSettings, SpikingVGGSettings

SMALL = {"data": "digits", "train_limit": 40, "time_steps": 1}


def made(**given):
    experiment = Experiment.of(**SMALL | given)
    return make_model(experiment, load_data(experiment))


def test_every_network_says_what_it_can_be_told():
    assert list(SETTINGS) == list(MODELS)
    kinds = {"sew-resnet": SEWSettings, "spiking-resnet": ResNetSettings, "spiking-vgg": SpikingVGGSettings}
    for name, kind in SETTINGS.items():
        assert kind is kinds.get(name.rstrip("0123456789"), Settings)
    assert set(OF_NETWORKS) <= set(GROUPS["Network"])


def test_what_is_given_reaches_the_network():
    model = made(model="sew-resnet18", pooling="avg", connect="iand", stem="cifar")
    assert (model.settings.pooling, model.settings.connect, model.settings.stem) == ("avg", "iand", "cifar")
    assert isinstance(model.layers.pool, nn.AvgPool2d)
    assert model.layers.conv1.kernel_size == (3, 3)
    assert {block.connect for block in model.layers.layer2} == {"iand"}


def test_what_is_not_given_is_the_networks_own():
    experiment = Experiment.of(**SMALL, model="spiking-resnet18")
    assert (experiment.pooling, experiment.connect, experiment.stem) == (None, None, None)
    settings = make_model(experiment, load_data(experiment)).settings
    assert (settings.pooling, settings.stem) == ("max", "imagenet")
    assert settings.encoder == "direct"  # what every record says wins over the network's defaults
    assert settings.surrogate.width == 1


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"model": "vgg5", "pooling": "avg"},
            "model vgg5 takes no --pooling; leave it out, or choose one that does: sew-resnet18, sew-resnet34, "
            "sew-resnet50, spiking-resnet18, spiking-resnet34, spiking-resnet50",
        ),
        (
            {"model": "spiking-resnet50", "connect": "add"},
            "model spiking-resnet50 takes no --connect; leave it out, or choose one that does: sew-resnet18, sew-resnet34, "
            "sew-resnet50",
        ),
        ({"stem": "cifar"}, "model digits-cnn takes no --stem; leave it out, or choose one that does: sew-resnet18, "),
        ({"model": "sew-resnet18", "pooling": "mean"}, "pooling: expected 'max', 'avg' or 'none', got 'mean'"),
        ({"model": "sew-resnet18", "connect": "or"}, "connect: expected 'add', 'and' or 'iand', got 'or'"),
        ({"model": "resnet18", "connect": "add"}, "unknown model 'resnet18'; did you mean"),
    ],
)
def test_what_a_network_has_not_is_refused_in_one_sentence(given, sentence):
    with pytest.raises(ValueError, match=r".") as error:
        Experiment.of(**given)
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("scale", ["smoke", "short"])
def test_a_rows_settings_go_with_its_network(scale):
    row = "luu2025-cifar10-sew-resnet34-avg"
    own, other = Experiment.published(row), Experiment.published(row, scale)
    assert (own.pooling, own.connect, own.stem) == ("avg", "add", "imagenet")
    assert (other.pooling, other.connect, other.stem) == (None, None, None)
    assert (other.encoder, other.detach_reset, other.normalise) == ("phase", True, False)
    spiking = Experiment.published(row, scale, model="spiking-resnet18")
    assert (spiking.pooling, spiking.connect, spiking.stem) == ("avg", None, "imagenet")
    assert Experiment.published(row, pooling="max").pooling == "max"
    with pytest.raises(ValueError, match="^model digits-cnn takes no --pooling" if scale == "smoke" else "^model vgg5"):
        Experiment.published(row, scale, pooling="avg")


def test_without_normalisation_the_pixels_go_in_as_they_are():
    assert made(model="digits-cnn").mean is not None
    bare = made(model="digits-cnn", normalise=False)
    assert (bare.mean, bare.std, bare.settings.mean, bare.settings.std) == (None, None, None, None)
    seen, x = [], torch.rand(2, 1, 8, 8)
    bare.layers.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    bare.eval()(x)
    assert torch.equal(seen[0][0], x)


def test_a_run_knows_its_network(tmp_path):
    options = {"model": "sew-resnet18", "pooling": "avg", "encoder": "phase", "detach_reset": True}
    experiment = Experiment.of(
        **SMALL, **options, surrogate="arctan:2", normalise=False, epochs=1, batch_size=16, optimizer="adam",
        validation_attack="none", accelerator="cpu",
    )  # fmt: skip
    train(experiment, tmp_path / "run", progress=False)
    assert read_experiment(tmp_path / "run") == experiment
    from robustspike.checkpoints import load_model

    settings = load_model(tmp_path / "run").settings
    assert (settings.name, settings.pooling, settings.connect, settings.encoder) == (
        "sew-resnet18",
        "avg",
        "add",
        "phase",
    )


def test_records_from_before_these_settings_are_read(tmp_path):
    (tmp_path / "experiment.yaml").write_text("data: digits\nmodel: digits-cnn\nepochs: 3\n")
    found = read_experiment(tmp_path)
    assert (found.pooling, found.connect, found.stem, found.normalise) == (None, None, None, True)
