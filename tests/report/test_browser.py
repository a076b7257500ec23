"""The page in a real browser: sorting, keys, links, widths, colours, pictures, printing; nothing is asked of a network."""

import re

import pytest
from tests.report import audited, made
from tests.report.browser import CHROMIUM, Browser

from robustspike.report import html_of

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")

LONG = "a network with a rather long name λ=0.0005, " + "averylongwordwithoutanybreak" * 3
NAMES = ["vanilla", "AT", LONG]


def comparison():
    """Three networks with findings, tests, audits and a setting in which they differ."""
    found, _ = made.comparison(3)
    networks = []
    for i, (network, name) in enumerate(zip(found.networks, NAMES, strict=True)):
        audits = {"gradients": audited.gradients(i), "everything": audited.everything(name, figure=9.5 + 70 * i)}
        summary = network.summary.model_copy(update={"doubts": [made.doubts(False, True), None, made.doubts(True)][i]})
        training = {**made.TRAINING, "weight": 0.001 * 10**i}
        changes = {"name": name, "audits": audits, "summary": summary, "training": training}
        networks.append(network.model_copy(update=changes))
    return found.model_copy(update={"networks": tuple(networks), "tests": made.paired(NAMES)})


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(html_of(comparison()), encoding="utf-8")
    return path


@pytest.fixture
def page(browser, path):
    browser.sized(1200)
    browser.coloured("light")
    browser.open(path)
    return browser


OPEN = "document.querySelectorAll('details').forEach(function (d) { d.open = true; });"
COLUMN = """(function (t, k) {
  var table = document.querySelectorAll("table.sortable")[t];
  return Array.from(table.tBodies[0].rows).map(function (row) {
    var cell = row.cells[k], value = cell.getAttribute("data-value");
    return value === null ? cell.textContent.trim() : value === "" ? null : Number(value);
  });
})(%d, %d)"""


def click(page, table, column):
    head = f"document.querySelectorAll('table.sortable')[{table}].tHead.rows[0].cells[{column}]"
    page.evaluate(f"{head}.querySelector('button').click()")
    return page.evaluate(f"{head}.getAttribute('aria-sort')")


def in_order(found, down):
    """Whether numbers rise or fall; what has none comes last."""
    there = [v for v in found if v is not None]
    last = found[len(there) :] == [None] * (len(found) - len(there))
    if any(isinstance(v, str) for v in there):
        key = [[int(p) if p.isdigit() else p.casefold() for p in re.split(r"(\d+)", v)] for v in there]
        return last and key == sorted(key, reverse=down)
    return last and there == sorted(there, reverse=down)


def test_every_column_of_every_sortable_table_sorts(page):
    sizes = page.evaluate(
        "Array.from(document.querySelectorAll('table.sortable')).map(function (t) { return t.tHead.rows[0].cells.length; })"
    )
    assert len(sizes) > 10
    for table, columns in enumerate(sizes):
        rows = None
        for column in range(columns):
            before = sorted(map(str, page.evaluate(COLUMN % (table, 0))))
            numeric = isinstance(
                next((v for v in page.evaluate(COLUMN % (table, column)) if v is not None), ""), float | int
            )
            first, second = ("descending", "ascending") if numeric else ("ascending", "descending")
            assert click(page, table, column) == first
            assert in_order(page.evaluate(COLUMN % (table, column)), numeric)
            assert click(page, table, column) == second
            assert in_order(page.evaluate(COLUMN % (table, column)), not numeric)
            rows = sorted(map(str, page.evaluate(COLUMN % (table, 0))))
            assert rows == before
    marks = page.evaluate("document.querySelectorAll('[aria-sort]').length")
    assert marks == len(sizes)
    assert page.said == []


def test_fractions_and_gaps_are_sorted(page):
    page.evaluate(OPEN)
    table = page.evaluate(
        "Array.from(document.querySelectorAll('table.sortable')).findIndex(function (t) {"
        " return t.caption.textContent.trim() === 'Figures by kind'; })"
    )
    click(page, table, 1)
    assert page.evaluate(COLUMN % (table, 0)) == ["third", "first", "second"]
    click(page, table, 2)
    assert page.evaluate(COLUMN % (table, 2)) == ["4/255", "8/255", "16/255"]


def test_keys_reach_and_sort_a_table(page):
    focused = "document.activeElement.closest('th') && document.activeElement.textContent"
    page.evaluate("document.querySelector('#accuracy-caption').closest('.scroll').focus()")
    page.press("Tab")
    assert page.evaluate(focused) == "Network"
    page.press("Enter")
    names = "Array.from(document.querySelectorAll('table.sortable')[0].tBodies[0].rows, function (r) { return %s; })"
    assert page.evaluate(names % "r.cells[0].textContent") == [LONG, "AT", "vanilla"]
    page.press("Tab")
    page.press("Tab")
    assert page.evaluate(focused) == "Clean"
    page.press(" ")
    assert page.evaluate("document.activeElement.closest('th').getAttribute('aria-sort')") == "descending"
    page.evaluate("document.querySelector('details.part > summary').focus()")
    page.press("Enter")
    assert page.evaluate("document.querySelector('details.part').open")


def test_a_link_opens_what_it_points_to(page):
    before = "Array.from(document.querySelectorAll('details.network'), function (d) { return d.open; })"
    assert not any(page.evaluate(before))
    page.evaluate("location.hash = '#network-2'")
    page.evaluate("new Promise(function (done) { setTimeout(done, 50); })")
    assert page.evaluate(before).index(True) == 1
    broken = page.evaluate(
        "Array.from(document.querySelectorAll('a[href]')).filter(function (a) {"
        " return !document.getElementById(a.getAttribute('href').slice(1)); }).length"
    )
    assert broken == 0


def test_the_contents_list_every_section_and_start_closed_on_a_phone(page, path):
    listed = page.evaluate(
        "Array.from(document.querySelectorAll('nav li a'), function (a) { return a.hash.slice(1); })"
    )
    there = page.evaluate("Array.from(document.querySelectorAll('main > section > h2'), function (h) { return h.id; })")
    assert listed == there
    assert page.evaluate("document.querySelector('nav details').open")
    page.sized(360)
    page.open(path)
    assert not page.evaluate("document.querySelector('nav details').open")


@pytest.mark.parametrize("width", [340, 360, 700, 1200])
def test_nothing_overflows(page, path, width):
    page.sized(width)
    page.open(path)
    page.evaluate(OPEN)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    outside = page.evaluate(
        """Array.from(document.querySelectorAll("main *")).filter(function (e) {
          var box = e.getBoundingClientRect();
          return box.width > 0 && !e.closest(".scroll") && (box.right > innerWidth + 1 || box.left < -1);
        }).map(function (e) { return e.outerHTML.slice(0, 200); })"""
    )
    assert outside == []


def test_no_text_of_a_figure_is_cut_off(page):
    page.evaluate(OPEN)
    cut = page.evaluate(
        """Array.from(document.querySelectorAll(".views svg")).flatMap(function (svg) {
          var box = svg.getBoundingClientRect();
          return Array.from(svg.querySelectorAll("text")).filter(function (t) {
            var b = t.getBoundingClientRect();
            return b.left < box.left - 1 || b.right > box.right + 1 || b.top < box.top - 1 || b.bottom > box.bottom + 1;
          }).map(function (t) { return svg.getAttribute("aria-label").slice(0, 60) + " | " + t.textContent; });
        })"""
    )
    assert cut == []


def test_pictures_and_drawings_are_whole_and_described(page):
    page.evaluate(OPEN)
    images = page.evaluate(
        """Array.from(document.images, function (i) {
          return [i.naturalWidth > 0 && i.complete, +i.getAttribute("width") === i.width, i.hasAttribute("height"), i.alt];
        })"""
    )
    assert len(images) == 3 * 8
    assert all(whole and sized and tall and alt for whole, sized, tall, alt in images)
    drawings = page.evaluate(
        """Array.from(document.querySelectorAll("svg"), function (s) {
          return [s.getAttribute("role"), s.getAttribute("aria-label").length];
        })"""
    )
    assert len(drawings) > 30
    assert all(role == "img" and length > 40 for role, length in drawings)


def test_nothing_is_fetched_and_nothing_complains(page, path):
    page.evaluate(OPEN)
    elsewhere = [url for url in page.asked if not url.startswith(("data:", path.as_uri()))]
    assert elsewhere == []
    assert page.said == []


CONTRAST = """(function () {
  function parts(c) { return c.match(/[\\d.]+/g).map(Number); }
  function luminance(c) {
    var v = c.slice(0, 3).map(function (x) {
      return x <= 10 ? x / 255 / 12.92 : Math.pow((x / 255 + 0.055) / 1.055, 2.4);
    });
    return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2];
  }
  function behind(e) {
    for (; e; e = e.parentElement) {
      var c = parts(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] > 0) { return c; }
    }
    return null;
  }
  var low = [], count = 0;
  document.querySelectorAll("main *").forEach(function (e) {
    var own = Array.from(e.childNodes).some(function (n) { return n.nodeType === 3 && n.textContent.trim(); });
    var style = getComputedStyle(e), svg = e instanceof SVGElement;
    if (!own || (svg && e.tagName !== "text")) { return; }
    if (svg && e.closest("svg").querySelector("image")) { return; }
    var a = luminance(parts(svg ? style.fill : style.color)), b = luminance(behind(e));
    var ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    count += 1;
    if (ratio < 4.5) { low.push([ratio, e.outerHTML.slice(0, 120)]); }
  });
  return { low: low, count: count, paper: getComputedStyle(document.body).backgroundColor,
           ink: getComputedStyle(document.body).color };
})()"""


def test_text_is_clear_in_light_and_dark(page, path):
    found = {}
    for scheme in ("light", "dark"):
        page.coloured(scheme)
        page.open(path)
        page.evaluate(OPEN)
        found[scheme] = page.evaluate(CONTRAST)
        assert found[scheme]["low"] == []
        assert found[scheme]["count"] > 500
    assert found["light"]["paper"] == found["dark"]["paper"].replace("22, 24, 29", "255, 255, 255")
    assert found["light"]["ink"] != found["dark"]["ink"]


def test_lines_stand_out_from_the_paper_in_light_and_dark(page, path):
    ratio = """(function () {
      var style = getComputedStyle(document.documentElement);
      return [0, 1, 2, 3, 4, 5, 6, 7].map(function (k) { return style.getPropertyValue("--c" + k).trim(); });
    })()"""
    for scheme, paper in (("light", (255, 255, 255)), ("dark", (22, 24, 29))):
        page.coloured(scheme)
        page.open(path)
        for colour in page.evaluate(ratio):
            shade = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
            assert contrast(shade, paper) >= 3


def contrast(a, b):
    """The ratio of WCAG 2."""
    light = []
    for colour in (a, b):
        linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        light.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(light) + 0.05) / (min(light) + 0.05)


def pages(pdf):
    return len(re.findall(rb"/Type\s*/Page\b", pdf))


def test_all_of_it_is_printed(page):
    closed = page.pdf()
    assert page.evaluate("document.querySelectorAll('details:not([open])').length") > 5
    page.evaluate(OPEN)
    assert pages(closed) == pages(page.pdf())
    page.evaluate("document.querySelectorAll('details').forEach(function (d) { d.remove(); })")
    assert pages(closed) > pages(page.pdf()) + 1
