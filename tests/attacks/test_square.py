"""Square: the schedule, stripes, tiles, a plain loop, optima of linear models, streams, costs, stochastic models."""

import math
from itertools import pairwise

import pytest
import torch
from tests.conftest import record_of, small_snn
from torch import nn

from robustspike.attacks.losses import cross_entropy, margin
from robustspike.attacks.square import Square, square_sides, tile
from robustspike.balls import L2, Linf
from robustspike.draws import Draws, uniform_per_step

pytestmark = pytest.mark.usefixtures("one_thread")
BALLS = [Linf(0.1), L2(0.4)]
balls = pytest.mark.parametrize("ball", BALLS, ids=str)


def images(n, *shape, seed=0):
    return torch.rand(n, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def streams(n, seed=0):
    return Draws.of(seed, torch.arange(n))


def linear(w, bias=0.0):
    """Two classes with margin z_0 − z_1 = w·x + bias."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(w.numel(), 2))
    model[1].weight.data = torch.stack([w.flatten(), torch.zeros(w.numel())]).double()
    model[1].bias.data = torch.tensor([bias, 0.0], dtype=torch.float64)
    return model


class Watched(nn.Module):
    """Keeps what the model is asked, and whether a gradient could be taken."""

    stochastic = False

    def __init__(self, model):
        super().__init__()
        self.model, self.asked, self.grad = model, [], []

    def forward(self, x):
        self.asked.append(x.clone())
        self.grad.append(torch.is_grad_enabled() or x.requires_grad)
        return self.model(x)


# The schedule


def test_the_share_of_places_for_5000_queries():
    first = [1, 6, 26, 101, 251, 501, 1001, 2001, 3001, 4001, 5000]
    attack = Square(Linf(0.1))
    for halvings, (start, after) in enumerate(pairwise(first)):
        assert attack.p(start) == attack.p(after - 1) == 0.8 / 2**halvings


def test_the_share_of_places_for_10000_and_100_queries():
    full, short = Square(Linf(0.1), queries=10_000, p_init=1.0), Square(Linf(0.1), queries=100, p_init=1.0)
    assert [1 / full.p(i) for i in (10, 11, 50, 51, 500, 501, 8000, 8001, 9999)] == [1, 2, 2, 4, 8, 16, 256, 512, 512]
    assert [1 / short.p(i) for i in (0, 1, 2, 3, 5, 6, 10, 11, 81, 99)] == [1, 4, 4, 8, 8, 16, 16, 32, 512, 512]


def test_sides_of_squares():
    shares = [0.8 / 2**k for k in range(10)]
    assert [square_sides(p, 32, 32) for p in shares] == [(s, s) for s in (29, 20, 14, 10, 7, 5, 4, 3, 2, 1)]
    assert square_sides(1e-9, 32, 32) == (1, 1)
    assert square_sides(1.0, 8, 8) == (8, 8)
    assert [square_sides(p, 1, 40) for p in (1.0, 0.2, 0.04, 1e-9)] == [(1, 40), (1, 8), (1, 2), (1, 1)]
    assert [square_sides(p, 2, 40) for p in (0.5, 0.05, 0.01)] == [(2, 20), (2, 2), (1, 1)]
    assert square_sides(0.5, 40, 2) == (20, 2)


# The start


def test_it_starts_from_vertical_stripes():
    watched, x = Watched(linear(torch.ones(3, 6, 5), 99.0)), images(40, 3, 6, 5)
    Square(Linf(0.1), queries=1)(watched, x, torch.zeros(40, dtype=torch.int64), streams(40))
    (start,) = watched.asked
    signs = torch.where(start > x, 1.0, -1.0).double()
    torch.testing.assert_close(start, (x + 0.1 * signs).clamp(0, 1), rtol=0, atol=1e-12)
    assert (signs == signs[:, :, :1]).all()
    assert signs[:, :, 0].mean().abs() < 0.15  # 600 signs
    assert len({tuple(s) for s in signs[:, :, 0].flatten(1).tolist()}) == 40  # each sample has its own


def test_the_tile_by_hand():
    """Bumps of 1 × 3 and 2 × 3: n = 1, 1/1² + 1/2² at the centre, 1/2² around it."""
    expected = torch.tensor([[1.0, 5, 1], [-1, -1, -1], [-1, -5, -1]], dtype=torch.float64)
    torch.testing.assert_close(tile(3, 3), expected / expected.norm(), rtol=0, atol=1e-15)
    assert tile(1, 1).tolist() == [[-1.0]]
    assert tile(17, 17).norm().item() == pytest.approx(1)
    assert tile(1, 9)[0].tolist() == tile(1, 9)[0].flip(0).tolist()


def test_the_l2_start_is_five_by_five_tiles_of_length_eps():
    watched, x = Watched(linear(torch.ones(2, 17, 16), 99.0)), torch.full((3, 2, 17, 16), 0.5, dtype=torch.float64)
    Square(L2(0.4), queries=1)(watched, x, torch.zeros(3, dtype=torch.int64), streams(3))
    delta = watched.asked[0] - x
    assert delta.flatten(1).norm(dim=1).tolist() == pytest.approx([0.4] * 3)
    assert (delta[:, :, 0] == 0).all()  # 15 of 17 rows and of 16 columns, from (1, 0)
    assert (delta[:, :, 16] == 0).all()
    assert (delta[:, :, :, 15] == 0).all()
    scaled = delta[:, :, 1:16, :15] * (5 * math.sqrt(2) / 0.4)
    both = torch.stack([tile(3, 3), tile(3, 3).T])
    seen = set()
    for part in scaled.unfold(2, 3, 3).unfold(3, 3, 3).reshape(-1, 3, 3):
        fits = [(k, s) for k in (0, 1) for s in (1, -1) if torch.allclose(part, s * both[k], rtol=0, atol=1e-12)]
        assert len(fits) == 1
        seen.update(fits)
    assert len(seen) == 4


# Against a plain loop


def plain_square(model, x, y, ball, queries, p_init, draws):
    """Algorithms 1-3 of Andriushchenko et al. 2020, one sample, channel and place at a time."""
    result = []
    halved = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
    for i in range(len(x)):
        own, (channels, height, width) = draws[torch.tensor([i])].fork("square"), x.shape[1:]
        best, highest = x[i], -math.inf
        for query in range(queries):
            p = p_init / 2 ** sum(query / queries * 10_000 - 1e-9 >= h + 1 for h in halved)
            side = max(1, round(math.sqrt(p * height * width)))
            if query == 0 and ball.norm == "Linf":
                signs = own.fork(query).uniform((channels, 1, width), torch.float64)[0]
                new = x[i] + ball.eps * torch.where(signs < 0.5, -1.0, 1.0).expand_as(x[i])
            elif query == 0:
                new = plain_grid(x[i], ball.eps, own.fork(query))
            elif ball.norm == "Linf":
                numbers = own.fork(query).uniform((2 + channels,), torch.float64)[0].tolist()
                new = plain_recolour(best, x[i], ball.eps, side, numbers)
            else:
                numbers = own.fork(query).uniform((5 + channels,), torch.float64)[0].tolist()
                side = min(max(side, 3) + (max(side, 3) % 2 == 0), height, width)
                new = plain_move(best, x[i], ball.eps, side, numbers)
            new = ball.project(new[None], x[i : i + 1])[0]
            logits = model(new[None])[0].tolist()
            loss = max(z for k, z in enumerate(logits) if k != y[i]) - logits[y[i]]
            if loss > highest + 1e-12:
                best, highest = new, loss
        result.append(best)
    return torch.stack(result)


def plain_recolour(best, x, eps, side, numbers):
    row, column = int(numbers[0] * (x.shape[1] - side + 1)), int(numbers[1] * (x.shape[2] - side + 1))
    new = best.clone()
    for c, number in enumerate(numbers[2:]):
        sign = -1 if number < 0.5 else 1
        new[c, row : row + side, column : column + side] += 2 * eps * sign
    if ((new.clamp(min=0, max=1) - x).clamp(-eps, eps) + x - best).abs().max() < 1e-9:
        return plain_recolour(best, x, eps, side, [*numbers[:2], *(1 - n for n in numbers[2:])])
    return new


def plain_grid(x, eps, draws):
    channels, height, width = x.shape
    side, delta = height // 5, torch.zeros_like(x)
    top, left = (height - 5 * side) // 2, (width - 5 * side) // 2
    numbers = draws.uniform((1 + channels, 5, 5), torch.float64)[0]
    for r in range(5):
        for s in range(5):
            eta = tile(side, side).T if numbers[0, r, s] < 0.5 else tile(side, side)
            for c in range(channels):
                sign = -1 if numbers[1 + c, r, s] < 0.5 else 1
                rows, columns = top + r * side, left + s * side
                delta[c, rows : rows + side, columns : columns + side] = sign * eta
    return x + eps * delta / delta.norm()


def plain_move(best, x, eps, side, numbers):
    nu, (channels, height, width) = best - x, x.shape
    r1, s1, r2, s2 = (int(n * (m - side + 1)) for n, m in zip(numbers, (height, width) * 2, strict=False))
    first, second = torch.zeros(height, width, dtype=torch.bool), torch.zeros(height, width, dtype=torch.bool)
    first[r1 : r1 + side, s1 : s1 + side] = True
    second[r2 : r2 + side, s2 : s2 + side] = True
    unused = max(eps**2 - (nu**2).sum().item(), 0)
    eta = tile(side, side).T.flatten() if numbers[4] < 0.5 else tile(side, side).flatten()
    new = nu.clone()
    for c in range(channels):
        old = nu[c][first]
        sign = -1 if numbers[5 + c] < 0.5 else 1
        direction = sign * eta + (old / old.norm() if old.norm() > 0 else 0)
        available = math.sqrt((nu[c][first | second] ** 2).sum().item() + unused / channels)
        new[c][second] = 0
        new[c][first] = direction / direction.norm() * available
    return x + new


@pytest.mark.parametrize("ball", [Linf(0.02), L2(0.1)], ids=str)
def test_equals_a_plain_loop_over_samples_channels_and_windows(ball):
    model, x = small_snn(channels=2).double().eval(), images(5, 2, 8, 8)
    x[0], x[1] = 0.0, 1.0
    y = model(x).argmax(1)
    got = Square(ball, queries=80, early_stop=False)(model, x, y, streams(5))
    torch.testing.assert_close(got, plain_square(model, x, y, ball, 80, 0.8, streams(5)), rtol=0, atol=1e-9)
    assert (got - x).abs().max() > 0.015


# Linear models


def test_on_a_linear_model_it_reaches_the_corner():
    w, x = images(1, 5, 5)[0] - 0.5, torch.full((4, 1, 5, 5), 0.5, dtype=torch.float64)
    attack = Square(Linf(0.1), queries=500, early_stop=False)
    x_adv = attack(linear(w), x, torch.zeros(4, dtype=torch.int64), streams(4))
    torch.testing.assert_close(x_adv, x - 0.1 * w.sign(), rtol=0, atol=1e-12)


def test_on_a_linear_l2_model_it_comes_near_the_optimum_and_never_beyond():
    w, x = images(1, 8, 8)[0] - 0.5, torch.full((4, 1, 8, 8), 0.5, dtype=torch.float64)
    x_adv = Square(L2(0.3), queries=600, early_stop=False)(linear(w), x, torch.zeros(4, dtype=torch.int64), streams(4))
    drop = ((x - x_adv) * w).flatten(1).sum(1) / (0.3 * w.norm())
    assert drop.min() > 0.55  # white noise is hard for bumps
    assert drop.max() <= 1 + 1e-9


def test_it_succeeds_just_where_the_optimum_exceeds_the_margin():
    w, x = images(1, 5, 5)[0] - 0.5, torch.full((1, 1, 5, 5), 0.5, dtype=torch.float64)
    optimum = 0.1 * w.abs().sum().item()
    for factor in (0.99, 1.01):
        model = linear(w, factor * optimum - (w * x).sum().item())
        attempt = Square(Linf(0.1), queries=500).run(model, x, torch.tensor([0]), streams(1))
        assert (model(attempt.x_adv).argmax(1) == 1).item() == (factor < 1)
        assert (attempt.queries.item() < 500) == (factor < 1)


# What a query may change


@balls
def test_a_query_changes_one_square_and_reaches_every_place(ball):
    watched = Watched(linear(torch.zeros(2, 5, 5), 9.0))  # flat: the start stays, each query changes it alone
    x = torch.full((60, 2, 5, 5), 0.5, dtype=torch.float64)
    Square(ball, queries=60, p_init=0.25)(watched, x, torch.zeros(60, dtype=torch.int64), streams(60))
    start, *others = watched.asked
    touched = torch.zeros(5, 5)
    for query, asked in enumerate(others, 1):
        side = square_sides(Square(ball, queries=60, p_init=0.25).p(query), 5, 5)[0]
        changed = (asked != start).any(1)
        area = side**2 if ball.norm == "Linf" else 2 * max(side, 3) ** 2
        assert (changed.flatten(1).sum(1) <= area).all()
        assert changed.flatten(1).any(1).all()  # no query is spent on the same image
        touched += changed.sum(0)
    assert touched.min() > 0
    assert touched[-1].sum() / touched[0].sum() == pytest.approx(1, abs=0.3)  # the last row like the first
    assert touched[:, -1].sum() / touched[:, 0].sum() == pytest.approx(1, abs=0.3)


def test_squares_of_linf_have_one_colour_in_each_channel():
    watched, x = Watched(linear(torch.zeros(3, 8, 8), 9.0)), torch.full((9, 3, 8, 8), 0.5, dtype=torch.float64)
    Square(Linf(0.1), queries=20, p_init=0.2)(watched, x, torch.zeros(9, dtype=torch.int64), streams(9))
    start, *others = watched.asked
    for asked in others:
        assert ((asked - x).abs() - 0.1).abs().max() < 1e-12
        for sample, before in zip(asked, start, strict=True):
            for channel, was in zip(sample, before, strict=True):
                assert len(channel[channel != was].unique()) <= 1


def test_l2_proposals_use_the_whole_length():
    watched, x = Watched(linear(torch.zeros(3, 8, 8), 9.0)), torch.full((6, 3, 8, 8), 0.5, dtype=torch.float64)
    Square(L2(0.4), queries=60)(watched, x, torch.zeros(6, dtype=torch.int64), streams(6))
    for asked in watched.asked:
        assert L2(0.4).distance(asked, x).tolist() == pytest.approx([0.4] * 6, rel=1e-9)


def test_length_lost_to_the_pixel_box_is_used_again():
    x = torch.zeros(4, 2, 8, 8, dtype=torch.float64)
    x_adv = Square(L2(0.5), queries=200)(linear(-torch.ones(2, 8, 8), 99.0), x, torch.zeros(4).long(), streams(4))
    assert (L2(0.5).distance(x_adv, x) > 0.48).all()  # the start alone loses about half of ε²
    assert x_adv.min() >= 0


@balls
def test_the_loss_of_what_is_kept_only_grows(ball):
    seen = []

    def watched(logits, y):
        seen.append(margin(logits, y))
        return seen[-1]

    model, x = small_snn().double().eval(), images(6, 1, 8, 8)
    y = model(x).argmax(1)
    x_adv = Square(ball, queries=120, loss=watched, early_stop=False)(model, x, y, streams(6))
    final = margin(model(x_adv), y)
    torch.testing.assert_close(final, torch.stack(seen).amax(0), rtol=0, atol=1e-10)
    assert (final > seen[0]).all()


def test_a_gain_within_rounding_is_none():
    class Rounding(nn.Module):
        stochastic, calls = False, 0

        def forward(self, x):
            self.calls += 1
            return torch.tensor([[1.0 + self.calls % 9 * 3e-16, 0.0]], dtype=torch.float64).expand(len(x), 2) * 1e3

    x, y = images(3, 1, 8, 8), torch.ones(3, dtype=torch.int64)
    attacks = [Square(Linf(0.1), queries=n, early_stop=False) for n in (1, 40)]
    first, last = (attack(Rounding(), x, y, streams(3)) for attack in attacks)
    assert torch.equal(first, last)


@balls
def test_more_queries_never_break_fewer_samples_with_early_stop(ball):
    model, x = small_snn().double().eval(), images(16, 1, 8, 8)
    y, ball = model(x).argmax(1), ball.with_eps(ball.eps / 10)
    attempt = Square(ball, queries=150).run(model, x, y, streams(16))
    broken = model(attempt.x_adv).argmax(1) != y
    assert torch.equal(attempt.queries < 150, broken)
    assert 0 < broken.sum() < 16


# Shapes and streams


@balls
@pytest.mark.parametrize(
    "shape", [(1, 8, 8), (5, 2, 8, 8), (3, 4, 12), (3, 12, 4), (7, 7), (30,), (1,), (2, 1, 1), (1, 1, 9)], ids=str
)
def test_takes_any_shape(ball, shape):
    x = images(3, *shape)
    w = images(1, *shape, seed=1)[0] - 0.5
    y = torch.zeros(3, dtype=torch.int64)
    start = Square(ball, queries=1, early_stop=False)(linear(w), x, y, streams(3))
    attempt = Square(ball, queries=60, early_stop=False).run(linear(w), x, y, streams(3))
    assert attempt.x_adv.shape == x.shape
    assert (ball.distance(attempt.x_adv, x) <= ball.eps + 1e-9).all()
    assert ((attempt.x_adv >= 0) & (attempt.x_adv <= 1)).all()
    gained = ((start - attempt.x_adv) * w).flatten(1).sum(1)
    assert (gained > 0).all() if math.prod(shape) > 2 else (gained >= 0).all()


@pytest.mark.parametrize("options", [{}, {"encoder": "poisson"}, {"leak": 0.5, "reset": "soft"}], ids=str)
@pytest.mark.parametrize("ball", [Linf(0.02), L2(0.1)], ids=str)
def test_a_sample_is_attacked_alike_in_every_batch_and_order(ball, options):
    model, x, draws = small_snn(**options).double().eval(), images(8, 1, 8, 8), streams(8)
    y = model(x).argmax(1)
    attack = Square(ball, queries=40)
    whole = attack.run(model, x, y, draws)
    parts = [*torch.arange(8).split(1), *torch.arange(8).split(2), torch.tensor([5, 2, 7, 0, 1, 6, 4, 3])]
    for part in parts:
        attempt = attack.run(model, x[part], y[part], draws[part])
        torch.testing.assert_close(attempt.x_adv, whole.x_adv[part], rtol=0, atol=1e-12)
        assert torch.equal(attempt.queries, whole.queries[part])
    other = attack(model, x, y, streams(8, seed=1))
    assert not torch.equal(other, whole.x_adv)


# Black box: costs and early stopping


@balls
def test_it_only_asks_for_logits_and_books_every_query(ball):
    watched = Watched(small_snn().double().train())
    x = images(6, 1, 8, 8)
    y, before = watched.model.eval()(x).argmax(1), record_of(watched.model.train())
    attempt = Square(ball, queries=60).run(watched, x, y, streams(6))
    assert not any(watched.grad)
    assert len(watched.asked) == attempt.queries.max()
    assert sum(map(len, watched.asked)) == attempt.queries.sum()
    assert attempt.gradients.tolist() == attempt.zero.tolist() == attempt.nan.tolist() == [0] * 6
    assert record_of(watched.model) == before


def test_a_broken_sample_keeps_the_first_query_that_broke_it():
    model, x = small_snn().double().eval(), images(16, 1, 8, 8)
    y = model(x).argmax(1)
    watched = Watched(model)
    attempt = Square(Linf(0.02), queries=100).run(watched, x, y, streams(16))
    wrong = model(attempt.x_adv).argmax(1) != y
    assert 0 < wrong.sum() < 16
    for i in wrong.nonzero().flatten().tolist():
        alone = Watched(model)
        Square(Linf(0.02), queries=100)(alone, x[i : i + 1], y[i : i + 1], streams(16)[torch.tensor([i])])
        errors = [(model(asked).argmax(1) != y[i]).item() for asked in alone.asked]
        assert errors == [False] * (attempt.queries[i].item() - 1) + [True]
        torch.testing.assert_close(alone.asked[-1][0], attempt.x_adv[i], rtol=0, atol=1e-12)
    assert attempt.queries[~wrong].tolist() == [100] * int((~wrong).sum())


def test_without_early_stop_it_goes_on_climbing():
    model, x = small_snn().double().eval(), images(8, 1, 8, 8)
    y = model(x).argmax(1)
    early = Square(Linf(0.05), queries=80).run(model, x, y, streams(8))
    full = Square(Linf(0.05), queries=80, early_stop=False).run(model, x, y, streams(8))
    assert full.queries.tolist() == [80] * 8
    losses = [margin(model(attempt.x_adv), y) for attempt in (early, full)]
    assert (losses[1] >= losses[0] - 1e-12).all()
    assert losses[1].mean() > losses[0].mean()


def test_another_loss_is_ascended():
    model, x = small_snn().double().eval(), images(4, 1, 8, 8)
    y = model(x).argmax(1)
    x_adv = Square(Linf(0.05), queries=60, loss=cross_entropy, early_stop=False)(model, x, y, streams(4))
    assert (cross_entropy(model(x_adv), y) > cross_entropy(model(x), y)).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("early_stop", [True, False])
def test_logits_that_are_not_finite_are_an_error_of_the_model(bad, early_stop):
    class Breaks(nn.Module):
        stochastic = False

        def forward(self, x):
            z = torch.stack([torch.ones(len(x), dtype=x.dtype), torch.zeros(len(x), dtype=x.dtype)], 1)
            return torch.where(x.flatten(1).amax(1, keepdim=True) > 0.55, bad, z)

    x, y = torch.full((2, 1, 8, 8), 0.5, dtype=torch.float64), torch.zeros(2, dtype=torch.int64)
    attempt = Square(Linf(0.1), queries=20, early_stop=early_stop).run(Breaks(), x, y, streams(2))
    assert attempt.x_adv.isfinite().all()
    assert not Breaks()(attempt.x_adv).isfinite().any()
    assert attempt.queries.tolist() == [1 if early_stop else 20] * 2


# Stochastic models


class Noisy(nn.Module):
    """Margin 1 − 10·(mean pixel − 0.5), and a noise that alone breaks the label one time in four."""

    stochastic = True

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, x):
        drawn = uniform_per_step(x[:, :1].detach(), 1)[0].flatten(1)[:, :1].to(x.dtype)
        self.asked.append(drawn)
        z = 1 - 10 * (x.flatten(1).mean(1, keepdim=True) - 0.5) - 5 * (drawn < 0.25)
        return torch.cat([z, -z], 1)


def test_a_stochastic_model_is_judged_by_the_mean_over_the_same_draws_and_never_stopped_at():
    model, x, y = Noisy(), torch.full((50, 1, 4, 4), 0.5, dtype=torch.float64), torch.zeros(50, dtype=torch.int64)
    attempt = Square(Linf(0.2), queries=60, samples=3).run(model, x, y, streams(50))
    assert attempt.queries.tolist() == [180] * 50
    draws = torch.cat(model.asked[-180:], 1).reshape(50, 60, 3)
    assert (draws == draws[:, :1]).all()
    assert len(draws[:, 0].unique()) == 150
    assert (attempt.x_adv.flatten(1).mean(1) > 0.6).all()  # an unlucky draw ends nothing


# Arguments


@pytest.mark.parametrize("name", ["queries", "samples"])
def test_fewer_than_one_of_anything_is_refused(name):
    with pytest.raises(ValueError, match=f"^{name} must be ≥ 1, got 0"):
        Square(Linf(0.1), **{name: 0})


@pytest.mark.parametrize("p_init", [0, -0.1, 1.5, math.nan])
def test_another_share_is_refused(p_init):
    with pytest.raises(ValueError, match=r"^p_init must lie in \(0, 1\], a share of the places, got"):
        Square(Linf(0.1), p_init=p_init)


def test_another_ball_is_refused():
    class L1(Linf):
        norm = "L1"

    with pytest.raises(ValueError, match="^Square moves in an L∞ or L2 ball, got"):
        Square(L1(0.1))


def test_names():
    assert Square(Linf(0.1)).name == "Square-5000"
    assert Square(Linf(0.1), queries=1000, p_init=0.3, samples=4).name == "Square-1000, p 0.3, 4 draws"
    assert Square(Linf(0.1), label="mine").name == "mine"
    assert Square(Linf(0.1)).kind == "black-box"
    assert not hasattr(Square(Linf(0.1)), "estimator")


@balls
def test_eps_zero_asks_nothing_and_returns_a_copy(ball):
    x, y = images(3, 1, 8, 8), torch.arange(3)
    attempt = Square(ball.with_eps(0)).run(small_snn().double(), x, y)
    assert torch.equal(attempt.x_adv, x)
    assert attempt.x_adv.data_ptr() != x.data_ptr()
    assert attempt.queries.sum() == 0


@balls
def test_an_empty_batch_stays_empty(ball, double_model):
    x, y = torch.rand(0, 1, 8, 8, dtype=torch.float64), torch.zeros(0, dtype=torch.int64)
    assert Square(ball)(double_model, x, y).shape == x.shape
