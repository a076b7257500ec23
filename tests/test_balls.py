"""Balls: membership, nearest points, steepest ascent, sampling, and the parsing of eps."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from robustspike.balls import BALLS, L2, Linf, parse_eps
from robustspike.draws import Draws

SHAPE = (2, 1, 2, 3)
pixels = arrays(np.float32, SHAPE, elements=st.floats(0, 1, width=32)).map(torch.from_numpy)
anywhere = arrays(np.float32, SHAPE, elements=st.floats(-3, 3, width=32)).map(torch.from_numpy)
radius = st.floats(0, 1)
quick = settings(deadline=None, max_examples=60)


@pytest.mark.parametrize("ball", BALLS.values())
@quick
@given(x=pixels, x_adv=anywhere, eps=radius)
def test_projection_lands_in_ball_and_box_and_stays_there(ball, x, x_adv, eps):
    set_ = ball(eps)
    p = set_.project(x_adv, x)
    assert p.shape == x.shape
    assert p.min() >= 0
    assert p.max() <= 1
    assert (set_.distance(p, x) <= eps + 1e-6).all()
    torch.testing.assert_close(set_.project(p, x), p, rtol=0, atol=1e-6)


@pytest.mark.parametrize("ball", BALLS.values())
@quick
@given(x=pixels, other=pixels, eps=radius)
def test_projection_moves_no_point_of_the_set(ball, x, other, eps):
    set_ = ball(eps)
    inside = (set_.distance(other, x) < eps - 1e-6).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(torch.where(inside, set_.project(other, x), other), other, rtol=0, atol=1e-6)


@quick
@given(x=pixels, x_adv=anywhere, eps=radius, other=pixels)
def test_linf_projection_is_the_nearest_point_of_the_set(x, x_adv, eps, other):
    """Against clipping in numpy, and against any other point of the set, in every coordinate."""
    low, high = np.maximum(x.double().numpy() - eps, 0), np.minimum(x.double().numpy() + eps, 1)
    p = Linf(eps).project(x_adv, x)
    np.testing.assert_allclose(p.numpy(), np.clip(x_adv.double().numpy(), low, high), rtol=0, atol=1e-6)
    member = torch.from_numpy(low) + other * torch.from_numpy(high - low)
    assert ((p - x_adv).abs() <= (member - x_adv).abs() + 1e-5).all()


@quick
@given(x=pixels, x_adv=anywhere, eps=radius)
def test_l2_projection_pulls_along_the_line_to_x_then_clips(x, x_adv, eps):
    for p, a, b in zip(L2(eps).project(x_adv, x).double(), x_adv.double(), x.double(), strict=True):
        length = math.sqrt(sum(v * v for v in (a - b).flatten().tolist()))
        torch.testing.assert_close(p, (b + (a - b) * min(1, eps / max(length, 1e-30))).clamp(0, 1), rtol=0, atol=2e-6)


def test_projections_by_hand():
    x, x_adv = torch.tensor([[0.5, 0.9, 0.1]]), torch.tensor([[0.9, 1.2, 0.15]])
    torch.testing.assert_close(Linf(0.2).project(x_adv, x), torch.tensor([[0.7, 1.0, 0.15]]))
    # the way has length 5, the ball allows 0.5: a tenth of (0.3, 0.4)·10
    torch.testing.assert_close(
        L2(0.5).project(torch.tensor([[3.5, 4.0]]), torch.tensor([[0.5, 0.0]])), torch.tensor([[0.8, 0.4]])
    )


@pytest.mark.parametrize("ball", BALLS.values())
def test_a_radius_of_zero_gives_x_back(ball):
    x = torch.rand(SHAPE)
    assert torch.equal(ball(0).project(x + torch.randn(SHAPE), x), x)


def test_ascend_by_hand():
    x = torch.tensor([[0.5, 0.5], [0.2, 0.2]])
    g = torch.tensor([[3.0, -4.0], [0.0, 0.0]])
    torch.testing.assert_close(Linf(0.1).ascend(x, g, 0.1), torch.tensor([[0.6, 0.4], [0.2, 0.2]]))
    torch.testing.assert_close(L2(0.1).ascend(x, g, 0.5), torch.tensor([[0.8, 0.1], [0.2, 0.2]]))


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1.0, 1e30])
def test_l2_ascends_by_a_unit_step_whatever_the_scale_of_the_gradient(scale):
    g = torch.tensor([[0.6, 0.8, 0.0]]) * scale
    torch.testing.assert_close(
        L2(1).ascend(torch.zeros(1, 3), g, 1.0), torch.tensor([[0.6, 0.8, 0.0]]), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("ball", BALLS.values())
@quick
@given(gradient=anywhere, other=anywhere)
def test_no_direction_of_the_same_norm_gains_more_than_ascend(ball, gradient, other):
    x, set_ = torch.zeros(SHAPE), ball(1)
    step = set_.ascend(x, gradient, 1.0)
    length = set_.distance(other, x).reshape(-1, 1, 1, 1).float().clamp(min=1e-9)
    gain, rival = ((v * gradient).flatten(1).sum(1) for v in (step, other / length))
    assert (gain >= rival - 1e-4).all()


@pytest.mark.parametrize("ball", BALLS.values())
@pytest.mark.parametrize("eps", [0.0, 8 / 255, 0.5])
def test_samples_lie_in_the_set_and_belong_to_their_samples(ball, eps):
    x, draws, set_ = torch.rand(40, 3, 4, 4), Draws.of(0, torch.arange(40)), ball(eps)
    s = set_.sample(x, draws)
    assert s.min() >= 0
    assert s.max() <= 1
    assert (set_.distance(s, x) <= eps + 1e-6).all()
    assert torch.equal(set_.sample(x[[7]], draws[torch.tensor([7])]), s[[7]])
    assert eps == 0 or not torch.equal(s, x)


def test_linf_samples_are_uniform_in_the_cube_and_l2_samples_in_the_ball():
    n = 4000
    x, draws = torch.full((n, 3), 0.5), Draws.of(0, torch.arange(n))
    cube = (Linf(0.1).sample(x, draws) - x).double() / 0.1
    assert abs(cube.mean().item()) < 5 * (1 / 3 / (3 * n)) ** 0.5
    assert cube.var().item() == pytest.approx(1 / 3, abs=0.02)
    # in three dimensions (distance/ε)³ is uniform, and the direction has mean 0
    volume = (L2(0.1).distance(L2(0.1).sample(x, draws), x) / 0.1) ** 3
    assert abs(volume.mean().item() - 1 / 2) < 5 * (1 / 12 / n) ** 0.5
    assert volume.var().item() == pytest.approx(1 / 12, abs=0.01)
    assert ((L2(0.1).sample(x, draws) - x).mean(0).abs() < 5 * 0.1 * (1 / 5 / n) ** 0.5).all()


def test_distance_by_hand_and_in_float64():
    x, x_adv = torch.zeros(2, 1, 2), torch.tensor([[[3.0, -4.0]], [[0.0, 1.0]]])
    assert Linf(1).distance(x_adv, x).tolist() == [4.0, 1.0]
    assert L2(1).distance(x_adv, x).tolist() == [5.0, 1.0]
    assert Linf(1).distance(x_adv, x).dtype == L2(1).distance(x_adv, x).dtype == torch.float64


@pytest.mark.parametrize(
    ("text", "value"),
    [("8/255", 8 / 255), (" 8 / 255 ", 8 / 255), ("0.03", 0.03), (0.03, 0.03), (0, 0.0), ("3e-2", 0.03), (1, 1.0)],
)
def test_parse_eps_understands_numbers_and_fractions(text, value):
    assert parse_eps(text) == value
    assert Linf(text).eps == value
    assert L2(text).eps == value


@pytest.mark.parametrize(
    "bad",
    [
        "1e400",
        "",
        "eight",
        "8/0",
        "1/2/3",
        "-1/255",
        -0.1,
        math.nan,
        math.inf,
        "nan",
        "inf",
        None,
        [1],
        "0x8",
    ],
)
def test_parse_eps_refuses_everything_else_in_one_sentence(bad):
    with pytest.raises(ValueError, match=r"^eps must be a .*number"):
        parse_eps(bad)


@pytest.mark.parametrize("eps", ["8", 8, 8.0])
def test_a_radius_over_one_is_refused_with_a_hint_that_works(eps):
    with pytest.raises(ValueError, match=r'did you mean "8(\.0)?/255"\?') as error:
        Linf(eps)
    assert Linf(str(error.value).split('"')[1]).eps == 8 / 255


def test_with_eps_keeps_the_norm():
    assert Linf("8/255").with_eps("4/255") == Linf(4 / 255)
    assert Linf(0.1).norm == "Linf"
    assert L2(3).with_eps(0.5) == L2(0.5)
    assert L2(3).norm == "L2"
