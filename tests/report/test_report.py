"""The page says what the arrays say, is whole in itself, and reads well without eyes, colours or a wide screen."""

import doctest
import json
import re
import subprocess
import sys
from itertools import pairwise
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from scipy import stats
from tests.report import made
from tests.report.page_reader import Page, squeezed

from robustspike.report import figures, html_of, lines, svg, words, write_curves, write_html
from robustspike.results import ATTEMPT_FIELDS, Comparison, Curve, rate

HOSTILE = """<script>alert(1)</script>"'&<b> $\\frac{1}$ 网络 _x\x01\n{{ 7 * 7 }} </style>"""


def text_of_rate(mask):
    """The share of True with its Clopper-Pearson interval from the beta distribution, as the page prints it."""
    k, n = int(mask.sum()), len(mask)
    low = stats.beta.ppf(0.025, k, n - k + 1) if k else 0.0
    high = stats.beta.ppf(0.975, k + 1, n - k) if k < n else 1.0
    return f"{100 * k / n:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def style_of(element):
    """An element's own style and those of the groups that it is in."""
    return ";".join(e.attributes.get("style", "") for e in (element, *element.parents))


def replaced(comparison, index, **changes):
    """The comparison with one network changed."""
    networks = list(comparison.networks)
    networks[index] = networks[index].model_copy(update=changes)
    return comparison.model_copy(update={"networks": tuple(networks)})


@pytest.fixture(scope="module")
def four():
    comparison, outcomes = made.comparison(4)
    text = html_of(comparison)
    return comparison, outcomes, text, Page(text)


@pytest.fixture(scope="module")
def hostile():
    comparison, _ = made.comparison(2, title=HOSTILE, suite=HOSTILE, model=HOSTILE, data=HOSTILE)
    nasty = made.MEMBERS[0].model_copy(update={"attack": HOSTILE, "estimator": HOSTILE, "settings": HOSTILE})
    summary = made.outcome(members=(nasty,), suite=HOSTILE).summary()
    curve = comparison.networks[0].curve.model_copy(update={"under": HOSTILE, "label": HOSTILE})
    training = {HOSTILE: HOSTILE, "nested": {HOSTILE: [HOSTILE]}}
    comparison = replaced(comparison, 0, name=HOSTILE, training=training, summary=summary, curve=curve)
    return html_of(comparison.model_copy(update={"notes": (HOSTILE,)}))


def test_the_main_table_equals_the_arrays(four):
    comparison, outcomes, _, page = four
    _, (head, *rows) = page.tables()[0]
    assert head == ["Network", "n", "Clean", "FGSM", "R-FGSM", "PGD-10", "Worst case"]
    assert len(rows) == 4
    for network, outcome, row in zip(comparison.networks, outcomes, rows, strict=True):
        correct, broke = outcome.clean == outcome.labels, outcome.attempts[:, :, 1] == 1
        by_attack = [text_of_rate(correct & ~broke[:, k : k + 4].any(1)) for k in (0, 4, 8)]
        expected = [network.name, "40", text_of_rate(correct), *by_attack, text_of_rate(correct & ~broke.any(1))]
        assert row == expected


@pytest.mark.parametrize("survivors_only", [False, True])
def test_each_members_row_equals_the_arrays(survivors_only):
    comparison, outcomes = made.comparison(2, survivors_only=survivors_only)
    page = Page(html_of(comparison))
    for i, outcome in enumerate(outcomes, 1):
        rows = [r for caption, r in page.tables() if caption.startswith(f"{comparison.networks[i - 1].name} (digits")]
        [(_, *rows, total)] = rows
        correct, a = outcome.clean == outcome.labels, outcome.attempts
        broke, tried = a[:, :, 1] == 1, ~np.isnan(a[:, :, 0])
        gradients, queries, seconds = map(ATTEMPT_FIELDS.index, ("gradients", "queries", "seconds"))
        first = outcome.first_break()
        for m, row in enumerate(rows):
            at = a[tried[:, m], m]
            alone = text_of_rate(correct & ~broke[:, m]) if (tried[:, m] | ~correct).all() else "·"
            assert row == [
                made.MEMBERS[m].attack, made.MEMBERS[m].estimator, str(tried[:, m].sum()), str(broke[:, m].sum()),
                str((first == m).sum()), alone,
                text_of_rate(correct & ~broke[:, : m + 1].any(1)), str(int(at[:, gradients].sum())),
                str(m * len(at)), f"{at[:, seconds].sum():.2f}", f"{at[:, 3].max():.5f}", "0.0", "0.0",
            ]  # fmt: skip
        assert len(rows) == 12
        worst = text_of_rate(correct & ~broke.any(1))
        spent = [str(int(np.nansum(a[:, :, field]))) for field in (gradients, queries)]
        spent.append(f"{np.nansum(a[:, :, seconds]):.2f}")
        assert total == [
            "Worst case",
            "all of the above",
            "40",
            "",
            str((first >= 0).sum()),
            worst,
            "",
            *spent,
            "",
            "",
            "",
        ]


def test_the_verdict_says_under_what(four):
    comparison, outcomes, _, page = four
    verdicts = [li for li in page.all("li") if any("verdicts" in p.attributes.get("class", "") for p in li.parents)]
    assert len(verdicts) == 4
    for network, outcome, item in zip(comparison.networks, outcomes, verdicts, strict=True):
        text = squeezed(item.text)
        worst, interval = text_of_rate(outcome.robust).split(" ", 1)
        clean, clean_interval = text_of_rate(outcome.correct).split(" ", 1)
        assert text.startswith(f"{network.name} at most {worst} % right in the worst case, 95 % interval {interval}:")
        assert f"Clean accuracy: {clean} % {clean_interval}." in text
        assert "an upper bound under these attacks" in text
        assert text.endswith("suite liu2024 (12 attacks), L∞ ε = 0.1, n = 40, seed 7")


def test_the_curve_table_and_the_alt_texts_equal_the_records(four):
    comparison, _, _, page = four
    [rows] = [rows for caption, rows in page.tables() if "at each ε" in caption]
    assert rows[0] == ["Network", "n", "Seed", "0", "0.05", "0.1", "0.15", "0.2"]
    alts = [e.attributes["aria-label"] for e in page.all("svg")]
    assert len(alts) == 7
    curve = next(k for k, alt in enumerate(alts) if "against ε" in alt)
    for network, row in zip(comparison.networks, rows[1:], strict=True):
        assert row == [network.name, "40", "7", *map(str, network.curve.robust)]
        first, last = (f"{100 * network.curve.robust[k].value:.1f} % at ε = " for k in (0, -1))
        assert alts[curve] == alts[curve + 1]
        assert f"{network.name}: {first}0, falling to {last}0.2" in alts[curve]
        assert alts[0] == alts[1]
        assert f"{network.name}: {100 * network.summary.robust.value:.1f} % (95 % interval" in alts[0]


def test_everything_needed_to_repeat_it_is_there(four):
    comparison, _, _, page = four
    settings = [rows for caption, rows in page.tables() if caption.startswith("Settings of the evaluation")]
    training = [rows for caption, rows in page.tables() if caption.startswith("Settings of the training")]
    for network, evaluated, trained in zip(comparison.networks, settings, training, strict=True):
        header = json.loads(network.summary.header.model_dump_json(exclude={"members", "versions"}))
        expected = {k: v if isinstance(v, str) else json.dumps(v) for k, v in header.items()}
        assert dict(evaluated[1:]) == expected | {f"versions.{k}": v for k, v in made.VERSIONS.items()}
        assert dict(trained[1:])["optimizer.lr"] == "0.001"
        assert dict(trained[1:])["milestones"] == "[10, 20]"
    codes = [code.text for code in page.all("code")]
    assert codes == 4 * [member.settings for member in made.MEMBERS]


@pytest.mark.parametrize("which", ["four", "hostile"])
def test_nothing_is_loaded_from_elsewhere(which, request):
    text = request.getfixturevalue(which)
    text = text if isinstance(text, str) else text[2]
    page = Page(text)
    assert "http" not in text.lower()
    assert "@import" not in text
    assert "//" not in re.sub(r"<code>.*?</code>", "", text)
    assert not page.all("link", "img", "iframe", "object", "base", "embed")
    assert not [e for e in page.elements if {"src", "srcset", "xlink:href"} & set(e.attributes)]
    assert all(e.attributes["href"].startswith("#") for e in page.elements if "href" in e.attributes)
    assert set(re.findall(r"url\((.)", text)) <= {"#"}


def test_ids_are_unique_and_every_reference_resolves(four):
    _, _, text, page = four
    ids = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    wanted = re.findall(r"url\(#([^)]+)\)", text)
    wanted += [e.attributes["href"][1:] for e in page.elements if "href" in e.attributes]
    wanted += [e.attributes["aria-labelledby"] for e in page.elements if "aria-labelledby" in e.attributes]
    assert set(wanted) <= set(ids)


def test_hostile_names_stay_text(hostile):
    page = Page(hostile)
    assert len(page.all("script")) == 1
    assert len(page.all("style")) == 1
    assert not page.all("b")
    assert "49" not in [e.text for e in page.all("h3", "li")]
    [title] = page.all("h1")
    assert title.text == HOSTILE
    shown = squeezed(HOSTILE)
    assert shown in [squeezed(h.text) for h in page.all("h3")]
    assert page.all("li")[-1].text == HOSTILE
    assert [name for name in page.all("text") if "script" in name.text]


def test_the_page_can_be_read_without_eyes_or_mouse(four):
    _, _, _, page = four
    [root] = page.all("html")
    assert root.attributes["lang"] == "en"
    levels = [int(h.tag[1]) for h in page.all("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(th.attributes.get("scope") in ("col", "row") for th in page.all("th"))
    assert all(len(page.within(table, "caption")) == 1 for table in page.all("table"))
    for table in page.all("table"):
        box = table.parents[-1].attributes
        assert (box["class"], box["tabindex"], box["role"]) == ("scroll", "0", "region")
    assert all(e.attributes["role"] == "img" and len(e.attributes["aria-label"]) > 60 for e in page.all("svg"))


def test_figures_follow_light_and_dark(four):
    _, _, text, page = four
    inside = "".join(re.findall(r"<svg.*?</svg>", text, re.S))
    assert not re.findall(r"#[0-9a-f]{6}", inside)
    fills = {fill for e in page.all("text") for fill in re.findall("fill:([^;]+)", style_of(e))}
    assert fills == {"currentColor", "var(--muted)"}
    assert "prefers-color-scheme: dark" in text


def test_equal_records_give_an_equal_page_whatever_the_readers_settings(four):
    comparison, _, text, _ = four
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.hashsalt": "other", "axes.grid": True}):
        assert html_of(comparison) == text
        assert mpl.rcParams["font.size"] == 30


@pytest.mark.slow
def test_equal_records_give_an_equal_page_in_another_process(four, tmp_path):
    comparison, _, text, _ = four
    (tmp_path / "c.json").write_text(comparison.model_dump_json())
    code = "import sys; from pathlib import Path; from robustspike.report import write_html\n"
    code += "from robustspike.results import Comparison\n"
    code += "write_html(Comparison.model_validate_json(Path(sys.argv[1]).read_text()), sys.argv[2])"
    subprocess.run([sys.executable, "-c", code, tmp_path / "c.json", tmp_path / "p.html"], check=True, timeout=60)
    assert (tmp_path / "p.html").read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("name", "value", "words_of_it"),
    [
        ("zero", 3.0, "gradients were zero in FGSM under BPTT, Triangle(width=1.0) (30.0 %)"),
        ("nan", 1.0, "gradients were NaN in FGSM under BPTT, Triangle(width=1.0) (10.0 %)"),
        ("distance", 0.12, "samples moved further than ε = 0.10000 in FGSM under BPTT, Triangle(width=1.0) (0.12000)"),
    ],
)
def test_a_member_that_did_not_work_is_called_out(four, name, value, words_of_it):
    comparison, outcomes, text, _ = four
    assert "First suspect the attack" not in text
    broken = replaced(comparison, 1, summary=made.with_field(outcomes[1], name, value).summary())
    page = Page(html_of(broken))
    box = squeezed(page.with_id("doubts").text)
    assert f"AT: {words_of_it}." in box
    assert "SR" not in box
    assert len([e for e in page.all("td") if e.attributes.get("class") == "suspect"]) == 1
    assert "Read the warning below first." in squeezed(page.with_id("verdict").parents[-1].text)


@pytest.mark.parametrize(("name", "value"), [("zero", 0.5), ("nan", 0.5), ("distance", 0.1 * 1.0001)])
def test_what_is_just_within_bounds_is_not_called_out(four, name, value):
    comparison, outcomes, _, _ = four
    fine = replaced(comparison, 1, summary=made.with_field(outcomes[1], name, value).summary())
    assert "First suspect the attack" not in html_of(fine)


def test_networks_under_different_conditions_are_not_ranked(four):
    comparison, _, text, _ = four
    assert "withstands most" in text
    other = made.outcome(9, 60, eps=8 / 255).summary()
    page = Page(html_of(replaced(comparison, 3, summary=other)))
    box = squeezed(page.with_id("differences").text)
    assert "different conditions (ε, number of samples)" in box
    assert "withstands most" not in squeezed(page.with_id("verdict").parents[-1].text)
    assert "ε = 8/255 (0.03137), n = 60" in squeezed(page.with_id("verdict").parents[-1].text)


def test_a_lead_that_the_samples_do_not_settle_is_called_unsettled():
    comparison, _ = made.comparison(2)
    close = replaced(comparison, 0, summary=made.outcome(strength=0.3, n=40).summary())
    close = replaced(close, 1, summary=made.outcome(strength=0.33, n=40).summary())
    assert "Their 95 % intervals overlap: 40 samples alone do not settle which of the two is ahead." in html_of(close)


def test_one_network_without_curve():
    comparison, _ = made.comparison(1, with_curve=False)
    page = Page(html_of(comparison))
    assert len(page.all("svg")) == 5
    assert "withstands most" not in page.elements[0].text


def test_missing_figures_are_marked():
    comparison, _ = made.comparison(2)
    summary = comparison.networks[1].summary.model_copy(update={"by_attack": {}})
    page = Page(html_of(replaced(comparison, 1, summary=summary)))
    _, rows = page.tables()[0]
    assert rows[2][3:6] == ["·", "·", "·"]
    assert "not run on all samples" in page.elements[0].text


def test_twenty_networks():
    comparison, _ = made.comparison(20)
    page = Page(html_of(comparison))
    assert len(page.tables()[0][1]) == 21
    assert len(page.all("details")) == 1 + 3 + 2 * 20
    marks = {(i % 8, figures.MARKERS[i % len(figures.MARKERS)], str(figures.DASHES[i // 8 % 3])) for i in range(20)}
    assert len(marks) == 20


@pytest.mark.parametrize("eps", [(0.0,), (0.1,), (8 / 255, 0.0, 4 / 255), (0.2, 0.1)])
def test_curves_of_any_shape(eps):
    comparison, _ = made.comparison(1)
    curve = Curve(
        label="a", under="x", norm="Linf", eps=eps, robust=tuple(rate(30 - 9 * i, 30) for i in range(len(eps))), seed=0
    )
    page = Page(html_of(replaced(comparison, 0, curve=curve)))
    shown = [element.text for element in page.all("text")]
    assert ("8/255" in shown) == (8 / 255 in eps)


def test_an_evaluation_without_a_ball_and_an_attack_without_gradients():
    member = made.MEMBERS[0].model_copy(update={"attack": "noise", "estimator": "–"})
    comparison, _ = made.comparison(1, members=(member,), with_curve=False)
    summary = comparison.networks[0].summary
    header = summary.header.model_copy(update={"eps": float("nan")})
    page = Page(html_of(replaced(comparison, 0, summary=summary.model_copy(update={"header": header}))))
    assert "ε = none given" in page.elements[0].text
    assert "First suspect" not in page.elements[0].text
    assert "suite liu2024 (1 attack)" in page.elements[0].text


def test_the_page_is_small(four):
    assert len(four[2].encode()) < 120_000


def test_no_network_is_refused():
    with pytest.raises(ValueError, match="at least one network"):
        html_of(Comparison(title="empty", networks=()))


def test_a_page_is_written_whole_or_not_at_all(four, tmp_path, monkeypatch):
    comparison, _, text, _ = four
    path = tmp_path / "new" / "page.html"
    write_html(comparison, path)
    assert path.read_text(encoding="utf-8") == text

    def full(self, target):
        raise OSError("no space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(OSError, match="no space"):
        write_html(comparison, str(path))
    assert path.read_text(encoding="utf-8") == text
    assert [p.name for p in path.parent.iterdir()] == ["page.html"]


def test_labels_do_not_lie_upon_each_other():
    placed = figures.spread([0, 0, 1, 100, 99, 50], 5, 0, 100)
    ordered = sorted(placed)
    assert ordered[0] >= 0
    assert ordered[-1] <= 100
    assert min(np.diff(ordered)) >= 5


@pytest.mark.parametrize("module", [figures, lines, words, svg])
def test_examples_in_docstrings(module):
    assert doctest.testmod(module).failed == 0


def test_the_curves_alone_are_a_whole_svg_file(four, tmp_path):
    comparison, *_ = four
    write_curves(comparison, tmp_path / "curves.svg")
    root = ElementTree.parse(tmp_path / "curves.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    text = (tmp_path / "curves.svg").read_text()
    used = set(re.findall(r"var\((--[a-z0-9]+)\)", text))
    assert used
    assert all(f"{name}:" in text for name in used)
    assert all(network.name in text for network in comparison.networks)
    with pytest.raises(ValueError, match="curve"):
        write_curves(replaced(comparison.model_copy(update={"networks": comparison.networks[:1]}), 0, curve=None), "x")
