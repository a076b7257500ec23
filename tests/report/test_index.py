"""The page of a leaderboard: every figure, filters that work in a real browser, a plain table where scripts do not run."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from tests.report import made
from tests.report.page_reader import Page, squeezed

from robustspike.report.index import choices, grouped, index_html
from robustspike.results import Member, rate
from robustspike.results.leaderboard import Entry, Leaderboard, Missing, leaderboard_of

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def entry(name, withstood, *, data="digits test", eps=0.1, suite="standard", architecture="digits-cnn", **fields):
    """An entry of 100 samples."""
    header = made.header(100, eps, data=data, suite=suite, seed=3)
    given = {
        "network": name, "run": f"runs/{name}", "evaluation": f"{suite}-Linf-{eps:.4g}", "header": header, "suite": suite,
        "architecture": architecture, "time_steps": 4, "parameters": 58634, "defence": "at", "checkpoint": "last",
        "done": 100, "clean": rate(90, 100), "robust": rate(withstood, 100), "gradients": 123456,
        "page": f"{name}/report.html",
    }  # fmt: skip
    return Entry(**given | fields)


def board():
    """Three groups, two entries that are not ranked, something missing."""
    entries = [
        entry("AT", 50),
        entry("SR*", 45, architecture="vgg11", doubts=("zero gradients", "more ε"), checks=9, checkpoint="best"),
        entry("vanilla", 3, doubts=(), checks=22),
        entry("AT", 20, eps=8 / 255, page="a b/report.html"),
        entry("AT", 60, data="cifar10 test", suite="liu2024-PGD-20", architecture="vgg11"),
        entry("late", 0, standing="unfinished", reason="not finished: 40 of 100 samples; resume it", done=40, robust=None,
              clean=None, page=""),
        entry("cut", 70, standing="cut", reason="cut short by the budget: 7 of 100 samples stand"),
    ]  # fmt: skip
    return leaderboard_of("Mine & yours", entries, [Missing(where="runs/<x>", what="no evaluation yet")])


@pytest.fixture(scope="module")
def page():
    return Page(index_html(board()))


def rows_of(page, table):
    """Cells by column for each body row of a table."""
    head, *rows = [page.within(row, "th", "td") for row in page.within(table, "tr")]
    return [{squeezed(h.text): squeezed(c.text) for h, c in zip(head, row, strict=True)} for row in rows]


# --- what it says


def test_a_table_for_each_group_with_every_figure(page):
    tables = page.all("table")
    assert len(tables) == 4
    assert [page.within(section, "h2")[0].text for section in page.all("section")] == [
        "cifar10 test, L∞ 0.1, liu2024-PGD-20", "digits test, L∞ 8/255 (0.03137), standard", "digits test, L∞ 0.1, standard",
        "Not ranked", "What is missing", "What is checked",
    ]  # fmt: skip
    first, second, third = rows_of(page, tables[2])
    assert first == {
        "Rank": "1", "Network": "ATruns/AT", "Worst case, at most": str(rate(50, 100)), "Clean": str(rate(90, 100)),
        "Masking checks": "not run", "Architecture": "digits-cnn", "Defence": "at", "T": "4", "Parameters": "58 634",
        "Gradient evaluations": "123 456", "Queries": "0", "n": "100", "Seed": "3", "Evaluation": "standard-Linf-0.1",
    }  # fmt: skip
    assert second["Worst case, at most"] == f"{rate(45, 100)}the intervals overlap"
    assert second["Network"] == "SR*runs/SR*, best checkpoint"
    assert second["Masking checks"] == "✗ zero gradients, more ε (2 of 9 failed)"
    assert third["Worst case, at most"] == str(rate(3, 100))
    assert third["Masking checks"] == "✓ none of 22 failed"


def test_every_table_says_under_what_and_that_it_is_an_upper_bound(page):
    captions = [caption for caption, _ in page.tables()]
    assert captions[2] == (
        "Accuracy in % with its 95 % interval under the suite standard (3 attacks × 4 estimators), L∞ 0.1, n = 100, as in "
        "standard-Linf-0.1. The worst case is an upper bound under this suite."
    )
    assert all("upper bound" in caption for caption in captions)
    assert "The intervals overlap: with the first's, which is no test." in " ".join(p.text for p in page.all("p"))


def test_p_is_beside_the_worst_case():
    """Of 100 samples, 5 more fall and none less: p = 2/2⁵; 10: 2/2¹⁰."""
    entries = [
        entry(name, n, samples="s", stands=np.packbits(np.arange(100) < n).tobytes().hex())
        for name, n in (("a", 50), ("b", 45), ("c", 40))
    ]
    page = Page(index_html(leaderboard_of("t", entries)))
    shown = [row["Worst case, at most"].removeprefix(str(rate(n, 100))) for row, n in zip(
        rows_of(page, page.all("table")[0]), (50, 45, 40), strict=True
    )]  # fmt: skip
    assert shown == ["", "≈ p = 0.062 against the first", "p = 0.002 against the first"]
    text = " ".join(p.text for p in page.all("p"))
    assert "McNemar's exact test, two-sided, uncorrected" in text
    assert "≈: p > 0.05, so these samples do not tell the two apart" in text


def test_a_caveat_is_explained():
    members = (*made.MEMBERS, Member(attack="code", estimator="–", settings="c", caveat="it moves the <code>"))
    one = entry("AT", 5)
    one = one.model_copy(update={"header": one.header.model_copy(update={"members": members})})
    text = " ".join(p.text for p in Page(index_html(leaderboard_of("t", [one]))).all("p"))
    assert "† Not in the worst case: code: it moves the <code>." in text


def test_what_is_not_ranked_and_what_is_missing(page):
    late, cut = rows_of(page, page.all("table")[3])
    assert late["Why"] == "unfinished: not finished: 40 of 100 samples; resume it"
    assert (late["Samples"], late["Worst case, at most"], late["Clean"]) == ("40 of 100", "–", "–")
    assert (cut["Samples"], cut["Worst case, at most"]) == ("100 of 100", str(rate(70, 100)))
    assert [squeezed(item.text) for item in page.all("li")] == ["runs/<x>: no evaluation yet."]


def test_each_row_leads_to_the_runs_own_page(page):
    links = [link.attributes["href"] for link in page.all("a")]
    assert links == [
        "AT/report.html", "a%20b/report.html", "AT/report.html", "SR%2A/report.html", "vanilla/report.html",
        "cut/report.html",
    ]  # fmt: skip


def test_a_page_of_nothing_and_of_nothing_ranked():
    assert "Nothing can be ranked" in index_html(Leaderboard(title="t", groups=()))
    text = index_html(
        leaderboard_of("t", [entry("late", 0, standing="unfinished", reason="r", robust=None, clean=None)])
    )
    assert "Nothing can be ranked" in text
    assert "1 evaluation of 1 spiking network under" in squeezed(text)
    assert "Nothing can be ranked" not in index_html(board())


def test_equal_boards_give_equal_pages_and_nothing_comes_from_elsewhere(page):
    assert index_html(board()) == index_html(board())
    text = index_html(board())
    assert not re.search(r"https?://|@import|<link|<script src|<img", text)
    assert "Mine &amp; yours" in text


def test_whole_numbers_are_grouped():
    assert [grouped(n) for n in (None, 0, 999, 1000, 1234567)] == ["–", "0", "999", "1\u202f000", "1\u202f234\u202f567"]


# --- filters


def test_there_is_a_filter_for_every_value(page):
    assert choices(board()) == {
        "data": ("Data set", ["cifar10 test", "digits test"]),
        "architecture": ("Architecture", ["digits-cnn", "vgg11"]),
        "eps": ("ε", ["L∞ 8/255 (0.03137)", "L∞ 0.1"]),
        "suite": ("Suite", ["liu2024-PGD-20", "standard"]),
    }
    offered = {
        select.attributes["name"]: [option.attributes["value"] for option in page.within(select, "option")]
        for select in page.all("select")
    }
    assert offered == {name: ["", *values] for name, (_, values) in choices(board()).items()} | {
        "standing": ["", "ranked"]
    }
    for row in page.all("tr"):
        if "data-standing" in row.attributes:
            for name, values in offered.items():
                value = row.attributes[f"data-{name}"]
                assert value in values or name == "standing"


def test_without_scripts_all_rows_are_there_and_the_filters_are_not(page):
    assert "hidden" in page.with_id("filters").attributes
    rows = [row for row in page.all("tr") if "data-standing" in row.attributes]
    assert len(rows) == 7
    assert all("hidden" not in row.attributes for row in rows)


PROBE = """<script>
var out = [], form = document.getElementById("filters");
function note(what) { out.push(what); }
onerror = function (message) { note("error " + message); };
function seen() {
  return Array.from(document.querySelectorAll("tr[data-standing]")).filter(function (row) {
    return row.offsetParent !== null;
  }).map(function (row) { return row.querySelector("th").firstChild.textContent; }).join();
}
function pick(name, value) {
  form.elements[name].value = value;
  form.elements[name].dispatchEvent(new Event("change", { bubbles: true }));
  var sections = Array.from(document.querySelectorAll("section.filtered")).filter(function (s) { return s.offsetParent; });
  note(name + "=" + value + ": " + seen() + " in " + sections.length + "; " + document.getElementById("shown").textContent);
}
note("filters " + form.hidden + " " + seen());
pick("data", "digits test"); pick("architecture", "vgg11"); pick("architecture", ""); pick("eps", "L∞ 0.1");
pick("suite", "liu2024-PGD-20"); pick("suite", ""); pick("standing", "ranked");
form.querySelector("button[type=reset]").click();
setTimeout(function () {
  note("reset " + seen());
  var table = document.querySelectorAll("table.sortable")[2], heads = table.tHead.rows[0].cells;
  function names() {
    return Array.from(table.tBodies[0].rows).map(function (row) { return row.querySelector("th a").textContent; }).join();
  }
  heads[2].querySelector("button").click(); note(heads[2].getAttribute("aria-sort") + " " + names());
  heads[2].querySelector("button").click(); note(heads[2].getAttribute("aria-sort") + " " + names());
  heads[0].querySelector("button").click(); note(heads[0].getAttribute("aria-sort") + " " + names());
  var wanted = Array.from(document.querySelectorAll("select, button, a")).filter(function (e) { return e.offsetParent; });
  note("tab " + wanted.every(function (e) { e.focus(); return document.activeElement === e; }));
  note("labelled " + Array.from(form.elements).filter(function (e) { return e.tagName === "SELECT"; })
    .every(function (e) { return e.labels.length === 1; }));
  note("width " + document.documentElement.scrollWidth + " of " + innerWidth);
  note("fetched " + performance.getEntriesByType("resource").length);
  document.body.setAttribute("data-probe", out.join("|"));
}, 200);
</script>"""


def probed(tmp_path, width):
    """What the probe found in a window of this width."""
    (tmp_path / "page.html").write_text(index_html(board()).replace("</body>", PROBE + "</body>"), encoding="utf-8")
    command = [
        CHROMIUM, "--headless", "--hide-scrollbars", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--no-first-run", "--disable-component-update", f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},900", "--virtual-time-budget=2000", "--dump-dom", (tmp_path / "page.html").as_uri(),
    ]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search('data-probe="([^"]*)"', shown.stdout)
    assert found, shown.stderr[-2000:]
    return found[1].split("|")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
@pytest.mark.parametrize("width", [500, 1200])
def test_filters_sorting_and_widths_in_a_browser(tmp_path, width):
    assert probed(tmp_path, width) == [
        "filters false AT,AT,AT,SR*,vanilla,late,cut",
        "data=digits test: AT,AT,SR*,vanilla,late,cut in 3; 6 of 7 evaluations shown.",
        "architecture=vgg11: SR* in 1; 1 of 7 evaluations shown.",
        "architecture=: AT,AT,SR*,vanilla,late,cut in 3; 6 of 7 evaluations shown.",
        "eps=L∞ 0.1: AT,SR*,vanilla,late,cut in 2; 5 of 7 evaluations shown.",
        "suite=liu2024-PGD-20:  in 0; 0 of 7 evaluations shown.",
        "suite=: AT,SR*,vanilla,late,cut in 2; 5 of 7 evaluations shown.",
        "standing=ranked: AT,SR*,vanilla in 1; 3 of 7 evaluations shown.",
        "reset AT,AT,AT,SR*,vanilla,late,cut",
        "descending AT,SR*,vanilla",
        "ascending vanilla,SR*,AT",
        "ascending AT,SR*,vanilla",
        "tab true",
        "labelled true",
        f"width {width} of {width}",
        "fetched 0",
    ]
