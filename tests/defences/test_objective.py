"""What an objective does with its parts: sums, attacks run once, schedules, label smoothing, retractions, refusals."""

import math

import pytest
import torch
from tests.defences.plain import Constant, images, passes, push, two_layers

from robustspike.attacks import PGD
from robustspike.balls import Linf
from robustspike.defences import (
    CosineRamp,
    CrossEntropy,
    Divergence,
    GradientSparsity,
    Linear,
    Objective,
    ParsevalRetraction,
    Part,
    alp,
    at,
    gr,
    hire,
    mart,
    mpd_sgr,
    mppd,
    project_mixing,
    rat,
    sr,
    sr_star,
    tgo,
    trades,
    vanilla,
)

pytestmark = pytest.mark.usefixtures("one_thread")


class Counted:
    """An attack that counts its runs."""

    def __init__(self, shift=0.1):
        self.shift, self.runs = shift, 0

    def __call__(self, model, x, y):
        self.runs += 1
        return (x + self.shift).clamp(0, 1)


# Sums


def test_a_sum_is_the_literal_sum_less_the_cross_entropy_that_both_have():
    model, (x, y) = two_layers().eval(), images()
    both = sr(0.3) + trades(push, 6)
    total = both(model, x, y).item()
    literal = sr(0.3)(model, x, y).item() + trades(push, 6)(model, x, y).item() - vanilla()(model, x, y).item()
    assert total == pytest.approx(literal, rel=1e-12)
    assert [part.term for part in both.parts] == [CrossEntropy(), GradientSparsity(), Divergence()]
    assert both.name == "SR + TRADES"


def test_equal_parts_count_once_and_others_each_for_themselves():
    assert (vanilla() + vanilla()).parts == vanilla().parts
    assert (sr(0.3) + sr(0.3)).parts == sr(0.3).parts
    assert len((sr(0.3) + sr(0.2)).parts) == 3  # another weight is another part
    assert len((at(push) + vanilla()).parts) == 2  # another point is
    assert len((sr(CosineRamp(1)) + sr(CosineRamp(1))).parts) == 2
    assert len((sr(CosineRamp(1)) + sr(CosineRamp(2))).parts) == 3
    equal = at(PGD(Linf(0.1), steps=3)) + at(PGD(Linf("0.1"), steps=3))
    assert len(equal.parts) == 1


def test_a_sum_has_the_smaller_weight_decay_and_both_retractions_once():
    first, second = rat(push, beta=0.004), rat(push, beta=0.001)
    assert (sr(0.1) + first).weight_decay == 0
    assert (first + second).retract == (first.retract[0], project_mixing, second.retract[0])
    assert (first + first).retract == first.retract == (ParsevalRetraction(0.004), project_mixing)
    assert (sr(0.1) + alp(push)).retract == ()


def test_sums_of_three_do_not_depend_on_the_brackets():
    model, (x, y) = two_layers().eval(), images()
    a, b, c = sr(0.2), trades(push), tgo(0.4)
    left, right = (a + b) + c, a + (b + c)
    assert left == right
    assert left.name == "SR + TRADES + TGO"
    assert torch.equal(left(model, x, y), right(model, x, y))


# Forward passes and attacks


def test_each_attack_is_run_once_however_many_parts_use_it():
    attack, other = Counted(0.1), Counted(0.2)
    model, (x, y) = two_layers(), images()
    objective = mart(attack) + at(attack) + alp(attack) + at(other)
    objective(model, x, y)
    assert (attack.runs, other.runs) == (1, 1)
    objective(model, x, y)
    assert (attack.runs, other.runs) == (2, 2)


def test_attacks_that_are_equal_count_as_one_attack():
    """Made twice from the same settings; one of the terms differentiates at its point, the other does not."""
    model, (x, y) = two_layers().eval(), images()
    first, second = (PGD(Linf(0.1), steps=1, random_start=False) for _ in range(2))
    both = at(first) + sr_star(second, 0.3)
    assert first is not second
    torch.testing.assert_close(both(model, x, y), sr_star(first, 0.3)(model, x, y), rtol=0, atol=0)
    assert len({id(point) for point in points_of(mart(first) + alp(second), model, x, y)}) == 1


def points_of(objective, model, x, y):
    """Where the parts that have an attack are taken."""
    batches = []
    parts = tuple(Part(Constant(1.0, batches), attack=part.attack) for part in objective.parts if part.attack)
    Objective("mine", parts)(model, x, y)
    assert len(batches) > 1
    return [batch.point for batch in batches]


@pytest.mark.parametrize(
    ("objective", "calls"),
    [
        (vanilla(), "x"),
        (at(push), "a"),
        (trades(push), "xa"),
        (mart(push), "ax"),
        (alp(push), "xa"),
        (mppd(push), "xa"),
        (sr(0.1), "xo"),
        (sr(0.1, form="exact"), "x"),
        (gr(0.1, attack=push), "ao"),
        (tgo(0.4), "x"),
        (mpd_sgr(0.1, attack=push), "a"),
        (sr(0.1) + trades(push) + tgo(0.4), "xoa"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_every_point_is_passed_once(objective, calls):
    """x: the clean images, a: the moved ones, o: another point."""
    model, (x, y) = two_layers().eval(), images()
    seen, x_adv = passes(model), push(model, x, y)
    objective(model, x, y)
    assert "".join("x" if torch.equal(s, x) else "a" if torch.equal(s, x_adv) else "o" for s in seen) == calls


def test_a_function_of_ones_own_perturbs_and_its_graph_is_cut():
    model, (x, y) = two_layers().eval(), images()
    factor = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    loss = at(lambda model, x, y: x * factor)(model, x, y)
    torch.testing.assert_close(loss, vanilla()(model, x * 0.5, y))
    loss.backward()
    assert factor.grad is None


def test_the_images_take_no_gradient_and_stay_as_they_are():
    model, (x, y) = two_layers(), images()
    before = x.clone().requires_grad_()
    (sr(0.1) + trades(push) + gr(0.1, attack=push))(model, before, y).backward()
    assert before.grad is None
    assert torch.equal(before, x)


# Weights over the training


def test_weights_follow_the_training_and_parts_of_weight_zero_are_not_computed():
    batches, attack = [], Counted()
    objective = Objective("mine", (Part(CrossEntropy()), Part(Constant(10.0, batches), Linear(0, 2), attack)))
    model, (x, y) = two_layers().eval(), images()
    base = vanilla()(model, x, y).item()
    losses = [objective(model, x, y, progress=share).item() - base for share in (0.0, 0.5, 1.0)]
    assert losses == pytest.approx([0, 10, 20])
    assert len(batches) == attack.runs == 2
    assert objective(model, x, y).item() - base == pytest.approx(20)  # without a share: the end


def test_the_ramp_of_threshold_guarding_by_hand():
    model, (x, y) = two_layers().eval(), images()
    full = tgo(0.4)(model, x, y).item() - vanilla()(model, x, y).item()
    for share, part in ((0.0, 0), (1 / 3, 0.25), (0.5, 0.5), (1.0, 1)):
        got = tgo(CosineRamp(0.4))(model, x, y, progress=share).item() - vanilla()(model, x, y).item()
        assert got == pytest.approx(part * full, abs=1e-9)


def test_a_moment_at_which_nothing_counts_is_refused():
    objective = Objective("mine", (Part(CrossEntropy(), Linear(0, 1)),))
    model, (x, y) = two_layers(), images()
    with pytest.raises(ValueError, match="^all weights of objective 'mine' are 0 at 0 of the training"):
        objective(model, x, y, progress=0.0)
    assert objective(model, x, y, progress=0.1).isfinite()


@pytest.mark.parametrize("progress", [-0.1, 1.5, math.nan])
def test_a_share_outside_zero_to_one_is_refused(progress):
    with pytest.raises(ValueError, match=r"^progress must lie in \[0, 1\]"):
        vanilla()(two_layers(), *images(), progress=progress)


@pytest.mark.parametrize("parts", [(), (Part(CrossEntropy(), 0),)], ids=["none", "weight 0"])
def test_an_objective_without_a_term_that_counts_is_refused(parts):
    with pytest.raises(ValueError, match="^objective 'mine' needs at least one term with a weight other than 0"):
        Objective("mine", parts)


# Label smoothing


def test_smoothing_by_hand():
    """Targets 0.9·one-hot + 0.1/3: the loss is 0.9·CE + 0.1·mean_k(−log p_k)."""
    model, (x, y) = two_layers().eval(), images()
    log_p = model(x).log_softmax(1)
    expected = -(0.9 * log_p[torch.arange(6), y] + 0.1 * log_p.mean(1)).mean()
    torch.testing.assert_close(vanilla().smoothed(0.1)(model, x, y), expected)


def test_smoothing_reaches_every_cross_entropy_and_nothing_else():
    objective = (sr(0.1) + alp(push) + rat(push)).smoothed(0.2)
    smoothing = [getattr(part.term, "label_smoothing", None) for part in objective.parts]
    assert smoothing == [0.2, None, 0.2, 0.2, None, 0.2]
    assert [part.weight for part in objective.parts] == [
        part.weight for part in (sr(0.1) + alp(push) + rat(push)).parts
    ]
    assert objective.retract == rat(push).retract
    assert vanilla().smoothed(0) == vanilla()


@pytest.mark.parametrize("value", [-0.1, 1.0, math.nan])
def test_other_smoothing_is_refused(value):
    with pytest.raises(ValueError, match=r"^label_smoothing must lie in \[0, 1\), got"):
        vanilla().smoothed(value)


@pytest.mark.parametrize("objective", [mart(push), hire()], ids=lambda o: o.name)
def test_smoothing_is_refused_where_no_term_has_it(objective):
    with pytest.raises(ValueError, match=f"^no term of {objective.name} takes label smoothing; leave it 0"):
        objective.smoothed(0.1)


# After the step


def test_retractions_are_done_in_their_order_and_most_objectives_have_none():
    done = []
    objective = Objective("mine", (Part(CrossEntropy()),), retract=(lambda m: done.append(1), lambda m: done.append(2)))
    objective.after_step(two_layers())
    assert done == [1, 2]
    model = two_layers()
    before = [p.clone() for p in model.parameters()]
    (sr(0.1) + mppd(push)).after_step(model)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
