"""Luu's two-layer network: counterexamples on paper, back-propagation by hand, and what random zeros must come to."""

import math

import numpy as np
import pytest
import torch

from robustspike.audits.two_layers import TwoLayers, broken_rules, drawn, entry_bound, entry_bounds, trail, trails
from robustspike.results.audits import EntryBound, Trail
from robustspike.surrogates import ArcTan, Triangle

LUU = ArcTan(2.0)


def of(w1, w2, s, c, surrogate=LUU):
    """One network from nested lists; s is [T][d]."""
    tensors = [torch.tensor(one, dtype=torch.float64) for one in (w1, w2, s, c)]
    return TwoLayers(tensors[0][None], tensors[1][None], tensors[2][:, None], tensors[3][None], surrogate)


def by_hand(w1, w2, s, c, slope):
    """The gradients of Σ c·mean_t p by loops: charge, fire, hard reset; then the same backwards."""
    w1, w2, s, c = (np.array(one, dtype=float) for one in (w1, w2, s, c))
    steps = len(s)

    def layer(currents):
        v, us, spikes = np.zeros(currents.shape[1]), [], []
        for current in currents:
            u = v + current
            y = (u >= 1).astype(float)
            v = u * (1 - y)
            us.append(u)
            spikes.append(y)
        return np.array(us), np.array(spikes)

    def backwards(us, spikes, by_spikes):
        by_v, by_currents = np.zeros(us.shape[1]), []
        for u, y, by_y in zip(us[::-1], spikes[::-1], by_spikes[::-1], strict=True):
            g = slope(u - 1)
            by_v = by_y * g + by_v * ((1 - y) - u * g)
            by_currents.append(by_v)
        return np.array(by_currents[::-1])

    u1, y1 = layer(s @ w1.T)
    u2, y2 = layer(y1 @ w2.T)
    by2 = backwards(u2, y2, np.tile(c / steps, (steps, 1)))
    by1 = backwards(u1, y1, by2 @ w2)
    return {"s": by1 @ w1, "w1": by1.T @ s, "w2": by2.T @ y1}


@pytest.mark.parametrize(
    ("surrogate", "slope"),
    [
        (ArcTan(2.0), lambda d: 1 / (1 + (np.pi * d) ** 2)),
        (Triangle(1.0), lambda d: np.maximum(0, 1 - np.abs(d))),
    ],
)
def test_gradients_against_loops(surrogate, slope):
    generator = np.random.default_rng(0)
    w1, w2 = generator.normal(size=(2, 5, 5))
    s = (generator.random((6, 5)) < 0.5).astype(float)
    c = generator.normal(size=5)
    g = of(w1.tolist(), w2.tolist(), s.tolist(), c.tolist(), surrogate).gradients()
    expected = by_hand(w1, w2, s, c, slope)
    np.testing.assert_allclose(g.s[:, 0], expected["s"], rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(g.w1[0], expected["w1"], rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(g.w2[0], expected["w2"], rtol=1e-10, atol=1e-14)


def test_theorem_4_4_fails_for_dense_weights_and_one_spike():
    """d = 2, T = 1: ‖w₂·S‖₀ = 2, but T/d·k_S/k_w₁·‖w₂·w₁‖₀ = 1/2·1/2·4 = 1."""
    networks = of([[1, 2], [3, 4]], [[1, 1], [2, 1]], [[1, 0]], [1, 1])
    twice = TwoLayers(*(torch.cat([one, one], dim) for one, dim in _parts(networks)), networks.surrogate)
    found = entry_bound(twice, k1=2, k2=2, k_s=1)
    assert (found.weight, found.input, found.claimed()) == (2, 4, 1)
    assert found.weight_error == found.input_error == 0
    assert found.fails()
    # the gradients: ∇s[1] has 2 entries; ∇w₁ = (gradient of both currents)·sᵀ has one column of 2
    assert (found.weight_gradient, found.input_gradient, found.claimed(True)) == (2, 2, 0.5)
    assert found.fails(gradient=True)


def test_the_two_bounds_that_the_proof_divides_fail_for_identities():
    """w₁ = w₂ = 1: one weight per row and column, and still d products are not 0, not k_w₂·k_w₁ = 1."""
    one = [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]
    networks = of(one, one, [[1, 0, 0], [0, 1, 0]], [1, 1, 1])
    twice = TwoLayers(*(torch.cat([part, part], dim) for part, dim in _parts(networks)), networks.surrogate)
    found = entry_bound(twice, k1=1, k2=1, k_s=1)
    assert (found.input, found.weight) == (3, 2)
    assert found.exceeds_product()  # 3 > 1·1, eq. 17
    assert found.exceeds_steps()  # 2 > 2·1·1/3, eq. 18
    assert not found.fails()  # and yet 2 ≤ 2/3·1·3
    # arctan is nowhere 0: all three inputs at either step, and all rows of the two columns of w₁ that had a spike
    assert (found.input_gradient, found.weight_gradient) == (3, 6)


def _parts(networks):
    return ((networks.w1, 0), (networks.w2, 0), (networks.s, 1), (networks.c, 0))


def test_draws_have_exactly_the_asked_for_entries():
    k = torch.tensor([[1, 3, 6], [2, 6, 1], [5, 1, 4]])
    networks = drawn(6, 4, k, torch.Generator().manual_seed(0))
    for b in range(3):
        assert set((networks.w1[b] != 0).sum(0).tolist()) == {int(k[0, b])}
        assert set((networks.w2[b] != 0).sum(1).tolist()) == {int(k[1, b])}
        assert set((networks.s[:, b] != 0).sum(1).tolist()) == {int(k[2, b])}
    assert set(networks.s.unique().tolist()) == {0.0, 1.0}


def share_that_meet(d, k, k2):
    """How probably k places of d hit at least one of k2 others: the hypergeometric law."""
    return 1 - math.comb(d - k2, k) / math.comb(d, k)


def test_counts_are_those_of_the_hypergeometric_law_and_the_claim_holds_where_spikes_are_as_many_as_weights():
    for found in entry_bounds(30, 0, lambda share: None):
        d = found.d
        per_input = d * d * share_that_meet(d, found.k_w1, found.k_w2)
        per_weight = d * found.steps * share_that_meet(d, found.k_s, found.k_w2)
        assert abs(found.input - per_input) <= 5 * found.input_error + 0.03 * per_input
        assert abs(found.weight - per_weight) <= 5 * found.weight_error + 0.03 * per_weight
        truly = per_weight > found.factor * per_input * (1 + 1e-9)
        assert truly == (found.k_s < found.k_w1 and found.k_w2 > 1)
        if not truly and found.k_s > found.k_w1 and found.k_w2 > 1:
            assert not found.fails()
        if truly and found.k_s == 1 and found.k_w1 == d:
            assert found.fails()


def test_zeros_travel():
    """The second hidden neuron is heard by nobody: no gradient of its weights, none through it to the input."""
    networks = of([[2, 0], [0, 2]], [[1, 0], [1, 0]], [[1, 1], [1, 0]], [1, 2])
    g = networks.gradients()
    assert (g.currents1[:, 0, 1] == 0).all()
    assert (g.w1[0, 1] == 0).all()
    assert (g.s[:, 0, 1] == 0).all()
    assert (g.s[:, 0, 0] != 0).all()
    assert broken_rules(networks, g) == (0, 1)


def test_a_zero_that_did_not_travel_would_be_seen():
    networks = of([[2, 0], [0, 2]], [[1, 0], [1, 0]], [[1, 1], [1, 0]], [1, 2])
    for name, place in (("w1", (0, 1, 1)), ("s", (1, 0, 1)), ("w2", (0, 0, 1))):
        g = networks.gradients()
        spikes = g.hidden.clone()
        spikes[:, 0, 1] = 0  # else ∇w₂ may well be non-zero there
        object.__setattr__(g, "hidden", spikes)
        before = broken_rules(networks, g)[0]
        getattr(g, name)[place] = 1.0
        assert broken_rules(networks, g)[0] == before + (getattr(networks.gradients(), name)[place] == 0)


def test_random_networks_have_zeros_and_no_violations():
    sparse, dense = trails(100, 0)
    for one in (sparse, dense):
        assert one.violations == 0
        assert one.silent > 0
        assert len(one.s) == len(one.w1) == len(one.w2) == 100
        assert all(0 <= share <= 1 for share in one.s + one.w1 + one.w2)
    assert len(set(sparse.s)) > 10
    assert len(set(dense.s)) > 2  # a dense ∇s[t] is 0 only where all hidden neurons are silent
    assert trails(100, 0) == (sparse, dense)
    assert trails(100, 1)[0].s != sparse.s


def test_shares_of_zeros_by_hand():
    """Only the first hidden neuron is heard, it listens to the first input only, and that alone spikes."""
    found = trail("by hand", of([[2, 0], [0, 2]], [[1, 0], [1, 0]], [[1, 0], [1, 0]], [1, 2]))
    assert (found.s, found.w1, found.w2) == ((0.5,), (0.75,), (0.5,))
    assert (found.silent, found.violations) == (1, 0)
    assert found.surrogate == "ArcTan(sharpness=2.0)"


def three(generator, n, mix):
    """∇s and two weights' zeros: the first shares ``mix`` with ∇s, the second nothing."""
    s, a, b = generator.normal(size=(3, n))
    return Trail(
        setting="made", surrogate="", s=tuple(s), w1=tuple(mix * s + a), w2=tuple(b), silent=0, violations=0
    )  # fmt: skip


def test_correlations_are_told_apart_only_where_they_differ():
    generator = np.random.default_rng(0)
    p = []
    for _ in range(400):
        s, common, a, b = generator.normal(size=(4, 60))
        w1, w2 = (0.5 * s + 1.5 * common + own for own in (a, b))
        made = Trail(setting="", surrogate="", s=tuple(s), w1=tuple(w1), w2=tuple(w2), silent=0, violations=0)
        p.append(made.told_apart())
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.08  # as often as chance has it
    assert three(generator, 300, 1.0).told_apart() < 1e-6
    one = three(generator, 300, 1.0)
    low, high = one.interval("w1")
    assert low < one.correlation("w1") < high
    assert one.correlation("w1") == pytest.approx(2 * _ranks(one.s, one.w1), abs=1e-9)


def _ranks(x, y):
    """Half of Pearson's correlation of the ranks."""
    return np.corrcoef(np.argsort(np.argsort(x)), np.argsort(np.argsort(y)))[0, 1] / 2


def test_nothing_to_correlate():
    constant = Trail(
        setting="", surrogate="", s=(0.5,) * 9, w1=(0.1, 0.2, 0.3) * 3, w2=(0.0,) * 9, silent=0, violations=0
    )
    assert constant.correlation("w1") is None
    assert constant.correlation("w2") is None
    assert constant.interval("w1") is constant.told_apart() is None


def test_a_bound_by_hand():
    found = EntryBound(
        d=8, steps=4, k_w1=4, k_w2=2, k_s=2, weight=10.5, weight_error=0.1, input=40.0, input_error=0.4,
        weight_gradient=11, weight_gradient_error=0, input_gradient=50, input_gradient_error=0,
    )  # fmt: skip
    assert found.factor == 0.25
    assert found.claimed() == 10
    assert found.claimed(gradient=True) == 12.5
    assert found.fails()  # 10.5 > 10 + 2·√(0.1² + 0.1²) = 10.28
    assert not found.fails(gradient=True)
    assert not found.model_copy(update={"weight_error": 0.3}).fails()
    assert found.exceeds_product()  # 40 > 2·4
    assert not found.model_copy(update={"input": 7.0}).exceeds_product()
    assert found.exceeds_steps()  # 10.5 > 4·2·2/8
    assert not found.model_copy(update={"weight": 1.9}).exceeds_steps()
