"""PGD: optima of linear models, a trace by hand, a plain loop, early stopping, restarts, averaging, gradient health."""

import math

import pytest
import torch
import torch.nn.functional as F
from tests.conftest import small_snn
from torch import nn

from robustspike.attacks import PGD, FromClean, fgsm, rfgsm
from robustspike.balls import L2, Linf
from robustspike.draws import Draws, sampling, uniform_per_step
from robustspike.gradients import BPTR, BPTT, CBA, RGA, input_gradient
from robustspike.surrogates import with_slope

pytestmark = pytest.mark.usefixtures("one_thread")
BALLS = [Linf(0.1), L2(0.3)]


def linear(w, bias=0.0):
    """Two classes with margin z_0 − z_1 = w·x + bias."""
    model = nn.Linear(len(w), 2)
    model.weight.data = torch.tensor([w, [0.0] * len(w)], dtype=torch.float64)
    model.bias.data = torch.tensor([bias, 0.0], dtype=torch.float64)
    return model


def margin(model, x):
    with torch.no_grad():
        z = model(x)
    return (z[:, 0] - z[:, 1]).tolist()


def relu_net(features=6, classes=3):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(features, 16), nn.ReLU(), nn.Linear(16, classes)).double()
    with torch.no_grad():  # so that every class occurs
        model[-1].bias -= model(images(64, features, seed=9)).mean(0)
    return model


def images(n, *shape, seed=0):
    return torch.rand(n, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


W = [3.0, -4.0, 0.5]


def pgd_from_x(ball):
    return PGD(ball, random_start=False)


@pytest.mark.parametrize("make", [fgsm, pgd_from_x])
@pytest.mark.parametrize(("ball", "dual_norm"), [(Linf(0.1), 7.5), (L2(0.1), math.sqrt(9 + 16 + 0.25))])
def test_the_optimum_on_a_linear_model_is_eps_times_the_dual_norm(ball, dual_norm, make):
    model, x, y = linear(W), torch.full((2, 3), 0.5, dtype=torch.float64), torch.tensor([0, 1])
    x_adv = make(ball)(model, x, y)
    drop = [before - after for before, after in zip(margin(model, x), margin(model, x_adv), strict=True)]
    assert drop == pytest.approx([0.1 * dual_norm, -0.1 * dual_norm], rel=1e-12)


def test_the_optimum_is_not_reached_where_the_pixel_box_binds():
    # Label 0 wants x₁ lower and x₂ higher; x₁ can only fall by 0.03.
    model, x = linear([3.0, -4.0]), torch.tensor([[0.03, 0.5]], dtype=torch.float64)
    x_adv = PGD(Linf(0.1))(model, x, torch.tensor([0]))
    assert x_adv.tolist() == [[0.0, pytest.approx(0.6)]]
    assert margin(model, x)[0] - margin(model, x_adv)[0] == pytest.approx(3 * 0.03 + 4 * 0.1)


def test_no_point_of_the_ball_does_better_on_a_linear_model():
    model, x, y = linear(W), torch.full((500, 3), 0.5, dtype=torch.float64), torch.zeros(500, dtype=torch.int64)
    for ball in BALLS:
        best = margin(model, pgd_from_x(ball)(model, x[:1], y[:1]))[0]
        assert min(margin(model, ball.sample(x, Draws.of(0, torch.arange(500))))) >= best - 1e-9


def test_three_steps_by_hand():
    """Margin x₁ − 2·x₂ (label 0), step 0.04 in a ball of 0.1 around (0.05, 0.5).

    The loss falls with x₁ and rises with x₂: signs (−, +) at every step. x₁: 0.05, 0.01, −0.03 → 0 (box), 0;
    x₂: 0.5, 0.54, 0.58, 0.62 → 0.6 (ball).
    """
    model, x, y = linear([1.0, -2.0]), torch.tensor([[0.05, 0.5]], dtype=torch.float64), torch.tensor([0])
    for steps, expected in ((1, [0.01, 0.54]), (2, [0.0, 0.58]), (3, [0.0, 0.6])):
        x_adv = PGD(Linf(0.1), steps=steps, step_size=0.04, random_start=False)(model, x, y)
        assert x_adv[0].tolist() == pytest.approx(expected, abs=1e-15)


def test_three_l2_steps_by_hand():
    # Direction (−1, 2)/√5 at every step; 0.04 + 0.04 + 0.04 is cut at 0.1.
    model, x, y = linear([1.0, -2.0]), torch.tensor([[0.5, 0.5]], dtype=torch.float64), torch.tensor([0])
    for steps, length in ((1, 0.04), (2, 0.08), (3, 0.1)):
        x_adv = PGD(L2(0.1), steps=steps, step_size=0.04, random_start=False)(model, x, y)
        expected = [0.5 - length / math.sqrt(5), 0.5 + 2 * length / math.sqrt(5)]
        assert x_adv[0].tolist() == pytest.approx(expected, abs=1e-12)


def plain_pgd(model, x, y, eps, step, steps, norm):
    """Written from Madry et al. 2018 with one sample at a time."""
    result = []
    for sample, label in zip(x, y, strict=True):
        here = sample.clone()
        for _ in range(steps):
            leaf = here[None].clone().requires_grad_()
            F.cross_entropy(model(leaf), label[None]).backward()
            g = leaf.grad[0]
            if norm == "Linf":
                here = here + step * torch.sign(g)
                here = torch.max(torch.min(here, sample + eps), sample - eps)
            else:
                here = here + step * g / math.sqrt((g * g).sum())
                length = math.sqrt(((here - sample) ** 2).sum())
                here = here if length <= eps else sample + (here - sample) * eps / length
            here = here.clamp(0, 1)
        result.append(here)
    return torch.stack(result)


@pytest.mark.parametrize("ball", [Linf(0.15), L2(0.4)])
@pytest.mark.parametrize("shape", [(6,), (3, 1, 1, 2)], ids=str)
def test_equals_a_plain_loop_over_samples(ball, shape):
    model, x, y = relu_net(), images(5, *shape), torch.tensor([0, 1, 2, 0, 1])
    got = PGD(ball, steps=7, step_size=0.06, random_start=False)(model, x, y)
    expected = plain_pgd(model, x, y, ball.eps, 0.06, 7, ball.norm)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    assert (got - x).abs().max() > 0.1


def test_equals_a_plain_loop_on_a_spiking_network(double_model):
    x, y = images(4, 1, 8, 8), torch.arange(4)
    got = PGD(Linf(0.1), steps=4, step_size=0.04, random_start=False)(double_model, x, y)
    torch.testing.assert_close(got, plain_pgd(double_model, x, y, 0.1, 0.04, 4, "Linf"), rtol=0, atol=1e-12)


def test_steps_follow_the_gradient_of_the_estimator(double_model):
    x, y = images(4, 1, 8, 8), torch.arange(4)
    moves = []
    for estimator in (BPTT(), BPTR(), RGA(), CBA()):
        gradient = input_gradient(double_model, x, y, estimator)
        x_adv = fgsm(Linf(0.1), estimator)(double_model, x, y)
        torch.testing.assert_close(x_adv, (x + 0.1 * gradient.sign()).clamp(0, 1), rtol=0, atol=1e-15)
        moves.append(x_adv)
    assert all(not torch.equal(a, b) for i, a in enumerate(moves) for b in moves[:i])


@pytest.mark.parametrize("ball", BALLS)
def test_l2_and_linf_take_event_frames(ball):
    x, y = images(3, 2, 1, 2, 2), torch.tensor([0, 1, 2])
    model = relu_net(8)
    attempt = PGD(ball, steps=3).run(model, x, y, Draws.of(0, torch.arange(3)))
    assert attempt.x_adv.shape == x.shape
    assert ball.distance(attempt.x_adv, x).tolist() == pytest.approx([ball.eps] * 3, rel=0.2)
    assert (ball.distance(attempt.x_adv, x) <= ball.eps + 1e-12).all()


def test_the_default_step_is_two_and_a_half_eps_over_steps():
    model, x, y = linear([1.0]), torch.tensor([[0.5]], dtype=torch.float64), torch.tensor([0])

    class Watched(nn.Module):
        seen = ()

        def forward(self, x):
            self.seen += (x.item(),)
            return model(x)

    watched = Watched()
    PGD(Linf(0.2), steps=4, random_start=False)(watched, x, y)
    assert watched.seen == pytest.approx([0.5, 0.375, 0.3, 0.3])  # 2.5 · 0.2 / 4 = 0.125, then the ball's edge


def test_fgsm_is_one_step_of_size_eps_from_x():
    attack = fgsm(Linf("8/255"), RGA())
    assert attack == PGD(Linf(8 / 255), steps=1, step_size=8 / 255, random_start=False, estimator=RGA(), label="FGSM")
    assert attack.name == "FGSM"


def test_rfgsm_starts_exactly_half_eps_away_and_steps_half_eps():
    seen = []

    class Watched(nn.Module):
        def forward(self, x):
            seen.append(x.detach().clone())
            return x[:, :2] * torch.tensor([1.0, -2.0])

    x, y = torch.full((64, 2), 0.5, dtype=torch.float64), torch.zeros(64, dtype=torch.int64)
    attack = rfgsm(Linf(0.25))
    x_adv = attack(Watched(), x, y, Draws.of(0, torch.arange(64)))
    assert attack.name == "R-FGSM"
    assert len(seen) == 1
    assert sorted(set((seen[0] - x).flatten().tolist())) == [-0.125, 0.125]
    assert len(set(map(tuple, seen[0].tolist()))) == 4  # all four sign patterns occur
    torch.testing.assert_close(x_adv - seen[0], torch.tensor([[-0.125, -0.125]], dtype=torch.float64).expand(64, 2))


def test_a_random_start_is_a_uniform_point_of_the_ball():
    starts = []

    class Watched(nn.Module):
        def forward(self, x):
            starts.append(x.detach().clone())
            return x

    x, y = torch.full((2000, 2), 0.5, dtype=torch.float64), torch.zeros(2000, dtype=torch.int64)
    PGD(Linf(0.1), steps=1)(Watched(), x, y, Draws.of(0, torch.arange(2000)))
    offset = ((starts[0] - x) / 0.1).flatten()
    assert offset.abs().max() <= 1 + 1e-12
    assert offset.mean().item() == pytest.approx(0, abs=0.05)
    assert offset.var().item() == pytest.approx(1 / 3, rel=0.05)


# Restarts and early stopping


class Counting(nn.Module):
    """Counts the samples that pass through a network."""

    stochastic = False

    def __init__(self, network):
        super().__init__()
        self.network, self.batches = network, []

    def forward(self, x):
        self.batches.append(len(x))
        return self.network(x)


def hard_case():
    """A ReLU network, images and its own answers as labels, so that some but not all samples break."""
    model, x = relu_net(), images(24, 6, seed=1)
    return model, x, model(x).argmax(1)


def errs(model, x, y):
    with torch.no_grad():
        return model(x).argmax(1) != y


def test_restarts_are_spent_on_samples_that_still_stand():
    model, x, y = hard_case()
    draws = Draws.of(0, torch.arange(len(x)))
    one = PGD(Linf(0.08), steps=1, step_size=0.02)
    first = one.run(model, x, y, draws)
    broken = errs(model, first.x_adv, y)
    assert 0 < broken.sum() < len(x)
    counting = Counting(model)
    attempt = PGD(Linf(0.08), steps=1, step_size=0.02, restarts=2).run(counting, x, y, draws)
    standing = int((~broken).sum())
    assert counting.batches == [len(x), len(x), standing]  # gradient, check, gradient of the second restart
    assert torch.equal(attempt.x_adv[broken], first.x_adv[broken])
    assert attempt.restart.tolist() == (~broken).long().tolist()
    assert attempt.gradients.tolist() == (1 + (~broken).long()).tolist()


@pytest.mark.parametrize("early_stop", [False, True])
@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.2)])
def test_more_restarts_never_break_fewer_samples(ball, early_stop):
    model, x, y = hard_case()
    draws = Draws.of(3, torch.arange(len(x)))
    broken = []
    for restarts in (1, 2, 4):
        attack = PGD(ball, steps=1, step_size=0.02, restarts=restarts, early_stop=early_stop)
        broken.append(errs(model, attack(model, x, y, draws), y))
    assert (broken[0] <= broken[1]).all()
    assert (broken[1] <= broken[2]).all()
    assert broken[0].sum() < broken[2].sum()


def test_restarts_begin_at_different_points():
    model, x, y = linear([1.0], bias=9.0), torch.full((1, 1), 0.5, dtype=torch.float64), torch.tensor([0])
    ends = {
        PGD(Linf(0.1), steps=1, step_size=1e-9, restarts=k)(model, x, y, Draws.of(0, torch.arange(1))).item()
        for k in (1, 2, 3)
    }
    assert len(ends) == 3


@pytest.mark.parametrize("ball", [Linf(0.15), L2(0.3)])
def test_early_stop_changes_nothing_for_samples_not_broken_on_the_way(ball):
    model, x, y = hard_case()
    draws = Draws.of(0, torch.arange(len(x)))
    full = PGD(ball, steps=6).run(model, x, y, draws)
    early = PGD(ball, steps=6, early_stop=True).run(model, x, y, draws)
    stopped = early.gradients < 6
    assert 0 < stopped.sum() < len(x)
    assert torch.equal(early.x_adv[~stopped], full.x_adv[~stopped])
    assert errs(model, early.x_adv[stopped], y[stopped]).all()
    assert (errs(model, full.x_adv, y) <= errs(model, early.x_adv, y)).all()
    assert full.gradients.tolist() == [6] * len(x)


def test_early_stop_keeps_the_first_iterate_the_model_errs_on():
    # Margin x − 0.35, steps of 0.1 from 0.5: 0.5, 0.4 stand, 0.3 is broken; the fourth step is not taken.
    model, x, y = linear([1.0], bias=-0.35), torch.tensor([[0.5]], dtype=torch.float64), torch.tensor([0])
    attack = PGD(Linf(0.4), steps=6, step_size=0.1, random_start=False, early_stop=True)
    attempt = attack.run(model, x, y)
    assert attempt.x_adv.item() == pytest.approx(0.3)
    assert attempt.gradients.item() == 3
    counting = Counting(model)
    attack(counting, x, y)
    assert len(counting.batches) == 3


def test_a_sample_that_is_wrong_already_costs_one_gradient_and_stays():
    model, x = linear(W), images(4, 3)
    y = model(x).argmin(1)
    attempt = PGD(Linf(0.1), steps=5, random_start=False, early_stop=True).run(model, x, y)
    assert torch.equal(attempt.x_adv, x)
    assert attempt.gradients.tolist() == [1] * 4


def test_early_stop_trusts_the_networks_own_logits_not_those_of_cba(double_model):
    x = images(6, 1, 8, 8)
    y, draws = double_model(x).argmax(1), Draws.of(0, torch.arange(6))
    attempt = PGD(Linf(0.2), steps=6, estimator=CBA(), early_stop=True).run(double_model, x, y, draws)
    stopped = attempt.gradients < 6
    assert stopped.any()
    assert (double_model(attempt.x_adv[stopped]).argmax(1) != y[stopped]).all()
    assert torch.equal(attempt.queries, attempt.gradients)  # each gradient of CBA costs a forward pass of the network


# Stochastic models


def test_gradients_are_averaged_over_draws_before_the_sign():
    model, x, y = small_snn(encoder="poisson").double().eval(), images(3, 1, 8, 8), torch.tensor([0, 1, 2])
    draws = Draws.of(5, torch.arange(3))
    total = torch.zeros_like(x)
    for k in range(4):
        leaf = x.clone().requires_grad_()
        with sampling(draws.fork(0).fork(1).fork(k)):  # restart 0, step 1, draw k
            loss = F.cross_entropy(model(leaf), y, reduction="sum")
        total += torch.autograd.grad(loss, leaf)[0]
    attempt = fgsm(Linf(0.1), samples=4).run(model, x, y, draws)
    torch.testing.assert_close(attempt.x_adv, (x + 0.1 * total.sign()).clamp(0, 1), rtol=0, atol=1e-12)
    assert attempt.gradients.tolist() == [4, 4, 4]
    single = fgsm(Linf(0.1)).run(model, x, y, draws)
    assert not torch.equal(single.x_adv, attempt.x_adv)


def test_early_stop_does_not_weaken_the_attack_on_a_stochastic_model():
    """The label stands at x = 0 but for a noise that breaks it one time in four; at x = 0.4 it is always lost."""

    class Noisy(nn.Module):
        stochastic = True

        def forward(self, x):
            noise = 5 * (uniform_per_step(x.detach(), 1)[0].to(x.dtype) < 0.25) - 1
            return torch.cat([1 - 10 * x - noise, -1 + 10 * x + noise], 1)

    n = 400
    x, y = torch.zeros(n, 1, dtype=torch.float64), torch.zeros(n, dtype=torch.int64)
    draws = Draws.of(0, torch.arange(n))
    wins = {}
    for early_stop in (False, True):
        attack = PGD(Linf(0.4), steps=4, random_start=False, early_stop=early_stop)
        with sampling(draws.fork("score")):
            wins[early_stop] = errs(Noisy(), attack(Noisy(), x, y, draws), y).sum().item()
    assert wins[True] >= wins[False]


# The divergence from the clean answer (TRADES)


def by_divergence(model, x, start, eps, step, steps):
    """Ascent of KL(p(x) ‖ p(·)) written out, one sample at a time."""
    result = []
    for sample, begin in zip(x, start, strict=True):
        with torch.no_grad():
            p = model(sample[None]).softmax(1)
        here = begin.clone()
        for _ in range(steps):
            leaf = here[None].clone().requires_grad_()
            q = model(leaf).softmax(1)
            (g,) = torch.autograd.grad((p * (p / q).log()).sum(), leaf)
            here = torch.minimum(torch.maximum(here + step * g[0].sign(), sample - eps), sample + eps).clamp(0, 1)
        result.append(here)
    return torch.stack(result)


def test_ascent_of_the_divergence_equals_a_plain_loop():
    model, x, y = hard_case()
    draws = Draws.of(0, torch.arange(len(x)))
    attack = PGD(Linf(0.1), steps=4, step_size=0.03, loss=FromClean())
    start = Linf(0.1).sample(x, draws.fork(0))
    expected = by_divergence(model, x, start, 0.1, 0.03, 4)
    got = attack(model, x, y, draws)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(attack(model, x, (y + 1) % 3, draws), got, rtol=0, atol=0)  # asks for no label
    assert not torch.equal(PGD(Linf(0.1), steps=4, step_size=0.03)(model, x, y, draws), got)


def test_the_clean_answer_is_asked_for_once_and_booked_whatever_the_steps_and_restarts():
    model, x, y = hard_case()
    counting = Counting(model)
    attempt = PGD(Linf(0.02), steps=3, loss=FromClean()).run(counting, x, y)
    assert counting.batches == [len(x)] * 4
    assert attempt.queries.tolist() == [1] * len(x)
    plain = PGD(Linf(0.02), steps=3, restarts=2).run(model, x, y)
    compared = PGD(Linf(0.02), steps=3, restarts=2, loss=FromClean()).run(model, x, y)
    assert (compared.queries - plain.queries).tolist() == [1] * len(x)


@pytest.mark.parametrize("early_stop", [False, True])
def test_restarts_and_early_stopping_keep_each_samples_own_clean_answer(early_stop):
    """A sample attacked alone ends where it does among others, though others leave the batch on the way."""
    model, x, y = hard_case()
    draws = Draws.of(0, torch.arange(len(x)))
    attack = PGD(Linf(0.08), steps=4, restarts=3, loss=FromClean(), early_stop=early_stop)
    whole = attack.run(model, x, y, draws)
    assert early_stop == bool((whole.gradients % 4 != 0).any())
    assert 0 < (whole.gradients > 4).sum() < len(x)
    for k in range(len(x)):
        one = torch.tensor([k])
        torch.testing.assert_close(attack(model, x[one], y[one], draws[one]), whole.x_adv[one], rtol=0, atol=1e-12)


def test_from_the_image_itself_the_divergence_has_no_slope():
    # p·(log p − log p) has gradient q − p = 0 but for rounding; exactly 0 on a model whose softmax sums to 1.
    model, x, y = linear(W), torch.full((1, 3), 0.5, dtype=torch.float64), torch.tensor([0])
    model.weight.data[0] = 0  # logits 0 and 0
    attempt = PGD(Linf(0.1), steps=2, random_start=False, loss=FromClean()).run(model, x, y)
    assert torch.equal(attempt.x_adv, x)
    assert attempt.zero.tolist() == [2]


def test_the_divergence_has_a_name():
    assert PGD(Linf(0.1), loss=FromClean()).name == "PGD-10, FromClean loss"


# Gradient health


class Sick(nn.Module):
    """Sample 0 has a NaN gradient in its first pixel, sample 1 a zero gradient, sample 2 a sound one in its second."""

    def forward(self, x):
        slope = torch.tensor([[math.nan, -1.0], [0.0, 0.0], [0.0, -1.0]], dtype=x.dtype)
        z = with_slope(torch.zeros_like(x), x, slope).sum(1, keepdim=True)
        return torch.cat([z, -z], 1)


@pytest.mark.parametrize("ball", BALLS)
def test_nan_and_zero_gradients_are_counted_and_do_no_harm(ball):
    x, y = torch.full((3, 2), 0.5, dtype=torch.float64), torch.zeros(3, dtype=torch.int64)
    attempt = PGD(ball, steps=4, random_start=False).run(Sick(), x, y)
    assert attempt.nan.tolist() == [4, 0, 0]
    assert attempt.zero.tolist() == [0, 4, 0]
    assert attempt.gradients.tolist() == [4, 4, 4]
    assert attempt.x_adv.isfinite().all()
    assert attempt.x_adv[0, 0] == 0.5  # the NaN entry moves nothing
    assert attempt.x_adv[0, 1].item() == pytest.approx(0.5 + ball.eps)  # the rest of that sample still climbs
    assert torch.equal(attempt.x_adv[1], x[1])
    assert attempt.x_adv[2, 1].item() == pytest.approx(0.5 + ball.eps)


@pytest.mark.parametrize("size", [1e-300, 1e300])
def test_tiny_and_huge_l2_gradients_keep_their_direction(size):
    x, gradient = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[3.0, 4.0]], dtype=torch.float64) * size
    assert L2(1.0).ascend(x, gradient, 0.5)[0].tolist() == pytest.approx([0.3, 0.4])


# Bad arguments


@pytest.mark.parametrize("name", ["steps", "restarts", "samples"])
@pytest.mark.parametrize("value", [0, -1])
def test_fewer_than_one_of_anything_is_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be ≥ 1, got {value}"):
        PGD(Linf(0.1), **{name: value})


@pytest.mark.parametrize("step_size", [0, -0.1, math.nan])
def test_a_step_that_is_not_positive_is_refused(step_size):
    with pytest.raises(ValueError, match=r"^step_size must be positive and finite, in pixel units, got"):
        PGD(Linf(0.1), step_size=step_size)


@pytest.mark.parametrize("random_start", ["signs", None, 2])
def test_another_random_start_is_refused(random_start):
    with pytest.raises(ValueError, match=r'^random_start must be True, False or "sign", got'):
        PGD(Linf(0.1), random_start=random_start)


def test_x_and_y_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="got 2 images and 3 labels"):
        PGD(Linf(0.1))(linear(W), images(2, 3), torch.tensor([0, 1, 0]))


def test_names():
    assert PGD(Linf(0.1), steps=7).name == "PGD-7"
    assert PGD(Linf(0.1), label="mine").name == "mine"


def test_an_empty_batch_stays_empty(double_model):
    x, y = torch.rand(0, 1, 8, 8, dtype=torch.float64), torch.zeros(0, dtype=torch.int64)
    assert PGD(Linf(0.1))(double_model, x, y).shape == x.shape
