"""robustspike audit, as somebody types it."""

import json
import shutil

import pytest
from tests.cli.commands import PLAIN, refused

SMALL = ["--audit", "gradients", "--samples", "10", "--suite", "luu2025_sound", "--eps", "0.1", *PLAIN]


@pytest.fixture
def audited(cli, run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "sr-star")
    code, out, err = cli("audit", folder, *SMALL)
    assert code == 0, err
    return folder, out


def test_it_says_what_was_found_and_where_the_page_is(audited):
    folder, out = audited
    assert "gradients: " in out
    assert "n = 10, seed 0" in out
    assert (folder / "report.html").read_text().startswith("<!doctype html>")
    record = json.loads((folder / "report.json").read_text())["networks"][0]["audits"]["gradients"]
    assert record["n"] == 10


def test_it_goes_on_only_when_told_to(cli, audited):
    folder, _ = audited
    refused(cli("audit", folder, *SMALL), "holds an audit already", "--resume")
    code, out, err = cli("audit", folder, *SMALL, "--resume")
    assert code == 0, err
    assert "gradients: " in out


def test_networks_side_by_side(cli, audited, run, tmp_path):
    folder, _ = audited
    other = shutil.copytree(run, tmp_path / "other")
    page = tmp_path / "both.html"
    code, out, err = cli("audit", folder, "--compare", other, *SMALL, "--resume", "--out", page)
    assert code == 0, err
    assert "(other)" in out
    assert "(sr-star)" in page.read_text()


def test_what_cannot_be_is_refused_in_one_sentence(cli, run, tmp_path):
    refused(cli("audit", run, "--audit", "gradient", *PLAIN), "no audit 'gradient'", "gradients")
    refused(cli("audit", tmp_path / "nothing", *PLAIN), "nothing")
    refused(cli("audit", run, "--budget", "soon", *PLAIN), "budget: expected")
    refused(cli("audit", run, "--suite", "nope", *PLAIN), "nope")


def test_the_audits_are_listed(cli):
    code, out, _ = cli("list", "audits")
    assert code == 0
    assert "gradients" in out
