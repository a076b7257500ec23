"""The page's sections: audits, first breaks, the setting in which networks differ, contents, settings."""

import itertools
import json
import re
import time

import numpy as np
import pytest
from tests.report import audited, made
from tests.report.page_reader import Page, squeezed

from robustspike.report import html_of
from robustspike.report.breaks import MISCLASSIFIED, STANDING, breaks_bars, breaks_table, by_estimator, first_breaks
from robustspike.report.sections import audit_names
from robustspike.report.settings import differing
from robustspike.report.words import contradictions
from robustspike.results import AUDIT_RECORDS, Audited, Rate, rate
from robustspike.results.trends import trend


def with_audits(comparison, *audits, **changes):
    """The comparison whose networks have these audits, one dict for each."""
    networks = [n.model_copy(update={"audits": a, **changes}) for n, a in zip(comparison.networks, audits, strict=True)]
    return comparison.model_copy(update={"networks": tuple(networks)})


def section(page, name):
    """Everything inside the section with this heading."""
    [found] = [e for e in page.all("section") if e.attributes.get("aria-labelledby") == name]
    return found


def texts(page, outer, *tags):
    return [squeezed(e.text) for e in page.within(outer, *tags)]


@pytest.fixture(scope="module")
def two():
    comparison, _ = made.comparison(2)
    names = [network.name for network in comparison.networks]
    every = [
        {"everything": audited.everything(n, figure=10.0 + k), "gradients": audited.gradients(k)}
        for k, n in enumerate(names)
    ]
    return Page(html_of(with_audits(comparison, *every)))


def test_audits_come_in_their_order_after_the_accuracies(two):
    ids = [e.attributes["id"] for e in two.all("h2")]
    known = [f"audit-{name}" for name in AUDIT_RECORDS if f"audit-{name}" in ids]
    audits = [name for name in ids if name.startswith("audit-")]
    assert audits == [*known, "audit-2"]
    assert ids.index("costs") < ids.index(audits[0])
    assert ids.index(audits[-1]) < ids.index("networks")


def test_known_audits_come_first_and_in_their_own_order():
    comparison, _ = made.comparison(2)
    one = audited.everything()
    known = list(AUDIT_RECORDS)
    found = with_audits(comparison, {"mine": one, known[2]: one}, {known[1]: one, "yours": one, known[0]: one})
    assert audit_names(found.networks) == [*known[:3], "mine", "yours"]


def test_an_audit_says_what_it_asks_how_under_what_and_what_came_out(two):
    found = section(two, "audit-2")
    assert texts(two, found, "h2") == ["Does everything get drawn?"]
    paragraphs = texts(two, found, "p")
    assert paragraphs[0] == "One view of every kind, from numbers made by hand. Explained in docs/audits/everything.md."
    assert paragraphs[1] == "Measured under PGD-10, L∞ ε = 8/255, n = 20, seed 7."
    summaries = texts(two, found, "summary")
    assert summaries == [
        "vanilla For vanilla the figure is 10.0 % on 20 samples, an upper bound.",
        "AT For AT the figure is 11.0 % on 20 samples, an upper bound.",
    ]
    assert "This took 400 gradient evaluations, 1.5 s." in paragraphs
    assert not [e for e in two.within(found, "details") if "open" in e.attributes]


def test_several_networks_are_compared_first(two):
    found = section(two, "audit-2")
    inside = [e for e in found.inside if e.tag in ("table", "svg", "details")]
    assert [e.tag for e in inside[:4]] == ["table", "svg", "svg", "details"]
    assert texts(two, found, "caption")[0] == "The networks side by side"
    first = inside[0]
    assert [squeezed(c.text) for c in two.within(first, "th", "td")] == [
        "network", "figure in %", "vanilla", "10.0", "AT", "11.0",
    ]  # fmt: skip


def test_a_single_network_is_not_compared_and_lies_open():
    comparison, _ = made.comparison(1)
    page = Page(html_of(with_audits(comparison, {"gradients": audited.gradients()})))
    found = section(page, "audit-gradients")
    assert not page.within(found, "details")
    assert "side by side" not in found.text
    assert [p for p in texts(page, found, "p") if p.startswith(tuple("0123456789"))]


def test_other_conditions_are_said_of_each_network():
    comparison, _ = made.comparison(2)
    audits = [{"everything": audited.everything("vanilla")}, {"everything": audited.everything("AT", n=9, seed=3)}]
    found = section(page := Page(html_of(with_audits(comparison, *audits))), "audit-1")
    summaries = texts(page, found, "summary")
    assert summaries[0].endswith("Measured under PGD-10, L∞ ε = 8/255, n = 20, seed 7.")
    assert summaries[1].endswith("Measured under PGD-10, L∞ ε = 8/255, n = 9, seed 3.")
    notes = [squeezed(e.text) for e in page.within(found, "p") if e.attributes.get("class") == "note"]
    assert "PGD-10, L∞ ε = 8/255, n = 20, seed 7; PGD-10, L∞ ε = 8/255, n = 9, seed 3." in notes


def test_titles_do_not_repeat_the_conditions():
    comparison, _ = made.comparison(1)
    record = audited.gradients()
    found = section(page := Page(html_of(with_audits(comparison, {"gradients": record}))), "audit-gradients")
    assert record.views()[0].title == f"Input gradients, means over the samples: {record.conditions()}"
    assert texts(page, found, "caption") == ["Input gradients, means over the samples"]
    assert squeezed(found.text).count(record.conditions()) == 1


def test_an_audit_of_one_network_among_several_names_it():
    comparison, _ = made.comparison(3)
    found = section(
        page := Page(html_of(with_audits(comparison, {}, {"gradients": audited.gradients()}, {}))), "audit-gradients"
    )
    assert texts(page, found, "h3") == ["AT"]
    assert not page.within(found, "details")


def test_without_audits_there_is_no_such_section():
    comparison, _ = made.comparison(2)
    text = html_of(comparison)
    assert "audit" not in "".join(e.attributes.get("id", "") for e in Page(text).elements)
    assert "Audits" not in text


def test_hostile_words_of_an_audit_stay_words():
    comparison, _ = made.comparison(2)
    nasty = "<script>x</script>&<b>"
    audits = [{nasty: audited.everything(nasty, under=nasty)}, {nasty: audited.everything("AT")}]
    page = Page(html_of(with_audits(comparison, *audits)))
    assert len(page.all("script")) == 1
    assert not page.all("b")
    assert all(re.fullmatch(r"[\w-]+", e.attributes["id"]) for e in page.elements if "id" in e.attributes)


def test_pictures_have_their_words_and_sizes(two):
    images = two.all("img")
    assert len(images) == 2 * 8
    assert {"sample 0, a 7", "gradient of sample 1"} <= {e.attributes["alt"] for e in images}
    assert all(e.attributes["src"].startswith("data:image/png;base64,") for e in images)
    assert all(int(e.attributes["width"]) == int(e.attributes["height"]) == 88 for e in images)
    tables = [e for e in two.all("table") if e.attributes.get("class") == "pictures"]
    assert [squeezed(c.text) for c in two.within(tables[0], "th")] == [
        "image", "gradient", "its size", "sample 0", "sample 1", "sample 2",
    ]  # fmt: skip


def test_a_long_table_is_folded_up_and_says_how_long_it_is():
    class Long(audited.Everything):
        def views(self):
            return (audited.table(tuple((f"row {k}", str(k), "x") for k in range(16))), audited.table())

    comparison, _ = made.comparison(1)
    record = Long(n=20, seed=7, under="u")
    found = section(page := Page(html_of(with_audits(comparison, {"long": record}))), "audit-1")
    assert texts(page, found, "summary") == ["Figures by kind (16 rows)"]
    folded, plain = page.within(found, "table")
    assert "details" in [e.tag for e in folded.parents]
    assert "details" not in [e.tag for e in plain.parents]


def test_every_drawing_and_table_of_the_page_is_named_once(two):
    ids = [e.attributes["id"] for e in two.elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    wanted = [e.attributes[name] for e in two.elements for name in ("aria-labelledby",) if name in e.attributes]
    wanted += [e.attributes["href"][1:] for e in two.elements if e.attributes.get("href", "").startswith("#")]
    assert set(wanted) <= set(ids)
    levels = [int(h.tag[1]) for h in two.all("h1", "h2", "h3", "h4")]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_the_contents_name_every_section(two):
    [nav] = two.all("nav")
    listed = [(e.attributes["href"][1:], squeezed(e.text)) for e in two.within(nav, "a")]
    there = [
        (e.attributes["id"], squeezed(e.text)) for e in two.all("h2")
        if e.parents[-1].tag == "section" and e.attributes["id"] != "contents"
    ]  # fmt: skip
    assert listed == there


@pytest.mark.parametrize("survivors_only", [False, True])
@pytest.mark.parametrize("members", [made.MEMBERS, made.several_steps()])
def test_first_breaks_are_those_of_the_samples(survivors_only, members):
    comparison, outcomes = made.comparison(3, survivors_only=survivors_only, members=members)
    bars, table = breaks_bars(comparison.networks), breaks_table(comparison.networks)
    for k, (network, outcome) in enumerate(zip(comparison.networks, outcomes, strict=True)):
        first = outcome.first_break()
        found = first_breaks(network.summary)
        assert found == [int((first == m).sum()) for m in range(len(members))]
        breaks = outcome.breaks()
        column = {name: values[k] for name, values in bars.series.items()}
        assert column[STANDING] == pytest.approx(100 * breaks.standing / breaks.n)
        assert column[MISCLASSIFIED] == pytest.approx(100 * breaks.misclassified / breaks.n)
        assert sum(column.values()) == pytest.approx(100)
        for attack in {one.attack for one in breaks.members}:
            broken = sum(one.first for one in breaks.members if one.attack == attack)
            assert column[attack] == pytest.approx(100 * broken / breaks.n)
            assert table.rows[k][table.columns.index(attack)] == str(broken)
        assert sum(map(int, table.rows[k][2:])) == int(table.rows[k][1]) == breaks.n
    assert next(iter(bars.series)) == STANDING
    assert list(bars.series)[-1] == MISCLASSIFIED
    assert "encoded PGD-7" not in bars.series


def test_the_bars_of_the_page_say_how_many_each_attack_broke():
    comparison, outcomes = made.comparison(2)
    page = Page(html_of(comparison))
    found = section(page, "breaks")
    [alt] = [e.attributes["aria-label"] for e in page.within(found, "svg")]
    n = len(outcomes[0].samples)
    for attack in ("FGSM", "R-FGSM", "PGD-10"):
        broken = [sum(b.first for b in outcome.breaks().members if b.attack == attack) for outcome in outcomes]
        assert f"{attack}: vanilla {100 * broken[0] / n:g}, AT {100 * broken[1] / n:g}." in alt
    assert "suite liu2024 (12 attacks), L∞ ε = 0.1, n = 40, seed 7" in found.text
    assert "upper bound" in found.text


def test_without_a_worst_case_there_are_no_breaks():
    comparison, _ = made.comparison(2, members=made.several_steps()[-1:], with_curve=False)
    assert breaks_bars(comparison.networks) is None
    assert "breaks" not in [e.attributes.get("id") for e in Page(html_of(comparison)).elements]


@pytest.mark.parametrize("survivors_only", [False, True])
def test_accuracy_by_estimator_is_that_of_the_samples(survivors_only):
    comparison, [outcome] = made.comparison(1, survivors_only=survivors_only)
    found, wanted = by_estimator(comparison.networks[0]), outcome.by_estimator()
    assert found.columns == ("attack", *wanted.columns[1:-1], "all of them")
    assert [row[:-1] for row in found.rows] == [row[:-1] for row in wanted.rows[:-1]]
    assert [row[-1] for row in found.rows] == [row[-1] for row in wanted.rows[:-1]]
    assert found.title in [caption for caption, _ in Page(html_of(comparison)).tables()]


def test_one_estimator_needs_no_table_of_estimators():
    comparison, _ = made.comparison(1, members=made.MEMBERS[:1])
    assert by_estimator(comparison.networks[0]) is None


def weighted(*weights):
    """Networks that differ in one setting."""
    comparison, _ = made.comparison(len(weights))
    networks = [
        network.model_copy(update={"training": {**made.TRAINING, "weight": weight}})
        for network, weight in zip(comparison.networks, weights, strict=True)
    ]
    return comparison.model_copy(update={"networks": tuple(networks)})


def test_a_setting_in_which_networks_differ_has_a_section():
    comparison = weighted(0.0, 0.001, 0.01, 0.1)
    page = Page(html_of(comparison))
    found = section(page, "trend")
    assert texts(page, found, "h2") == ["Against weight"]
    across = trend(comparison.networks)
    assert squeezed(across.answer()) in texts(page, found, "p")
    alts = [e.attributes["aria-label"] for e in page.within(found, "svg")]
    assert alts[0].startswith("Line chart: Accuracy against weight. accuracy in % against weight, x logarithmic.")
    robust = [100 * n.summary.robust.value for n in comparison.networks]
    assert f"worst case: {robust[1]:.4g} at 0.001 to {robust[3]:.4g} at 0.1" in alts[0]
    assert "trend" not in [e.attributes.get("id") for e in Page(html_of(made.comparison(2)[0])).elements]


def test_settings_that_differ_are_listed_and_no_others():
    comparison = weighted(0.0, 0.001)
    assert differing(comparison.networks).rows == (("training: weight", "0.0", "0.001"),)
    other = comparison.networks[1].summary.header.model_copy(update={"seed": 9})
    summary = comparison.networks[1].summary.model_copy(update={"header": other})
    training = {k: v for k, v in made.TRAINING.items() if k != "epochs"}
    changed = comparison.networks[1].model_copy(update={"summary": summary, "training": training})
    rows = differing((comparison.networks[0], changed)).rows
    assert rows == (
        ("training: epochs", "30", "·"),
        ("training: weight", "0.0", "0.002"),
        ("evaluation: seed", "7", "9"),
    )
    assert differing(made.comparison(3)[0].networks) is None


def test_equal_records_give_an_equal_page():
    def text():
        comparison, _ = made.comparison(2)
        return html_of(
            with_audits(comparison, *({"everything": audited.everything(n.name)} for n in comparison.networks))
        )

    assert text() == text()


def test_a_record_that_came_back_from_json_is_shown_alike():
    comparison, _ = made.comparison(2)
    found = with_audits(comparison, {"gradients": audited.gradients(0)}, {"gradients": audited.gradients(1)})
    again = type(found).model_validate(json.loads(found.model_dump_json()))
    assert html_of(again) == html_of(found)


@pytest.mark.slow
def test_ten_networks_with_ten_audits_stay_affordable():
    comparison, _ = made.comparison(10)
    draw = np.random.default_rng(0).random(100)

    class Three(audited.Everything):
        def views(self):
            return (audited.table(), audited.chart(names=(self.name,)), audited.bars(), audited.matrix(5, 5))

    audits = [
        {f"a{k}": Three(n=20, seed=7, under="u", name=network.name, figure=float(draw[k])) for k in range(10)}
        for network in comparison.networks
    ]
    start = time.process_time()
    text = html_of(with_audits(comparison, *audits))
    assert time.process_time() - start < 20  # seconds; 5 where nothing else runs
    assert text.count("<svg") > 320
    assert len(text.encode()) < 3_000_000


def test_an_audit_whose_attack_leaves_less_than_the_suite_is_said_in_the_verdict():
    network = made.comparison(1)[0].networks[0]
    s = network.summary

    class Weaker(Audited):
        title, about, page = "Weaker?", "About.", "docs/audits/weaker.md"
        left: Rate

        def left_standing(self):
            return self.left

    def said(successes, n=s.robust.n, eps=s.header.eps):
        one = Weaker(n=n, seed=0, under=f"PGD-10, L∞ ε = {eps:.4g}", left=rate(successes, n))
        return contradictions(network.model_copy(update={"audits": {"weaker": one}}))

    robust = round(s.robust.value * s.robust.n)
    assert said(robust - 1)[0].startswith("The attack of the audit weaker leaves only ")
    assert not said(robust)
    assert not said(0, n=s.robust.n + 1)
    assert not said(0, eps=2 * s.header.eps)
