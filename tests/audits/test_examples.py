"""Adversarial examples as pictures: a linear model by hand, each sample attacked by itself, and what is shown."""

import math

import numpy as np
import pytest
import torch
from tests.conftest import small_snn
from torch import nn

from robustspike.attacks import PGD, EncodedPGD, GaussianNoise, UniformNoise, WorstOf, fgsm
from robustspike.audits import examples
from robustspike.audits.attacking import usual_attack
from robustspike.balls import L2, Linf
from robustspike.data import Split
from robustspike.draws import Draws
from robustspike.gradients import BPTT, RGA
from robustspike.results import Pictures
from robustspike.results.audits import Examples

pytestmark = pytest.mark.usefixtures("one_thread")


class Linear(nn.Module):
    """z = (w·x + b, 0) of flattened images in float64."""

    def __init__(self, weight, bias):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.tensor(weight, dtype=torch.float64)), bias

    def forward(self, x):
        z = x.flatten(1).double() @ self.weight + self.bias
        return torch.stack([z, torch.zeros_like(z)], 1)


def images(n=16, classes=4, shape=(1, 8, 8)):
    generator = torch.Generator().manual_seed(5)
    return Split(torch.rand(n, *shape, generator=generator), torch.arange(n) % classes)


def grey(*values, labels):
    """One-channel images 1 × 2 of one grey each."""
    return Split(torch.tensor(values)[:, None, None, None].expand(-1, 1, 1, 2).contiguous(), torch.tensor(labels))


def same(found):
    return found.model_copy(update={"seconds": 0.0})


def test_a_linear_model_by_hand():
    """z = 2a − b − 0.5 at grey v is v − 0.5, at worst v − 0.5 − 3ε: with ε = 0.1, v = 0.7 breaks and 0.9 does not."""
    model = Linear([2.0, -1.0], -0.5)
    data = grey(0.2, 0.7, 0.9, 0.8, labels=[0, 0, 0, 1])
    found = examples(model, data, attack=fgsm(Linf(0.1)), class_names=("cat", "dog"))
    assert [one.sample for one in found.examples] == [1, 2]  # 0 and 3 are misclassified
    broken, stood = found.examples
    assert (broken.broken, broken.label, broken.after) == (True, 0, 1)
    assert (stood.broken, stood.label, stood.after) == (False, 0, 0)
    assert broken.before_confidence == pytest.approx(1 / (1 + math.exp(-0.2)), rel=1e-5)
    assert broken.after_confidence == pytest.approx(1 / (1 + math.exp(-0.1)), rel=1e-5)
    assert stood.after_confidence == pytest.approx(1 / (1 + math.exp(-0.1)), rel=1e-5)
    assert broken.distance == pytest.approx(0.1, rel=1e-5)
    np.testing.assert_allclose(broken.perturbation.values()[0, :, 0], [-0.1, 0.1], atol=1e-3)
    np.testing.assert_allclose(broken.adversarial.values()[0, :, 0], [0.6, 0.8], atol=1 / 510)
    assert (found.scale, found.scale_is_eps, found.searched, found.n) == (0.1, True, 4, 2)
    assert found.under == "FGSM under BPTT own surrogate, L∞ ε = 0.1"
    assert "breaks 1 of the first 2 samples" in found.answer()
    assert "55 % sure of the true class and is 52 % sure of a wrong one" in found.answer()


def test_the_search_ends_with_the_last_one_shown():
    data = grey(0.2, 0.7, 0.9, 0.9, 0.9, labels=[0, 0, 0, 0, 0])
    for batch_size in (1, 2, 5):
        found = examples(Linear([2.0, -1.0], -0.5), data, attack=fgsm(Linf(0.1)), pictures=2, batch_size=batch_size)
        assert [one.sample for one in found.examples] == [1, 2]
        assert found.searched == 3


def test_nothing_to_attack():
    model, data = Linear([2.0, -1.0], -0.5), grey(0.2, 0.3, labels=[0, 0])
    found = examples(model, data, eps=0.1)
    assert (found.n, found.examples, found.searched) == (0, (), 2)
    assert found.answer() == "Nothing to attack: the network classifies none of 2 samples correctly."
    assert Examples.model_validate_json(found.model_dump_json()) == found
    assert found.views()
    table, *others = Examples.compared({"a": found, "b": found})
    assert (len(table.rows), others) == (2, [])


def test_it_names_the_member_that_broke_a_sample():
    blind = PGD(Linf(0.1), 1, step_size=1e-9, random_start=False, early_stop=True, label="blind")
    members = (blind, PGD(Linf(0.1), 3, random_start=False, early_stop=True))
    found = examples(Linear([2.0, -1.0], -0.5), grey(0.7, 0.9, labels=[0, 0]), attack=WorstOf(members))
    assert found.examples[0].by == "PGD-3, from x under BPTT own surrogate"
    (pictures, table) = found.views()
    assert pictures.rows[0].label == "sample 0: broken by PGD-3, from x under BPTT own surrogate"
    assert pictures.rows[1].label == "sample 1: withstood"
    assert pictures.rows[1].pictures[2].caption.startswith("withstood: 0, ")
    assert table.rows[1][5] == "withstood"
    noise = examples(Linear([2.0, -1.0], -0.5), grey(0.7, labels=[0]), attack=UniformNoise(Linf(0.01)))
    assert noise.examples[0].by == UniformNoise(Linf(0.01)).name


@pytest.mark.parametrize("options", [{}, {"encoder": "poisson"}, {"encoder": "frames", "time_steps": 3}], ids=str)
def test_each_sample_is_as_if_attacked_by_itself(options):
    model = small_snn(**options).double()
    data = images(60, shape=(3, 1, 8, 8) if "time_steps" in options else (1, 8, 8))
    whole = examples(model, data, eps=0.05, pictures=4)
    assert len(whole.examples) == 4
    assert same(whole) == same(examples(model, data, eps=0.05, pictures=4, batch_size=3))
    ball, attack = Linf(0.05), usual_attack(model, 0.05)
    for one in whole.examples:
        x = data.images[one.sample : one.sample + 1].double()
        draws = Draws.of(0, torch.tensor([one.sample])).fork("examples").fork("attack")
        attempt = attack.run(model, x, torch.tensor([one.label]), draws)
        assert one.distance == pytest.approx(float(ball.distance(attempt.x_adv, x)), rel=1e-5)
        assert one.distance <= 0.05 * (1 + 1e-6)
        assert one.gradients == int(attempt.gradients)
        if not options:
            with torch.no_grad():
                assert one.after == int(model.eval()(attempt.x_adv).argmax())
            assert one.broken == (one.after != one.label)
    assert whole.gradients == sum(one.gradients for one in whole.examples)
    assert ("majority of 10 calls" in whole.under) == ("poisson" in options.values())


def test_the_three_pictures_of_a_sample_fit():
    model = small_snn(channels=3).double()
    data = images(8, shape=(3, 8, 8))
    found = examples(model, data, eps="16/255", pictures=3)
    for one in found.examples:
        moved = one.adversarial.values() - one.image.values()
        assert one.image.channels == one.adversarial.channels == 3
        assert one.perturbation.scale == found.scale == pytest.approx(16 / 255)
        tolerance = 1 / 255 + found.scale / 254
        np.testing.assert_allclose(one.perturbation.values()[..., 0], moved.mean(-1), atol=tolerance)
        np.testing.assert_allclose(one.image.values(), data.images[one.sample].permute(1, 2, 0), atol=1 / 509)


def test_in_another_ball_the_scale_is_the_largest_perturbation(double_model):
    found = examples(double_model, images(), attack=PGD(L2(0.5), 3), pictures=3)
    assert not found.scale_is_eps
    assert 0 < found.scale < 0.5
    assert found.scale == pytest.approx(max(abs(one.perturbation.values()).max() for one in found.examples), rel=1e-5)
    assert "the largest perturbation shown" in found.views()[0].note
    assert 0.4 < max(one.distance for one in found.examples) <= 0.5


def test_an_eps_of_zero_moves_nothing(double_model):
    found = examples(double_model, images(), eps=0, pictures=2)
    assert not any(one.broken for one in found.examples)
    assert all(one.perturbation.levels().max() == 128 for one in found.examples)
    assert "magnified against" not in found.views()[0].note


def test_json_comes_back_exactly(double_model):
    found = examples(double_model, images(), eps=0.1)
    assert Examples.model_validate_json(found.model_dump_json()) == found


def test_views_show_what_the_record_holds(double_model):
    found = examples(double_model, images(), eps=0.1, class_names=("cat", "dog", "ox", "pig"), pictures=5)
    pictures, table = found.views()
    assert isinstance(pictures, Pictures)
    assert len(pictures.rows) == len(table.rows) == len(found.examples) == found.n
    for row, one in zip(pictures.rows, found.examples, strict=True):
        shown = [p.data for p in row.pictures]
        assert shown == [one.image.data, one.perturbation.data, one.adversarial.data]
        assert all(p.alt for p in row.pictures)
        assert found.classes[one.label] in row.pictures[0].alt
        assert row.pictures[2].caption.endswith(f"{found.classes[one.after]}, {100 * one.after_confidence:.0f} % sure")
    assert "full colour is ε = 0.1, 10 times magnified" in pictures.note
    assert found.headline()["broken"] == f"{sum(one.broken for one in found.examples)} of {found.n}"


def test_networks_stand_side_by_side_by_sample():
    data = grey(0.2, 0.7, 0.9, labels=[0, 0, 0])
    wide, narrow = Linear([2.0, -1.0], -0.5), Linear([2.0, -1.0], -0.1)
    found = {name: examples(m, data, attack=fgsm(Linf(0.1))) for name, m in (("wide", wide), ("narrow", narrow))}
    table, pictures = Examples.compared(found)
    assert [row[0] for row in table.rows] == ["wide", "narrow"]
    assert pictures.columns == ("image", "wide", "narrow")
    assert [[p is not None for p in row.pictures] for row in pictures.rows] == [
        [True, False, True], [True, True, True], [True, True, True],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pictures": 0}, "pictures must be ≥ 1, got 0"),
        ({"class_names": ("a",)}, "expected 4 names"),
        ({"eps": 8}, 'did you mean "8/255"'),
        ({"attack": EncodedPGD(Linf(0.1))}, "audit 'examples' takes attacks on pixels"),
        ({"attack": fgsm(Linf(0.1), RGA()), "batch_size": 0}, "batch_size must be ≥ 1"),
    ],
    ids=["pictures", "names", "eps", "code", "batch"],
)
def test_bad_input(double_model, options, message):
    with pytest.raises(ValueError, match=message):
        examples(double_model, images(), **options)


def test_an_attack_without_a_ball_of_its_own_size_is_measured_in_linf(double_model):
    attack = GaussianNoise(Linf(0.1))
    found = examples(double_model, images(), attack=attack, pictures=2)
    assert all(0 < one.distance <= 0.1 * (1 + 1e-6) for one in found.examples)
    assert BPTT() is not None
