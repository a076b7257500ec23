"""Terms of two points: two neurons on paper, PyTorch's own functions on random logits, limits, and hard numbers."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from tests.defences.plain import CLEAN, MOVED, TwoNeurons, at_two_points, pixels
from torch import nn

from robustspike.defences import (
    BoostedCrossEntropy,
    CleanLogitPairing,
    Divergence,
    LogitPairing,
    WeightedDivergence,
    alp,
    clp,
    mart,
    trades,
)

pytestmark = pytest.mark.usefixtures("one_thread")
AS_GIVEN = nn.Flatten()  # logits are the pixels


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def logits(n=40, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    clean, other = (3 * torch.randn(n, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    return clean, other, torch.randint(classes, (n,), generator=generator)


def answered(clean, other, y):
    """A batch of which only the logits are known."""
    return SimpleNamespace(y=y, clean=SimpleNamespace(logits=clean), point=SimpleNamespace(logits=other))


def to_moved(model, x, y):
    return pixels(MOVED)


# Two neurons on paper: logits (2, 0) at x, (1, 1) at x_adv. With p = σ(2) = 0.8808: softmax (p, 1 − p) and (½, ½).

P = sigmoid(2)
KL = P * math.log(P / 0.5) + (1 - P) * math.log((1 - P) / 0.5)


def test_the_networks_logits_are_those_on_the_paper():
    model = TwoNeurons()
    assert model(pixels(CLEAN)).tolist() == [[2.0, 0.0]]
    assert model(pixels(MOVED)).tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize(
    ("term", "label", "expected"),
    [
        (Divergence(), 0, KL),
        (WeightedDivergence(), 0, KL * (1 - P)),
        (WeightedDivergence(), 1, KL * P),
        (BoostedCrossEntropy(), 0, 2 * math.log(2)),  # −ln ½ − ln(1 − ½)
        (LogitPairing(), 0, 1.0),  # ((2 − 1)² + (0 − 1)²) / 2
    ],
    ids=lambda value: str(value)[:24],
)
def test_two_neurons_by_hand(term, label, expected):
    value = at_two_points(term, TwoNeurons(), pixels(CLEAN), pixels(MOVED), torch.tensor([label]))
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_the_objectives_of_two_neurons_by_hand():
    """CE at x is −ln p for label 0, at x_adv ln 2."""
    model, x, y = TwoNeurons(), pixels(CLEAN), torch.tensor([0])
    assert trades(to_moved, 6)(model, x, y).item() == pytest.approx(-math.log(P) + 6 * KL)
    assert mart(to_moved, 5)(model, x, y).item() == pytest.approx(2 * math.log(2) + 5 * KL * (1 - P))
    assert alp(to_moved, 0.25)(model, x, y).item() == pytest.approx((-math.log(P) + math.log(2)) / 2 + 0.25)


def test_clean_pairs_by_hand():
    """The first of four images is paired with the third, the second with the fourth; the fifth has no partner.

    Logits (2, 0), (1, 1), (0, 0), (0, 2), …: squares 4 + 0 and 1 + 1, mean over 2 pairs × 2 logits 6/4.
    """
    x = pixels([[1.0, 0.3], [0.6, 0.5], [0.3, 0.3], [0.3, 1.0], [1.0, 1.0]])
    y = torch.tensor([0, 0, 1, 1, 0])
    assert TwoNeurons()(x).tolist() == [[2, 0], [1, 1], [0, 0], [0, 2], [2, 2]]
    for n in (4, 5):
        term = clp(1.0, noise=0).parts[1].term
        assert at_two_points(term, TwoNeurons(), x[:n], x[:n], y[:n]).item() == pytest.approx(1.5)
    whole = clp(0.5, noise=0)(TwoNeurons(), x[:4], y[:4]).item()
    # CE: −ln σ(2), ln 2, ln 2, and for logits (0, 2) with label 1 −ln σ(2) again
    assert whole == pytest.approx((-2 * math.log(P) + 2 * math.log(2)) / 4 + 0.5 * 1.5)


def test_pairs_swap_and_order_do_not_matter_labels_neither():
    x, y = pixels([[1.0, 0.3], [0.6, 0.5], [0.3, 0.3], [0.3, 1.0]]), torch.tensor([0, 1, 0, 1])
    value = at_two_points(CleanLogitPairing(), TwoNeurons(), x, x, y)
    swapped = torch.tensor([2, 3, 0, 1])
    assert torch.equal(value, at_two_points(CleanLogitPairing(), TwoNeurons(), x[swapped], x[swapped], 1 - y))


def test_one_image_has_no_partner():
    x = pixels(CLEAN).requires_grad_()
    loss = at_two_points(CleanLogitPairing(), nn.Linear(2, 2).double(), x, x, torch.tensor([0]))
    assert loss.item() == 0
    loss.backward()


# PyTorch's own functions on random logits


@pytest.mark.parametrize("classes", [2, 5])
def test_divergence_is_pytorchs(classes):
    clean, other, y = logits(classes=classes)
    expected = F.kl_div(other.log_softmax(1), clean.softmax(1), reduction="batchmean")
    torch.testing.assert_close(at_two_points(Divergence(), AS_GIVEN, clean, other, y), expected, rtol=1e-12, atol=0)


def test_the_weighted_divergence_is_pytorchs_sample_by_sample():
    clean, other, y = logits()
    each = F.kl_div(other.log_softmax(1), clean.softmax(1), reduction="none").sum(1)
    expected = sum(d * (1 - torch.softmax(z, 0)[k]) for d, z, k in zip(each, clean, y, strict=True)) / len(y)
    got = at_two_points(WeightedDivergence(), AS_GIVEN, clean, other, y)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("classes", [2, 5])
def test_the_boosted_cross_entropy_by_sorted_probabilities(classes):
    """The second largest probability is the rival's where y is the largest, else the largest is."""
    _, z, y = logits(classes=classes)
    p = z.softmax(1)
    order = p.argsort(1)
    rival = torch.where(order[:, -1] == y, order[:, -2], order[:, -1])
    expected = F.nll_loss(p.log(), y) + F.nll_loss((1 - p).log(), rival)
    got = at_two_points(BoostedCrossEntropy(), AS_GIVEN, z, z, y)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=0)


def test_logit_pairing_is_symmetric_and_zero_for_equal_logits():
    clean, other, y = logits()
    forth, back = (at_two_points(LogitPairing(), AS_GIVEN, *pair, y) for pair in ((clean, other), (other, clean)))
    assert torch.equal(forth, back)
    assert forth.item() == pytest.approx((clean - other).pow(2).sum().item() / clean.numel())
    assert at_two_points(LogitPairing(), AS_GIVEN, clean, clean, y) == 0


@pytest.mark.parametrize("term", [Divergence(), WeightedDivergence()])
def test_divergences_are_not_negative_and_zero_only_for_equal_answers(term):
    clean, other, y = logits()
    assert at_two_points(term, AS_GIVEN, clean, clean, y) == 0
    assert at_two_points(term, AS_GIVEN, clean, clean + 7.5, y).item() == pytest.approx(0, abs=1e-12)
    assert at_two_points(term, AS_GIVEN, clean, other, y) > 0.5


@pytest.mark.parametrize("term", [Divergence(), WeightedDivergence(), BoostedCrossEntropy(), LogitPairing()], ids=repr)
def test_gradient_flows_through_both_answers(term):
    """Both are differentiated, as finite differences confirm; nothing is held constant."""
    clean, other, y = logits(n=6)

    def value(clean, other):
        return term(answered(clean, other, y))

    assert torch.autograd.gradcheck(value, (clean.requires_grad_(), other.requires_grad_()))


# Hard numbers


@pytest.mark.parametrize("term", [Divergence(), WeightedDivergence(), BoostedCrossEntropy(), LogitPairing()], ids=repr)
def test_a_network_that_is_certain_costs_no_infinity(term):
    """Softmax values of exactly 0 and 1 in float32: 1 − max p would be 0 and its logarithm infinite."""
    clean = torch.tensor([[200.0, -200.0, 0.0], [0.0, 300.0, 0.0]], requires_grad=True)
    other = torch.tensor([[-200.0, 200.0, 0.0], [400.0, 0.0, 0.0]], requires_grad=True)
    loss = term(answered(clean, other, torch.tensor([0, 1])))
    assert loss.isfinite()
    loss.backward()
    assert other.grad.isfinite().all()
    assert clean.grad is None or clean.grad.isfinite().all()


def test_the_boosted_cross_entropy_of_a_certain_error_by_hand():
    # z = (−200, 200, 0), label 0: −log p_y = 400; 1 − p_rival = e^−200 (1 + e^−200), its −log = 200.
    z = torch.tensor([[-200.0, 200.0, 0.0]])
    assert at_two_points(BoostedCrossEntropy(), AS_GIVEN, z, z, torch.tensor([0])).item() == pytest.approx(600)
