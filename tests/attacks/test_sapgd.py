"""SA-PGD: its recursion by hand and against numpy, zero gradients, halving, which iterate is kept."""

import numpy as np
import pytest
import torch
from tests.conftest import small_snn
from torch import nn

from robustspike.attacks import PGD, SAPGD
from robustspike.attacks.sapgd import accumulate, step_of
from robustspike.balls import L2, Linf
from robustspike.draws import Draws
from robustspike.gradients import ASSG, BPTT, CBA

pytestmark = pytest.mark.usefixtures("one_thread")


def batch(n=8):
    generator = torch.Generator().manual_seed(3)
    return (
        torch.rand(n, 1, 8, 8, generator=generator, dtype=torch.float64),
        torch.arange(n) % 4,
        Draws.of(5, torch.arange(n)),
    )


def test_two_steps_by_hand():
    zero = torch.zeros(1, 2, dtype=torch.float64)
    g = torch.tensor([[1.0, -3.0]], dtype=torch.float64)  # mean|g| = 2, mean g² = 5
    m, v = accumulate(zero, zero, g)
    np.testing.assert_allclose(m, [[0.5, -1.5]])
    np.testing.assert_allclose(v, [[0.2, 1.8]])
    np.testing.assert_allclose(step_of(m, v, g, 0.1), [[0.1, -0.1]])  # 0.5/√0.2 = 1.12 and 1.5/√1.8 = 1.12: clipped
    g = torch.tensor([[-1.0, -1.0]], dtype=torch.float64)
    m, v = accumulate(m, v, g)
    np.testing.assert_allclose(m, [[-0.75, -1.75]])
    np.testing.assert_allclose(v, [[1.16, 2.44]])
    np.testing.assert_allclose(step_of(m, v, g, 0.1), [[-0.075 / np.sqrt(1.16), -0.1]])


def test_a_constant_gradient_settles_at_the_known_ratio():
    g = torch.tensor([[1.0, 2.0, -4.0]], dtype=torch.float64)
    m = v = torch.zeros(1, 3, dtype=torch.float64)
    for _ in range(200):
        m, v = accumulate(m, v, g)
    np.testing.assert_allclose(m, 2 * g / g.abs().mean())
    np.testing.assert_allclose(v, 5 * g**2 / (g**2).mean())


def test_statistics_belong_to_samples():
    g, m, v = (torch.rand(4, 2, 3, dtype=torch.float64) for _ in range(3))
    whole = accumulate(m, v, g)
    for i in range(4):
        one = accumulate(m[i : i + 1], v[i : i + 1], g[i : i + 1])
        for a, b in zip(one, whole, strict=True):
            assert torch.equal(a[0], b[i])


def test_a_zero_gradient_leaves_the_sample_where_it_is_and_no_nan():
    zero = torch.zeros(2, 3)
    m, v = accumulate(zero, zero, zero)
    assert torch.equal(step_of(m, v, zero, 0.1), zero)
    m, v = accumulate(torch.ones(2, 3), torch.ones(2, 3), zero)
    assert torch.equal(step_of(m, v, zero, 0.1), zero)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_steps_do_not_depend_on_the_gradients_scale(scale):
    g, zero = torch.rand(2, 5) - 0.5, torch.zeros(2, 5)
    plain, scaled = (step_of(*accumulate(zero, zero, s * g), s * g, 0.1) for s in (1.0, scale))
    torch.testing.assert_close(scaled, plain)


class Numpy:
    """The recursion again, over a quadratic whose gradient is known: loss = −‖A(x − c)‖²."""

    def __init__(self):
        rng = np.random.default_rng(1)
        self.a, self.c = rng.normal(size=(5, 5)), rng.uniform(size=5)

    def run(self, x, start, eps, steps, halve):
        here, m, v, eta = start.copy(), 0.0, 0.0, eps
        for i in range(1, steps + 1):
            g = -2 * self.a.T @ self.a @ (here - self.c)
            m = 0.5 * m + g / np.abs(g).mean()
            v = 0.8 * v + g**2 / (g**2).mean()
            here = here + np.clip(m / np.sqrt(v) * eta, -eta, eta)
            here = np.clip(np.clip(here, x - eps, x + eps), 0, 1)
            eta = eta / 2 if i in halve else eta
        return here


@pytest.mark.parametrize(("steps", "halve"), [(10, [3, 5, 6, 7, 8, 9, 10]), (50, [11, 21, 29, 35, 40, 44, 47, 50])])
def test_against_numpy_to_the_last_iterate(steps, halve):
    oracle = Numpy()

    class Model(nn.Module):
        def forward(self, x):
            r = (x - torch.tensor(oracle.c)) @ torch.tensor(oracle.a).T
            return torch.stack([r.square().sum(1), torch.zeros(len(x), dtype=x.dtype)], 1)

    x, draws = torch.full((1, 5), 0.5, dtype=torch.float64), Draws.of(0, torch.zeros(1))
    attack = SAPGD(Linf(0.3), steps=steps, loss=lambda z, y: -z[:, 0], early_stop=False)
    start = Linf(0.3).sample_rim(x, draws.fork(0))
    expected = oracle.run(x[0].numpy(), start[0].numpy(), 0.3, steps, halve)
    np.testing.assert_allclose(attack(Model(), x, torch.tensor([0]), draws)[0], expected, atol=1e-12)


def test_starts_on_the_balls_face():
    x, draws = torch.full((4, 3, 5), 0.5, dtype=torch.float64), Draws.of(0, torch.arange(4))
    np.testing.assert_allclose((Linf(0.1).sample_rim(x, draws) - x).abs().flatten(1).amax(1), 0.1)
    np.testing.assert_allclose((L2(0.1).sample_rim(x, draws) - x).flatten(1).norm(dim=1), 0.1)


class Staircase(nn.Module):
    """Errs exactly where the one pixel lies in [0.5, 0.56]; the gradient always points up."""

    def forward(self, x):
        inside = ((x >= 0.5) & (x <= 0.56)).to(x.dtype)
        return torch.cat([0 * x, 2 * inside - 1 + 0.01 * (x - x.detach())], 1)


def test_without_early_stop_the_newest_misclassified_iterate_is_kept():
    x, y = torch.tensor([[0.45]], dtype=torch.float64), torch.tensor([0])
    model, seen = Staircase(), []
    model.register_forward_hook(lambda m, args, out: seen.append((args[0].item(), out.argmax(1).item())))
    x_adv = SAPGD(Linf(0.2), steps=20)(model, x, y, Draws.of(1, torch.zeros(1)))
    wrong = [here for here, answer in seen if answer == 1]
    assert seen[-1][1] == 0, "the climb must have left the staircase for this to show anything"
    if wrong:
        assert x_adv.item() == wrong[-1]
    else:
        assert x_adv.item() == seen[-1][0]


@pytest.mark.parametrize("early_stop", [False, True])
@pytest.mark.parametrize("estimator", [BPTT(), ASSG(), CBA()], ids=str)
@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.5)], ids=str)
def test_a_sample_is_attacked_alike_in_every_batch(ball, estimator, early_stop):
    model, (x, y, draws) = small_snn(time_steps=4).double().eval(), batch()
    attack = SAPGD(ball, steps=10, estimator=estimator, early_stop=early_stop)
    whole = attack.run(model, x, y, draws)
    for size in (1, 2, 8):
        for part in torch.arange(8).split(size):
            one = attack.run(model, x[part], y[part], draws[part])
            torch.testing.assert_close(one.x_adv, whole.x_adv[part], rtol=0, atol=1e-12)


def test_with_assg_it_finds_at_least_what_pgd_finds_on_a_trained_network(trained, digits):
    images, labels = digits.test.images[:64], digits.test.labels[:64]
    draws = Draws.of(0, torch.arange(64))

    def broken(attack):
        return int((trained.model(attack(trained.model, images, labels, draws)).argmax(1) != labels).sum())

    strong = SAPGD(Linf(0.1), steps=30, estimator=ASSG(), early_stop=True)
    assert broken(strong) >= broken(PGD(Linf(0.1), steps=30, early_stop=True))


def test_the_memory_of_assg_makes_a_difference_and_leaves_nothing_behind():
    model, (x, y, draws) = small_snn(time_steps=4).double().eval(), batch()
    attack = SAPGD(Linf(0.1), steps=10, estimator=ASSG())
    first = attack.run(model, x, y, draws)
    assert torch.equal(attack.run(model, x, y, draws).x_adv, first.x_adv)
    forgetful = SAPGD(Linf(0.1), steps=10, estimator=lambda layer, currents: ASSG()(layer, currents))
    assert not torch.equal(forgetful.run(model, x, y, draws).x_adv, first.x_adv)
