"""The terms of the objectives: values by hand, the limit h → 0, gradients through both terms, and what they reduce to."""

import math

import pytest
import torch
import torch.nn.functional as F
from tests.conftest import record_of, small_snn
from torch import nn

from robustspike.attacks import PGD
from robustspike.balls import Linf
from robustspike.defences import Batch, CrossEntropy, GradientSparsity, Objective, Part, Point, at, sr, sr_star, vanilla
from robustspike.defences.terms import strongest_rival, true_class_probability
from robustspike.draws import Draws

pytestmark = pytest.mark.usefixtures("one_thread")


def tanh_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()


def batch(n=5):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 6, dtype=torch.float64, generator=generator), torch.arange(n) % 4


def f_two(logits, y):
    """softmax over {z_y, the largest other logit}, one sample at a time."""
    values = []
    for z, label in zip(logits, y.tolist(), strict=True):
        rival = max((j for j in range(len(z)) if j != label), key=lambda j, z=z: z[j].item())
        values.append(torch.softmax(torch.stack([z[label], z[rival]]), 0)[0])
    return torch.stack(values)


def f_all(logits, y):
    return torch.softmax(logits, 1)[torch.arange(len(y)), y]


FORMS = {"two": f_two, "all": f_all}
forms = pytest.mark.parametrize("classes", FORMS)


def penalty(model, x, y, **options):
    point = Point(model, x.clone().requires_grad_())
    return GradientSparsity(**options)(Batch(model, y, point, point))


def test_the_strongest_rival_is_the_largest_other_logit():
    logits = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [0.0, 0.0, -1.0]])
    assert strongest_rival(logits, torch.tensor([0, 2, 1])).tolist() == [2, 0, 0]


def test_f_by_hand():
    # Against the rival 2 logits lower: 1 / (1 + e^−2). Against both others: 1 / (1 + e^−2 + e^−3).
    logits, y = torch.tensor([[3.0, 1.0, 0.0]], dtype=torch.float64), torch.tensor([0])
    assert true_class_probability(logits, y, torch.tensor([1])).item() == pytest.approx(1 / (1 + math.exp(-2)))
    expected = 1 / (1 + math.exp(-2) + math.exp(-3))
    assert true_class_probability(logits, y, None).item() == pytest.approx(expected)


@forms
def test_the_finite_difference_converges_to_the_l1_norm_of_the_gradient(classes):
    model, (x, y) = tanh_net(), batch()
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(FORMS[classes](model(leaf), y).sum(), leaf)
    limit = gradient.abs().sum(1).mean().item()
    errors = [abs(penalty(model, x, y, classes=classes, h=h).item() - limit) for h in (1e-2, 1e-3, 1e-4)]
    assert limit > 0.05
    assert errors[0] < 0.05 * limit
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.1)  # first order in h
    assert errors[2] == pytest.approx(errors[0] / 100, rel=0.1)


@forms
def test_the_squared_penalty_converges_to_the_squared_norm(classes):
    model, (x, y) = tanh_net(), batch()
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(FORMS[classes](model(leaf), y).sum(), leaf)
    squared = penalty(model, x, y, classes=classes, h=1e-6, penalty="square").item()
    assert squared == pytest.approx(gradient.abs().sum(1).square().mean().item(), rel=1e-4)


def test_two_neurons_by_hand():
    """Logits x₁ and −2·x₂ at (0.5, 0.25), label 0: margin m = x₁ + 2·x₂ = 1, d = (1, 1), m grows by 3h."""
    model = nn.Linear(2, 2, bias=False).double()
    model.weight.data = torch.tensor([[1.0, 0.0], [0.0, -2.0]], dtype=torch.float64)
    x, y = torch.tensor([[0.5, 0.25]], dtype=torch.float64), torch.tensor([0])

    def sigmoid(m):
        return 1 / (1 + math.exp(-m))

    quotient = (sigmoid(1.3) - sigmoid(1.0)) / 0.1
    assert penalty(model, x, y, h=0.1).item() == pytest.approx(quotient, rel=1e-12)
    assert penalty(model, x, y, h=0.1, classes="all").item() == pytest.approx(quotient, rel=1e-12)  # two classes
    assert penalty(model, x, y, h=0.1, penalty="square").item() == pytest.approx(quotient**2, rel=1e-12)
    loss = sr(0.5, h=0.1)(model, x, y).item()
    assert loss == pytest.approx(math.log(1 + math.exp(-1)) + 0.5 * quotient, rel=1e-12)


def test_the_penalty_is_the_mean_of_the_samples_penalties():
    model, (x, y) = tanh_net(), batch()
    alone = [penalty(model, x[i : i + 1], y[i : i + 1]).item() for i in range(len(x))]
    assert penalty(model, x, y).item() == pytest.approx(sum(alone) / len(alone), rel=1e-12)


def test_the_rival_is_kept_for_the_second_point():
    """Logits (0, 1 − x, 3.4 − 4·x) at x = 0.75, label 1: (0, 0.25, 0.4), the rival is 2 and z₁ − z₂ = −0.15 grows by 3.

    At x = 0.95 they are (0, 0.05, −0.4): the strongest other logit is 0, but z₁ − z₂ = 0.45 is what counts.
    """
    model = nn.Linear(1, 3).double()
    model.weight.data = torch.tensor([[0.0], [-1.0], [-4.0]], dtype=torch.float64)
    model.bias.data = torch.tensor([0.0, 1.0, 3.4], dtype=torch.float64)
    x, y = torch.tensor([[0.75]], dtype=torch.float64), torch.tensor([1])

    def sigmoid(m):
        return 1 / (1 + math.exp(-m))

    kept = (sigmoid(0.45) - sigmoid(-0.15)) / 0.2
    changed = abs(sigmoid(0.05) - sigmoid(-0.15)) / 0.2
    got = penalty(model, x, y, h=0.2).item()
    assert got == pytest.approx(kept, rel=1e-9)
    assert abs(got - changed) > 0.1


@forms
@pytest.mark.parametrize("square", [False, True])
def test_weights_get_gradient_through_both_points_and_the_direction_is_constant(classes, square):
    model, (x, y) = tanh_net(), batch()
    h, weight = 0.05, 0.7
    sr(weight, h=h, classes=classes, penalty="square" if square else "abs")(model, x, y).backward()
    got = [p.grad.clone() for p in model.parameters()]

    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(FORMS[classes](model(leaf), y).sum(), leaf)
    moved = (x + h * gradient.sign()).detach()
    rivals = strongest_rival(model(x), y)

    def f(logits):
        if classes == "all":
            return f_all(logits, y)
        rows = torch.arange(len(y))
        return torch.sigmoid(logits[rows, y] - logits[rows, rivals])

    quotient = (f(model(moved)) - f(model(x))) / h
    loss = F.cross_entropy(model(x), y) + weight * (quotient**2 if square else quotient.abs()).mean()
    expected = torch.autograd.grad(loss, list(model.parameters()))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    only_second = ((f(model(moved)) - f(model(x)).detach()) / h).abs().mean()
    other = torch.autograd.grad(F.cross_entropy(model(x), y) + weight * only_second, list(model.parameters()))
    assert not torch.allclose(got[0], other[0], rtol=1e-3)


def test_the_second_point_may_leave_the_pixel_box():
    # f = σ(x₁ − 2·x₂) at (1, 0.5) moves to x₁ = 1.1 and x₂ = 0.4: m from 0 to 0.3. Clipped it would be 0.2.
    model = nn.Linear(2, 2, bias=False).double()
    model.weight.data = torch.tensor([[1.0, -2.0], [0.0, 0.0]], dtype=torch.float64)
    x = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    expected = (1 / (1 + math.exp(-0.3)) - 0.5) / 0.1
    assert penalty(model, x, torch.tensor([0]), h=0.1).item() == pytest.approx(expected, rel=1e-9)


# What objectives reduce to


def gradients(objective, model, x, y):
    model.zero_grad()
    loss = objective(model, x, y)
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters())]


def same(a, b):
    return all(torch.equal(s, t) for s, t in zip(a, b, strict=True))


def fresh_snn():
    return small_snn().train()


def snn_batch(n=6):
    generator = torch.Generator().manual_seed(4)
    return torch.rand(n, 1, 8, 8, generator=generator), torch.arange(n) % 4


def test_weight_zero_is_vanilla_bit_for_bit():
    x, y = snn_batch()
    expected = gradients(vanilla(), fresh_snn(), x, y)
    assert same(gradients(sr(0), fresh_snn(), x, y), expected)
    assert not same(gradients(sr(0.1), fresh_snn(), x, y), expected)


def test_an_attack_with_eps_zero_is_vanilla_bit_for_bit():
    x, y = snn_batch()
    attack = PGD(Linf(0), steps=3)
    assert same(gradients(at(attack), fresh_snn(), x, y), gradients(vanilla(), fresh_snn(), x, y))
    assert same(gradients(sr_star(attack, 0.1), fresh_snn(), x, y), gradients(sr(0.1), fresh_snn(), x, y))


def test_vanilla_is_the_mean_cross_entropy():
    model, (x, y) = tanh_net(), batch()
    expected = -model(x).log_softmax(1)[torch.arange(5), y].mean()
    torch.testing.assert_close(vanilla()(model, x, y), expected)


def test_adversarial_training_is_vanilla_at_the_adversarial_examples():
    x, y = snn_batch()
    attack = PGD(Linf(0.1), steps=3, random_start=False)
    x_adv = attack(fresh_snn(), x, y)
    assert not torch.equal(x_adv, x)
    assert same(gradients(at(attack), fresh_snn(), x, y), gradients(vanilla(), fresh_snn(), x_adv, y))


def test_sr_star_is_sr_at_the_adversarial_examples():
    x, y = snn_batch()
    attack = PGD(Linf(0.1), steps=3, random_start=False)
    x_adv = attack(fresh_snn(), x, y)
    got = gradients(sr_star(attack, 0.3), fresh_snn(), x, y)
    assert same(got, gradients(sr(0.3), fresh_snn(), x_adv, y))
    assert not same(got, gradients(sr(0.3), fresh_snn(), x, y))


def test_the_attack_sees_evaluation_mode_and_leaves_the_model_alone():
    model, (x, y) = fresh_snn(), snn_batch()
    before, seen = record_of(model), []

    def attack(model, x, y):
        model.register_forward_hook(lambda m, *_: seen.append(m.training))
        x_adv = PGD(Linf(0.1), steps=2)(model, x, y, Draws.of(0, torch.arange(len(x))))
        assert record_of(model) == before
        return x_adv

    at(attack)(model, x, y)
    assert seen == [False, False, True]


def test_any_callable_may_perturb():
    model, (x, y) = tanh_net(), batch()
    objective = at(lambda model, x, y: x * 0)
    torch.testing.assert_close(objective(model, x, y), vanilla()(model, x * 0, y))


def test_an_objective_is_the_weighted_sum_of_its_terms():
    model, (x, y) = tanh_net(), batch()
    objective = Objective("mine", (Part(CrossEntropy(), 2.0), Part(GradientSparsity(h=0.1), 0.5)))
    expected = 2 * vanilla()(model, x, y) + 0.5 * penalty(model, x, y, h=0.1)
    torch.testing.assert_close(objective(model, x, y), expected)
    assert objective.weight_decay == 5e-4


def test_a_term_of_weight_zero_is_not_computed():
    class Dear:
        differentiates_input = True

        def __call__(self, batch):
            raise AssertionError("computed")

    model, (x, y) = tanh_net(), batch()
    loss = Objective("mine", (Part(CrossEntropy()), Part(Dear(), 0.0)))(model, x, y)
    assert torch.equal(loss, vanilla()(model, x, y))


def test_the_loss_is_float32_for_a_network_in_bfloat16():
    model = small_snn().to(torch.bfloat16).train()
    x, y = snn_batch()
    loss = sr(0.1)(model, x.to(torch.bfloat16), y)
    assert loss.dtype == torch.float32
    loss.backward()
    assert model.head.weight.grad.isfinite().all()


def test_a_stochastic_model_draws_the_same_numbers_at_both_points():
    """With numbers of their own, the two points would differ by noise / h, however small h is."""
    model = small_snn(encoder="poisson").eval()
    x, y = torch.rand(16, 1, 8, 8), torch.arange(16) % 4
    torch.manual_seed(0)
    draws = Draws.of(0, torch.arange(16))
    point = Point(model, x.requires_grad_(), draws)
    batch = Batch(model, y, point, point)
    assert torch.equal(point.forward(x), point.logits)
    assert GradientSparsity(h=1e-7)(batch).item() < 100  # a flipped spike would be worth thousands
