"""Results: intervals, figures from hand-made rows, tables, and what is said of missing and damaged files."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from robustspike.results import (
    HEADER_FILE,
    ROWS_FILE,
    Comparison,
    Curve,
    Header,
    Member,
    Network,
    Outcome,
    ResultError,
    Summary,
    Table,
    comparison_table,
    load_outcome,
    outcome_of,
    rate,
    read_rows,
    row_of,
)


def header(n=4, members=("FGSM", "PGD-10", "PGD-10"), **options):
    estimators = ["BPTT", "BPTT", "RGA"]
    fields = {
        "suite": "mine", "norm": "Linf", "eps": 0.1, "survivors_only": True, "seed": 3, "batch_size": 2, "n": n,
        "data": "toy", "data_fingerprint": "d", "model": "net", "weights_fingerprint": "w", "calls": 1,
        "versions": {"torch": "2"},
        "members": tuple(Member(attack=a, estimator=e, settings="…") for a, e in zip(members, estimators, strict=False)),
    }  # fmt: skip
    return Header(**fields | options)


def tried(member, fooled, gradients=10, distance=0.1, zero=0, nan=0, queries=2, restart=0):
    return [member, int(fooled), int(fooled), distance, gradients, queries, zero, nan, restart, 0.5]


# Sample 0: misclassified. 1: broken by FGSM. 2: broken by the last member. 3: stands.
ATTEMPTS = [
    [],
    [tried(0, True, 1)],
    [tried(0, False, 1), tried(1, False, zero=5), tried(2, True, distance=0.07)],
    [tried(0, False, 1, nan=1), tried(1, False, zero=10), tried(2, False)],
]


def rows():
    labels, clean = [0, 0, 1, 1], [1, 0, 1, 1]
    return [row_of(i, labels[i], clean[i], ATTEMPTS[i]) for i in range(4)]


def outcome():
    return outcome_of(header(), [json.loads(row) for row in reversed(rows())])


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Tables of the exact interval: 0 and n of n have the closed forms (α/2)^(1/n); 10 of 100 is in every textbook.
    [(0, 10, 0.0, 1 - 0.025**0.1), (10, 10, 0.025**0.1, 1.0), (10, 100, 0.04900469, 0.17622260), (1, 1, 0.025, 1.0)],
)
def test_the_interval_is_clopper_and_pearsons(successes, n, low, high):
    r = rate(successes, n)
    assert (r.value, r.n) == (successes / n, n)
    assert (r.low, r.high) == (pytest.approx(low, abs=1e-8), pytest.approx(high, abs=1e-8))


def test_the_interval_comes_from_the_beta_distribution():
    r = rate(37, 539)
    assert r.low == pytest.approx(stats.beta.ppf(0.025, 37, 503), rel=1e-9)
    assert r.high == pytest.approx(stats.beta.ppf(0.975, 38, 502), rel=1e-9)
    assert str(r) == "6.9 [4.9, 9.3]"


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 3), (4, 3)])
def test_impossible_counts_are_refused(successes, n):
    with pytest.raises(ValueError, match=f"need 0 ≤ successes ≤ n and n ≥ 1, got {successes} of {n}"):
        rate(successes, n)


def test_figures_of_hand_made_rows():
    o = outcome()
    assert o.samples.tolist() == [0, 1, 2, 3]
    assert o.correct.tolist() == [False, True, True, True]
    assert o.robust.tolist() == [False, False, False, True]
    assert o.tried.sum(0).tolist() == [3, 2, 2]
    assert o.fooled.sum(0).tolist() == [1, 0, 1]
    assert (o.clean_accuracy, o.robust_accuracy) == (0.75, 0.25)
    assert o.first_break().tolist() == [-2, 0, 2, -1]
    assert np.isnan(o.field("distance")[0]).all()


def test_the_summary_of_hand_made_rows():
    s = outcome().summary()
    assert (s.clean.value, s.robust.value, s.clean.n) == (0.75, 0.25, 4)
    fgsm, pgd, rga = s.members
    assert [(m.tried, m.broke, m.gradients) for m in s.members] == [(3, 1, 3), (2, 0, 20), (2, 1, 20)]
    assert [m.standing_after.value for m in s.members] == [0.5, 0.5, 0.25]
    assert fgsm.alone.value == 0.5
    assert pgd.alone is rga.alone is None  # not run on sample 1, which FGSM broke
    assert [m.zero_share for m in s.members] == [0, 0.75, 0]
    assert [m.nan_share for m in s.members] == [pytest.approx(1 / 3), 0, 0]
    assert [m.largest_distance for m in s.members] == [0.1, 0.1, 0.1]
    assert (s.gradients, s.queries, s.seconds) == (43, 14, 3.5)
    assert [m.queries for m in s.members] == [6, 4, 4]


def test_an_attack_is_summed_up_over_its_estimators_only_if_it_faced_every_sample():
    s = outcome().summary()
    assert {name: r.value for name, r in s.by_attack.items()} == {"FGSM": 0.5}
    both = outcome_of(header(), [
        {**json.loads(row), "attempts": json.loads(row)["attempts"][1:]} for row in rows() if '"sample": 1' not in row
    ])  # fmt: skip
    assert both.summary().by_attack["PGD-10"].value == pytest.approx(1 / 3)


def test_a_member_that_never_ran_has_no_distance():
    o = outcome_of(header(n=1), [json.loads(row_of(0, 0, 1, []))])
    assert [m.largest_distance for m in o.summary().members] == [0, 0, 0]
    assert o.robust_accuracy == 0


def test_the_table_has_a_row_for_clean_each_member_and_the_worst_case():
    table = outcome().table()
    assert "under mine, Linf ε = 0.1, n = 4, seed 3" in table.title
    assert [row[0] for row in table.rows] == ["clean", "FGSM", "PGD-10", "PGD-10", "worst case per sample"]
    assert all(len(row) == len(table.columns) for row in table.rows)
    figures = dict(zip(table.columns, table.rows[2], strict=True))
    assert figures["estimator"] == "BPTT"
    assert (figures["tried"], figures["broke"], figures["accuracy"], figures["gradients"]) == ("2", "0", "·", "20")
    assert (figures["max Linf"], figures["zero grad. %"], figures["NaN grad. %"]) == ("0.10000", "75.0", "0.0")
    assert table.rows[0][4] == str(rate(3, 4))
    assert table.rows[-1][4] == str(rate(1, 4))
    assert figures["queries"] == "4"
    assert "upper bound" in table.note
    assert table.note.endswith("Doubts: masking checks not run.")


def test_a_table_as_text_and_as_markdown():
    table = Table("T", ("a", "long"), (("1", "2"), ("333", "4")), "n.")
    assert str(table) == "T\na    long\n---------\n1    2\n333  4\nn."
    assert table.markdown() == "**T**\n\n| a | long |\n| --- | --- |\n| 1 | 2 |\n| 333 | 4 |\n\nn."


# On disk


def write(folder, lines, head=None):
    folder.mkdir(exist_ok=True)
    (folder / HEADER_FILE).write_text((head or header()).model_dump_json())
    (folder / ROWS_FILE).write_text("".join(line + "\n" for line in lines))
    return folder


def test_an_outcome_comes_back_from_its_folder(tmp_path):
    got, expected = load_outcome(write(tmp_path / "e", rows())), outcome()
    assert got.header == expected.header
    np.testing.assert_array_equal(got.attempts, expected.attempts)
    assert got.summary() == expected.summary()
    assert isinstance(got, Outcome)


def test_a_missing_evaluation_is_named(tmp_path):
    with pytest.raises(ResultError, match=r"holds no evaluation: evaluation.json is missing; run `robustspike attack`"):
        load_outcome(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"suite": 3}', header().model_dump_json()[:-1] + ', "x": 1}'])
def test_a_damaged_header_is_named(tmp_path, content):
    (write(tmp_path, rows()) / HEADER_FILE).write_text(content)
    with pytest.raises(ResultError, match=r"evaluation.json is damaged or of another version: "):
        load_outcome(tmp_path)


@pytest.mark.parametrize(("made", "when"), [(1, "an earlier"), (3, "a later")])
def test_an_evaluation_of_another_version_is_refused_in_one_sentence(tmp_path, made, when):
    write(tmp_path, rows(), header(format=made))
    with pytest.raises(ResultError, match=f"was made by {when} version of robustspike; evaluate again, in another"):
        load_outcome(tmp_path)


@pytest.mark.parametrize("keep", [0, 2, 3])
def test_an_unfinished_evaluation_is_refused(tmp_path, keep):
    with pytest.raises(ResultError, match=f"holds {keep} of 4 samples: the evaluation is not finished; resume it"):
        load_outcome(write(tmp_path, rows()[:keep]))


def test_a_last_line_cut_short_does_not_count(tmp_path):
    folder = write(tmp_path, rows())
    text = (folder / ROWS_FILE).read_text()
    for cut in (2, 10, 60):
        (folder / ROWS_FILE).write_text(text[:-cut])
        assert [row["sample"] for row in read_rows(folder)] == [0, 1, 2]
    (folder / ROWS_FILE).unlink()
    assert read_rows(folder) == []


@pytest.mark.parametrize("damage", ["", "{", "garbage"])
def test_a_damaged_line_in_the_middle_is_named(tmp_path, damage):
    lines = rows()
    lines[1] = damage
    with pytest.raises(ResultError, match=r"samples.jsonl, line 2 is damaged; delete the folder and evaluate again"):
        load_outcome(write(tmp_path, lines))


@pytest.mark.parametrize(
    "row", [17, [], {}, {"sample": 1, "label": 0, "clean": 0}, {"sample": 1, "label": 0, "clean": 0, "attempts": [{}]}]
)
def test_a_line_of_another_form_is_named(tmp_path, row):
    lines = rows()
    lines[1] = json.dumps(row)
    with pytest.raises(ResultError, match=r"samples.jsonl"):
        load_outcome(write(tmp_path, lines))


def test_a_sample_that_occurs_twice_is_no_finished_evaluation(tmp_path):
    lines = rows()
    lines[3] = lines[2]
    with pytest.raises(ResultError):
        load_outcome(write(tmp_path, lines))


# Records


def comparison(*outcomes):
    networks = tuple(
        Network(name=f"net {k}", training={"epochs": 3, "weight": 0.3}, summary=o.summary())
        for k, o in enumerate(outcomes)
    )
    return Comparison(title="Digits", networks=networks, notes=("a note",))


def test_records_survive_json():
    summary = outcome().summary()
    assert Summary.model_validate_json(summary.model_dump_json()) == summary
    c = comparison(outcome(), outcome())
    curve = Curve(label="v", under="u", norm="Linf", eps=(0.0, 0.1), robust=(rate(3, 4), rate(1, 4)), seed=0)
    c = c.model_copy(update={"networks": (c.networks[0].model_copy(update={"curve": curve}), c.networks[1])})
    assert Comparison.model_validate_json(c.model_dump_json()) == c


def test_an_evaluation_without_a_ball_survives_json():
    again = Header.model_validate_json(header(eps=math.nan).model_dump_json())
    assert math.isnan(again.eps)


def test_records_are_frozen_and_know_their_fields():
    with pytest.raises(ValueError, match="frozen"):
        outcome().header.seed = 1
    with pytest.raises(ValueError, match="extra"):
        header(colour="red")


def test_a_comparison_has_a_row_for_each_network():
    table = comparison_table(comparison(outcome(), outcome()))
    assert table.columns == ("network", "clean", "FGSM", "worst case")
    assert table.rows[1] == ("net 1", str(rate(3, 4)), str(rate(2, 4)), str(rate(1, 4)))
    assert table.title.startswith("Digits: accuracy in %")


def test_a_comparison_of_networks_that_fell_to_different_attacks_still_prints():
    """PGD met every sample of the first network, but FGSM had already broken one of the second's."""
    untouched = outcome_of(header(), [
        json.loads(row_of(i, 1, 1, [tried(m, False) for m in range(3)])) for i in range(4)
    ])  # fmt: skip
    table = comparison_table(comparison(untouched, outcome()))
    assert table.rows[0][2:] == (str(rate(4, 4)),) * (len(table.columns) - 2)
    assert len(table.rows[1]) == len(table.columns)


@pytest.mark.parametrize("n", [1, 2, 7, 100, 10_000])
def test_intervals_are_scipys(n):
    for successes in {0, 1, n // 3, n - 1, n}:
        interval = stats.binomtest(successes, n).proportion_ci(0.95, method="exact")
        found = rate(successes, n)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-11)
