"""The doctor's page explains every check, and its examples are what they say."""

import re
from pathlib import Path

import pytest
import torch

from robustspike.data import load
from robustspike.doctor import INSTALLATION, KNOWN, NETWORK, diagnosing, doctor, known
from robustspike.doctor.checks import address

PAGE = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text()
CODE = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def slug(heading):
    """As code hosts make the address of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_every_check_is_explained():
    headings = re.findall(r"^### (.*)$", PAGE, flags=re.MULTILINE)
    assert headings == [*INSTALLATION, *KNOWN, *NETWORK]
    assert [address(name) for name in headings] == [f"docs/doctor.md#{slug(name)}" for name in headings]


def test_the_example_in_python(monkeypatch, capsys):
    monkeypatch.setattr(diagnosing, "known_defects", tuple)
    exec(compile(CODE[0], "docs/doctor.md", "exec"), {})
    assert capsys.readouterr().out.splitlines()[0] == re.search(r"print\(found.failed\)  # (.*)", CODE[0]).group(1)


def test_the_sick_network_fails_what_is_printed(monkeypatch):
    pytest.importorskip("snntorch", reason="snnTorch is not installed; `pip install -e .[dev]` does")
    monkeypatch.setattr(diagnosing, "INSTALLATION", {})
    of_snntorch = {name: defect for name, defect in KNOWN.items() if defect.framework == "snntorch"}
    monkeypatch.setattr(known, "KNOWN", of_snntorch)
    printed = re.search(r"```text\n(.*?)```", PAGE, flags=re.DOTALL).group(1)
    scope = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(compile(CODE[1], "docs/doctor.md", "exec"), scope)
        net = scope["Net"]()
    test = load("digits").test
    which = torch.linspace(0, len(test) - 1, 32).round().long()
    found = doctor(net, test.images[which], test.labels[which])
    marks = {name: mark for mark, name in re.findall(r"^  ([✓✗–]) ([^:]*):", printed, flags=re.MULTILINE)}
    if set(found.carried):
        assert {name for name, mark in marks.items() if mark == "✗"} == {*found.failed, *found.carried}
    assert set(found.failed) >= {"state leak"}
    assert set(marks) >= {one.check for one in found.network}
