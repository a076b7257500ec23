"""Auto-PGD against a second implementation, one sample at a time in scalars: Croce and Hein 2020, algorithm 1."""

from fractions import Fraction
from math import ceil

import numpy as np
import pytest
import torch
from torch import nn

from robustspike.attacks.apgd import APGD, checkpoints
from robustspike.attacks.losses import cross_entropy, dlr, margin, targeted_dlr
from robustspike.balls import L2, Linf
from robustspike.draws import Draws

pytestmark = pytest.mark.usefixtures("one_thread")

MOMENTUM, RHO = 0.75, 0.75


def schedule(steps):
    """w_j = ⌈p_j·steps⌉ with p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j − p_{j−1} − 0.03, 0.06), while p_j ≤ 1."""
    p = [Fraction(0), Fraction(22, 100)]
    while p[-1] <= 1:
        p.append(p[-1] + max(p[-1] - p[-2] - Fraction(3, 100), Fraction(6, 100)))
    return [ceil(share * steps) for share in p[:-1]]


def project(norm, point, centre, eps):
    delta = point - centre
    if norm == "Linf":
        delta = np.clip(delta, -eps, eps)
    elif np.sqrt((delta**2).sum()) > eps:
        delta = delta * eps / np.sqrt((delta**2).sum())
    return np.clip(centre + delta, 0, 1)


def ascent(norm, gradient):
    if norm == "Linf":
        return np.sign(gradient)
    length = np.sqrt((gradient**2).sum())
    return gradient / length if length > 0 else gradient


def algorithm_1(f, centre, start, norm, eps, steps):
    """Iterates x(0) … x(steps), their losses, and the best point, of f: point -> (loss, gradient).

    One place is read as in the authors' code: at a checkpoint w the point x(w) is replaced by the best one. The paper's
    listing computes x(w + 1) first and replaces that, though its conditions look at the first w steps only.
    """
    w = schedule(steps)
    x, loss, gradient = [start], [], []
    best, best_loss, best_gradient, best_at = None, -np.inf, None, {}
    eta, eta_at, seen = 2 * eps, {0: 2 * eps}, []
    for k in range(steps + 1):
        value, slope = f(x[k])
        seen.append((x[k], value))
        loss.append(value)
        gradient.append(slope)
        if value > best_loss:
            best, best_loss, best_gradient = x[k], value, slope
        best_at[k] = best_loss
        if k in w[1:] and k < steps:
            last = max(j for j in w if j < k)
            eta_at[k] = eta
            rises = sum(loss[i + 1] > loss[i] for i in range(last, k))
            if rises < RHO * (k - last) or (eta_at[last] == eta_at[k] and best_at[last] == best_at[k]):
                eta = eta / 2
                x[k], loss[k], gradient[k] = best, best_loss, best_gradient
        if k == steps:
            break
        z = project(norm, x[k] + eta * ascent(norm, gradient[k]), centre, eps)
        if k > 0:
            z = project(norm, x[k] + MOMENTUM * (z - x[k]) + (1 - MOMENTUM) * (x[k] - x[k - 1]), centre, eps)
        x.append(z)
    return np.stack([point for point, _ in seen]), np.array([value for _, value in seen]), best


def relu_network():
    """[N, 1, 8, 8] to [N, 5] in float64, with a rugged loss."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers = (nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 24), nn.ReLU(), nn.Linear(24, 5))
        network = nn.Sequential(*layers).double().eval()
        nn.init.normal_(network[0].weight, std=0.7)
        nn.init.normal_(network[3].weight, std=0.2)
        nn.init.normal_(network[5].weight, std=0.7)
    return network


def images(n=8):
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(n, 1, 8, 8, generator=generator, dtype=torch.float64)
    return x, torch.arange(n) % 5


class Recorded(nn.Module):
    """A network that keeps the points it was asked about."""

    def __init__(self, network):
        super().__init__()
        self.network, self.points = network, []

    def forward(self, x):
        self.points.append(x.detach().clone())
        return self.network(x)


def one_sample(network, loss, y):
    """f of :func:`algorithm_1` for a label y, by autograd."""

    def f(point):
        x = torch.tensor(point)[None].requires_grad_()
        value = loss(network(x), y[None])
        (gradient,) = torch.autograd.grad(value.sum(), x)
        return value.item(), gradient[0].numpy()

    return f


def compare(network, x, y, attack, loss_of_sample, norm, start_of=None):
    """All iterates of a run against the second implementation, from the starts that the run took."""
    model = Recorded(network)
    x_adv = attack(model, x, y, Draws.of(3, torch.arange(len(x))))
    iterates = torch.stack(model.points[-(attack.steps + 1) :]).numpy()
    assert iterates.shape == (attack.steps + 1, *x.shape)
    moved_back = 0
    for i in range(len(x)):
        f = one_sample(network, loss_of_sample(i), y[i])
        points, losses, best = algorithm_1(f, x[i].numpy(), iterates[0, i], norm, attack.ball.eps, attack.steps)
        np.testing.assert_allclose(iterates[:, i], points, rtol=0, atol=1e-9)
        with torch.no_grad():
            wrong = (network(torch.tensor(points)).argmax(1) != y[i]).nonzero().flatten()
        kept = points[int(wrong[-1])] if len(wrong) else best  # the newest misclassified iterate, else the best one
        np.testing.assert_allclose(x_adv[i].numpy(), kept, rtol=0, atol=1e-9)
        assert len(wrong) or f(x_adv[i].numpy())[0] == pytest.approx(losses.max(), rel=1e-9, abs=1e-9)
        moved_back += losses.argmax() < attack.steps
    assert moved_back > 0 or attack.steps < 100  # the best point is not simply the last one


BALLS = {"Linf": Linf(0.15), "L2": L2(0.8)}
LOSSES = {"ce": cross_entropy, "dlr": dlr, "margin": margin}


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("steps", [100, 10, 37])
def test_every_iterate_is_that_of_algorithm_1(norm, name, steps):
    x, y = images()
    compare(relu_network(), x, y, APGD(BALLS[norm], steps=steps, loss=LOSSES[name]), lambda i: LOSSES[name], norm)


@pytest.mark.parametrize("norm", BALLS)
def test_the_targeted_run_is_algorithm_1_on_the_targeted_loss(norm):
    network = relu_network()
    x, y = images()
    with torch.no_grad():
        target = network(x).scatter(1, y[:, None], -torch.inf).argmax(1)
    attack = APGD(BALLS[norm], steps=100, targets=1)
    compare(network, x, y, attack, lambda i: lambda z, label: targeted_dlr(z, label, target[i : i + 1]), norm)


@pytest.mark.parametrize("steps", [*range(1, 60), 100, 137, 200, 500, 1000])
def test_the_checkpoints_are_those_of_the_paper(steps):
    assert checkpoints(steps) == sorted(set(schedule(steps)[1:]))


def test_the_checkpoints_at_100_steps_by_hand():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
