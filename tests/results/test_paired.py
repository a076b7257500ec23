"""McNemar's test against values by hand, and what cannot be compared."""

import json

import pytest
from tests.test_results import header, tried

from robustspike.results import ResultError, mcnemar, outcome_of, row_of


def standing(text, label=1, **options):
    """An outcome whose sample i stands where text[i] is "+"."""
    rows = [json.loads(row_of(i, label, label, [tried(0, mark == "-")])) for i, mark in enumerate(text)]
    return outcome_of(header(n=len(text), members=("FGSM",), **options), rows)


@pytest.mark.parametrize(
    ("a", "b", "only_a", "only_b", "p"),
    [
        ("+++++++--", "+-----+-+", 5, 1, 2 * (1 + 6) / 2**6),
        ("++++++--", "------++", 6, 2, 2 * (1 + 8 + 28) / 2**8),
        ("++--", "+-+-", 1, 1, 1.0),
        ("++--", "++--", 0, 0, 1.0),
        ("+" * 10, "-" * 10, 10, 0, 2 / 2**10),
    ],
)
def test_the_exact_test(a, b, only_a, only_b, p):
    found = mcnemar(standing(a), standing(b))
    assert (found.n, found.only_a, found.only_b) == (len(a), only_a, only_b)
    assert found.p == pytest.approx(p, rel=1e-12)
    assert found.both == sum(x == y == "+" for x, y in zip(a.ljust(len(b), "?"), b, strict=True))
    back = mcnemar(standing(b), standing(a))
    assert (back.only_a, back.only_b, back.p) == (only_b, only_a, pytest.approx(p))


def test_it_is_said_in_one_sentence():
    found = mcnemar(standing("++++++--", model="AT"), standing("------++", model="SR"))
    assert str(found) == (
        "Of 8 samples, 6 are robust only in AT under mine and 2 only in SR under mine: p = 0.29 "
        "(McNemar's exact test, two-sided)."
    )
    assert "only in the first and" in str(mcnemar(standing("+-"), standing("-+")))


def test_the_four_counts():
    table = mcnemar(standing("+++++--", model="AT"), standing("++-----", model="SR")).table()
    assert table.columns == ("", "robust in SR under mine", "broken in SR under mine")
    assert table.rows == (("robust in AT under mine", "2", "3"), ("broken in AT under mine", "0", "2"))


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (standing("+-+"), "samples, labels"),
        (standing("+-", label=2), "labels"),
        (standing("+-", data_fingerprint="e"), "data_fingerprint"),
    ],
)
def test_other_samples_are_refused_naming_what_differs(other, what):
    with pytest.raises(ResultError, match=f"of the same samples, but {what} differ; evaluate both on the same data"):
        mcnemar(standing("+-"), other)
