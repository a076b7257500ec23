"""The published evaluations, member by member, and how members are named in tables."""

import math

import pytest
import torch
from torch import nn

from robustspike.attacks import (
    APGD,
    ATTACKS,
    FAB,
    PGD,
    SAPGD,
    SUITES,
    EncodedPGD,
    GaussianNoise,
    Square,
    Suite,
    Transfer,
    UniformNoise,
    suites,
)
from robustspike.attacks.losses import dlr
from robustspike.attacks.suites import LIU_ENSEMBLE, OZDENIZCI_ENSEMBLE, describe
from robustspike.balls import L2, Linf
from robustspike.gradients import ASSG, BPTR, BPTT, CBA, RGA, cross_entropy
from robustspike.surrogates import ArcTan, Exponential, Rectangle, Sigmoid, StraightThrough, Triangle


def short():
    """FGSM, R-FGSM and PGD-10 of liu2024."""
    return suites.liu2024("8/255", steps=(10,), apgd_steps=0)


def test_liu_2024_in_the_order_of_the_paper():
    suite = short()
    assert (suite.name, suite.ball) == ("liu2024", Linf(8 / 255))
    assert [a.name for a in suite.attacks] == ["FGSM"] * 4 + ["R-FGSM"] * 4 + ["PGD-10"] * 4
    ensemble = [BPTT(Triangle(1.0)), BPTT(Sigmoid(4.0)), BPTT(ArcTan(2.0)), RGA(0.2)]
    assert [a.estimator for a in suite.attacks] == ensemble * 3
    assert list(LIU_ENSEMBLE) == ensemble
    assert all(a.ball == suite.ball and a.early_stop for a in suite.attacks)
    assert len(set(suite.attacks)) == 12


def test_liu_2024_by_default_has_all_attacks_of_table_1():
    names = [a.name for a in suites.liu2024("8/255").attacks]
    assert names == [n for n in ("FGSM", "R-FGSM", "PGD-10", "PGD-30", "PGD-50", "APGD-10") for _ in range(4)]
    assert suites.liu2024("8/255").attacks[:12] == short().attacks


def test_liu_2024_transfers_its_attacks_from_each_source():
    sources = [nn.Linear(2, 2), nn.Linear(2, 2)]
    members = suites.liu2024("8/255", sources=sources).attacks[24:]
    assert all(isinstance(m, Transfer) for m in members)
    assert [m.source for m in members] == [s for s in sources for _ in range(6)]
    assert {m.attack.name for m in members} == {"FGSM", "R-FGSM", "PGD-10", "PGD-30", "PGD-50", "APGD-10"}


@pytest.mark.parametrize(("eps", "step"), [("8/255", 0.01), (8 / 255, 0.01), ("4/255", 0.005), (0.15, 0.0478125)])
def test_the_papers_step_is_a_hundredth_at_8_of_255_and_in_proportion_elsewhere(eps, step):
    suite = suites.liu2024(eps, steps=(10,), apgd_steps=0)
    assert [a.step_size for a in suite.attacks[8:]] == pytest.approx([step] * 4, rel=1e-12)
    assert [a.step_size for a in suite.attacks[:4]] == [suite.ball.eps] * 4
    assert [a.step_size for a in suite.attacks[4:8]] == [suite.ball.eps / 2] * 4
    assert [a.random_start for a in suite.attacks] == [False] * 4 + ["sign"] * 4 + [True] * 4
    pgd = [a for a in suites.ding2022(eps).attacks if a.name == "PGD-7"]
    assert [a.step_size for a in pgd] == pytest.approx([step] * 3)


def test_liu_2024_with_other_numbers_of_steps_and_without_early_stopping():
    suite = suites.liu2024(0.1, steps=(10, 30), apgd_steps=20, early_stop=False)
    assert [a.steps for a in suite.attacks] == [1] * 8 + [10] * 4 + [30] * 4 + [20] * 4
    assert not any(a.early_stop for a in suite.attacks)


def test_liu_2024_at_eps_zero_moves_nothing(double_model):
    x, y = torch.rand(2, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 1])
    for attack in short().attacks:
        assert torch.equal(
            attack.__class__(**{**vars(attack), "ball": Linf(0), "step_size": None})(double_model, x, y), x
        )


def test_ding_2022():
    suite = suites.ding2022("8/255")
    assert [a.name for a in suite.attacks] == ["FGSM"] * 3 + ["PGD-7"] * 3 + ["Gaussian noise"]
    assert [a.estimator for a in suite.attacks[:6]] == [BPTT(), BPTR(), CBA()] * 2
    assert [a.steps for a in suite.attacks[3:6]] == [7] * 3


def test_liu_2024_widths_are_thirty_tenths():
    widths = [a.estimator.surrogate.width for a in suites.liu2024_widths("8/255").attacks]
    assert widths == pytest.approx([0.1 * k for k in range(1, 31)])
    assert {a.steps for a in suites.liu2024_widths("8/255", steps=5).attacks} == {5}


def test_ensemble19_is_that_of_ozdenizci_and_legenstein():
    estimators = [a.estimator for a in suites.ensemble19("8/255").attacks]
    assert estimators == list(OZDENIZCI_ENSEMBLE)
    assert len(set(estimators)) == 19
    surrogates = [e.surrogate for e in estimators if isinstance(e, BPTT)]
    assert {s.width for s in surrogates if isinstance(s, Triangle)} == {0.25, 0.5, 1, 2, 3}
    assert {s.width for s in surrogates if isinstance(s, Rectangle)} == {0.25, 0.5, 1, 2, 4}
    exponentials = {(s.height, s.sharpness) for s in surrogates if isinstance(s, Exponential)}
    assert exponentials == {(h, b) for h in (0.3, 1.0) for b in (0.5, 1.0, 2.0)}
    assert StraightThrough() in surrogates
    assert estimators[-2:] == [BPTR(), CBA()]
    assert all(a.step_size is None for a in suites.ensemble19("8/255").attacks)  # 2.5·ε/steps


def test_autoattack_in_its_order():
    ce, targeted, fab, square = suites.autoattack("8/255").attacks
    assert (type(ce), ce.steps, ce.loss, ce.targets, ce.restarts) == (APGD, 100, cross_entropy, 0, 1)
    assert (type(targeted), targeted.steps, targeted.targets) == (APGD, 100, 9)
    assert (type(fab), fab.steps, fab.targets) == (FAB, 100, 9)
    assert (type(square), square.queries) == (Square, 5000)
    assert suites.autoattack("8/255", estimator=ASSG()).attacks[0].estimator == ASSG()


def test_autoattack_rand_averages_twenty_draws():
    assert suites.autoattack("8/255", "rand") == suites.autoattack_rand("8/255")
    ce, other = suites.autoattack_rand("8/255").attacks
    assert (ce.loss, other.loss) == (cross_entropy, dlr)
    assert (ce.samples, other.samples) == (20, 20)
    with pytest.raises(ValueError, match='version must be "standard" or "rand", got \'plus\''):
        suites.autoattack("8/255", "plus")


def test_luu_2025_is_kept_apart():
    assert all(isinstance(a, EncodedPGD) and a.caveat for a in suites.luu2025("8/255").attacks)
    assert [(a.steps, a.step_size) for a in suites.luu2025("8/255").attacks] == [(1, 8 / 255), (7, pytest.approx(0.01))]
    assert not any(hasattr(a, "caveat") for a in suites.luu2025_sound("8/255").attacks)
    with pytest.raises(ValueError, match="Linf"):
        suites.luu2025(L2(0.5))


def test_assg_is_sa_pgd_100():
    (attack,) = suites.assg("8/255").attacks
    assert (type(attack), attack.steps, attack.estimator) == (SAPGD, 100, ASSG(0.85))
    assert suites.assg("8/255", degree=0.87).attacks[0].estimator.omega == pytest.approx(
        2 * math.tan(math.pi * 0.435) / math.pi
    )


def test_standard_costs_what_it_says():
    members = suites.standard("8/255").attacks
    assert sum(m.steps * getattr(m, "restarts", 1) for m in members if hasattr(m, "steps")) == 600
    assert sum(m.queries for m in members if hasattr(m, "queries")) == 1000
    assert all(m.early_stop for m in members)
    assert "600 gradients and 1000 queries" in suites.standard.__doc__


def test_standard_transfers_from_sources_and_averages_draws():
    source = nn.Linear(2, 2)
    members = suites.standard("8/255", sources=[source], samples=20).attacks
    assert [m.source for m in members if isinstance(m, Transfer)] == [source]
    assert all(m.samples == 20 for m in members if not isinstance(m, Transfer))


def test_how_members_are_described():
    suite = short()
    assert describe(suite.attacks[0]) == ("FGSM", "BPTT triangle 1")
    assert describe(suite.attacks[-1]) == ("PGD-10", "RGA")
    assert describe(PGD(Linf(0.1), estimator=RGA(0.3))) == ("PGD-10", "RGA(gamma=0.3)")
    assert describe(PGD(Linf(0.1), estimator=ASSG())) == ("PGD-10", "ASSG")
    assert describe(PGD(Linf(0.1), estimator=ASSG(0.9, shape="triangle"))) == (
        "PGD-10",
        "ASSG(degree=0.9, shape='triangle')",
    )
    assert describe(PGD(Linf(0.1))) == ("PGD-10", "BPTT own surrogate")
    assert describe(UniformNoise(Linf(0.1))) == ("uniform noise", "–")
    assert describe(Square(Linf(0.1))) == ("Square-5000", "–")


def test_the_dicts_hold_what_they_name():
    assert {name: ATTACKS[name](Linf(0.1)).name for name in ATTACKS} == {
        "fgsm": "FGSM",
        "rfgsm": "R-FGSM",
        "pgd": "PGD-10",
        "apgd": "APGD-CE-100",
        "sapgd": "SA-PGD-100",
        "fab": "FAB-T-100",
        "square": "Square-5000",
        "uniform-noise": "uniform noise",
        "gaussian-noise": "Gaussian noise",
    }
    assert ATTACKS["gaussian-noise"] is GaussianNoise
    assert SUITES["liu2024"]("8/255") == suites.liu2024("8/255")
    assert {BPTT(Sigmoid(4.0)), BPTT(ArcTan(2.0))} <= set(LIU_ENSEMBLE)


def test_a_suite_on_another_ball_than_its_members_is_refused():
    with pytest.raises(ValueError, match=r"said to be on Linf\(eps=0.5\), but its members attack on Linf\(eps=0.1\)"):
        Suite("mine", Linf(0.5), (PGD(Linf(0.1)),))
