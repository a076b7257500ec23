"""FAB: projections against scipy, steps by hand, minimal distances of linear models, targets, restarts, costs, streams."""

import math

import pytest
import torch
from scipy.optimize import linprog, minimize
from tests.conftest import record_of, small_snn
from torch import nn

from robustspike.attacks import PGD
from robustspike.attacks.fab import FAB, project_l2, project_linf
from robustspike.balls import L2, Linf
from robustspike.draws import Draws
from robustspike.gradients import BPTT, CBA, RGA
from robustspike.surrogates import with_slope

pytestmark = pytest.mark.usefixtures("one_thread")
BALLS = [Linf(0.1), L2(0.4)]
balls = pytest.mark.parametrize("ball", BALLS, ids=str)
projections = pytest.mark.parametrize("project", [project_linf, project_l2])


def images(n, *shape, seed=0):
    return torch.rand(n, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def streams(n, seed=0):
    return Draws.of(seed, torch.arange(n))


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def linear(weight, bias):
    """One class for each row of ``weight`` [K, F]."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(weight.shape[1], len(weight)))
    model[1].weight.data, model[1].bias.data = weight.double(), tensor(*bias)
    return model


def two_classes(w, bias):
    """Margin z_0 − z_1 = w·x + bias."""
    return linear(torch.stack([w, torch.zeros_like(w)]), (bias, 0.0))


class Watched(nn.Module):
    """Keeps what the model is asked, first without and then with a gradient to be taken."""

    stochastic = False

    def __init__(self, model):
        super().__init__()
        self.model, self.queries, self.gradients = model, [], []

    def forward(self, x):
        (self.gradients if x.requires_grad else self.queries).append(x.detach().clone())
        return self.model(x)


def wrong(model, x, y):
    with torch.no_grad():
        return model(x).argmax(1) != y


# Projections


def oracle(x, w, b, norm):
    """The smallest distance of x from {z in the box : w·z = b}, None if there is no such z."""
    lowest, highest = w.clamp(max=0).sum(), w.clamp(min=0).sum()
    if not lowest <= b <= highest:
        return None
    n, w, x = len(x), w.numpy(), x.numpy()
    if norm == "Linf":  # z and t: minimise t with |z − x| ≤ t
        eye = torch.eye(n).numpy()
        above = [[*row, -1] for row in eye.tolist()] + [[*(-row).tolist(), -1] for row in eye]
        limit = [*x, *(-x)]
        found = linprog([0] * n + [1], above, limit, [[*w, 0]], [float(b)], [(0, 1)] * n + [(0, None)])
        assert found.success
        return found.fun
    found = minimize(
        lambda z: ((z - x) ** 2).sum(), x, jac=lambda z: 2 * (z - x), bounds=[(0, 1)] * n, method="SLSQP",
        constraints={"type": "eq", "fun": lambda z: w @ z - float(b), "jac": lambda z: w}, tol=1e-14,
    )  # fmt: skip
    return math.sqrt(found.fun) if found.success else math.nan


@projections
def test_projections_are_nearest_points(project):
    norm, n = {project_linf: "Linf", project_l2: "L2"}[project], 80
    x, w, size = images(n, 5), images(n, 5, seed=1) - 0.5, images(n, seed=2)
    x[::4] = x[::4].round()  # corners of the box
    w[::5, 2], w[::7, 3] = 0.0, 1e-9
    b = (w * x).sum(1) + 3 * (size - 0.5) * w.abs().sum(1)  # some beyond the box
    z = project(x, w, b)
    assert ((z >= 0) & (z <= 1)).all()
    bound, beyond = 0, 0
    for i in range(n):
        best = oracle(x[i], w[i], b[i], norm)
        if best is None:
            corner = torch.where((w[i] > 0) == ((w[i] * x[i]).sum() < b[i]), 1.0, 0.0)
            torch.testing.assert_close(z[i], torch.where(w[i] == 0, x[i], corner.double()), rtol=0, atol=1e-12)
            beyond += 1
        elif not math.isnan(best):
            distance = (z[i] - x[i]).abs().max() if norm == "Linf" else (z[i] - x[i]).norm()
            assert distance.item() == pytest.approx(best, abs=2e-6)
            assert (w[i] * z[i]).sum().item() == pytest.approx(b[i].item(), abs=1e-9)
            bound += int(((z[i] == 0) | (z[i] == 1)).any())
    assert bound > 20
    assert beyond > 10


def test_projections_by_hand_where_the_box_does_not_bind():
    # w·x = 1.5, 2.2 is wanted: 0.7 more. L∞: 0.7/‖w‖₁ = 0.1 each; L2: 0.7/‖w‖₂² = 0.028 along w.
    x, w, b = tensor(0.5, 0.5).reshape(1, 2), tensor(3.0, -4.0).reshape(1, 2), tensor(-0.5 + 0.7)
    assert project_linf(x, w, b)[0].tolist() == pytest.approx([0.6, 0.4])
    assert project_l2(x, w, b)[0].tolist() == pytest.approx([0.5 + 3 * 0.028, 0.5 - 4 * 0.028])
    assert project_linf(x, w, b - 1.4)[0].tolist() == pytest.approx([0.4, 0.6])


def test_projections_by_hand_where_the_box_binds():
    # 1 more is wanted, the first entry has room for 0.1: the second gives the other 0.9 (in half steps under w = 2: 0.45).
    x = tensor(0.9, 0.0).reshape(1, 2)
    assert project_linf(x, tensor(1.0, 1.0).reshape(1, 2), tensor(1.9))[0].tolist() == pytest.approx([1.0, 0.9])
    assert project_l2(x, tensor(1.0, 2.0).reshape(1, 2), tensor(1.9))[0].tolist() == pytest.approx([1.0, 0.45])


@projections
def test_a_point_on_the_hyperplane_and_a_zero_normal_leave_x(project):
    x, w = images(3, 4), images(3, 4, seed=1) - 0.5
    torch.testing.assert_close(project(x, w, (w * x).sum(1)), x, rtol=0, atol=1e-12)
    assert torch.equal(project(x, torch.zeros_like(w), tensor(0.0, 1.0, -1.0)), x)


@projections
@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_the_scale_of_the_hyperplane_does_not_matter(project, scale):
    x, w = images(5, 6), images(5, 6, seed=1) - 0.5
    b = (w * x).sum(1) + 0.2
    torch.testing.assert_close(project(x, w * scale, b * scale), project(x, w, b), rtol=0, atol=1e-12)


@projections
@pytest.mark.parametrize("b", [math.inf, -math.inf, 1e308])
def test_a_hyperplane_out_of_reach_gives_a_corner_and_no_nan(project, b):
    x, w = images(2, 3), tensor(1.0, -1e-200, 0.0, -1.0, 1e-12, 2.0).reshape(2, 3)
    z = project(x, w, tensor(b, b))
    up = (w > 0) == (b > 0)
    torch.testing.assert_close(z, torch.where(w == 0, x, up.double()), rtol=0, atol=0)


@projections
def test_float32_is_projected_in_float64(project):
    x, w = images(4, 3000).float(), (images(4, 3000, seed=1) - 0.5).float()
    b = (w.double() * x.double()).sum(1) + 5.0
    z = project(x, w, b)
    assert z.dtype == torch.float64
    assert (w.double() * z).sum(1).tolist() == pytest.approx(b.tolist(), abs=1e-9)


# Steps by hand


def test_two_linf_steps_by_hand():
    """Margin x₁ − x₂ + 0.1: distance 0.1/2 = 0.05.

    Step 1: 1.05·0.05 = 0.0525, an error, kept; back to 0.9·0.0525 = 0.04725. Step 2: δ = 0.00275, δ₀ = 0.05,
    α = 0.00275/0.05275; (1 − α)·(0.04725 + 1.05·0.00275) + α·0.0525, an error nearer to x.
    """
    model, x, y = two_classes(tensor(1.0, -1.0), 0.1), tensor(0.5, 0.5).reshape(1, 2), torch.tensor([0])
    alpha = 0.00275 / 0.05275
    for steps, expected in ((1, 0.0525), (2, (1 - alpha) * (0.04725 + 1.05 * 0.00275) + alpha * 0.0525)):
        attempt = FAB(Linf(0.1), steps=steps, early_stop=False).run(model, x, y)
        assert attempt.x_adv[0].tolist() == pytest.approx([0.5 - expected, 0.5 + expected], abs=1e-12)
        assert attempt.gradients.tolist() == [steps]
        assert attempt.queries.tolist() == [1 + steps]


def test_two_l2_steps_with_other_factors_by_hand():
    """Margin 3·x₁ − 4·x₂ + 0.75 at (0.5, 0.5), 0.25: distance 0.05 along (−0.6, 0.8); η = 1.2, β = 0.5, alpha_max = 0.2.

    0.06, back to 0.03; δ = 0.02, δ₀ = 0.05, α = min(2/7, 0.2); 0.8·(0.03 + 0.024) + 0.2·0.06 = 0.0552.
    """
    model, x = two_classes(tensor(3.0, -4.0), 0.75), tensor(0.5, 0.5).reshape(1, 2)
    attack = FAB(L2(0.5), steps=2, eta=1.2, beta=0.5, alpha_max=0.2, early_stop=False)
    delta = attack(model, x, torch.tensor([0]))[0] - x[0]
    assert delta.tolist() == pytest.approx([-0.6 * 0.0552, 0.8 * 0.0552], abs=1e-12)


# Linear models


@pytest.mark.parametrize(("ball", "dual"), [(Linf(0.5), 1), (L2(0.9), 2)], ids=str)
def test_on_a_linear_model_it_finds_the_minimal_distance(ball, dual):
    w, x = images(1, 12)[0] - 0.5, torch.full((3, 12), 0.5, dtype=torch.float64)
    model = two_classes(w, 0.25 - (w * x[0]).sum().item())
    x_adv = FAB(ball, steps=30, early_stop=False)(model, x, torch.zeros(3).long())
    assert wrong(model, x_adv, 0).all()
    minimal = 0.25 / w.norm(p=dual).item()
    for distance in ball.distance(x_adv, x).tolist():
        assert minimal <= distance <= 1.01 * minimal  # it steps past the boundary by η


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_and_where_the_pixel_box_binds(norm):
    w, x = images(1, 6)[0] - 0.5, images(8, 6, seed=1)
    x[:, :3] = x[:, :3].round()
    margins = (x * w).sum(1)
    y = torch.zeros(8).long()
    for i in range(8):
        shift = 0.4 * (w.clamp(min=0) * x[i] - w.clamp(max=0) * (1 - x[i])).sum().item()
        best = oracle(x[i], w, margins[i] - shift, norm)
        ball = {"Linf": Linf, "L2": L2}[norm](1.0)
        model = two_classes(w, shift - margins[i].item())
        x_adv = FAB(ball, steps=60, early_stop=False)(model, x[i : i + 1], y[:1])
        assert wrong(model, x_adv, 0).all()
        assert best - 1e-6 <= ball.distance(x_adv, x[i : i + 1]).item() <= 1.02 * best


@pytest.mark.parametrize(("ball", "dual"), [(Linf(0.1), 1), (L2(0.1), 2)], ids=str)
def test_it_succeeds_just_where_the_ball_reaches_the_nearest_class(ball, dual):
    weight, x = images(4, 12) - 0.5, images(12, 12, seed=1) * 0.4 + 0.3
    model = linear(weight, (-weight.sum(1) / 2).tolist())
    z = model(x)
    y = z.argmax(1)
    gaps = z.gather(1, y[:, None]) - z
    slopes = (weight[y][:, None] - weight[None]).norm(p=dual, dim=2)
    distance = torch.where(gaps > 0, gaps / slopes, math.inf).amin(1)
    for factor in (0.985, 1.015):
        broken = [
            wrong(
                model, FAB(ball.with_eps(d * factor), steps=20)(model, x[i : i + 1], y[i : i + 1]), y[i : i + 1]
            ).item()
            for i, d in enumerate(distance.tolist())
            if d * factor < 0.3
        ]
        assert len(broken) > 6
        assert set(broken) == {factor > 1}


def test_the_nearest_class_need_not_be_the_likeliest():
    # z = (1, 0.9, 0.5) at x: class 1 rises by 0.1 with the first pixel, out of reach; class 2 by 10 with the second.
    model = linear(tensor(0.0, 0.0, 0.1, 0.0, 0.0, 10.0).reshape(3, 2), (1.0, 0.85, -4.5))
    x, y = torch.full((1, 2), 0.5, dtype=torch.float64), torch.tensor([0])
    few, all_of_them = (FAB(Linf(0.1), steps=5, targets=n).run(model, x, y) for n in (1, 9))
    assert not wrong(model, few.x_adv, y)
    assert wrong(model, all_of_them.x_adv, y)
    assert all_of_them.restart.item() == 1
    assert (few.gradients.item(), all_of_them.gradients.item()) == (5, 6)
    assert few.x_adv[0].tolist() == pytest.approx([0.6, 0.5])  # the last iterate, projected on the ball
    assert all_of_them.x_adv[0].tolist() == pytest.approx([0.5, 0.5 + 1.05 * 0.05])


def test_targets_are_the_likeliest_other_classes_in_their_order():
    seen = []

    class Far(nn.Module):
        stochastic = False

        def forward(self, x):
            z = tensor(0.3, 0.9, 0.1, 0.5) + 0 * x
            if x.requires_grad:
                z = z + 0
                z.register_hook(seen.append)
            return z

    x, y = torch.full((1, 4), 0.5, dtype=torch.float64), torch.tensor([1])
    FAB(Linf(0.1), steps=1, targets=2)(Far(), x, y)
    FAB(Linf(0.1), steps=1)(Far(), x, y)
    assert [g.argmax().item() for g in seen] == [3, 0, 3, 0, 2]
    assert all(g[0, 1] == -1 for g in seen)


# Restarts


def test_the_first_try_starts_at_x_and_later_ones_in_half_the_ball():
    for ball in BALLS:
        watched, x = Watched(two_classes(torch.ones(64), 999.0)), images(4, 1, 8, 8)
        FAB(ball, steps=1, restarts=4)(watched, x, torch.zeros(4).long(), streams(4))
        first, *others = watched.gradients
        assert torch.equal(first, x)
        assert len(others) == 3
        for start in others:
            assert (ball.distance(start, x) <= ball.eps / 2 + 1e-9).all()
            assert (ball.distance(start, x) > ball.eps / 8).all()
        assert not torch.equal(others[0], others[1])


def test_tries_run_only_on_samples_not_broken_yet():
    model, x = small_snn().double().eval(), images(12, 1, 8, 8)
    y = model(x).argmax(1)
    one = FAB(Linf(0.03), steps=8, targets=1).run(model, x, y, streams(12))
    more = FAB(Linf(0.03), steps=8, restarts=2).run(model, x, y, streams(12))
    broken = wrong(model, one.x_adv, y)
    assert 0 < broken.sum() < 12
    torch.testing.assert_close(more.x_adv[broken], one.x_adv[broken], rtol=0, atol=1e-12)
    assert (more.gradients[~broken] > 8).all()
    assert more.gradients.max() == 8 * 3 * 2  # K − 1 targets, two restarts of each
    assert (wrong(model, more.x_adv, y) | ~broken).all()


# On a spiking network


@balls
@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 2, 3), (3, 1, 1, 2)], ids=str)
def test_takes_any_shape(ball, shape):
    weight, x = images(3, 6) - 0.5, images(5, *shape, seed=1)
    model = linear(weight, (-weight.sum(1) / 2).tolist())
    y = model(x).argmax(1)
    attempt = FAB(ball, steps=10).run(model, x, y, streams(5))
    flat = FAB(ball, steps=10).run(model, x.reshape(5, 6), y, streams(5))
    assert torch.equal(attempt.x_adv.reshape(5, 6), flat.x_adv)
    assert (ball.distance(attempt.x_adv, x) <= ball.eps + 1e-9).all()
    assert attempt.x_adv.min() >= 0
    assert attempt.x_adv.max() <= 1


@pytest.mark.parametrize("options", [{}, {"encoder": "poisson"}, {"leak": 0.5, "reset": "soft"}], ids=str)
@pytest.mark.parametrize("ball", [Linf(0.02), L2(0.1)], ids=str)
def test_a_sample_is_attacked_alike_in_every_batch_and_order(ball, options):
    model, x, draws = small_snn(**options).double().eval(), images(8, 1, 8, 8), streams(8)
    y = model(x).argmax(1)
    attack = FAB(ball, steps=5, targets=2, restarts=2)
    whole = attack.run(model, x, y, draws)
    parts = [*torch.arange(8).split(1), *torch.arange(8).split(2), torch.tensor([5, 2, 7, 0, 1, 6, 4, 3])]
    for part in parts:
        attempt = attack.run(model, x[part], y[part], draws[part])
        torch.testing.assert_close(attempt.x_adv, whole.x_adv[part], rtol=0, atol=1e-12)
        for name in ("gradients", "queries", "zero", "nan", "restart"):
            assert torch.equal(getattr(attempt, name), getattr(whole, name)[part]), name


@pytest.mark.parametrize("ball", [Linf(0.04), L2(0.2)], ids=str)
def test_it_is_about_as_strong_as_pgd_of_the_same_length(ball):
    model, x = small_snn().double().eval(), images(48, 1, 8, 8)
    y = model(x).argmax(1)
    fab, pgd = FAB(ball, steps=30), PGD(ball, steps=30, random_start=False, early_stop=True)
    rates = [wrong(model, attack(model, x, y, streams(48)), y).double().mean().item() for attack in (fab, pgd)]
    assert rates[0] > 0.3
    assert rates[0] >= rates[1] - 0.05


@balls
def test_costs_are_booked_and_the_model_is_left_as_it_was(ball):
    watched = Watched(small_snn().double().eval())
    x = images(8, 1, 8, 8)
    y, before = watched.model(x).argmax(1), record_of(watched.model.train())
    y[0] = (y[0] + 1) % 4  # an error already
    attempt = FAB(ball.with_eps(ball.eps / 5), steps=7).run(watched, x, y, streams(8))
    assert sum(map(len, watched.gradients)) == attempt.gradients.sum()
    assert sum(map(len, watched.queries)) == attempt.queries.sum()
    assert len(watched.queries) > len(watched.gradients)  # the clean image, one for each gradient, one for each try
    assert torch.equal(attempt.x_adv[0], x[0])
    assert (attempt.gradients[0], attempt.queries[0]) == (0, 1)
    assert record_of(watched.model) == before


def test_a_sample_leaves_once_an_example_in_the_ball_is_found():
    model, x = small_snn().double().eval(), images(16, 1, 8, 8)
    y = model(x).argmax(1)
    ball = Linf(0.03)
    early = FAB(ball, steps=15, targets=1).run(model, x, y, streams(16))
    full = FAB(ball, steps=15, targets=1, early_stop=False).run(model, x, y, streams(16))
    assert full.gradients.tolist() == [15] * 16
    left = early.gradients < 15
    assert 0 < left.sum() < 16
    assert wrong(model, early.x_adv[left], y[left]).all()
    assert wrong(model, full.x_adv[left], y[left]).all()
    assert (ball.distance(full.x_adv, x) <= ball.distance(early.x_adv, x) + 1e-12)[left].all()
    torch.testing.assert_close(early.x_adv[~left], full.x_adv[~left], rtol=0, atol=1e-12)


def test_success_is_judged_by_the_model_itself_through_every_estimator():
    model, x = small_snn().double().eval(), images(12, 1, 8, 8)
    y = model(x).argmax(1)
    for estimator in (BPTT(), RGA(), CBA()):
        attempt = FAB(Linf(0.3), steps=15, targets=2, estimator=estimator).run(model, x, y, streams(12))
        assert wrong(model, attempt.x_adv, y).double().mean() > 0.5


# Sick models


class Sick(nn.Module):
    """Sample 0 has a NaN gradient in its first pixel, sample 1 a zero gradient, sample 2 an infinite one, 3 a sound one."""

    stochastic = False

    def forward(self, x):
        slope = tensor(math.nan, -1.0, 0.0, 0.0, math.inf, -1.0, 0.0, -1.0).reshape(4, 2)
        z = with_slope(torch.full_like(x, 0.01), x, slope).sum(1, keepdim=True)
        return torch.cat([z, -z], 1)


@balls
def test_nan_and_zero_gradients_are_counted_and_do_no_harm(ball):
    x, y = torch.full((4, 2), 0.5, dtype=torch.float64), torch.zeros(4).long()
    attempt = FAB(ball, steps=4).run(Sick(), x, y)
    assert attempt.nan.tolist() == [4, 0, 0, 0]
    assert attempt.zero.tolist() == [0, 4, 0, 0]
    assert attempt.x_adv.isfinite().all()
    assert attempt.x_adv[0, 0] == 0.5  # the NaN entry moves nothing
    assert attempt.x_adv[0, 1] > 0.5
    assert torch.equal(attempt.x_adv[1], x[1])
    assert attempt.x_adv[3, 1] > 0.5


@balls
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("early_stop", [True, False])
def test_logits_that_are_not_finite_are_an_error_of_the_model(ball, bad, early_stop):
    class Breaks(nn.Module):
        stochastic = False

        def forward(self, x):
            z = torch.cat([x.sum(1, keepdim=True), torch.zeros(len(x), 1, dtype=x.dtype)], 1)
            return torch.where(x.amin(1, keepdim=True) < 0.45, bad, z)

    x, y = torch.full((2, 3), 0.5, dtype=torch.float64), torch.zeros(2).long()
    x_adv = FAB(ball, steps=6, early_stop=early_stop)(Breaks(), x, y)
    assert x_adv.isfinite().all()
    assert ball.distance(x_adv, x).max() <= ball.eps + 1e-12


def test_a_boundary_outside_the_box_is_approached_as_far_as_the_ball_goes():
    model, x, y = two_classes(tensor(1.0, -1.0), 99.0), tensor(0.5, 0.5).reshape(1, 2), torch.tensor([0])
    assert FAB(Linf(0.1), steps=3)(model, x, y)[0].tolist() == pytest.approx([0.4, 0.6])


def test_gradients_and_logits_are_averaged_over_draws():
    model, x = small_snn(encoder="poisson").double().eval(), images(3, 1, 8, 8)
    attempt = FAB(Linf(0.1), steps=2, targets=1, samples=3).run(model, x, torch.tensor([0, 1, 2]), streams(3))
    assert attempt.gradients.tolist() == [6] * 3
    assert attempt.queries.tolist() == [9] * 3
    single = FAB(Linf(0.1), steps=2, targets=1)(model, x, torch.tensor([0, 1, 2]), streams(3))
    assert not torch.equal(single, attempt.x_adv)


# Arguments


@pytest.mark.parametrize("name", ["steps", "targets", "restarts", "samples"])
def test_fewer_than_one_of_anything_is_refused(name):
    with pytest.raises(ValueError, match=f"^{name} must be ≥ 1, got 0"):
        FAB(Linf(0.1), **{name: 0})


@pytest.mark.parametrize(
    ("name", "value"), [("alpha_max", 1.1), ("alpha_max", math.nan), ("eta", 0.9), ("eta", math.inf), ("beta", 1.0)]
)
def test_factors_out_of_their_range_are_refused(name, value):
    with pytest.raises(
        ValueError, match=r"^alpha_max must lie in \[0, 1\], eta be finite and ≥ 1, beta lie in \[0, 1\)"
    ):
        FAB(Linf(0.1), **{name: value})


def test_another_ball_is_refused():
    class L1(Linf):
        norm = "L1"

    with pytest.raises(ValueError, match="^FAB measures distance in an L∞ or L2 ball, got"):
        FAB(L1(0.1))


def test_names():
    assert FAB(Linf(0.1)).name == "FAB-T-100"
    several = FAB(Linf(0.1), steps=20, targets=3, restarts=2, samples=4)
    assert several.name == "FAB-T-20, 3 targets, 2 restarts, 4 draws"
    assert FAB(Linf(0.1), label="mine").name == "mine"
    assert FAB(Linf(0.1)).kind == "white-box"


@balls
def test_eps_zero_returns_a_copy(ball):
    x, y = images(3, 1, 8, 8), torch.arange(3)
    attempt = FAB(ball.with_eps(0)).run(small_snn().double(), x, y)
    assert torch.equal(attempt.x_adv, x)
    assert attempt.x_adv.data_ptr() != x.data_ptr()


@balls
def test_an_empty_batch_stays_empty(ball, double_model):
    x, y = torch.rand(0, 1, 8, 8, dtype=torch.float64), torch.zeros(0, dtype=torch.int64)
    assert FAB(ball)(double_model, x, y).shape == x.shape


def test_a_model_of_one_class_is_left_alone():
    x, y = images(2, 3), torch.zeros(2).long()
    assert torch.equal(FAB(Linf(0.1))(linear(torch.ones(1, 3), (0.0,)), x, y), x)
