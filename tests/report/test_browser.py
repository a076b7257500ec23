"""The page in a real browser: sorting works, nothing overflows a phone, nothing is asked of a network."""

import re
import shutil
import subprocess

import pytest
from tests.report import made

from robustspike.report import html_of

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")

PROBE = """<script>
var out = [], frame = document.getElementById("phone");
function names() {
  return Array.from(document.querySelectorAll("table.sortable tbody th")).map(function (t) { return t.textContent; }).join();
}
function note(what) { out.push(what); }
onerror = function (message) { note("error " + message); };
var heads = document.querySelectorAll("table.sortable thead th");
note(names());
heads[6].querySelector("button").click(); note(heads[6].getAttribute("aria-sort") + " " + names());
heads[6].querySelector("button").click(); note(heads[6].getAttribute("aria-sort") + " " + names());
heads[0].querySelector("button").click(); note(heads[0].getAttribute("aria-sort") + " " + names());
note("sorted by " + document.querySelectorAll("[aria-sort]").length);
location.hash = "#network-2";
setTimeout(function () {
  note("open " + Array.from(document.querySelectorAll("details")).map(function (d) { return +d.open; }).join(""));
  note("width " + document.documentElement.scrollWidth + " of " + innerWidth);
  note("fetched " + performance.getEntriesByType("resource").length);
  document.body.setAttribute("data-probe", out.join("|"));
}, 200);
</script>"""


def probed(tmp_path, width):
    """What the probe found in a window of this width."""
    comparison, _ = made.comparison(4)
    first, *others = comparison.networks
    doubted = first.summary.model_copy(update={"doubts": made.doubts(False, True)})
    networks = (first.model_copy(update={"summary": doubted}), *others)
    tests = made.paired([network.name for network in networks])
    comparison = comparison.model_copy(update={"networks": networks, "tests": tests})
    (tmp_path / "page.html").write_text(html_of(comparison).replace("</body>", PROBE + "</body>"), encoding="utf-8")
    command = [
        CHROMIUM, "--headless", "--hide-scrollbars", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--no-first-run", "--disable-component-update", f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},900", "--virtual-time-budget=2000", "--dump-dom", (tmp_path / "page.html").as_uri(),
    ]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60)
    found = re.search('data-probe="([^"]*)"', shown.stdout)
    assert found, shown.stderr[-2000:]
    return found[1].split("|")


@pytest.mark.parametrize("width", [500, 1200])
def test_sorting_links_and_widths(tmp_path, width):
    found = probed(tmp_path, width)
    assert found == [
        "vanilla,AT,SR,SR*",
        "descending SR*,SR,AT,vanilla",
        "ascending vanilla,AT,SR,SR*",
        "ascending AT,SR,SR*,vanilla",
        "sorted by 1",
        "open 000100",
        f"width {width} of {width}",
        "fetched 0",
    ]
