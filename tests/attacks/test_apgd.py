"""APGD: its schedule, its step sizes, targets, and what it finds on models whose optimum is known."""

import pytest
import torch
from tests.conftest import small_snn
from torch import nn

from robustspike.attacks import APGD, fgsm
from robustspike.attacks.apgd import _Climb, checkpoints
from robustspike.attacks.losses import dlr, margin
from robustspike.attacks.view import rivals
from robustspike.balls import L2, Linf
from robustspike.draws import Draws
from robustspike.gradients import ASSG, BPTT, CBA, HART, PDSG
from robustspike.surrogates import with_slope

pytestmark = pytest.mark.usefixtures("one_thread")


def linear(weights):
    model = nn.Linear(len(weights[0]), len(weights), bias=False).double()
    model.weight.data.copy_(torch.tensor(weights))
    return model


def batch(n=8):
    generator = torch.Generator().manual_seed(3)
    return (
        torch.rand(n, 1, 8, 8, generator=generator, dtype=torch.float64),
        torch.arange(n) % 4,
        Draws.of(5, torch.arange(n)),
    )


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (100, [22, 41, 57, 70, 80, 87, 93, 99]),
        (50, [11, 21, 29, 35, 40, 44, 47, 50]),
        (10, [3, 5, 6, 7, 8, 9, 10]),
        (1, [1]),
    ],
)
def test_checkpoints(steps, expected):
    assert checkpoints(steps) == expected


def climb(**values):
    one = _Climb.begin(torch.zeros(1, 2), torch.zeros(1, 2), 0.2)
    for name, value in values.items():
        setattr(one, name, torch.as_tensor(value))
    return one


def test_the_step_halves_and_returns_to_the_best_where_less_than_three_quarters_of_steps_rose():
    one = climb(rises=[7.0], best=[[1.0, 2.0]], best_gradient=[[3.0, 4.0]], best_loss=[5.0])
    one.check(10)
    assert one.step_size.item() == pytest.approx(0.1)
    assert one.here.tolist() == [[1.0, 2.0]]
    assert one.gradient.tolist() == [[3.0, 4.0]]
    assert one.rises.item() == 0


def test_the_step_stays_where_enough_steps_rose_and_the_best_improved():
    one = climb(rises=[8.0], best_loss=[5.0], best_at_check=[4.0], best=[[1.0, 2.0]])
    one.check(10)
    assert one.step_size.item() == pytest.approx(0.2)
    assert one.here.tolist() == [[0.0, 0.0]]


def test_the_step_halves_where_the_best_is_the_old_one_unless_it_halved_just_before():
    for halved, size in ((False, 0.1), (True, 0.2)):
        one = climb(rises=[8.0], best_loss=[5.0], best_at_check=[5.0], halved_at_check=[halved])
        one.check(10)
        assert one.step_size.item() == pytest.approx(size)


def test_two_steps_by_hand():
    # f(x) = −(x₁ − 0.55)² has its top inside the ball; start 0.4, ε = 0.1 around 0.5: step 0.2 overshoots to the face.
    one = _Climb.begin(torch.tensor([[0.5]]), torch.tensor([[0.4]]), 0.2)
    one.note(torch.tensor([-0.0225]), torch.tensor([[0.3]]))
    one.move(Linf(0.1), 0)
    assert one.here.item() == pytest.approx(0.6)
    one.note(torch.tensor([-0.0025]), torch.tensor([[-0.1]]))
    assert one.rises.item() == 1
    one.move(Linf(0.1), 1)  # z = 0.4; 0.6 + 0.75·(0.4 − 0.6) + 0.25·(0.6 − 0.4) = 0.5
    assert one.here.item() == pytest.approx(0.5)
    assert one.best.item() == pytest.approx(0.6)


@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.1)], ids=str)
@pytest.mark.parametrize("loss", [dlr, margin], ids=["dlr", "margin"])
def test_reaches_the_optimum_of_a_linear_model(ball, loss):
    model = linear([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0], [-9.0, -9.0, -9.0]])
    x, y = torch.full((1, 3), 0.5, dtype=torch.float64), torch.tensor([0])
    x_adv = APGD(ball, steps=30, loss=margin)(model, x, y)
    w = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    best = 0.1 * (w.abs().sum() if ball.norm == "Linf" else w.norm())
    assert (model(x)[0, 0] - model(x_adv)[0, 0]).item() == pytest.approx(best.item(), rel=1e-3)


def test_targeted_runs_take_the_likeliest_other_classes_in_turn():
    model = linear([[5.0], [1.0], [4.0], [3.0]])
    x, y = torch.tensor([[1.0]], dtype=torch.float64), torch.tensor([0])
    assert rivals(model, x, y, Draws.of(0, torch.zeros(1)), 9).tolist() == [[2, 3, 1]]
    assert rivals(model, x, torch.tensor([2]), Draws.of(0, torch.zeros(1)), 2).tolist() == [[0, 3]]
    attempt = APGD(Linf(0.01), steps=5, targets=9).run(model, x, y)
    assert attempt.gradients.item() == 3 * 5  # three other classes, none reachable


def test_targets_reach_a_class_that_the_loss_of_the_nearest_rival_never_points_to():
    # Class 1 lies nearer but cannot be reached (its logit does not depend on x); class 2 can.
    model = nn.Sequential(linear([[0.0, 0.0], [0.0, 0.0], [10.0, 0.0], [0.0, 0.0]]))
    model[0].bias = nn.Parameter(torch.tensor([0.0, -0.01, -5.9, -9.0], dtype=torch.float64))
    x, y = torch.full((1, 2), 0.5, dtype=torch.float64), torch.tensor([0])
    x_adv = APGD(Linf(0.1), steps=10, targets=3)(model, x, y)
    assert model(x_adv).argmax(1).item() == 2


def test_two_classes_are_enough_for_targets():
    model = linear([[1.0, 0.0], [0.0, 1.0]])
    x, y = torch.tensor([[0.55, 0.45]], dtype=torch.float64), torch.tensor([0])
    assert model(APGD(Linf(0.1), steps=5, targets=9)(model, x, y)).argmax(1).item() == 1


@pytest.mark.parametrize("estimator", [BPTT(), ASSG(), HART(), PDSG()], ids=str)
@pytest.mark.parametrize("options", [{}, {"early_stop": True}, {"targets": 2, "early_stop": True}], ids=str)
def test_a_sample_is_attacked_alike_in_every_batch(estimator, options):
    model, (x, y, draws) = small_snn(time_steps=4).double().eval(), batch()
    attack = APGD(Linf(0.1), steps=8, estimator=estimator, **options)
    whole = attack.run(model, x, y, draws)
    for part in [torch.tensor([i]) for i in range(8)] + list(torch.arange(8).split(2)):
        one = attack.run(model, x[part], y[part], draws[part])
        torch.testing.assert_close(one.x_adv, whole.x_adv[part], rtol=0, atol=1e-12)
        assert torch.equal(one.gradients, whole.gradients[part])


def test_early_stop_spends_nothing_more_once_the_model_errs_and_loses_nothing():
    model, (x, y, draws) = small_snn(time_steps=4).double().eval(), batch()
    y = model(x).argmax(1)
    long, short = (APGD(Linf(0.2), steps=20, early_stop=stop).run(model, x, y, draws) for stop in (False, True))
    broken = model(short.x_adv).argmax(1) != y
    assert broken.any()
    assert (short.gradients[broken] <= 20).all()
    assert short.gradients.sum() < long.gradients.sum()
    assert (short.gradients[~broken] == 20).all()
    assert (long.queries == 1).all()
    assert (short.queries == 0).all()


def test_finds_more_than_one_step_on_a_trained_network(trained, digits):
    images, labels = digits.test.images[:64], digits.test.labels[:64]
    draws = Draws.of(0, torch.arange(64))

    def broken(attack):
        return int((trained.model(attack(trained.model, images, labels, draws)).argmax(1) != labels).sum())

    assert broken(APGD(Linf(0.1), steps=20, early_stop=True)) > broken(fgsm(Linf(0.1)))


def test_through_cba_the_networks_own_logits_and_losses_decide():
    model, (x, _, draws) = small_snn().double().eval(), batch()
    y = model(x).argmax(1)
    attempt = APGD(Linf(0.2), steps=6, estimator=CBA(), early_stop=True).run(model, x, y, draws)
    stopped = attempt.gradients < 6
    assert stopped.any()
    assert (model(attempt.x_adv[stopped]).argmax(1) != y[stopped]).all()
    assert torch.equal(attempt.queries, attempt.gradients)  # one forward pass of its own for each gradient


def test_a_loss_that_is_no_number_is_the_highest():
    class Sick(nn.Module):
        """No answer above 0.55; the gradient points up."""

        def forward(self, x):
            z = torch.cat([1 - x, x - 1], 1)
            return torch.where(x > 0.55, torch.nan, z)

    x, y = torch.full((4, 1), 0.5), torch.zeros(4, dtype=torch.int64)
    for options in ({}, {"early_stop": True}):
        assert (APGD(Linf(0.1), steps=5, **options)(Sick(), x, y) > 0.55).all()


def test_without_early_stop_a_misclassified_iterate_is_kept_although_a_correct_one_has_a_higher_loss():
    class Odd(nn.Module):
        """Errs only near 0.55, where its gradient leads and its loss is lowest."""

        def forward(self, x):
            inside = ((x - 0.55).abs() < 0.03).to(x.dtype)
            loss = with_slope(1 - inside, x, (0.55 - x).sign())
            return torch.cat([0.5 - inside, 0 * x, loss - 10], 1)

    x, y = torch.full((6, 1), 0.5, dtype=torch.float64), torch.zeros(6, dtype=torch.int64)
    model, seen = Odd(), []
    model.register_forward_hook(lambda m, args, out: seen.append(out.argmax(1) != 0))
    x_adv = APGD(Linf(0.1), steps=20, loss=lambda z, y: z[:, 2])(model, x, y, Draws.of(3, torch.arange(6)))
    ever = torch.stack([wrong for wrong in seen if len(wrong) == 6]).any(0)
    assert ever.any()
    assert torch.equal(model(x_adv).argmax(1) != 0, ever)


@pytest.mark.parametrize("options", [{"steps": 0}, {"restarts": 0}, {"samples": 0}, {"targets": -1}])
def test_unfit_settings_are_refused(options):
    with pytest.raises(ValueError, match="must be ≥"):
        APGD(Linf(0.1), **options)


def test_the_dlr_loss_of_a_two_class_model_says_what_to_use():
    model = linear([[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match="at least 3 classes, got 2; use the margin loss"):
        APGD(Linf(0.1), loss=dlr)(model, torch.full((1, 2), 0.5, dtype=torch.float64), torch.tensor([0]))


def test_names_say_what_is_unusual():
    assert APGD(Linf(0.1)).name == "APGD-CE-100"
    assert APGD(Linf(0.1), steps=20, targets=9, restarts=2).name == "APGD-T9-20, 2 restarts"
    assert APGD(Linf(0.1), loss=dlr, samples=20).name == "APGD-DLR-100, 20 draws"
