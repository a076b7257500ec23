"""Surrogates against primitives written here, and the two autograd functions that carry a slope."""

import math

import pytest
import torch

from robustspike.surrogates import (
    SURROGATES,
    ArcTan,
    Exponential,
    Gaussian,
    Rectangle,
    Sigmoid,
    StraightThrough,
    Triangle,
    spike,
    with_slope,
)


def triangle_primitive(d, g):
    inside = 0.5 + d / g - d.sign() * d**2 / (2 * g**2)
    return torch.where(d.abs() < g, inside, (d > 0).double())


# surrogate, a function whose derivative it must be
PRIMITIVES = [
    (Triangle(1.0), lambda d: triangle_primitive(d, 1.0)),
    (Triangle(0.3), lambda d: triangle_primitive(d, 0.3)),
    (Sigmoid(4.0), lambda d: 1 / (1 + torch.exp(-4 * d))),
    (Sigmoid(0.7), lambda d: 1 / (1 + torch.exp(-0.7 * d))),
    (ArcTan(2.0), lambda d: torch.atan(math.pi * d) / math.pi),
    (ArcTan(0.5), lambda d: torch.atan(math.pi / 4 * d) / math.pi),
    (Rectangle(1.0), lambda d: (d + 0.5).clamp(0, 1)),
    (Rectangle(0.4), lambda d: (d / 0.4 + 0.5).clamp(0, 1)),
    (Exponential(0.3, 1.0), lambda d: 0.3 * d.sign() * (1 - torch.exp(-d.abs()))),
    (Exponential(1.0, 2.0), lambda d: 0.5 * d.sign() * (1 - torch.exp(-2 * d.abs()))),
    (Gaussian(0.5), lambda d: torch.erf(d / (0.5 * math.sqrt(2))) / 2),
    (Gaussian(1.3), lambda d: torch.erf(d / (1.3 * math.sqrt(2))) / 2),
    (StraightThrough(), lambda d: d),
]
SMOOTH = [s for s, _ in PRIMITIVES if not isinstance(s, Rectangle)]


@pytest.mark.parametrize(("surrogate", "primitive"), PRIMITIVES, ids=lambda p: repr(p) if hasattr(p, "slope") else "")
def test_slope_is_the_derivative_of_its_primitive(surrogate, primitive):
    d = torch.linspace(-3, 3, 1001, dtype=torch.float64) + 1.23e-4  # away from the corners
    h = 1e-5
    torch.testing.assert_close(
        surrogate.slope(d), (primitive(d + h) - primitive(d - h)) / (2 * h), rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize(
    ("surrogate", "d", "slope"),
    [
        (Triangle(2.0), 0.5, 0.375),  # (2 − 0.5) / 4
        (Triangle(1.0), 1.0, 0.0),
        (Sigmoid(4.0), 0.0, 1.0),  # 4 · ½ · ½
        (Sigmoid(1.0), math.log(3), 0.1875),  # σ = ¾: ¾ · ¼
        (ArcTan(2.0), 1 / math.pi, 0.5),  # 1 / (1 + 1)
        (Rectangle(2.0), 0.99, 0.5),
        (Rectangle(2.0), 1.0, 0.0),  # the border does not belong to it
        (Exponential(0.3, 1.0), math.log(2), 0.15),
        (Gaussian(0.5), 0.5, 0.4839414490382867),  # 2 · φ(1)
        (StraightThrough(), 7.0, 1.0),
    ],
)
def test_slope_has_the_value_computed_by_hand_on_both_sides(surrogate, d, slope):
    both = surrogate.slope(torch.tensor([d, -d], dtype=torch.float64))
    torch.testing.assert_close(both, torch.tensor([slope, slope], dtype=torch.float64))


@pytest.mark.parametrize(
    "surrogate", [Triangle(0.7), Sigmoid(3.0), ArcTan(2.0), Rectangle(0.6), Gaussian(0.4)], ids=repr
)
def test_slope_integrates_to_one_over_the_real_line(surrogate):
    n = 400_000
    angle = (torch.arange(n, dtype=torch.float64) + 0.5) * math.pi / n - math.pi / 2
    integral = (surrogate.slope(angle.tan()) / angle.cos() ** 2).sum() * math.pi / n  # d = tan(angle)
    assert integral.item() == pytest.approx(1, abs=1e-4)


def test_the_dict_lists_every_surrogate_by_name():
    assert {cls().__class__.__name__ for cls in SURROGATES.values()} == {
        "Triangle", "Sigmoid", "ArcTan", "Rectangle", "Exponential", "Gaussian", "StraightThrough",
    }  # fmt: skip


@pytest.mark.parametrize("cls", [Triangle, Sigmoid, ArcTan, Rectangle, Exponential, Gaussian])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_bad_argument_is_refused_by_its_name(cls, value):
    with pytest.raises(ValueError, match=r"^(width|sharpness|height|sigma) must be a positive number, got"):
        cls(value)
    if cls is Exponential:
        with pytest.raises(ValueError, match=r"^sharpness must be a positive number"):
            cls(0.3, value)


def test_spike_fires_at_the_threshold_itself():
    assert spike(torch.tensor([-1e-30, -0.0, 0.0, 1e-30]), Triangle()).tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("surrogate", SMOOTH, ids=repr)
def test_spike_has_the_slope_as_derivative_and_its_double_backward_agrees_with_differences(surrogate):
    d = torch.linspace(-1.4, 1.4, 57, dtype=torch.float64) + 1.23e-3
    w, a = torch.cos(5 * d), torch.sin(3 * d)
    leaf, upstream = d.clone().requires_grad_(), w.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(spike(leaf, surrogate), leaf, upstream, create_graph=True)
    torch.testing.assert_close(gradient.detach(), w * surrogate.slope(d))
    by_d, by_upstream = torch.autograd.grad((gradient * a).sum(), (leaf, upstream), allow_unused=True)
    h = 1e-6
    difference = a * w * (surrogate.slope(d + h) - surrogate.slope(d - h)) / (2 * h)
    torch.testing.assert_close(torch.zeros_like(d) if by_d is None else by_d, difference, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(by_upstream, a * surrogate.slope(d))


def test_slope_of_a_steep_sigmoid_is_even_and_finite():
    d = torch.tensor([-1e4, -3.0, 3.0, 1e4])
    slope = Sigmoid(4.0).slope(d)
    assert slope.isfinite().all()
    torch.testing.assert_close(slope, slope.flip(0), rtol=0.05, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_with_slope_keeps_every_bit_of_the_value(dtype):
    value = torch.tensor([0.1, -0.0, 1e-38, math.inf, math.nan], dtype=dtype)
    x = torch.rand(5, dtype=dtype, requires_grad=True)
    out = with_slope(value, x, torch.ones(5))
    same_size = {2: torch.int16, 4: torch.int32, 8: torch.int64}[value.element_size()]
    assert torch.equal(out.detach().view(same_size), value.view(same_size))
    assert out.data_ptr() != value.data_ptr()


def test_with_slope_differentiates_x_only_and_by_the_slope_alone():
    value, x = torch.rand(4, requires_grad=True), torch.rand(4, requires_grad=True)
    slope = torch.tensor([0.0, 1.0, -2.0, 0.5], requires_grad=True)
    (with_slope(value, x, slope) * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert x.grad.tolist() == [0.0, 2.0, -6.0, 2.0]
    assert value.grad is None
    assert slope.grad is None


def test_with_slope_is_linear_in_the_gradient_when_differentiated_twice():
    x, w = torch.rand(3, requires_grad=True), torch.rand(3, requires_grad=True)
    (gradient,) = torch.autograd.grad(
        with_slope(torch.zeros(3), x, torch.tensor([1.0, 2.0, 3.0])), x, w, create_graph=True
    )
    assert torch.autograd.grad(gradient.sum(), w)[0].tolist() == [1.0, 2.0, 3.0]
