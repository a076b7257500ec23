"""What the page says of masking checks, caveats, budgets, costs, steps and tests."""

import json

import pytest
from tests.report import made
from tests.report.page_reader import Page, squeezed

from robustspike.report import html_of
from robustspike.results import Header

FAILED = made.doubts(True, False, None, False)


def page_of(comparison, **changes):
    """The page after fields of the summaries were replaced, field by field with one value per network."""
    networks = [
        network.model_copy(update={"summary": network.summary.model_copy(update={k: v[i] for k, v in changes.items()})})
        for i, network in enumerate(comparison.networks)
    ]
    return Page(html_of(comparison.model_copy(update={"networks": tuple(networks)})))


def cards(page):
    return [
        squeezed(li.text)
        for li in page.all("li")
        if any("verdicts" in p.attributes.get("class", "") for p in li.parents)
    ]


def in_red(page):
    return [squeezed(e.text) for e in page.elements if "failed" in e.attributes.get("class", "").split()]


def table(page, start):
    [rows] = [rows for caption, rows in page.tables() if caption.startswith(start)]
    return rows


@pytest.fixture(scope="module")
def shown():
    comparison, _ = made.comparison(3)
    return page_of(comparison, doubts=[FAILED, None, made.doubts(True, None)], cut=[0, 5, 0])


def test_the_verdict_names_failed_checks_in_red(shown):
    failed, unchecked, fine = cards(shown)
    assert "✗ 2 of 3 masking checks failed: check 1, check 3." in failed
    assert "✗ 2 of 3 masking checks failed: check 1, check 3." in in_red(shown)
    assert "Masking checks not run." in unchecked
    assert "✓ No masking check failed (1 of 2 were applicable, 32 samples probed)." in fine
    assert "Read the warning below first." in squeezed(shown.with_id("verdict").parents[-1].text)


def test_the_warning_says_what_failed_and_what_to_do(shown):
    box = squeezed(shown.with_id("doubts").text)
    for k in (1, 3):
        assert f"vanilla: check {k}: evidence {k} < 0.5. remedy {k}. See docs/doubts/p.md#{k}." in box
    assert "check 0" not in box
    assert "SR" not in box


def test_every_finding_has_a_line_failed_ones_first(shown):
    head, *rows = table(shown, "What small attacks on 32 samples of vanilla")
    assert head == ["Check", "Result", "Evidence", "What to do", "Explained in"]
    assert rows[0] == ["check 1", "✗ failed", "evidence 1 < 0.5", "remedy 1.", "docs/doubts/p.md#1"]
    assert [row[:2] for row in rows[1:]] == [
        ["check 3", "✗ failed"], ["check 0", "✓ passed"], ["check 2", "– not applicable"],
    ]  # fmt: skip
    assert rows[2][3] == ""
    notes = [squeezed(p.text) for p in shown.all("p")]
    assert "2 of 3 checks failed, 1 not applicable." in notes
    assert len([note for note in notes if note.startswith("Masking checks not run: nothing here speaks")]) == 1


def test_the_checklist_has_a_line_per_estimator(shown):
    rows = table(shown, "Checklist of gradient obfuscation (Ding 2022) for vanilla")
    assert rows == [
        ["Estimator", "one-step ≤ iterative", "more ε"],
        ["RGA", "✓ FGSM 3, PGD-10 9 of 32", "✗ noise 7 & 2"],
    ]
    assert "✗ noise 7 & 2" in in_red(shown)


def test_a_budget_that_was_hit_is_said():
    comparison, _ = made.comparison(2, budget=300)
    page = page_of(comparison, cut=[0, 5])
    first, second = cards(page)
    sentence = "Cut short: 5 of 40 samples still stood without having met every attack, after 300 evaluations."
    assert sentence not in first
    assert sentence in second
    assert "seed 7, at most 300 evaluations per sample" in first
    assert [squeezed(p.text) for p in page.all("p")].count(sentence) == 2


def test_a_caveat_is_marked_and_said():
    comparison, outcomes = made.comparison(2, members=made.several_steps())
    page = page_of(comparison)
    head, *rows = page.tables()[0][1]
    assert head == ["Network", "n", "Clean", "PGD-10", "PGD-20", "PGD-50", "encoded PGD-7 †", "Worst case"]
    assert rows[0][-2] == str(outcomes[0].summary().by_attack["encoded PGD-7 †"])
    assert "† Not in the worst case: encoded PGD-7: it moves the code." in [squeezed(p.text) for p in page.all("p")]
    member, total = table(page, "vanilla (digits_cnn)")[-2:]
    assert (member[0], member[4], member[6]) == ("encoded PGD-7 †", "", "")
    assert total[1] == "all without †"


def test_where_all_have_a_caveat_there_is_no_worst_case():
    comparison, _ = made.comparison(2, members=made.several_steps()[-1:], with_curve=False)
    page = page_of(comparison)
    assert all("– no worst case: every attack has a caveat (†)." in card for card in cards(page))
    assert [row[-1] for row in page.tables()[0][1][1:]] == ["–", "–"]
    assert "withstands most" not in page.elements[0].text
    assert len(page.all("svg")) == 2  # the bars: clean accuracy alone
    assert "vanilla: no worst case, clean" in page.all("svg")[0].attributes["aria-label"]


def test_the_costs_are_drawn_and_tabulated():
    comparison, outcomes = made.comparison(2)
    page = page_of(comparison)
    rows = table(page, "Robust accuracy in % with its 95 % interval after so many evaluations per sample")
    for outcome, row in zip(outcomes, rows[1:], strict=True):
        cost = outcome.summary().cost
        assert row[1:3] == ["40", "7"]
        assert row[3 : 3 + len(cost.robust)] == list(map(str, cost.robust))
        assert cost.robust[-1].value == outcome.robust_accuracy
    [alt, _] = [a for e in page.all("svg") if "forward passes" in (a := e.attributes["aria-label"])]
    assert "against gradient evaluations and forward passes per sample" in alt
    assert f"falling to {100 * outcomes[0].robust_accuracy:.1f} % at" in alt


def test_the_steps_are_drawn_and_tabulated():
    comparison, outcomes = made.comparison(2, members=made.several_steps())
    page = page_of(comparison)
    rows = table(page, "AT: accuracy in % with its 95 % interval against steps, under liu2024, Linf ε = 0.1, n = 40")
    found = outcomes[1].against_steps()
    assert rows[0] == ["Attack", "Estimator", "10 steps", "20 steps", "50 steps"]
    for row, wanted in zip(rows[1:3], found.rows, strict=True):
        assert row == ["PGD", wanted.estimator, *map(str, wanted.accuracy)]
    assert rows[3][2:] == list(map(str, found.worst))
    assert [a for e in page.all("svg") if "against the attack's steps" in (a := e.attributes["aria-label"])]


def test_the_first_network_is_tested_against_each_other():
    comparison, _ = made.comparison(3)
    page = page_of(comparison.model_copy(update={"tests": made.paired(["vanilla", "AT", "SR"])}))
    assert table(page, "The worst case of vanilla against that of each other network, sample by sample.") == [
        ["Network", "n", "Robust only in vanilla", "Robust only in this one", "p"],
        ["AT", "40", "1", "7", "0.25"],
        ["SR", "40", "2", "7", "0.25"],
    ]


def test_another_budget_is_not_like_for_like():
    comparison, outcomes = made.comparison(2)
    other = outcomes[1].header.model_dump() | {"budget": 9}
    summary = comparison.networks[1].summary.model_copy(update={"header": Header.model_validate(other)})
    page = page_of(comparison, header=[comparison.networks[0].summary.header, summary.header])
    assert "different conditions (budget)" in squeezed(page.with_id("differences").text)


def test_what_findings_say_stays_text():
    comparison, _ = made.comparison(1)
    nasty = FAILED.findings[1].model_copy(update={"evidence": "<script>x</script>", "page": "https://e.x/<b>"})
    found = FAILED.model_copy(update={"findings": (nasty,)})
    page = page_of(comparison, doubts=[found])
    assert len(page.all("script")) == 1
    assert not page.all("b")
    assert not [e for e in page.elements if e.attributes.get("href", "#")[0] != "#"]
    assert json.loads(found.model_dump_json())["findings"][0]["evidence"] in page.with_id("doubts").text
