"""The page on SpikingJelly runs, and prints what it says that it prints."""

import contextlib
import importlib.metadata
import io
import re
from pathlib import Path

import pytest

from robustspike.doubts import doubts

pytest.importorskip("spikingjelly", reason="SpikingJelly is not installed; `pip install -e .[dev]` does")

PAGE = Path(__file__).parents[2] / "docs" / "spikingjelly.md"

# What makes the page a matter of seconds.
QUICK = {
    "epoch in range(8)": "epoch in range(1)",
    "subset(100)": "subset(4)",
    "steps=10": "steps=2",
    "steps=[10]": "steps=[2]",
    "range(20)": "range(2)",
}


def run(substitutions):
    """Names of the blocks, and (said, printed) of each."""
    scope, seen = {}, []
    found = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", PAGE.read_text(), flags=re.DOTALL)
    for code, said in found:
        for long, short in substitutions.items():
            code = code.replace(long, short)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, str(PAGE), "exec"), scope)
        seen.append((said, out.getvalue()))
    return scope, seen


def on_few_samples(*given, samples, seed):
    """The masking checks, on two samples."""
    return doubts(*given, samples=min(samples, 2), seed=seed)


def test_the_blocks_run_one_after_the_other(tmp_path, monkeypatch, one_thread):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("robustspike.doubts.doubts", on_few_samples)
    text = PAGE.read_text()
    assert all(long in text for long in QUICK)
    scope, seen = run(QUICK)
    assert len(seen) >= 10
    assert all(bool(printed) == bool(said) for said, printed in seen)
    assert 0 <= scope["report"].outcome.robust_accuracy <= scope["report"].outcome.clean_accuracy <= 1


@pytest.mark.slow
def test_the_page_says_what_is_printed(tmp_path, monkeypatch, one_thread):
    monkeypatch.chdir(tmp_path)
    assert f"SpikingJelly {importlib.metadata.version('spikingjelly')}, PyTorch 2.15" in PAGE.read_text()
    for said, printed in run({})[1]:
        assert printed == said


def test_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE.read_text()):
        assert "://" in link or (PAGE.parent / link).exists(), link
