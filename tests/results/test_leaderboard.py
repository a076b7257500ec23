"""Leaderboards: who is ranked against whom, in which order, and what is said of ties and of what is left out."""

import dataclasses

import numpy as np
import pytest
from tests.report import made

from robustspike.results import Member, mcnemar, rate
from robustspike.results.leaderboard import Entry, Leaderboard, Missing, alike, leaderboard_of, masking


def entry(name="AT", robust=50, clean=90, n=100, *, run=None, header=None, **fields):
    """A ranked entry; ``header``: changes of its header."""
    return Entry(
        network=name, run=run or f"runs/{name}", evaluation="standard-Linf-0.1", suite="standard", architecture="digits-cnn",
        header=made.header(n, **(header or {})), clean=rate(clean, n), robust=rate(robust, n), done=n, **fields,
    )  # fmt: skip


def placed(board):
    """(rank, network, tie) for each place of each group."""
    return [[(place.rank, place.entry.network, place.tie) for place in group.places] for group in board.groups]


def test_the_most_robust_is_first_whatever_the_order():
    entries = [entry("a", 20), entry("b", 80), entry("c", 50)]
    for shuffled in (entries, entries[::-1], entries[1:] + entries[:1]):
        assert placed(leaderboard_of("t", shuffled)) == [[(1, "b", False), (2, "c", False), (3, "a", False)]]


def test_equal_worst_cases_share_a_rank_and_clean_accuracy_orders_them():
    board = leaderboard_of("t", [entry("a", 50, 80), entry("b", 50, 90), entry("c", 10), entry("d", 10)])
    assert placed(board) == [[(1, "b", False), (1, "a", False), (3, "c", False), (3, "d", False)]]


def flagged(name, flags, **fields):
    """An entry of samples that are robust or not."""
    stands = np.packbits(np.array(flags, dtype=bool)).tobytes().hex()
    return entry(name, int(sum(flags)), n=len(flags), clean=len(flags), stands=stands, **{"samples": "s"} | fields)


def several_flags():
    """One network, and others that lose 3, 6 and 12 of its 20 robust samples of 21 and win none."""
    return [[k < 20 - lost for k in range(21)] for lost in (0, 3, 6, 12)]


def test_a_tie_is_what_mcnemars_test_does_not_tell_apart():
    """Of 3 samples all lost: p = 2/2³ = 0.25; of 6: 2/2⁶ = 0.03, though the intervals overlap; of 12: 2/2¹²."""
    entries = [flagged(name, flags) for name, flags in zip("abcd", several_flags(), strict=True)]
    [group] = leaderboard_of("t", entries[::-1]).groups
    assert [(place.p, place.tie) for place in group.places] == [
        (None, False),
        (0.25, True),
        (2**-5, False),
        (2**-11, False),
    ]
    assert group.places[2].entry.robust.high > group.places[0].entry.robust.low
    assert not any(place.overlaps for place in group.places)
    column = group.table().columns.index("against the first")
    assert [row[column] for row in group.table().rows] == ["–", "≈ p = 0.25", "p = 0.031", "p = 0.00049"]
    assert "McNemar's exact test, two-sided, uncorrected" in group.table().note
    assert "≈: p > 0.05, so these samples do not tell the two apart" in group.table().note
    assert "overlap" not in str(group.table())


@pytest.mark.parametrize("n", [1, 7, 8, 9, 33])
def test_p_is_that_of_the_test_on_the_rows(n):
    outcomes = [made.outcome(seed, n, strength) for seed, strength in ((1, 0.3), (2, 0.6))]
    same = [dataclasses.replace(one, labels=one.clean * 0, clean=1 - one.correct.astype(int)) for one in outcomes]
    first, other = sorted(same, key=lambda one: -one.robust.sum())
    [group] = leaderboard_of("t", [flagged("a", first.robust), flagged("b", other.robust)]).groups
    assert group.places[1].p == mcnemar(first, other).p


def test_without_rows_it_is_only_said_that_intervals_overlap():
    """Clopper-Pearson at n = 100: 50 is [39.8, 60.2]; 40 reaches 50.3, 30 only 40.0 and 29 only 38.9."""
    board = leaderboard_of("t", [entry("first", 50), entry("over", 40), entry("touching", 30), entry("below", 29)])
    [places] = [group.places for group in board.groups]
    assert [place.remark for place in places] == ["", "the intervals overlap", "the intervals overlap", ""]
    assert not any(place.tie for place in places)
    note = board.groups[0].table().note
    assert "The intervals overlap: with the first's, which is no test." in note
    assert "tell" not in note
    one, other = several_flags()[:2]
    for fields in ({"stands": ""}, {"samples": ""}):
        [group] = leaderboard_of("t", [flagged("a", one), flagged("b", other).model_copy(update=fields)]).groups
        assert (group.places[1].p, group.places[1].remark) == (None, "the intervals overlap")


def test_copies_do_not_decide_whose_samples_are_right():
    """Three copies against one: none is ranked; data of another name is no concern, nor is what was unverified before."""
    copies = [entry(name, samples="forged") for name in "abc"]
    apart = entry("e", samples="x", header={"data_fingerprint": "e" * 64})
    board = leaderboard_of("t", [*copies, entry("d", samples="honest"), apart, entry("f", samples="")])
    assert sorted(placed(board)) == [[(1, "e", False)], [(1, "f", False)]]
    assert [one.network for one in board.unranked] == ["a", "b", "c", "d"]
    assert all((one.standing, one.robust, one.clean) == ("unverified", None, None) for one in board.unranked)
    assert board.unranked[0].reason == (
        "its samples or labels are not those of runs/d, which names the same data; which are right is not known"
    )
    damaged = entry("g", samples="other", standing="unverified", reason="damaged")
    board = leaderboard_of("t", [*copies, damaged])
    assert placed(board) == [[(1, "a", False), (1, "b", False), (1, "c", False)]]
    assert board.unranked == (damaged,)


MEMBERS = made.MEMBERS
STRONGER = tuple(m.model_copy(update={"settings": m.settings.replace("steps=10", "steps=20")}) for m in MEMBERS)


@pytest.mark.parametrize(
    "changes",
    [
        {"data": "other test"}, {"data_fingerprint": "e" * 64}, {"norm": "L2"}, {"eps": 0.1 + 1e-12}, {"suite": "mine"},
        {"members": MEMBERS[1:]}, {"members": MEMBERS[::-1]}, {"members": STRONGER}, {"eps": float("nan")},
    ],
)  # fmt: skip
def test_only_what_was_measured_alike_is_ranked_together(changes):
    board = leaderboard_of("t", [entry("a"), entry("b", header=changes)])
    assert sorted(map(len, placed(board))) == [1, 1]
    assert len(leaderboard_of("t", [entry("b", header=changes), entry("c", header=changes)]).groups) == 1


def test_other_numbers_of_samples_are_other_groups():
    assert len(leaderboard_of("t", [entry("a"), entry("b", 10, 20, n=50)]).groups) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 8}, {"batch_size": 7}, {"survivors_only": True}, {"weights_fingerprint": "b"}, {"model": "vgg11 SR"},
        {"budget": 10_000}, {"calls": 10}, {"versions": {"torch": "3"}},
    ],
)  # fmt: skip
def test_what_makes_no_other_attack_makes_no_other_group(changes):
    assert alike(entry("a")) == alike(entry("b", header=changes))


def test_a_stand_in_made_for_each_network_is_the_same_attack():
    def transfer(code, label="twin"):
        settings = f"Transfer(attack=PGD(steps=7), source=SNN[{code}], label='{label}')"
        return (Member(attack=f"PGD-7 from {label}", estimator="BPTT", settings=settings, kind="black-box"),)

    one, other = (entry(header={"members": transfer(code)}) for code in ("0123456789abcdef", "fedcba9876543210"))
    assert alike(one) == alike(other)
    assert alike(one) != alike(entry(header={"members": transfer("0123456789abcdef", "relu")}))


def test_groups_come_in_a_fixed_order():
    entries = [
        entry(suite, header={"data": data, "eps": eps, "suite": suite}).model_copy(update={"suite": suite})
        for data in ("b", "a") for suite in ("y", "x") for eps in (0.3, 0.1)
    ]  # fmt: skip
    order = [(g.header.data, g.suite, g.header.eps) for g in leaderboard_of("t", entries).groups]
    assert order == [(d, s, e) for d in "ab" for s in "xy" for e in (0.1, 0.3)]
    assert leaderboard_of("t", entries[::-1]) == leaderboard_of("t", entries)


@pytest.mark.parametrize("standing", ["unfinished", "cut", "no worst case", "unverified"])
def test_what_is_not_ranked_is_listed_with_its_reason(standing):
    left = entry("left", 99, standing=standing, reason="because of it")
    board = leaderboard_of("t", [left, entry("a", 1)], [Missing(where="runs/x", what="no weights")])
    assert placed(board) == [[(1, "a", False)]]
    assert board.unranked == (left,)
    assert board.entries == (board.groups[0].places[0].entry, left)
    tables = board.tables()
    assert [table.title for table in tables[1:]] == ["Not ranked", "What is missing"]
    assert tables[1].rows == (("left", "runs/left/standard-Linf-0.1", "100 of 100", "because of it"),)
    assert tables[2].rows == (("runs/x", "no weights"),)


def test_a_table_says_under_what_and_that_it_is_an_upper_bound():
    board = leaderboard_of("t", [entry("a", 30, gradients=1234, doubts=("zero gradients",), checks=9)])
    table = board.groups[0].table()
    assert table.title == (
        "digits/test: accuracy in % [95 % interval] under standard, Linf ε = 0.1, n = 100, 3 attacks × 4 estimators"
    )
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert row["network"] == "a (runs/a)"
    assert (row["clean"], row["worst case"]) == (str(rate(90, 100)), str(rate(30, 100)))
    assert (row["seed"], row["gradients"]) == ("7", "1234")
    assert row["masking checks"] == "✗ zero gradients (1 of 9 failed)"
    assert "upper bound" in table.note


def test_a_caveat_is_explained_below():
    members = (*MEMBERS, Member(attack="code", estimator="–", settings="c", caveat="it moves the code"))
    note = leaderboard_of("t", [entry(header={"members": members})]).groups[0].table().note
    assert "† Not in the worst case: code: it moves the code." in note


@pytest.mark.parametrize(
    ("members", "text"),
    [
        (MEMBERS, "3 attacks × 4 estimators"),
        (MEMBERS[:1], "1 attack × 1 estimator"),
        (MEMBERS[:5], "2 attacks, 4 estimators, 5 pairs"),
        ((*MEMBERS, Member(attack="Square", estimator="–", settings="s")), "4 attacks, 4 estimators, 13 pairs"),
    ],
)
def test_the_strength_of_a_suite_in_words(members, text):
    assert entry(header={"members": members}).strength == text


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "not run"),
        ({"doubts": (), "checks": 7}, "✓ none of 7 failed"),
        ({"doubts": (), "checks": 0}, "none applicable"),
        ({"doubts": ("a", "b"), "checks": 7}, "✗ a, b (2 of 7 failed)"),
    ],
)
def test_the_checks_in_words(fields, text):
    assert masking(entry(**fields)) == text


def test_progress():
    assert entry().progress == "100 of 100"
    assert entry().model_copy(update={"done": None}).progress == "? of 100"


def test_a_leaderboard_survives_json():
    board = leaderboard_of("t", [entry("a"), entry("b", header={"eps": 0.3}), entry("c", standing="cut", reason="r")])
    assert Leaderboard.model_validate_json(board.model_dump_json()) == board


def test_nothing_to_rank():
    board = leaderboard_of("t", [])
    assert (board.groups, board.tables(), board.entries) == ((), (), ())
