"""RAT's hold on the weights: singular values, rows, memory, the simplex against a quadratic programme, row sums."""

import math

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.defences.plain import at_one_point, images, two_layers
from torch import nn

from robustspike.defences import (
    ParsevalRetraction,
    RowSums,
    on_simplex,
    project_mixing,
    rat,
    rat_penalty,
    spectral_norms,
)
from robustspike.models import digits_cnn, wrn16

pytestmark = pytest.mark.usefixtures("one_thread")
some = settings(max_examples=40, deadline=None)


def linear(weight, bias=None):
    weight = torch.as_tensor(weight, dtype=torch.float64)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None).double()
    layer.weight.data.copy_(weight)
    if bias is not None:
        layer.bias.data.copy_(torch.as_tensor(bias))
    return layer


def random_matrix(rows, columns, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthonormal(rows, columns, seed=0):
    """Rows (or, where there are more of them than columns, columns) of length 1 at right angles."""
    q, _ = torch.linalg.qr(random_matrix(max(rows, columns), min(rows, columns), seed))
    return q if rows >= columns else q.T.contiguous()


def retracted(weight, beta, **options):
    layer = linear(weight)
    ParsevalRetraction(beta, **options)(layer)
    return layer.weight.data


# The step


def test_a_diagonal_matrix_by_hand():
    """β = ½: 0.5 → 1.5·0.5 − 0.5·0.125 = 0.6875; 1 → 1; 2 → 3 − 4 = −1: turned over, as 2 > √(1 + 1/β) = √3."""
    assert retracted(torch.diag(torch.tensor([0.5, 1.0, 2.0])), 0.5).diag().tolist() == [0.6875, 1.0, -1.0]
    edge = math.sqrt(1 + 1 / 0.5)
    assert retracted([[edge]], 0.5).item() == pytest.approx(0, abs=1e-12)


def test_a_matrix_that_is_not_diagonal_by_hand():
    """W = ((1, 1), (0, 1)), β = 0.1: W Wᵀ = ((2, 1), (1, 1)), W Wᵀ W = ((2, 3), (1, 2)), 1.1·W − 0.1·(…)."""
    got = retracted([[1.0, 1.0], [0.0, 1.0]], 0.1)
    torch.testing.assert_close(got, torch.tensor([[0.9, 0.8], [-0.1, 0.9]], dtype=torch.float64))


@pytest.mark.parametrize("shape", [(3, 7), (5, 5), (8, 4)])
def test_an_orthonormal_matrix_stays_as_it_is(shape):
    weight = orthonormal(*shape)
    torch.testing.assert_close(retracted(weight, 0.3), weight, rtol=0, atol=1e-12)


@some
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99), st.floats(0, 2))
def test_singular_values_follow_the_cubic_and_singular_vectors_stay(rows, columns, seed, beta):
    """σ ← (1 + β)·σ − β·σ³ with the same vectors on both sides, by NumPy's decomposition."""
    weight = random_matrix(rows, columns, seed)
    left, values, right = np.linalg.svd(weight.numpy(), full_matrices=False)
    expected = left @ np.diag((1 + beta) * values - beta * values**3) @ right
    np.testing.assert_allclose(retracted(weight, beta).numpy(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("factor", [0.3, 1.4])
def test_every_singular_value_of_a_scaled_matrix_moves_towards_one_until_it_is_there(factor):
    layer = linear(factor * orthonormal(4, 9) @ torch.diag(1 + 0.1 * torch.rand(9, dtype=torch.float64)))
    distances = [(torch.linalg.svdvals(layer.weight.data) - 1).abs()]
    for _ in range(40):
        ParsevalRetraction(0.2)(layer)
        distances.append((torch.linalg.svdvals(layer.weight.data) - 1).abs())
        assert (distances[-1] <= distances[-2] + 1e-12).all()
    assert distances[0].min() > 0.1
    assert distances[-1].max() < 1e-4


def test_beta_zero_changes_no_bit():
    torch.manual_seed(0)
    model = digits_cnn(time_steps=1)
    before = {name: p.clone() for name, p in model.named_parameters()}
    ParsevalRetraction(0.0)(model)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


# Which weights, and where they lie in memory


def changed(model, action):
    """The names of the parameters that an action changes."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    action(model)
    return [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]


def test_every_convolution_and_linear_weight_and_nothing_else():
    torch.manual_seed(0)
    model = wrn16(time_steps=1, image_size=8)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.Linear)):
            nn.init.uniform_(module.bias)
    weights = [f"{n}.weight" for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(weights) == 1 + 6 * 2 + 3 + 1  # the first, two in each block, three shortcuts, the classifier
    assert changed(model, ParsevalRetraction(0.01)) == weights


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_convolution_is_a_matrix_of_its_output_channels_in_either_memory_format(memory_format):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, 2, bias=False).double().to(memory_format=memory_format)
    W, address = conv.weight.detach().numpy().reshape(5, 12).copy(), conv.weight.data_ptr()
    ParsevalRetraction(0.1)(nn.Sequential(conv))
    expected = 1.1 * W - 0.1 * W @ W.T @ W
    np.testing.assert_allclose(conv.weight.detach().numpy().reshape(5, 12), expected, rtol=0, atol=1e-12)
    assert conv.weight.is_contiguous(memory_format=memory_format)
    assert conv.weight.data_ptr() == address
    assert conv.weight.requires_grad
    assert conv.weight.grad is None


def rows_changed(layer, retraction):
    before = layer.weight.detach().clone()
    retraction(layer)
    return (layer.weight.detach() != before).any(1)


@pytest.mark.parametrize(
    ("rows", "share", "expected"), [(200, 0.3, 60), (333, 0.3, 99), (256, 0.5, 128), (200, 1.0, 200)]
)
def test_a_large_linear_layer_has_a_share_of_its_rows_retracted(rows, share, expected):
    layer = linear(random_matrix(rows, 20))
    assert rows_changed(layer, ParsevalRetraction(0.01, rows=share)).sum() == expected


@pytest.mark.parametrize(
    "layer", [linear(random_matrix(199, 20)), nn.Conv2d(2, 300, 2)], ids=["199 rows", "300 channels"]
)
def test_smaller_linear_layers_and_convolutions_have_all_of_them(layer):
    torch.manual_seed(0)
    weight = layer.weight.detach().clone()
    ParsevalRetraction(0.01)(layer)
    assert (layer.weight.detach() != weight).flatten(1).any(1).all()


def test_the_rows_are_retracted_among_themselves_and_drawn_anew_by_pytorchs_generator():
    weight, picked = random_matrix(210, 30) / 5, []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        layer = linear(weight)
        first = rows_changed(layer, ParsevalRetraction(0.01))
        part = weight[first].numpy()
        expected = 1.01 * part - 0.01 * part @ part.T @ part
        np.testing.assert_allclose(layer.weight.detach()[first].numpy(), expected, rtol=0, atol=1e-12)
        picked.append((first, rows_changed(layer, ParsevalRetraction(0.01))))
    assert torch.equal(picked[0][0], picked[1][0])
    assert torch.equal(picked[0][1], picked[1][1])
    assert not torch.equal(picked[0][0], picked[2][0])
    assert not torch.equal(picked[0][0], picked[0][1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -0.1}, "^beta must be ≥ 0, got -0.1"),
        ({"beta": math.nan}, "^beta must be ≥ 0, got nan"),
        ({"rows": 0}, r"^rows must be a share in \(0, 1\], got 0"),
        ({"rows": 1.1}, r"^rows must be a share in \(0, 1\], got 1.1"),
    ],
)
def test_unfit_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ParsevalRetraction(**options)


# The simplex


def by_quadratic_programme(w):
    """argmin ‖p − w‖² with Σ p = 1, 0 ≤ p."""
    n = len(w)
    found = scipy.optimize.minimize(
        lambda p: ((p - w) ** 2).sum(), np.full(n, 1 / n), jac=lambda p: 2 * (p - w), method="SLSQP",
        bounds=[(0, None)] * n, constraints={"type": "eq", "fun": lambda p: p.sum() - 1}, options={"ftol": 1e-12},
    )  # fmt: skip
    assert found.success
    return found.x


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_the_projection_solves_the_quadratic_programme(n, seed):
    w = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    np.testing.assert_allclose(on_simplex(w).numpy(), by_quadratic_programme(w.numpy()), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("w", "expected"),
    [
        ([0.5, 0.5], [0.5, 0.5]),
        ([1.0, 0.5], [0.75, 0.25]),  # both give up ¼
        ([2.0, 0.5], [1.0, 0.0]),
        ([-1.0, -1.0], [0.5, 0.5]),
        ([0.6, 0.5, -0.3], [0.55, 0.45, 0.0]),
        ([0.2, 0.2, 0.2], [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_the_projection_by_hand(w, expected):
    assert on_simplex(torch.tensor(w, dtype=torch.float64)).tolist() == pytest.approx(expected, abs=1e-15)


vectors = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8).map(lambda w: torch.tensor(w, dtype=torch.float64))


@some
@given(vectors)
def test_the_projection_lies_on_the_simplex_and_no_corner_is_nearer(w):
    p = on_simplex(w)
    assert (p >= 0).all()
    assert p.sum().item() == pytest.approx(1, abs=1e-9)
    # p is the nearest point of a convex set where w − p makes no acute angle with the way to any corner.
    slack = 1e-9 * max(1, w.abs().max().item())
    assert ((torch.eye(len(w), dtype=w.dtype) - p) @ (w - p) <= slack).all()
    torch.testing.assert_close(on_simplex(p), p, rtol=0, atol=1e-12)


@some
@given(vectors, st.floats(-1e3, 1e3))
def test_the_projection_keeps_order_and_ignores_shifts(w, shift):
    p = on_simplex(w)
    assert (p[w.argsort()].diff() >= -1e-9).all()
    torch.testing.assert_close(on_simplex(w + shift), p, rtol=0, atol=1e-7)


def test_very_large_weights_are_projected_and_nan_stays_nan():
    assert on_simplex(torch.tensor([1e9, 0.0])).tolist() == [1.0, 0.0]
    assert on_simplex(torch.tensor([math.nan, 0.5])).isnan().all()


def test_the_mixing_weights_of_a_wide_network_and_nothing_else():
    torch.manual_seed(0)
    model = wrn16(time_steps=1, image_size=8)
    assert changed(model, project_mixing) == []  # ½, ½ is on the simplex
    mixing = [m for m in model.modules() if getattr(m, "mixes", False)]
    assert len(mixing) == 6
    for k, module in enumerate(mixing):
        module.weight.data = torch.tensor([1.0 + k, 0.5])
    where = [m.weight.data_ptr() for m in mixing]
    names = changed(model, project_mixing)
    assert len(names) == 6
    assert all(name.endswith("mixing.weight") for name in names)
    assert [m.weight.tolist() for m in mixing] == [[0.75, 0.25]] + [[1.0, 0.0]] * 5
    assert [m.weight.data_ptr() for m in mixing] == where
    assert all(m.weight.requires_grad and m.weight.is_leaf for m in mixing)


def test_a_network_without_mixing_weights_has_nothing_to_project():
    assert changed(digits_cnn(time_steps=1), project_mixing) == []


def test_rat_retracts_then_projects_and_its_penalty_form_only_projects():
    def attack(model, x, y):
        return x

    assert rat(attack, beta=0.004, rows=0.5).retract == (ParsevalRetraction(0.004, 0.5), project_mixing)
    assert rat_penalty(attack).retract == (project_mixing,)
    torch.manual_seed(0)
    model = wrn16(time_steps=1, image_size=8)
    model.layers[1].mixing.weight.data = torch.tensor([1.0, 0.5])
    names = changed(model, rat(attack).after_step)
    assert "layers.1.mixing.weight" in names
    assert "head.weight" in names
    assert changed(wrn16(time_steps=1, image_size=8), rat_penalty(attack).after_step) == []


def test_steps_of_rat_draw_the_spectral_norms_of_a_network_towards_one():
    torch.manual_seed(0)
    model = digits_cnn(time_steps=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    before = largest_singular_values(model)
    for _ in range(60):
        rat(lambda model, x, y: x, beta=0.02).after_step(model)
    after = largest_singular_values(model)
    assert max(before.values()) > 2
    assert all(abs(after[name] - 1) < 0.05 for name in before)
    for name, norm in spectral_norms(model).items():
        assert 0.97 * after[name] < norm <= after[name] * (1 + 1e-5)  # from below, where all values are near each other


def largest_singular_values(model):
    layers = {name: m for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    return {name: torch.linalg.svdvals(m.weight.detach().flatten(1)).max().item() for name, m in layers.items()}


# Norms and row sums


@pytest.mark.parametrize("rows", [1, 6, 40])
def test_spectral_norms_are_numpys(rows):
    """Power iteration from below: with a gap between the first two singular values it is there after 30 steps."""
    torch.manual_seed(rows)
    model = nn.Sequential(linear(random_matrix(rows, 10, rows)), nn.Conv2d(2, 4, 3).double(), nn.BatchNorm2d(4))
    got = spectral_norms(model, iterations=300)
    assert list(got) == ["0", "1"]
    for name, layer in (("0", model[0]), ("1", model[1])):
        exact = np.linalg.norm(layer.weight.detach().numpy().reshape(len(layer.weight), -1), 2)
        assert got[name] == pytest.approx(exact, rel=1e-6)
        assert spectral_norms(model, iterations=3)[name] <= exact * (1 + 1e-12)


def test_the_norm_of_a_zero_matrix_is_zero():
    assert spectral_norms(linear([[0.0, 0.0]])) == {"": 0.0}


def test_no_iterations_are_refused():
    with pytest.raises(ValueError, match="^iterations must be ≥ 1, got 0"):
        spectral_norms(linear([[1.0]]), iterations=0)


def test_row_sums_by_hand():
    """((1, −2), (3, 4)): rows of W⁺ sum to 1 and 7, of W⁻ to 2 and 0: 7 + 2. (−1, −1): 0 + 2. Together 11."""
    model = nn.Sequential(linear([[1.0, -2.0], [3.0, 4.0]], [5.0, 5.0]), linear([[-1.0, -1.0]]))
    loss = at_one_point(RowSums(), model, torch.rand(1, 2, dtype=torch.float64), torch.tensor([0]))
    assert loss.item() == 11
    loss.backward()
    assert model[0].weight.grad.tolist() == [[0, -1], [1, 1]]
    assert model[1].weight.grad.tolist() == [[-1, -1]]
    assert model[0].bias.grad is None


def test_row_sums_by_loops_over_every_layer_of_a_network():
    model, (x, y) = two_layers(), images()
    expected = 0.0
    for layer in (model.layers[0], model.layers[5], model.head):
        rows = layer.weight.detach().reshape(len(layer.weight), -1).tolist()
        expected += max(sum(w for w in row if w > 0) for row in rows)
        expected += max(sum(-w for w in row if w < 0) for row in rows)
    assert at_one_point(RowSums(), model, x, y).item() == pytest.approx(expected, rel=1e-12)


def test_a_model_without_weights_has_no_row_sums():
    with pytest.raises(
        ValueError, match="^found no convolution or linear layer in Flatten; the penalty on row sums needs"
    ):
        at_one_point(RowSums(), nn.Flatten(), torch.rand(1, 2), torch.tensor([0]))
