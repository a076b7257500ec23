"""Every Python block of the README and of the one-page tour runs; every command line of them is accepted and works."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from robustspike.audits import AUDITS
from robustspike.cli import main
from robustspike.doubts import doubts

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/all-of-it.md")

# What makes a README command a matter of seconds; the command itself is run as printed.
QUICK = {
    "train": ["--epochs", "1", "--train-limit", "40", "--test-limit", "20", "--time-steps", "2", "--no-progress"],
    "attack": ["--limit", "4", "--doubts", "0", "--no-progress"],
    "audit": ["--samples", "3", "--doubts", "0", "--no-progress", "--audit", "gradients"],
    "sweep": [
        "--epochs",
        "1",
        "--train-limit",
        "40",
        "--limit",
        "5",
        "--steps",
        "2",
        "--time-steps",
        "1",
        "--no-progress",
    ],
    "reproduce": ["--epochs", "1", "--train-limit", "40", "--limit", "2", "--time-steps", "1", "--no-progress"],
}


def on_few_samples(*given, samples, seed):
    """The masking checks, on two samples."""
    return doubts(*given, samples=min(samples, 2), seed=seed)


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


def command_lines(page):
    lines = "".join(blocks(page, "sh")).splitlines()
    return [line.split("  #")[0] for line in lines if line.startswith("robustspike ")]


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_run_one_after_the_other(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("robustspike.doubts.doubts", on_few_samples)
    code = blocks(page, "python")
    assert code
    scope = {}
    for block in code:
        exec(compile(block, page, "exec"), scope)
    assert 0 <= scope["outcome"].robust_accuracy <= scope["outcome"].clean_accuracy <= 1


@pytest.mark.parametrize("page", PAGES)
def test_command_lines_run_one_after_the_other(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = command_lines(page)
    assert {shlex.split(line)[1] for line in lines} >= {"train", "attack", "report", "list"}
    for line in lines:
        arguments = shlex.split(line)[1:]
        with pytest.raises(SystemExit) as ended:
            main(arguments + QUICK.get(arguments[0], []))
        assert ended.value.code == 0, (line, capsys.readouterr().err)


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "audits").glob("*.md")), ids=lambda page: page.stem)
def test_the_examples_of_an_audits_page_run(page, tmp_path, monkeypatch, one_thread):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    scope = {}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), scope)
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        target = page.parent / link
        assert "://" in link or target.is_dir() or target.stat().st_size > 0, f"{page}: {link}"


def test_every_audit_has_a_page():
    assert {page.stem for page in (ROOT / "docs" / "audits").glob("*.md")} >= set(AUDITS)


def test_the_make_targets_of_the_readme_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", (ROOT / "README.md").read_text()))
    assert {"demo", "test"} <= named <= targets


def test_relative_links_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
            target = (ROOT / page).parent / link
            assert "://" in link or target.is_dir() or target.stat().st_size > 0, f"{page}: {link}"
