"""Every Python block of the README and of the one-page tour runs; every command line of them is accepted and works."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from torchvision.utils import save_image

import robustspike
from robustspike.audits import AUDITS
from robustspike.cli import main
from robustspike.data import load
from robustspike.doubts import doubts

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/all-of-it.md")
OWN = "docs/your-network.md"

# The network, in a user's file, that the pages speak of.
MY_NET = """
import torch
from torch import nn

from robustspike import LIF, OverTime, repeat


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = OverTime(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.LazyLinear(20), LIF(threshold=0.1), nn.Linear(20, 10))

    def forward(self, x):
        return self.body(repeat(x, 4)).mean(0)


def make_model():
    net = Net()
    net(torch.zeros(1, CHANNELS, 8, 8))
    return net
"""

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


def own_files(folder, channels):
    """my_net.py, best.pt and images/ as the pages have them."""
    code = MY_NET.replace("CHANNELS", str(channels))
    (folder / "my_net.py").write_text(code)
    scope = {}
    exec(compile(code, "my_net.py", "exec"), scope)
    torch.save(scope["make_model"]().state_dict(), folder / "best.pt")
    images = load("digits").test.images
    for split in ("train", "test"):
        for label in range(10):
            (folder / "images" / split / str(label)).mkdir(parents=True)
            for k in range(2):
                save_image(images[2 * label + k].expand(3, -1, -1), folder / "images" / split / str(label) / f"{k}.png")


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
    own_files(tmp_path, channels=3)
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


@pytest.mark.parametrize("channels", [1, 3])
def test_the_page_on_networks_of_ones_own_runs(channels, tmp_path, monkeypatch, capsys, one_thread):
    """Its Python, and its commands on digits, with one channel, those on a folder of images with three."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("robustspike.doubts.doubts", on_few_samples)
    own_files(tmp_path, channels)
    lines = [line for line in command_lines(OWN) if ("digits" in line) == (channels == 1) or " report " in line]
    assert len(lines) >= 2
    for line in lines:
        arguments = shlex.split(line)[1:]
        with pytest.raises(SystemExit) as ended:
            main(arguments + QUICK.get(arguments[0], []))
        assert ended.value.code == 0, (line, capsys.readouterr().err)
    if channels == 1:
        scope = {"rs": robustspike}
        for block in blocks(OWN, "python"):
            exec(compile(block.replace("limit=100", "limit=4"), OWN, "exec"), scope)
        assert len(scope["outcome"].clean) == 4


def test_every_audit_has_a_page():
    assert {page.stem for page in (ROOT / "docs" / "audits").glob("*.md")} >= set(AUDITS)


def test_the_make_targets_of_the_readme_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", (ROOT / "README.md").read_text()))
    assert {"demo", "test"} <= named <= targets


def test_relative_links_lead_somewhere():
    for page in (*PAGES, OWN):
        for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
            target = (ROOT / page).parent / link
            assert "://" in link or target.is_dir() or target.stat().st_size > 0, f"{page}: {link}"
