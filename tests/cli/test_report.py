"""robustspike report: one page for a run, an index over many, and whatever can be shown of what is broken."""

import json
import os
import shutil
from pathlib import Path

import pytest
from tests.cli.commands import refused
from tests.experiment.made_runs import change_header, write_run, write_weights
from tests.report import made
from tests.report.page_reader import Page

import robustspike.report
from robustspike.results import HEADER_FILE, ROWS_FILE, Comparison, comparison_table, load_outcome
from robustspike.results.leaderboard import Leaderboard

NAME = "standard-Linf-0.1"
BESIDE = {"report.html", "report.json", "report.md", "report.tex"}


@pytest.fixture
def runs(tmp_path):
    """Two runs that were evaluated alike."""
    folder = tmp_path / "runs"
    for k, name in enumerate(("a", "b")):
        write_run(folder / name, seed=k, defence=("vanilla", "at")[k], strength=0.9 - 0.5 * k)
    return folder


@pytest.fixture
def quick(monkeypatch):
    """Pages are not drawn: for tests of everything else."""

    def write(shown, page):
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(str(comparison_table(shown)))

    monkeypatch.setattr(robustspike.report, "write_html", write)


def board_in(folder):
    return Leaderboard.model_validate_json((folder / "index.json").read_text())


def files_in(folder):
    return {path.name for path in folder.iterdir() if path.is_file()}


# --- a single run


def test_a_single_run_has_a_page_and_tables_but_no_index(cli, runs):
    code, out, _ = cli("report", runs / "a")
    assert code == 0
    assert files_in(runs / "a") >= BESIDE
    assert not {path.name for path in runs.rglob("index.*")}
    shown = Comparison.model_validate_json((runs / "a" / "report.json").read_text())
    table = comparison_table(shown)
    assert (runs / "a" / "report.md").read_text() == table.markdown() + "\n"
    assert (runs / "a" / "report.tex").read_text() == table.latex() + "\n"
    assert [network.name for network in shown.networks] == ["vanilla"]
    assert "Page: " in out
    assert shown.notes == ()


def test_the_tables_for_papers_have_the_figures_of_the_page(cli, runs):
    assert cli("report", runs, "--title", "Mine")[0] == 0
    page = Page((runs / "report.html").read_text())
    [rows] = [rows for caption, rows in page.tables() if "Worst case" in rows[0] and rows[0][0] == "Network"]
    text, latex = (runs / "report.md").read_text(), (runs / "report.tex").read_text()
    assert "Mine" in text
    assert "Mine" in latex
    for row in rows[1:]:
        figures = [cell for cell in row[1:] if "[" in cell]
        assert figures
        for figure in figures:
            share, interval = figure.split(" ", 1)
            assert f"| {figure} |" in text
            assert f"{share} {{\\scriptsize {interval}}}" in latex


@pytest.mark.usefixtures("quick")
def test_a_folder_with_one_run_is_reported_as_before(cli, runs):
    shutil.rmtree(runs / "b")
    assert cli("report", runs)[0] == 0
    assert files_in(runs) == BESIDE
    assert "report.html" not in files_in(runs / "a")


@pytest.mark.usefixtures("quick")
def test_out_and_evaluation_of_a_single_run(cli, runs, tmp_path):
    write_run(runs / "a", evaluations=("weak-Linf-0.1",), members=made.MEMBERS[:2])
    argv = ["report", runs / "a", "--evaluation", "weak-Linf-0.1", "--out", tmp_path / "x" / "page.html"]
    assert cli(*argv)[0] == 0
    assert files_in(tmp_path / "x") == {name.replace("report", "page") for name in BESIDE}
    shown = Comparison.model_validate_json((tmp_path / "x" / "page.json").read_text())
    assert len(shown.networks[0].summary.members) == 2
    refused(cli("report", runs / "a", "--evaluation", "strong"), "has no evaluation 'strong'", NAME)


@pytest.mark.parametrize("name", ["page.json", "page.md", "page.tex"])
def test_a_page_that_would_overwrite_its_figures_is_refused(cli, runs, tmp_path, name):
    refused(cli("report", runs, "--out", tmp_path / name), "expected a page such as report.html")
    assert not (tmp_path / name).exists()


# --- several


def test_several_runs_have_an_index_their_pages_and_a_comparison(cli, runs):
    code, out, _ = cli("report", runs)
    assert code == 0
    assert files_in(runs) == BESIDE | {"index.html", "index.json", "index.md", "index.tex"}
    assert files_in(runs / "a") >= BESIDE
    board = board_in(runs)
    [group] = board.groups
    expected = {name: load_outcome(runs / name / "attacks" / NAME).summary().robust for name in "ab"}
    assert {place.entry.run: place.entry.robust for place in group.places} == expected
    assert [place.entry.run for place in group.places] == ["b", "a"]
    page = Page((runs / "index.html").read_text())
    for link in page.all("a"):
        assert (runs / link.attributes["href"]).is_file()
    assert len(Comparison.model_validate_json((runs / "report.json").read_text()).networks) == 2
    assert len(Comparison.model_validate_json((runs / "a" / "report.json").read_text()).networks) == 1
    assert f"Index: {runs / 'index.html'}" in " ".join(out.split()) or "index.html" in out
    assert "2 written" in out
    assert str(group.table().markdown()) in (runs / "index.md").read_text()
    assert group.table().latex() in (runs / "index.tex").read_text()


@pytest.mark.usefixtures("quick")
def test_pages_of_runs_are_written_again_only_where_something_changed(cli, runs):
    def times():
        return {name: (runs / name / "report.html").stat().st_mtime_ns for name in "ab"}

    def said(name):
        return (runs / name / "report.json").read_text()

    cli("report", runs)
    before = times()
    assert "0 written" in cli("report", runs)[1]
    assert times() == before
    (runs / "a" / "attacks" / NAME / "doubts.json").write_text(made.doubts(True, False).model_dump_json())
    assert "1 written" in cli("report", runs)[1]
    assert times()["b"] == before["b"]
    assert "check 1" in said("a")
    write_weights(runs / "b" / "weights.safetensors", seed=9)
    assert "1 written" in cli("report", runs)[1]
    assert "Not verified" in said("b")
    (runs / "b" / "weights.safetensors").unlink()
    assert "1 written" in cli("report", runs)[1]
    assert "weights.safetensors is missing" in said("b")
    shutil.copytree(runs / "a" / "attacks" / NAME, runs / "a" / "attacks" / "copy")
    assert "1 written" in cli("report", runs)[1]
    shutil.rmtree(runs / "a" / "attacks" / "copy")
    assert "1 written" in cli("report", runs)[1]
    for name in BESIDE:
        (runs / "a" / name).unlink()
        assert "1 written" in cli("report", runs)[1]


@pytest.mark.usefixtures("quick")
def test_a_runs_page_keeps_its_title(cli, runs):
    cli("report", runs / "a", "--title", "My own")
    assert "1 written" in cli("report", runs)[1]
    assert "0 written" in cli("report", runs)[1]
    assert json.loads((runs / "a" / "report.json").read_text())["title"] == "My own"


@pytest.mark.usefixtures("quick")
def test_a_comparison_in_the_place_of_a_runs_own_page_is_replaced(cli, runs):
    cli("report", runs, "--out", runs / "a" / "report.html")
    assert len(Comparison.model_validate_json((runs / "a" / "report.json").read_text()).networks) == 2
    cli("report", runs)
    assert len(Comparison.model_validate_json((runs / "a" / "report.json").read_text()).networks) == 1


@pytest.mark.usefixtures("quick")
def test_runs_named_one_by_one_are_indexed_beside_the_first(cli, runs, tmp_path, monkeypatch):
    assert cli("report", runs / "b", runs / "a")[0] == 0
    assert {"index.html", "report.html"} <= files_in(runs)
    networks = Comparison.model_validate_json((runs / "report.json").read_text()).networks
    assert [network.name for network in networks] == ["AT", "vanilla"]
    monkeypatch.chdir(runs)
    for path in (runs / "index.html", runs / "report.html"):
        path.unlink()
    assert cli("report", "a", "b")[0] == 0
    assert {"index.html", "report.html"} <= files_in(runs)
    monkeypatch.chdir(runs / "a")
    assert cli("report", "..", "--out", tmp_path / "o" / "c.html")[0] == 0
    assert board_in(tmp_path / "o").groups[0].places[0].entry.page == "../runs/b/report.html"


@pytest.mark.usefixtures("quick")
def test_runs_that_are_not_alike_have_an_index_only(cli, runs):
    change_header(runs / "a" / "attacks" / NAME, seed=99)
    code, out, _ = cli("report", runs)
    assert code == 0
    assert "report.html" not in files_in(runs)
    assert "index.html" in files_in(runs)
    assert len(board_in(runs).groups[0].places) == 2  # another seed of the same attacks
    assert "Page: " not in out


def test_an_evaluation_that_no_run_has(cli, runs):
    refused(cli("report", runs, "--evaluation", "standard-Linf-0.2"), "no run has finished", "did you mean")
    assert not files_in(runs)


# --- what is missing


def no_weights(run):
    (run / "weights.safetensors").unlink()


def no_evaluation(run):
    shutil.rmtree(run / "attacks")


def damaged_header(run):
    path = run / "attacks" / NAME / HEADER_FILE
    path.write_text(path.read_text()[:99])


def half_written(run):
    path = run / "attacks" / NAME / ROWS_FILE
    path.write_text(path.read_text()[: path.stat().st_size // 2])


def foreign_format(run):
    change_header(run / "attacks" / NAME, format=99)


def no_record(run):
    (run / "experiment.yaml").unlink()


def damaged_record(run):
    (run / "experiment.yaml").write_text("defence: [at")


def other_weights(run):
    write_weights(run / "weights.safetensors", seed=9)


def damaged_audit(run):
    place = run / "audits" / "Linf-0.1-n100"
    place.mkdir(parents=True)
    (place / "audit.json").write_text("{")


def emptied(run):
    shutil.rmtree(run)
    run.mkdir()


# What is broken; where else it is said than in the index: the text of its run's own page, or of the refusal.
BROKEN = [
    (no_weights, True, "weights.safetensors is missing, so nothing can be checked"),
    (no_evaluation, False, "no evaluation in"),
    (damaged_header, False, "evaluation.json is damaged or of another version"),
    (half_written, False, "of 40 samples: the evaluation is not finished; resume it"),
    (foreign_format, False, "was made by a later version of robustspike"),
    (no_record, True, "experiment.yaml is missing: how it was trained is not known"),
    (damaged_record, True, "no valid YAML"),
    (other_weights, True, "it is of other weights than those that are in the folder now"),
    (damaged_audit, True, "audit.json is damaged"),
    (emptied, False, "no run in it"),
]


@pytest.mark.parametrize(("spoil", "shown", "text"), BROKEN, ids=lambda value: getattr(value, "__name__", None))
def test_a_broken_run_alone(cli, runs, spoil, shown, text):
    """Its page where there is something to show, one sentence where there is not."""
    spoil(runs / "a")
    result = cli("report", runs / "a")
    if not shown:
        refused(result, text)
        return
    assert result[0] == 0
    assert text in " ".join(result[1].split())
    found = Comparison.model_validate_json((runs / "a" / "report.json").read_text())
    assert any(text in note for note in found.notes)
    assert found.networks[0].summary == load_outcome(runs / "a" / "attacks" / NAME).summary()
    assert text in " ".join(item.text for item in Page((runs / "a" / "report.html").read_text()).all("li"))


SAID = {no_evaluation: "no evaluation yet; run `robustspike attack", half_written: "not finished: "}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("spoil", "shown", "text"), BROKEN, ids=lambda value: getattr(value, "__name__", None))
def test_a_broken_run_beside_whole_ones(cli, runs, spoil, shown, text):
    write_run(runs / "c", seed=2, defence="trades")
    spoil(runs / "a")
    code, out, err = cli("report", runs / "a", runs)
    assert (code, err) == (0, "")
    said = Page((runs / "index.html").read_text())
    words = " ".join(element.text for element in said.all("li", "td"))
    assert SAID.get(spoil, text) in words
    ranked = [place.entry.run for group in board_in(runs).groups for place in group.places]
    assert {"b", "c"} <= set(ranked)
    assert ("a" in ranked) == (spoil in (no_record, damaged_record, damaged_audit))
    assert (runs / "a" / "report.html").is_file() == shown
    networks = Comparison.model_validate_json((runs / "report.json").read_text()).networks
    alike = spoil in (no_weights, other_weights, damaged_audit)
    assert len(networks) == (3 if alike else 2)
    assert "What is missing" in out or "Not ranked" in out


def test_nothing_at_all(cli, runs, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(cli("report", tmp_path / "empty"), "no run in it", "robustspike train")
    refused(cli("report", tmp_path / "nowhere", tmp_path / "empty"), "no such folder", "no run in it")
    for name in "ab":
        no_evaluation(runs / name)
    refused(cli("report", runs), "no evaluation in", "robustspike attack")
    assert not files_in(runs)


def test_only_broken_headers(cli, runs):
    for name in "ab":
        damaged_header(runs / name)
    refused(cli("report", runs), "a: attacks/standard-Linf-0.1/evaluation.json is damaged", "b: attacks")


def test_only_unfinished_evaluations_make_an_index(cli, runs):
    for name in "ab":
        half_written(runs / name)
    code, out, _ = cli("report", runs)
    assert code == 0
    assert "not finished" in out
    assert files_in(runs) == {"index.html", "index.json", "index.md", "index.tex"}
    assert board_in(runs).groups == ()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.usefixtures("quick")
def test_a_run_that_cannot_be_written_to(cli, runs, tmp_path):
    (runs / "a").chmod(0o500)
    try:
        code, out, _ = cli("report", runs, "--out", tmp_path / "o" / "r.html")
    finally:
        (runs / "a").chmod(0o700)
    assert code == 0
    assert "its page cannot be written" in out


@pytest.mark.usefixtures("quick")
def test_a_page_that_cannot_be_written_is_said_and_not_linked(cli, runs, monkeypatch):
    from robustspike.cli import reporting

    def refusing(shown, page, write=reporting.write_comparison):
        if Path(page).parent == runs / "a":
            raise PermissionError(13, "Permission denied", str(page))
        write(shown, page)

    monkeypatch.setattr(reporting, "write_comparison", refusing)
    assert cli("report", runs)[0] == 0
    board = board_in(runs)
    assert {e.run: e.page for e in board.entries} == {"a": "", "b": "b/report.html"}
    assert [(one.where, one.what) for one in board.missing] == [("a", "its page cannot be written: Permission denied")]


@pytest.mark.usefixtures("quick")
def test_json_of_an_index_holds_what_each_figure_is_under(cli, runs):
    cli("report", runs)
    found = json.loads((runs / "index.json").read_text())
    header = found["groups"][0]["places"][0]["entry"]["header"]
    assert (header["n"], header["seed"], header["eps"], len(header["members"])) == (40, 7, 0.1, 12)
