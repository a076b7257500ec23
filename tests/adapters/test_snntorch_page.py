"""The page on snnTorch runs, and prints what it says that it prints."""

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch

from robustspike.doubts import doubts

pytest.importorskip("snntorch", reason="snnTorch is not installed; `pip install -e .[dev]` does")

from tests.adapters.snntorch_networks import snn

PAGE = Path(__file__).parents[2] / "docs" / "snntorch.md"

# What makes the page a matter of seconds.
QUICK = {
    "range(4)": "range(1)",
    "standard(eps=0.1)": "liu2024(eps=0.1, steps=[2])",
    "subset(50)": "subset(4)",
    "subset(200)": "subset(4)",
    "steps=10": "steps=2",
    "num_steps = 8": "num_steps = 4",
    '"widths"': '"confusion"',
}


def parts():
    """(Python block, what it prints or None) in order."""
    return re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", PAGE.read_text(), flags=re.DOTALL)


def run(substitutions):
    """What is known after the last block, and each block's (said, printed)."""
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
    named = re.search(r"snnTorch ([\d.]+), PyTorch ([\d.]+)", PAGE.read_text())
    if (snn.__version__, torch.__version__.split("+")[0][: len(named[2])]) != (named[1], named[2]):
        pytest.skip(f"the page is of snnTorch {named[1]} and PyTorch {named[2]}")
    for said, printed in run({})[1]:
        assert printed == said


def test_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE.read_text()):
        assert "://" in link or (PAGE.parent / link).exists(), link
