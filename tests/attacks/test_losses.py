"""What attacks ascend: hand values, numpy on random logits, what leaves them unchanged, their gradients, and errors."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from robustspike.attacks.losses import LOSSES, FromClean, cross_entropy, dlr, margin, targeted_dlr, targeted_margin

HAND = [4.0, 1.0, 2.0, 0.0]
UNTARGETED = {"cross_entropy": cross_entropy, "margin": margin, "dlr": dlr}
TARGETED = {"targeted_margin": targeted_margin, "targeted_dlr": targeted_dlr}
ALL = UNTARGETED | TARGETED


def random_logits(n=200, classes=6, seed=0):
    """Logits, labels and targets; every third label is the predicted class, and targets differ from labels."""
    generator = torch.Generator().manual_seed(seed)
    z = 3 * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    y = torch.randint(classes, (n,), generator=generator)
    y[::3] = z.argmax(1)[::3]
    t = (y + torch.randint(1, classes, (n,), generator=generator)) % classes
    return z, y, t


def value(loss, z, y, t):
    return loss(z, y, t) if loss in TARGETED.values() else loss(z, y)


def by_numpy(name, z, y, t):
    """One sample at a time, by the formulas of the papers."""
    downwards, rival = sorted(z, reverse=True), max(z[j] for j in range(len(z)) if j != y)
    return {
        "cross_entropy": math.log(np.exp(z).sum()) - z[y],
        "margin": rival - z[y],
        "dlr": -(z[y] - rival) / (downwards[0] - downwards[2]),
        "targeted_margin": z[t] - z[y],
        "targeted_dlr": -(z[y] - z[t]) / (downwards[0] - (downwards[2] + downwards[3]) / 2),
    }[name]


losses = pytest.mark.parametrize("name", ALL)


# Values


@pytest.mark.parametrize(
    ("name", "y", "t", "expected"),
    [
        ("margin", 0, None, -2.0),
        ("margin", 1, None, 3.0),
        ("margin", 3, None, 4.0),
        ("dlr", 0, None, -2 / 3),
        ("dlr", 2, None, 2 / 3),
        ("dlr", 1, None, 1.0),
        ("dlr", 3, None, 4 / 3),
        ("targeted_margin", 0, 2, -2.0),
        ("targeted_margin", 1, 0, 3.0),
        ("targeted_dlr", 0, 2, -2 / 3.5),
        ("targeted_dlr", 2, 0, 2 / 3.5),
        ("targeted_dlr", 0, 3, -4 / 3.5),
        ("cross_entropy", 0, None, math.log(1 + math.exp(-3) + math.exp(-2) + math.exp(-4))),
    ],
)
def test_by_hand(name, y, t, expected):
    z = torch.tensor([HAND], dtype=torch.float64)
    target = None if t is None else torch.tensor([t])
    assert value(ALL[name], z, torch.tensor([y]), target).tolist() == pytest.approx([expected])


@losses
@pytest.mark.parametrize("classes", [4, 6, 10])
def test_equals_numpy_sample_by_sample(name, classes):
    z, y, t = random_logits(classes=classes)
    expected = [by_numpy(name, *row) for row in zip(z.numpy(), y.tolist(), t.tolist(), strict=True)]
    got = value(ALL[name], z, y, t)
    assert got.shape == (200,)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-9, atol=1e-12)


@losses
def test_a_sample_does_not_depend_on_the_others(name):
    z, y, t = random_logits()
    whole, part = value(ALL[name], z, y, t), torch.tensor([7, 3, 150])
    assert torch.equal(value(ALL[name], z[part], y[part], t[part]), whole[part])


@losses
def test_does_not_depend_on_the_names_of_the_classes(name):
    z, y, t = random_logits()
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    place = order.argsort()
    renamed = value(ALL[name], z[:, order], place[y], place[t])
    torch.testing.assert_close(renamed, value(ALL[name], z, y, t), rtol=1e-12, atol=1e-12)


@losses
def test_is_unchanged_when_all_logits_are_shifted(name):
    z, y, t = random_logits()
    torch.testing.assert_close(value(ALL[name], z + 17.25, y, t), value(ALL[name], z, y, t), rtol=1e-9, atol=1e-9)


@losses
@pytest.mark.parametrize("factor", [0.01, 3.0, 1e4])
def test_only_the_ratios_are_unchanged_when_all_logits_are_scaled(name, factor):
    z, y, t = random_logits()
    before, after = value(ALL[name], z, y, t), value(ALL[name], factor * z, y, t)
    if name.endswith("dlr"):
        torch.testing.assert_close(after, before, rtol=1e-8, atol=1e-12)
    elif name.endswith("margin"):
        torch.testing.assert_close(after, factor * before, rtol=1e-12, atol=0)
    else:
        assert not torch.allclose(after, before, rtol=0.01)


def test_margin_and_dlr_are_positive_exactly_where_the_model_errs():
    z, y, _ = random_logits()
    errs = z.argmax(1) != y
    assert 0 < errs.sum() < len(y)
    assert torch.equal(margin(z, y) > 0, errs)
    assert torch.equal(dlr(z, y) > 0, errs)


def test_targeted_losses_are_positive_exactly_where_the_target_beats_the_label():
    z, y, t = random_logits()
    beaten = z.gather(1, t[:, None]) > z.gather(1, y[:, None])
    for loss in TARGETED.values():
        assert torch.equal(loss(z, y, t) > 0, beaten[:, 0])


def test_the_margin_is_the_largest_targeted_margin():
    z, y, _ = random_logits()
    each = torch.stack([targeted_margin(z, y, (y + k) % 6) for k in range(1, 6)])
    assert torch.equal(margin(z, y), each.amax(0))
    # by definition, dlr divides the margin by the distance from the first to the third
    top = z.topk(3).values
    torch.testing.assert_close(dlr(z, y), margin(z, y) / (top[:, 0] - top[:, 2]), rtol=1e-9, atol=1e-12)


def test_dlr_of_a_correct_sample_lies_in_minus_one_to_zero():
    z, _, _ = random_logits()
    ratio = dlr(z, z.argmax(1))
    assert -1 <= ratio.min() <= ratio.max() <= 0


# Gradients


@losses
def test_the_gradient_is_that_of_finite_differences(name):
    z, y, t = random_logits(n=12)
    assert torch.autograd.gradcheck(lambda z: value(ALL[name], z, y, t), z.requires_grad_())


def test_the_gradient_of_the_margin_moves_the_label_and_its_strongest_rival():
    z = torch.tensor([HAND], requires_grad=True)
    margin(z, torch.tensor([0])).sum().backward()
    assert z.grad.tolist() == [[-1.0, 0.0, 1.0, 0.0]]


# Numbers that are hard


@losses
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_logits_that_are_all_equal_give_finite_losses_and_gradients(name, dtype):
    z = torch.full((3, 5), 0.25, dtype=dtype, requires_grad=True)
    loss = value(ALL[name], z, torch.tensor([0, 1, 4]), torch.tensor([1, 4, 0]))
    loss.float().sum().backward()
    assert loss.float().tolist() == pytest.approx([math.log(5) if name == "cross_entropy" else 0.0] * 3)
    assert z.grad.isfinite().all()


@losses
def test_large_logits_do_not_overflow(name):
    z = torch.tensor([[1e30, -1e30, 0.0, 5e29]])
    assert value(ALL[name], z, torch.tensor([1]), torch.tensor([0])).isfinite().all()


def test_cross_entropy_of_16_bit_logits_is_taken_in_float32():
    z = torch.tensor([HAND], dtype=torch.bfloat16)
    assert cross_entropy(z, torch.tensor([0])).dtype == torch.float32
    assert cross_entropy(z, torch.tensor([0])).item() == pytest.approx(by_numpy("cross_entropy", np.array(HAND), 0, 1))
    assert cross_entropy(z.double(), torch.tensor([0])).dtype == torch.float64


@losses
def test_the_logits_are_left_as_they_are(name):
    z, y, t = random_logits()
    before = z.clone()
    value(ALL[name], z, y, t)
    assert torch.equal(z, before)


@losses
def test_an_empty_batch_has_no_losses(name):
    none = torch.zeros(0, dtype=torch.int64)
    assert value(ALL[name], torch.zeros(0, 5), none, none).shape == (0,)


# The divergence from the clean answer


def test_the_divergence_from_the_clean_answer_by_hand():
    """p = (½, ½), q = (¾, ¼): ½·ln(⅔) + ½·ln 2 = ½·ln(4/3). From q to p: ¾·ln(3/2) + ¼·ln(½)."""
    p, q, y = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.75, 0.25]]).log(), torch.tensor([0])
    assert FromClean()(q, y, p).item() == pytest.approx(0.5 * math.log(4 / 3), rel=1e-6)
    assert FromClean()(p, y, q).item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-6)


def test_the_divergence_is_pytorchs_sample_by_sample_and_asks_for_no_label():
    z, y, other_y = random_logits()
    clean = random_logits(seed=1)[0]
    expected = F.kl_div(z.log_softmax(1), clean.softmax(1), reduction="none").sum(1)
    got = FromClean()(z, y, clean)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    assert torch.equal(FromClean()(z, other_y, clean), got)
    assert (got > 0).all()


def test_the_divergence_from_itself_is_zero_and_so_is_its_gradient():
    z = random_logits()[0].requires_grad_()
    loss = FromClean()(z, torch.zeros(200, dtype=torch.int64), z.detach())
    assert (loss == 0).all()
    loss.sum().backward()
    assert z.grad.abs().max() < 1e-15


def test_the_gradient_of_the_divergence_is_q_minus_p():
    z, y, _ = random_logits(n=12)
    clean = random_logits(n=12, seed=1)[0]
    z.requires_grad_()
    FromClean()(z, y, clean).sum().backward()
    torch.testing.assert_close(z.grad, (z.softmax(1) - clean.softmax(1)).detach(), rtol=1e-9, atol=1e-12)


def test_the_divergence_of_16_bit_or_very_large_logits_is_finite_and_float32():
    y = torch.tensor([0])
    clean, z = torch.tensor([HAND], dtype=torch.bfloat16), torch.tensor([HAND[::-1]], dtype=torch.bfloat16)
    got = FromClean()(z, y, clean)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(FromClean()(z.double(), y, clean.double()).item(), rel=1e-5)
    assert FromClean()(torch.tensor([[1e30, -1e30, 0.0]]), y, torch.tensor([[-1e30, 0.0, 1e30]])).isfinite().all()


# Errors and names


@pytest.mark.parametrize(("name", "least"), [("dlr", 3), ("targeted_dlr", 4)])
def test_too_few_classes_are_refused(name, least):
    y, t = torch.tensor([0]), torch.tensor([1])
    assert value(ALL[name], torch.tensor([HAND[:least]]), y, t).isfinite().all()
    said = rf"^the {name.replace('_', ' ')} loss needs at least {least} classes, got {least - 1}; use the margin loss"
    with pytest.raises(ValueError, match=said):
        value(ALL[name], torch.tensor([HAND[: least - 1]]), y, t)


def test_two_classes_are_enough_for_the_margin():
    assert margin(torch.tensor([[1.0, 3.0]]), torch.tensor([0])).tolist() == [2.0]


def test_the_names_on_the_command_line():
    assert {"ce": cross_entropy, "dlr": dlr, "margin": margin} == LOSSES
