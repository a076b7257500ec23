"""What the audits really return is drawn, in a page and alone."""

import pytest
import torch
from tests.report.drawings import drawn
from tests.report.page_reader import Page

import robustspike as rs
from robustspike.data import load
from robustspike.models import digits_cnn
from robustspike.report import html_of, view_png, view_svg
from robustspike.results import AUDIT_RECORDS, Comparison, Pictures, Table


@pytest.fixture(scope="module")
def networks():
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        report = rs.audit(
            digits_cnn(time_steps=2), load("digits").test, attacks=rs.fgsm(rs.Linf(0.1)), attack=rs.fgsm(rs.Linf(0.1)),
            eps=0.1, samples=10, doubts=0, model_name=f"net {seed}", progress=False,
        )  # fmt: skip
        found.append(report.network)
    return tuple(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", AUDIT_RECORDS)
def test_every_view_is_drawn(networks, name, tmp_path):
    one = networks[0].audits[name]
    for view in (*one.views(), *type(one).compared({n.name: n.audits[name] for n in networks})):
        if isinstance(view, Pictures):
            view_png(view, tmp_path / "pictures.png")
            assert (tmp_path / "pictures.png").stat().st_size > 1000
        elif not isinstance(view, Table):
            assert view.title in view_svg(view)
            found = drawn(view)
            width, height = (float(found.root.get(size)) for size in ("width", "height"))
            assert all(-1 <= x <= width + 1 and 0 <= y <= height + 1 for _, x, y in found.texts())
            assert len(found.alt) > 60


@pytest.mark.slow
def test_one_page_shows_all_audits(networks):
    page = Page(html_of(Comparison(title="All audits", networks=networks)))
    ids = [e.attributes["id"] for e in page.all("h2")]
    assert [name for name in ids if name.startswith("audit-")] == [f"audit-{name}" for name in AUDIT_RECORDS]
    text = " ".join(page.elements[0].text.split())
    for network in networks:
        for one in network.audits.values():
            assert " ".join(one.answer().split()) in text
            assert one.conditions() in text
    assert all(e.attributes["alt"] for e in page.all("img"))
