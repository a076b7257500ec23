"""What it took to break the samples, from rows whose figures are worked out by hand."""

import json

import numpy as np
import pytest
from tests.test_results import header, outcome, rows, tried

from robustspike.results import Member, ResultError, mcnemar, outcome_of, rate, row_of

# The rows of test_results: sample 0 is misclassified; 1 falls to FGSM after 1 gradient and 2 forward passes; 2 falls to
# the last member after 1 + 10 + 10 gradients and 6 passes; 3 stands.


def test_what_was_spent_until_a_sample_broke():
    o = outcome()
    assert o.until_broken().tolist() == [0, 1, 21, 21]
    assert o.until_broken("queries").tolist() == [0, 2, 6, 6]
    assert o.until_broken("seconds").tolist() == [0, 0.5, 1.5, 1.5]
    assert o.first_restart().tolist() == [-1, 0, 0, -1]


def test_the_first_break_and_its_cost():
    found = outcome().breaks()
    assert (found.n, found.misclassified, found.standing) == (4, 1, 1)
    fgsm, pgd, rga = found.members
    assert (fgsm.first, fgsm.median_gradients, fgsm.gradients, fgsm.queries, fgsm.seconds) == (1, 1, 1, 2, 0.5)
    assert (pgd.first, pgd.median_gradients, pgd.gradients) == (0, None, 0)
    assert (rga.first, rga.median_gradients, rga.gradients, rga.queries, rga.seconds) == (1, 21, 21, 6, 1.5)
    assert [row[:3] for row in found.table().rows] == [("FGSM", "BPTT", "1"), ("PGD-10", "RGA", "1")]
    assert found.table().note.endswith("The other 1 broke no sample that earlier ones had left standing.")
    assert all(len(row) == len(found.table().columns) for row in found.table().rows)


def test_what_is_spent_after_the_first_break_does_not_count():
    both = [tried(0, True, 1, restart=2), tried(1, True, 40), tried(2, False, 10)]
    o = outcome_of(header(n=1), [json.loads(row_of(0, 1, 1, both))])
    assert o.until_broken().tolist() == [1]
    assert o.first_restart().tolist() == [2]
    assert [(one.first, one.later_restart) for one in o.breaks().members] == [(1, 1), (0, 0), (0, 0)]


def test_the_median_is_over_the_samples_that_the_member_broke_first():
    lines = [row_of(i, 1, 1, [tried(0, True, cost)]) for i, cost in enumerate((3, 5, 100))]
    (only,) = outcome_of(header(n=3, members=("FGSM",)), [json.loads(line) for line in lines]).breaks().members
    assert (only.first, only.median_gradients, only.gradients) == (3, 5, 108)


def test_robust_accuracy_against_gradients():
    curve = outcome().against_gradients((0, 1, 20, 21, 1000))
    assert curve.robust == (rate(3, 4), rate(2, 4), rate(2, 4), rate(1, 4), rate(1, 4))
    assert (curve.gradients, curve.label, curve.seed) == ((0, 1, 20, 21, 1000), "net", 3)
    with_queries = outcome().against_gradients((2, 3, 26, 27), with_queries=True)
    assert [r.value for r in with_queries.robust] == [0.75, 0.5, 0.5, 0.25]
    assert curve.table().rows[1] == ("1", str(rate(2, 4)))
    assert outcome().against_gradients().robust[-1].value == outcome().robust_accuracy


def test_a_summary_has_the_curve_up_to_what_was_spent():
    cost = outcome().summary().cost  # sample 3 cost 1 + 10 + 10 gradients and 6 passes
    assert (cost.gradients, cost.with_queries) == ((1, 2, 5, 10, 20, 50), True)
    assert [r.value for r in cost.robust] == [0.75, 0.75, 0.5, 0.5, 0.5, 0.25]
    gradients_only = [
        row | {"attempts": [a | {"queries": 0} for a in row["attempts"]]} for row in map(json.loads, rows())
    ]
    cost = outcome_of(header(), gradients_only).summary().cost
    assert (cost.gradients, cost.with_queries) == ((1, 2, 5, 10, 20, 50), False)
    assert [r.value for r in cost.robust] == [0.5, 0.5, 0.5, 0.5, 0.5, 0.25]
    nothing = outcome_of(header(n=1), [json.loads(row_of(0, 0, 1, []))]).summary().cost
    assert (nothing.gradients, nothing.robust[0].value) == ((1,), 0)


def stepped(*members, broken, n=4):
    """Sample 0 is misclassified; each other one meets every member (attack, estimator, settings, steps)."""
    made = tuple(Member(attack=a, estimator=e, settings=s, steps=k) for a, e, s, k in members)
    lines = [row_of(0, 0, 1, [])]
    lines += [row_of(i, 1, 1, [tried(m, i in broken[m]) for m in range(len(made))]) for i in range(1, n)]
    return outcome_of(header(n=n, members=()).model_copy(update={"members": made}), list(map(json.loads, lines)))


def test_accuracy_against_steps():
    o = stepped(
        ("PGD-9", "BPTT", "PGD(steps=9, label='PGD-9', eps=0.1)", 9),
        ("FGSM", "BPTT", "PGD(steps=1, label='FGSM', step_size=0.1)", 1),
        ("PGD-3", "BPTT", "PGD(steps=3, label=None, eps=0.1)", 3),
        ("PGD-3", "RGA", "PGD(steps=3, label=None, eps=0.1, estimator=RGA)", 3),
        ("PGD-9", "RGA", "PGD(steps=9, label=None, eps=0.1, estimator=RGA)", 9),
        ("Square", "–", "Square(queries=3)", None),
        broken=[{1, 2}, set(), {1}, {2}, {2}, {3}],
    )
    found = o.against_steps()
    assert (found.steps, found.label, found.seed) == ((3, 9), "net", 3)
    assert [(row.attack, row.estimator) for row in found.rows] == [("PGD", "BPTT"), ("PGD", "RGA")]
    assert [[r.value for r in row.accuracy] for row in found.rows] == [[0.5, 0.25], [0.5, 0.5]]
    assert [r.value for r in found.worst] == [0.25, 0.25]
    table = found.table()
    assert table.columns == ("attack", "estimator", "3 steps", "9 steps")
    assert table.rows[0] == ("PGD", "BPTT", str(rate(2, 4)), str(rate(1, 4)))
    assert table.rows[-1] == ("worst case", "", str(rate(1, 4)), str(rate(1, 4)))
    assert "mine, Linf ε = 0.1, n = 4, seed 3" in table.title
    assert o.summary().steps == found


def test_a_number_of_steps_that_one_attack_lacks_is_left_empty():
    o = stepped(
        *[(f"PGD-{k}", "BPTT", f"PGD(steps={k})", k) for k in (1, 5)],
        *[(f"FAB-T, {k} steps", "BPTT", f"FAB(steps={k})", k) for k in (5, 20)],
        broken=[set(), {1}, {2}, {1, 2, 3}],
    )
    found = o.against_steps()
    assert [(row.attack, row.accuracy[0]) for row in found.rows] == [("PGD", rate(3, 4)), ("FAB-T", None)]
    assert found.table().rows[1][2:] == ("", str(rate(2, 4)), str(rate(0, 4)))
    assert found.worst == (rate(3, 4), rate(1, 4), rate(0, 4))


def test_one_number_of_steps_or_survivors_only_make_no_curve():
    assert outcome().against_steps() is None
    one = stepped(("PGD-3", "BPTT", "PGD(steps=3)", 3), ("PGD-3", "RGA", "PGD(steps=3, RGA)", 3), broken=[{1}, {2}])
    assert one.against_steps() is None
    with_settings = [Member(attack=f"PGD-{k}", estimator="BPTT", settings=f"PGD(steps={k})", steps=k) for k in (3, 9)]
    survivors = [row_of(0, 1, 1, [tried(0, True)]), row_of(1, 1, 1, [tried(0, False), tried(1, False)])]
    few = outcome_of(
        header(n=2, members=()).model_copy(update={"members": tuple(with_settings)}), list(map(json.loads, survivors))
    )
    assert few.against_steps() is None


def test_the_table_of_estimators():
    table = outcome().by_estimator()
    half, worst = str(rate(2, 4)), str(rate(1, 4))
    assert table.columns == ("attack", "BPTT", "RGA", "worst case")
    assert table.rows == (
        ("FGSM", half, "", half),
        ("PGD-10", "·", "·", "·"),  # sample 1 met neither
        ("worst case", half, "·", worst),
    )


def everywhere():
    """Each member run on samples 1 to 3: FGSM breaks 1, PGD under BPTT 1 and 2, PGD under RGA 3."""
    broken = [{1}, {1, 2}, {3}]
    lines = [row_of(0, 0, 1, [])]
    lines += [row_of(i, 1, 1, [tried(m, i in broken[m]) for m in range(3)]) for i in (1, 2, 3)]
    return [json.loads(line) for line in lines]


def test_the_table_of_estimators_where_each_met_every_sample():
    table = outcome_of(header(), everywhere()).by_estimator()
    assert table.rows == (
        ("FGSM", str(rate(2, 4)), "", str(rate(2, 4))),
        ("PGD-10", str(rate(1, 4)), str(rate(2, 4)), str(rate(0, 4))),
        ("worst case", str(rate(1, 4)), str(rate(2, 4)), str(rate(0, 4))),
    )


# Members with a caveat


def with_caveat(m=1, why="it attacks other weights"):
    members = [
        Member(attack=a, estimator=e, settings="…", caveat=why * (k == m))
        for k, (a, e) in enumerate([("FGSM", "BPTT"), ("PGD-10", "BPTT"), ("PGD-10", "RGA")])
    ]
    return outcome_of(header(members=()).model_copy(update={"members": tuple(members)}), everywhere())


def test_a_member_with_a_caveat_has_an_accuracy_and_counts_in_no_worst_case():
    o = with_caveat()
    assert o.robust.tolist() == [False, False, True, False]  # sample 2 fell only to the member with the caveat
    assert o.first_break().tolist() == [-2, 0, -1, 2]
    assert o.until_broken().tolist() == [0, 10, 20, 20]
    s = o.summary()
    assert [m.alone.value for m in s.members] == [0.5, 0.25, 0.5]
    assert [m.standing_after.value for m in s.members] == [0.5, 0.5, 0.25]
    assert {name: r.value for name, r in s.by_attack.items()} == {"FGSM": 0.5, "PGD-10 †": 0.25, "PGD-10": 0.5}
    assert [one.estimator for one in o.breaks().members] == ["BPTT", "RGA"]
    assert [row[0] for row in o.by_estimator().rows] == ["FGSM", "PGD-10 †", "PGD-10", "worst case"]
    assert o.by_estimator().rows[-1][1:] == (str(rate(2, 4)), str(rate(2, 4)), str(rate(1, 4)))


def test_a_caveat_is_marked_and_said():
    table = with_caveat().table()
    assert [row[0] for row in table.rows] == ["clean", "FGSM", "PGD-10 †", "PGD-10", "worst case per sample"]
    assert table.rows[-1][1] == "all without †"
    assert "† Not in the worst case: PGD-10: it attacks other weights." in table.note
    assert "†" not in str(outcome().table())


def test_where_every_member_has_a_caveat_there_is_no_worst_case():
    member = Member(attack="FGSM", estimator="BPTT", settings="…", caveat="why")
    o = outcome_of(header(n=1).model_copy(update={"members": (member,)}), [json.loads(row_of(0, 1, 1, []))])
    assert o.table().rows[-1][4] == "–"
    assert (o.summary().cost, o.summary().has_worst_case) == (None, False)
    with pytest.raises(ResultError, match="every attack of one has a caveat"):
        mcnemar(o, o)


# Cut short


def test_a_standing_sample_that_missed_a_member_is_cut():
    found = [json.loads(row) for row in rows()]
    found[3]["attempts"].pop()
    o = outcome_of(header(budget=11), found)
    assert o.cut.tolist() == [False, False, False, True]
    assert (
        "Budget of 11 gradient evaluations and queries per sample hit: 1 of 4 samples did not meet every attack."
        in o.table().note
    )
    assert o.summary().cut == 1
    assert not outcome().cut.any()
    assert "did not meet" not in outcome().table().note


@pytest.mark.parametrize(("timed_out", "why"), [(True, "Time budget hit"), (False, "Not finished")])
def test_an_unfinished_outcome_says_so(timed_out, why):
    import dataclasses

    o = dataclasses.replace(outcome_of(header(), [json.loads(row) for row in rows()[:3]]), timed_out=timed_out)
    assert not o.finished
    assert outcome().finished
    assert f"{why}: 3 of 4 samples evaluated, in the data's order; resume for the rest." in o.table().note
    assert "n = 3 of 4" in o.table().title
    assert o.table().rows[0][2] == "3"
    np.testing.assert_array_equal(o.samples, [0, 1, 2])
