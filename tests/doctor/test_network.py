"""Each check of a network fails for a network with that defect, and for no other; nothing of it is changed."""

import math
import random
import re

import numpy as np
import pytest
import torch
from tests.doctor.records import everything_of
from tests.doctor.sick import HEALTHY, SICK, BlindWithShortcut, Leaking, Net, Random
from torch import nn

import robustspike as rs
from robustspike.doctor import NETWORK, Diagnosis, doctor
from robustspike.doctor.calling import answer
from robustspike.doctor.checks import Check, Verdict
from robustspike.doctor.trying import found_way


def of(found, check, group="network"):
    return next(one for one in getattr(found, group) if one.check == check)


@pytest.mark.parametrize("name", SICK)
def test_a_sick_network_fails_the_checks_of_its_sickness(name, examine, images):
    kind, expected = SICK[name]
    found = examine(kind(), images)
    assert set(found.failed) == expected, [one.evidence for one in found.network if one.passed is False]
    assert not found.healthy
    assert all(of(found, check).remedy for check in expected)


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_network_passes(name, examine, images):
    found = examine(HEALTHY[name](), images)
    assert found.healthy, [one.evidence for one in found.network if one.passed is False]
    assert [one.check for one in found.network] == list(NETWORK)
    assert sum(one.passed is True for one in found.network) >= 9


def test_every_check_has_a_network_that_fails_it():
    failed = set().union(*(checks for _, checks in SICK.values()))
    elsewhere = {"time steps", "input range", "known defects", "cut gradient"}  # below, and in files of their own
    assert failed | elsewhere == set(NETWORK)


AS_GIVEN = [*((name, False) for name in (*SICK, *HEALTHY)), ("state leak", True), ("the same, with BatchNorm", True)]


@pytest.mark.parametrize(("name", "training"), AS_GIVEN)
def test_a_network_is_afterwards_as_it_was(name, training, examine, images):
    model = (SICK[name][0] if name in SICK else HEALTHY[name])().train(training)
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    next(model.parameters()).requires_grad_(False)
    model.register_forward_hook(lambda *given: None)
    with torch.no_grad():
        model(images.clone())  # some state
    given, before = images.clone(), everything_of(model)
    examine(model, images)
    assert everything_of(model) == before
    assert torch.equal(images, given)


# --- what the evidence says, worked out by hand


def test_the_state_leak_is_counted(examine):
    class Counter(nn.Module):
        """Adds 1 to the first logit in every call."""

        calls = 0

        def forward(self, x):
            self.calls += 1
            return torch.stack([x.flatten(1).sum(1) + self.calls, 0.5 * x.flatten(1).sum(1)], 1)

    found = of(examine(Counter(), torch.rand(4, 3)), "state leak")
    assert found.evidence.startswith("without a reset, the logits of 4 of 4 samples differ in a second equal call")
    assert "(another class for 0), of 4 after" in found.evidence


def test_the_share_of_nan_and_zero_is_counted(examine):
    class Halves(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            bad = torch.zeros_like(grad)
            bad[:2], bad[2:, :1] = math.nan, 1.0  # two images of NaN; of the others one pixel in four is not 0
            return bad

    class Partly(nn.Module):
        def forward(self, x):
            return Halves.apply(x) @ torch.arange(8.0).reshape(4, 2)

    found = examine(Partly(), torch.rand(8, 4))
    assert of(found, "NaN gradients").evidence == "NaN or infinite at 25.0 % of all pixels, at 2 of 8 images"
    assert of(found, "zero gradients").evidence == "0 at every pixel of 0 of 8 images, at 56.2 % of all pixels"


def test_the_gradient_of_a_shortcut_is_told_from_the_right_one(examine, images):
    """In eval mode only the analog path is left, whose gradient at its pixels is worked out here."""
    model = BlindWithShortcut().eval()
    found = of(examine(model, images, torch.zeros(12, dtype=torch.int64)), "gradient in eval")
    x = images.clone().requires_grad_()
    logits = model(x)
    shortcut = torch.zeros_like(x).flatten(1)
    shortcut[:, :3] = 0.2 * (logits.softmax(1) - torch.tensor([1.0, 0.0, 0.0])).detach()
    model.node.train()
    right = torch.autograd.grad(nn.functional.cross_entropy(model(x), torch.zeros(12).long(), reduction="sum"), x)[0]
    cosine = nn.functional.cosine_similarity(shortcut, right.flatten(1)).mean()
    assert f"mean cosine {cosine:.2f}," in found.evidence
    assert cosine < 0.99


def test_answers_without_labels_are_attacked_towards_the_second_class(examine, images, monkeypatch):
    seen = {}
    monkeypatch.setitem(
        NETWORK, "time axis", Check("", lambda patient: seen.update(y=patient.labels) or Verdict(True, ""))
    )
    model = Net()
    examine(model, images)
    assert seen["y"].tolist() == model(images).argsort(1)[:, -2].tolist()
    examine(model, images, torch.full((12,), 2))
    assert seen["y"].tolist() == [2] * 12


def test_a_check_that_raises_has_failed_and_the_others_go_on(examine, images, monkeypatch):
    def broken(patient):
        raise RuntimeError("no such luck.")

    monkeypatch.setitem(NETWORK, "randomness", Check("Try again.", broken))
    found = examine(Net(), images)
    assert found.failed == ("randomness",)
    assert of(found, "randomness").evidence == "could not be examined: RuntimeError: no such luck"


def test_equal_seeds_give_equal_findings(examine, images):
    one, other = (examine(Random(), images, seed=3) for _ in range(2))
    assert one.network == other.network


@pytest.mark.parametrize("draw", [np.random.rand, random.random, lambda: float(torch.rand(()))])
def test_the_seed_reaches_every_generator(draw, examine, images):
    class ByAnother(Net):
        def currents(self, x):
            return super().currents(x + draw())

    drawn = np.random.get_state()[1].tolist(), random.getstate(), torch.get_rng_state().tolist()
    found = of(examine(ByAnother(), images), "randomness")
    assert re.match(r"the logits of [1-9]\d* of 12 samples differ under another seed, none under the", found.evidence)
    assert (np.random.get_state()[1].tolist(), random.getstate(), torch.get_rng_state().tolist()) == drawn


# --- how a network is called


def test_the_dimension_of_samples_is_found(images):
    class SamplesFirst(Net):
        """Logits [N, T, K] that differ from step to step."""

        def forward(self, x):
            return super().forward(x)[:, None] * torch.arange(1.0, 6.0)[:, None]

    model = SamplesFirst()
    way = found_way(model, images, None)
    assert (way.takes, way.batch) == ("images", 0)
    assert torch.equal(answer(model, way, images), model(images).mean(1))


def test_what_depends_on_the_whole_batch_takes_no_sequences():
    class OnTheBatch(nn.Module):
        """Would run on [T, N, 16] as well."""

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 3)

        def forward(self, x):
            return self.layer(x - x.mean(0))

    flat = torch.rand(6, 16)
    assert found_way(OnTheBatch(), flat, None).takes == "images"
    assert found_way(SICK["samples for steps"][0](), flat.reshape(6, 1, 4, 4), None).takes == "sequence"


# --- time steps, range, types


def test_the_wrong_number_of_time_steps(examine, images):
    class OfOurs(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = rs.OverTime(nn.Flatten(), nn.Linear(16, 8), rs.LIF(threshold=0.2), nn.Linear(8, 3))

        def forward(self, x):
            return self.body(rs.repeat(x, 5)).mean(0)

    model = OfOurs()
    assert of(examine(model, images), "time steps").evidence == "loops over 5 time steps by itself"
    assert of(examine(model, images, time_steps=5), "time steps").passed
    found = of(examine(model, images, time_steps=8), "time steps")
    assert (found.passed, found.remedy) == (False, "Give time_steps=5, or leave it out.")
    assert found.evidence == "loops over 5 time steps by itself, 8 were given"
    assert of(examine(Net(), images, time_steps=8), "time steps").passed is None


def brightness_classifier(mean, std):
    """Three classes of brightness, of images that it expects normalised."""

    class Bright(nn.Module):
        def forward(self, x):
            level = (x.flatten(1).mean(1) * std + mean)[:, None]
            return -((level - torch.tensor([0.2, 0.5, 0.8])) ** 2)

    return Bright()


@pytest.mark.parametrize(
    ("mean", "std", "name"), [(0.0, 1.0, None), (0.1307, 0.3081, "MNIST's"), (0.0, 1 / 255, "to [0, 255]")]
)
def test_the_normalisation_that_a_network_wants(mean, std, name, examine):
    labels = torch.arange(30) % 3
    images = (0.2 + 0.3 * labels)[:, None, None, None] + 0.05 * torch.rand(30, 1, 4, 4)
    found = of(examine(brightness_classifier(mean, std), images, labels), "input range")
    assert found.passed is (name is None), found.evidence
    if name:
        assert f"100 % normalised {name}" in found.evidence
        assert "33 % of 30 are classified correctly" in found.evidence
    assert of(examine(brightness_classifier(mean, std), images), "input range").passed is None
    assert of(examine(brightness_classifier(mean, std), images[:8], labels[:8]), "input range").passed is None
    assert of(examine(brightness_classifier(mean, std), 2 * images, labels), "input range").passed is False


def test_colours_are_normalised_by_channel(examine):
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

    class Colour(nn.Module):
        """Which channel is the brightest; of normalised images."""

        def forward(self, x):
            return (x * std.reshape(3, 1, 1) + mean.reshape(3, 1, 1)).mean((2, 3)) * torch.tensor([1.0, 1.02, 1.0])

    labels = torch.arange(30) % 3
    images = 0.5 * torch.ones(30, 3, 4, 4)
    images[torch.arange(30), labels] += 0.03
    assert "100 % normalised ImageNet's" in of(examine(Colour(), images, labels), "input range").evidence


def test_whole_numbers_and_scalars_are_no_mixture(examine, images):
    model = Net()
    model.register_buffer("index", torch.arange(3))
    model.scale = torch.tensor(1.0, dtype=torch.float64)
    found = of(examine(model, images), "types and devices")
    assert (found.passed, found.evidence) == (True, "4 tensors of float32 on cpu")


def test_16_bits_are_too_few(examine, images):
    found = of(examine(Net().bfloat16(), images), "types and devices")
    assert (found.passed, found.evidence) == (False, "4 tensors of bfloat16 on cpu")
    assert "float()" in found.remedy


# --- the record


def test_the_record_survives_json_and_prints(examine, images):
    found = examine(Leaking(), images)
    assert Diagnosis.model_validate_json(found.model_dump_json()) == found
    table = found.table()
    assert table.rows[0][2] == "state leak"
    assert [row[0] for row in table.rows].count("✗") == 1
    assert "Leaking, images [N, …]: 1 of 15 checks failed" in table.title
    assert "12 images [1, 4, 4] given" in table.note
    assert ("torch", torch.__version__.partition("+")[0]) in [
        (n, v.partition("+")[0]) for n, v in found.versions().rows
    ]


def test_random_images_are_made_and_said(examine):
    found = examine(Net())
    assert found.tried_on == "Tried on 16 images [16] of random numbers in [0, 1], seed 0."
    assert "random images" in of(found, "input range").evidence
    found = examine(nn.Sequential(nn.Conv2d(3, 2, 5), nn.Flatten(), nn.Linear(2 * 28 * 28, 4)), seed=5)
    assert found.tried_on == "Tried on 16 images [3, 32, 32] of random numbers in [0, 1], seed 5."
    found = examine(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), shape=(3, 2, 2))
    assert "[3, 2, 2]" in found.tried_on


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"images": torch.rand(1, 16)}, "two or more"),
        ({"images": torch.ones(4, 16, dtype=torch.uint8)}, "uint8 [4, 16]"),
        ({"images": torch.rand(4, 16), "labels": torch.zeros(3).long()}, "got 3 labels and 4 images"),
        ({"labels": torch.zeros(3).long()}, "got 3 labels and no images"),
        ({"time_steps": 0}, "time_steps must be ≥ 1"),
        ({"images": torch.rand(4, 15)}, "with images [N, …]: RuntimeError"),
        ({"shape": (5,)}, "cannot be called with images [5]"),
        ({"images": torch.rand(4, 16), "takes": "sequences"}, "takes must be one of"),
        ({"images": torch.rand(4, 16), "readout": "logits"}, "readout must be one of spikes, membrane"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(given, sentence, examine):
    with pytest.raises(ValueError, match=".") as refused:
        examine(Net(), **given)
    assert sentence in str(refused.value)


def test_lazy_layers_are_refused(examine, images):
    with pytest.raises(ValueError, match="lazy layers without a shape"):
        examine(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), images)


def test_no_image_is_found_for_a_network_that_takes_none(examine):
    with pytest.raises(ValueError, match="no convolution or linear layer to tell it"):
        examine(nn.Identity())


def test_without_a_network_the_installation_decides():
    found = doctor()
    assert not found.network
    assert found.healthy is all(one.passed is not False for one in found.installation)
    assert [one.check for one in found.frameworks]
