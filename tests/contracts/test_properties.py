"""Invariants of attacks and evaluations, whatever the images, radii, settings and order of samples."""

import functools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.conftest import InDouble, small_snn

from robustspike.attacks import APGD, ATTACKS, PGD, SAPGD, UniformNoise, fgsm
from robustspike.attacks.losses import margin
from robustspike.balls import L2, Linf
from robustspike.data import Split
from robustspike.draws import Draws
from robustspike.evaluate import evaluate
from robustspike.gradients import ASSG, BPTR, BPTT, CBA, HART, PDSG, RGA
from robustspike.surrogates import ArcTan, Triangle

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL = small_snn().double().eval()
JUDGED = InDouble(small_snn()).eval()  # on the float32 images of a Split
ESTIMATORS = [BPTT(), BPTT(ArcTan(2.0)), BPTT(Triangle(0.1)), BPTR(), RGA(), CBA(), HART(), PDSG(), ASSG()]

balls = st.one_of(
    st.floats(0, 1).map(Linf),
    st.floats(0, 8).map(L2),
)
estimators = st.sampled_from(ESTIMATORS)
kinds = st.sampled_from(
    [
        fgsm,
        functools.partial(PGD, steps=3),
        functools.partial(PGD, steps=3, loss=margin, early_stop=True),
        functools.partial(APGD, steps=4),
        functools.partial(APGD, steps=3, targets=2, early_stop=True),
        functools.partial(SAPGD, steps=4),
        functools.partial(SAPGD, steps=4, early_stop=True),
    ]
)
some = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
few = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def batches(draw, largest=6):
    n, seed = draw(st.integers(1, largest)), draw(st.integers(0, 2**16))
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 1, 8, 8, generator=generator, dtype=torch.float64)
    corners = draw(st.lists(st.sampled_from([0.0, 1.0]), max_size=n))
    for i, corner in enumerate(corners):
        x[i] = corner
    return x, torch.randint(4, (n,), generator=generator), Draws.of(seed, torch.arange(n))


@some
@given(batch=batches(), ball=balls, kind=kinds, estimator=estimators)
def test_examples_lie_in_the_ball_and_in_the_box(batch, ball, kind, estimator):
    x, y, draws = batch
    x_adv = kind(ball, estimator=estimator)(MODEL, x, y, draws)
    assert x_adv.isfinite().all()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert (ball.distance(x_adv, x) <= ball.eps * (1 + 1e-9) + 1e-9).all()


@some
@given(batch=batches(), norm=st.sampled_from([Linf, L2]), kind=kinds, estimator=estimators)
def test_a_radius_of_zero_changes_nothing(batch, norm, kind, estimator):
    x, y, draws = batch
    assert torch.equal(kind(norm(0.0), estimator=estimator)(MODEL, x, y, draws), x)


@some
@given(batch=batches(), ball=balls, kind=kinds, estimator=estimators, data=st.data())
def test_the_order_of_samples_does_not_matter(batch, ball, kind, estimator, data):
    x, y, draws = batch
    order = torch.tensor(data.draw(st.permutations(range(len(x)))))
    attack = kind(ball, estimator=estimator)
    whole, shuffled = attack(MODEL, x, y, draws), attack(MODEL, x[order], y[order], draws[order])
    torch.testing.assert_close(shuffled, whole[order], rtol=0, atol=1e-9)


def outcome(batch, members, **options):
    x, y, _ = batch
    return evaluate(JUDGED, Split(x.float(), y, torch.arange(len(x))), members, progress=False, doubts=0, **options)


@few
@given(batch=batches(), eps=st.floats(0.01, 0.5), first=kinds, second=kinds, one=estimators, other=estimators)
def test_adding_a_member_never_raises_robust_accuracy(batch, eps, first, second, one, other):
    members = [first(Linf(eps), estimator=one), second(Linf(eps), estimator=other), UniformNoise(Linf(eps))]
    accuracies = [outcome(batch, members[: k + 1]).robust_accuracy for k in range(3)]
    assert accuracies == sorted(accuracies, reverse=True)
    alone = [outcome(batch, [member]).robust_accuracy for member in members]
    assert accuracies[-1] <= min(alone)


@few
@given(batch=batches(), eps=st.floats(0.01, 0.5), kind=kinds, estimator=estimators, data=st.data())
def test_outcomes_do_not_depend_on_order_or_batch_size(batch, eps, kind, estimator, data):
    x, y, _ = batch
    order = torch.tensor(data.draw(st.permutations(range(len(x)))))
    members = [kind(Linf(eps), estimator=estimator), UniformNoise(Linf(eps))]
    options = {"progress": False, "doubts": 0}
    one = evaluate(JUDGED, Split(x.float(), y, torch.arange(len(x))), members, batch_size=len(x), **options)
    other = evaluate(JUDGED, Split(x[order].float(), y[order], order), members, batch_size=2, **options)
    assert (one.fooled == other.fooled).all()
    assert (one.clean == other.clean).all()


@few
@given(batch=batches(largest=4), name=st.sampled_from(sorted(ATTACKS)), eps=st.floats(0.01, 0.3))
def test_every_attack_by_name_repeats_itself(batch, name, eps):
    x, y, draws = batch
    steps = {"steps": 3} if name in ("apgd", "sapgd", "pgd", "fab") else {"queries": 20} if name == "square" else {}
    attack = ATTACKS[name](Linf(eps), **steps)
    assert torch.equal(attack(MODEL, x, y, draws), attack(MODEL, x, y, draws))
