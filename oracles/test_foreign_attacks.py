"""Other libraries' attacks on a spiking network of ours, ours on anybody's network, and the page that shows both."""

import copy
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import foolbox
import numpy as np
import pytest
import torch
import torchattacks
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent

import robustspike as rs
from oracles import libraries
from oracles.contest import L_2
from oracles.network import digits, relu_network, spiking_network
from oracles.test_oracles import chance_of
from robustspike.attacks import Attempt

PAGE = Path(__file__).parents[1] / "docs" / "other-libraries.md"
SAMPLES, LINF = 100, rs.Linf(0.1)
STEP = LINF.eps / 8


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def one_step(ball):
    """One step of size ε from x, of every library that has it in the norm of the ball."""
    return libraries.fast_gradient(ball) | {"art": libraries.of_art(FastGradientMethod, ball)}


def pgd():
    """PGD-20 of every library, step ε/8, one random start."""
    options = {"eps_step": STEP, "max_iter": 20, "num_random_init": 1, "verbose": False}
    art = {"art": libraries.of_art(ProjectedGradientDescent, LINF, **options)}
    return libraries.pgd(LINF, 20, step_size=STEP, random_start=True) | art


ONE_STEP = [pytest.param(ball, who, id=f"{ball.norm}-{who}") for ball in (LINF, L_2) for who in one_step(ball)]
LIBRARIES = pytest.mark.parametrize("who", pgd())


@dataclass(frozen=True)
class Theirs:
    """A library's attack as one of ours."""

    name: str
    examples: libraries.Attack
    ball: Any = LINF

    def run(self, model, x, y, draws=None):
        attempt = Attempt.begin(x)
        attempt.x_adv = self.examples(model, x, y)
        return attempt


@cache
def evaluated(who):
    """Our evaluation of a library's PGD, and what that was given and made: images, labels, examples."""
    made = []

    def examples(model, x, y):
        x_adv = pgd()[who](model, x, y).detach()
        made.append((x, y, x_adv))
        return x_adv

    torch.manual_seed(0)
    np.random.seed(0)
    return evaluation(Theirs(who, examples)), *made[0]


@cache
def evaluation(attacks):
    split = rs.data.load("digits").test.subset(SAMPLES)
    options = {"batch_size": SAMPLES, "survivors_only": False, "doubts": 0, "progress": False}
    return rs.evaluate(spiking_network(), split, attacks, **options)


@pytest.mark.parametrize(("ball", "who"), ONE_STEP)
def test_one_step_gives_the_same_examples(ball, who):
    """Every sign, and in L2 every direction, of the gradient is ours."""
    model, (x, y) = spiking_network(), digits(SAMPLES)
    torch.testing.assert_close(one_step(ball)[who](model, x, y).detach(), rs.fgsm(ball)(model, x, y), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("ball", "who"), ONE_STEP)
@pytest.mark.parametrize("estimator", [rs.RGA(), rs.BPTT(rs.Sigmoid(4.0)), rs.BPTR()], ids=str)
def test_inside_estimating_they_see_through_that_estimator(ball, who, estimator):
    model, (x, y) = spiking_network(), digits(SAMPLES)
    with rs.estimating(model, estimator):
        theirs = one_step(ball)[who](model, x, y).detach()
    ours = rs.fgsm(ball, estimator)(model, x, y)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)
    assert (theirs - one_step(ball)[who](model, x, y).detach()).abs().max() > ball.eps / 50


def test_gradients_point_where_ours_do():
    model, (x, y) = spiking_network(), digits(SAMPLES)
    ours = rs.input_gradient(model, x, y).flatten(1)
    seen = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    by_foolbox = foolbox.attacks.LinfPGD().value_and_grad(
        foolbox.attacks.LinfPGD().get_loss_fn(seen, foolbox.criteria.ep.astensor(y)), foolbox.criteria.ep.astensor(x)
    )[1]
    by_art = libraries.art_classifier(model, x, clip_values=(0, 1)).loss_gradient(
        x.numpy(), np.eye(10, dtype=np.float32)[y.numpy()]
    )
    for theirs in (by_foolbox.raw, torch.from_numpy(by_art)):
        assert torch.cosine_similarity(theirs.flatten(1), ours).min() > 1 - 1e-5


@LIBRARIES
def test_they_find_examples_and_our_evaluation_counts_them_as_a_recount_does(who):
    outcome, x, y, x_adv = evaluated(who)
    model, tried = spiking_network(), outcome.tried[:, 0]
    wrong = np.array([int(model(one[None]).argmax()) != int(label) for one, label in zip(x_adv, y, strict=True)])
    distance = np.abs(x_adv.double().numpy() - x.double().numpy()).reshape(len(x), -1).max(1)
    assert wrong.sum() > SAMPLES / 10
    assert distance.max() <= LINF.eps + 1e-6
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert (outcome.fooled[tried, 0] == wrong).all()
    np.testing.assert_allclose(outcome.field("distance")[tried, 0], distance, rtol=0, atol=1e-12)
    assert outcome.robust_accuracy == pytest.approx((len(x) - wrong.sum()) / SAMPLES)


def test_foolbox_counts_as_our_evaluation_does():
    _, x, y, x_adv = evaluated("foolbox")
    seen = foolbox.PyTorchModel(spiking_network(), bounds=(0, 1), device="cpu")
    assert foolbox.accuracy(seen, x_adv, y) == pytest.approx(evaluated("foolbox")[0].robust_accuracy * SAMPLES / len(x))


@LIBRARIES
def test_at_an_equal_budget_ours_is_not_weaker(who):
    ours, theirs = evaluation(rs.PGD(LINF, 20, STEP)).robust, evaluated(who)[0].robust
    only_ours, only_theirs = int((~ours & theirs).sum()), int((ours & ~theirs).sum())
    told = f"only ours breaks {only_ours}, only {who}'s {only_theirs} of {SAMPLES}"
    assert only_theirs - only_ours <= 2 or chance_of(only_ours, only_theirs) >= 0.05, told


@LIBRARIES
def test_they_break_hardly_a_sample_that_withstands_our_worst_case(who):
    worst, theirs = evaluation(rs.suites.standard(LINF.eps)), evaluated(who)[0]
    assert theirs.robust_accuracy >= worst.robust_accuracy
    assert int((worst.robust & ~theirs.robust).sum()) <= 2


@LIBRARIES
def test_in_evaluation_mode_our_network_is_left_with_its_weights_and_buffers(who):
    model, (x, y) = copy.deepcopy(spiking_network()), digits(8)
    before = copy.deepcopy(model.state_dict())
    pgd()[who](model, x, y)
    assert not model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("make", [rs.PGD, rs.APGD, rs.Square], ids=lambda make: make.__name__)
def test_ours_bound_to_a_plain_network_does_as_well_as_theirs(make):
    model, (x, y) = relu_network(), digits(SAMPLES)
    theirs = libraries.pgd(LINF, 20, step_size=STEP, random_start=True)["torchattacks"](model, x, y)
    few = {"queries": 1000} if make is rs.Square else {"steps": 20}
    x_adv = make(LINF, **few).bind(model, seed=0)(x, y)
    left, left_by_them = ((model(found).argmax(1) == y).float().mean() for found in (x_adv, theirs))
    assert left <= left_by_them + 0.02 + 0.05 * (make is rs.Square)  # without gradients a little more is left


# What the page says of each library


def in_training_mode():
    model = copy.deepcopy(spiking_network()).train()
    model.layers[1].eval()  # a BatchNorm that the user froze
    model.zero_grad(set_to_none=True)
    return model


def moved(model, before):
    return [name for name, value in model.state_dict().items() if not torch.equal(before[name], value)]


@pytest.mark.filterwarnings("ignore:The PyTorch model is in training mode")
@pytest.mark.parametrize(
    ("who", "training", "frozen_part_training", "buffers_move", "gradients_left"),
    [
        ("torchattacks", True, True, False, False),
        ("foolbox", True, False, True, True),
        ("art", False, False, False, True),
    ],
)
def test_what_they_do_to_a_model_in_training_mode(who, training, frozen_part_training, buffers_move, gradients_left):
    model, (x, y) = in_training_mode(), digits(32)
    before = copy.deepcopy(model.state_dict())
    pgd()[who](model, x, y)
    assert (model.training, model.layers[1].training) == (training, frozen_part_training)
    assert bool(moved(model, before)) == buffers_move
    assert all((p.grad is not None) == gradients_left for p in model.parameters())


def test_ours_bound_leaves_all_of_that_as_it_was():
    model, (x, y) = in_training_mode(), digits(32)
    before = copy.deepcopy(model.state_dict())
    rs.PGD(LINF, 2).bind(model)(x, y)
    assert (model.training, model.layers[1].training) == (True, False)
    assert not moved(model, before)
    assert all(p.grad is None for p in model.parameters())


def test_gradients_are_added_by_foolbox_and_replaced_by_art():
    for who, added in (("foolbox", True), ("art", False)):
        model, (x, y) = copy.deepcopy(spiking_network()), digits(8)
        once = []
        for _ in range(2):
            one_step(LINF)[who](model, x, y)
            once.append(model.head.weight.grad.clone())
        assert torch.allclose(once[1], (2 if added else 1) * once[0], atol=1e-6)


def test_images_outside_the_box():
    model, (x, y) = spiking_network(), digits(8)
    assert one_step(LINF)["torchattacks"](model, 2 * x, y).max() == 1
    assert one_step(LINF)["art"](model, 2 * x, y).max() > 1
    with pytest.raises(AssertionError):
        one_step(LINF)["foolbox"](model, 2 * x, y)
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\]"):
        rs.fgsm(LINF).bind(model)(2 * x, y)


def test_art_leaves_the_box_unless_told_and_takes_float32_arrays_only():
    model, (x, y) = spiking_network(), digits(8)
    seen = libraries.art_classifier(model, x)
    assert FastGradientMethod(seen, eps=0.1).generate(x.numpy(), y.numpy()).min() < -0.05
    with pytest.raises(AttributeError):
        FastGradientMethod(seen, eps=0.1).generate(x, y.numpy())
    with pytest.raises(RuntimeError, match="Input type"):
        libraries.of_art(FastGradientMethod, LINF)(copy.deepcopy(model).double(), x.double(), y)


def test_steps_and_starts_unless_given():
    model, (x, y) = spiking_network(), digits(8)
    assert torchattacks.PGD(model, eps=0.1).alpha == 2 / 255
    assert foolbox.attacks.LinfPGD().rel_stepsize == pytest.approx(1 / 30)
    assert ProjectedGradientDescent(libraries.art_classifier(model, x)).eps_step == 0.1
    short = libraries.of_foolbox(foolbox.attacks.LinfPGD(steps=10, random_start=False), LINF)(model, x, y)
    assert (short - x).abs().max() < 0.34 * LINF.eps
    chance = {}
    for who, attack in (
        ("torchattacks", libraries.of_torchattacks(torchattacks.PGD, LINF)),
        ("foolbox", libraries.of_foolbox(foolbox.attacks.LinfPGD(), LINF)),
        ("art", libraries.of_art(ProjectedGradientDescent, LINF, max_iter=2, verbose=False)),
    ):
        chance[who] = not torch.equal(attack(model, x, y), attack(model, x, y))
    assert chance == {"torchattacks": True, "foolbox": True, "art": False}


@LIBRARIES
def test_random_starts_follow_a_global_generator(who):
    model, (x, y), found = spiking_network(), digits(8), []
    for torch_seed, numpy_seed in ((0, 0), (0, 0), (1, 0), (0, 1)):
        torch.manual_seed(torch_seed)
        np.random.seed(numpy_seed)
        found.append(pgd()[who](model, x, y))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2]) == (who == "art")
    assert torch.equal(found[0], found[3]) == (who != "art")


def test_the_blocks_of_the_page_run(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    blocks, scope = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL), {}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), scope)
    outcome = scope["outcome"]
    assert [member.attack for member in outcome.header.members[:3]] == ["torchattacks", "foolbox", "ART"]
    assert outcome.fooled.sum(0).min() > 10
    assert scope["worst"].robust_accuracy <= outcome.robust_accuracy < outcome.clean_accuracy
    assert (scope["x_adv"] - scope["images"]).abs().max() <= 8 / 255 + 1e-6
    assert "<APGD-CE-20, Linf 0.0314, on Sequential, seed 0>" in capsys.readouterr().out
