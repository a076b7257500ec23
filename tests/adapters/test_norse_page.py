"""The page on Norse runs, and prints what it says that it prints."""

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch

from robustspike.doubts import doubts

PAGE = Path(__file__).parents[2] / "docs" / "norse.md"

# What makes the page a matter of seconds.
QUICK = {"range(5)": "range(1)", "subset(100)": "subset(4)", "steps=20": "steps=2", "time_steps=16": "time_steps=6"}


def parts():
    """(Python block, what it prints or None) in order."""
    found = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", PAGE.read_text(), flags=re.DOTALL)
    return [(code, printed) for code, printed in found]


def run(substitutions):
    """Each block's (said, printed)."""
    scope, seen = {}, []
    for code, said in parts():
        for long, short in substitutions.items():
            code = code.replace(long, short)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, str(PAGE), "exec"), scope)
        seen.append((said, out.getvalue()))
    return scope, seen


def on_few_samples(*given, samples, seed):
    return doubts(*given, samples=min(samples, 2), seed=seed)


def test_the_blocks_run_one_after_the_other(monkeypatch, one_thread):
    monkeypatch.setattr("robustspike.doubts.doubts", on_few_samples)
    text = PAGE.read_text()
    assert all(long in text for long in QUICK)
    scope, seen = run(QUICK)
    assert len(seen) >= 10
    assert all(bool(printed) == bool(said) for said, printed in seen)
    assert 0 <= scope["report"].outcome.robust_accuracy <= scope["report"].outcome.clean_accuracy <= 1


@pytest.mark.slow
def test_the_page_says_what_is_printed(one_thread):
    torch.manual_seed(0)
    for said, printed in run({})[1]:
        assert printed == (said or "")


def test_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE.read_text()):
        assert "://" in link or (PAGE.parent / link).exists(), link
