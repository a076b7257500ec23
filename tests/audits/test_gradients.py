"""Norms and distribution of the input gradients."""

import numpy as np
import pytest
import torch
from tests.conftest import small_snn
from torch import nn

from robustspike.audits import gradients
from robustspike.audits.gradients import EDGES, norms_of
from robustspike.data import Split
from robustspike.results import Chart
from robustspike.results.audits import Gradients


def linear(weight):
    model = nn.Linear(len(weight[0]), len(weight), bias=False)
    model.weight.data = torch.tensor(weight, dtype=torch.float64)
    return model


def test_a_linear_model_by_hand():
    """z = (2a, 0, 0): at y = 0, ỹ = 1, f = σ(2a), f' = 2σ(1 − σ); of a loss −log softmax the gradient is −2(1 − p)."""
    model = linear([[2.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    found = gradients(model, Split(torch.tensor([[0.0, 0.5]]), torch.tensor([0])))
    assert found.of_probability.l1 == pytest.approx((0.5,))
    assert found.of_probability.l2 == pytest.approx((0.5,))
    assert found.of_probability.l0 == (0.5,)
    assert found.of_loss.l1 == pytest.approx((2 * (1 - 1 / 3),))
    # 0.5 lies beyond the last edge, 0 in the bin that begins at 0: half of the two entries each
    assert found.spread.shares[-1] == 0.5
    assert sum(found.spread.shares) == pytest.approx(1)
    assert found.gradients == 2


def test_norms_are_numpys():
    draw = np.random.default_rng(0)
    g = draw.standard_normal((4, 30)) * (draw.random((4, 30)) < 0.3)
    found = norms_of(torch.tensor(g)).numpy()
    np.testing.assert_allclose(found[:, 0], (g != 0).mean(1))
    np.testing.assert_allclose(found[:, 1], [np.linalg.norm(row, 1) for row in g])
    np.testing.assert_allclose(found[:, 2], [np.linalg.norm(row, 2) for row in g])


def test_a_gradient_that_is_not_finite_is_counted_and_not_averaged():
    rows = norms_of(torch.tensor([[float("nan"), 1.0], [float("inf"), -2.0]]))
    assert rows.tolist() == [[0.5, 1.0, 1.0, 1.0], [0.5, 2.0, 2.0, 1.0]]


def test_nan_gradients_are_not_called_zero():
    model, data = small_snn().eval(), Split(torch.rand(3, 1, 8, 8), torch.arange(3))
    model.head.bias.data.fill_(float("nan"))
    found = gradients(model, data)
    assert found.answer().startswith("Not finite: ∇f_y of all 3 samples")
    assert set(found.spread.shares) == {0.0}
    assert set(list(found.headline().values())[:-1]) == {"–"}
    assert {cell for row in found.views()[0].rows for cell in row[1:4]} == {"–"}


def test_of_a_few_that_are_not_finite_the_answer_says_so_first():
    """√ has an infinite slope at 0, at the first sample's second pixel; the other three entries are finite."""

    class Root(nn.Module):
        def forward(self, x):
            z = (2 * x[:, 0] + x[:, 1].sqrt()).double()
            return torch.stack([z, torch.zeros_like(z)], 1)

    found = gradients(Root(), Split(torch.tensor([[0.0, 0.0], [0.0, 0.25]]), torch.tensor([0, 0])))
    assert found.of_probability.not_finite == 1
    assert found.answer().startswith(
        "Not finite: ∇f_y of 1 of 2 samples, the cross-entropy's gradient of 1 of 2 samples"
    )
    assert found.spread.shares[-1] == 1.0  # all three finite entries lie beyond the last edge
    assert found.headline()["∇f_y not 0, %"] != "–"


def test_an_l1_norm_is_the_slope_along_its_sign():
    """Finite differences of f_y on a smooth network: (f(x + h·sign g) − f(x − h·sign g))/2h = ‖g‖₁."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    x, y, h = torch.rand(3, 6, dtype=torch.float64), torch.tensor([0, 1, 2]), 1e-5
    found = gradients(model, Split(x.float(), y))
    x = x.float().double()
    rival = model(x).scatter(1, y[:, None], -torch.inf).argmax(1)

    def f(x):
        z = model(x)
        return torch.sigmoid(z.gather(1, y[:, None]) - z.gather(1, rival[:, None])).squeeze(1)

    point = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(f(point).sum(), point)
    slope = (f(x + h * g.sign()) - f(x - h * g.sign())) / (2 * h)
    assert found.of_probability.l1 == pytest.approx(slope.tolist(), rel=1e-6)


def test_norms_obey_their_inequalities():
    model = small_snn().eval()
    found = gradients(model, Split(torch.rand(6, 1, 8, 8), torch.arange(6) % 4)).of_loss
    for l0, l1, l2 in zip(found.l0, found.l1, found.l2, strict=True):
        assert l2 <= l1 * (1 + 1e-9)
        assert l1 <= l2 * (64 * l0) ** 0.5 * (1 + 1e-6)


def test_views_show_the_records_figures():
    found = gradients(small_snn().eval(), Split(torch.rand(4, 1, 8, 8), torch.arange(4)))
    table, chart = found.views()
    assert table.rows[0][2] == f"{np.mean(found.of_probability.l1):.4g}"
    assert isinstance(chart, Chart)
    assert chart.lines[0].y == pytest.approx([100 * share for share in found.spread.shares])
    assert len(chart.lines[0].x) == len(EDGES) - 1
    compared = Gradients.compared({"a": found, "b": found})
    assert [line.label for line in compared[1].lines] == ["a", "b"]


def test_an_empty_split_is_refused():
    with pytest.raises(ValueError, match="at least one sample"):
        gradients(small_snn(), Split(torch.rand(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64)))
    with pytest.raises(ValueError, match="batch_size must be ≥ 1"):
        gradients(small_snn(), Split(torch.rand(1, 1, 8, 8), torch.tensor([0])), batch_size=0)
