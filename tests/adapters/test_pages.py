"""The page on each framework runs, and prints what it says that it prints."""

import contextlib
import importlib.metadata
import io
import re
from pathlib import Path

import pytest
import torch

from robustspike.doubts import doubts

DOCS = Path(__file__).parents[2] / "docs"

# What makes each page a matter of seconds.
QUICK = {
    "norse": {
        "range(5)": "range(1)",
        "subset(100)": "subset(4)",
        "steps=20": "steps=2",
        "time_steps=16": "time_steps=6",
    },
    "snntorch": {
        "range(4)": "range(1)",
        "standard(eps=0.1)": "liu2024(eps=0.1, steps=[2])",
        "subset(50)": "subset(4)",
        "subset(200)": "subset(4)",
        "steps=10": "steps=2",
        "num_steps = 8": "num_steps = 4",
        '"widths"': '"confusion"',
    },
    "spikingjelly": {
        "epoch in range(8)": "epoch in range(1)",
        "subset(100)": "subset(4)",
        "steps=10": "steps=2",
        "steps=[10]": "steps=[2]",
        "range(20)": "range(2)",
    },
}


def text_of(page):
    return (DOCS / f"{page}.md").read_text()


def run(page, substitutions):
    """What is known after the last block, and each block's (said, printed)."""
    scope, seen = {}, []
    for code, said in re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", text_of(page), flags=re.DOTALL):
        for long, short in substitutions.items():
            code = code.replace(long, short)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, page, "exec"), scope)
        seen.append((said, out.getvalue()))
    return scope, seen


def on_few_samples(*given, samples, seed):
    """The masking checks, on two samples."""
    return doubts(*given, samples=min(samples, 2), seed=seed)


@pytest.mark.parametrize("page", QUICK)
def test_the_blocks_run_one_after_the_other(page, tmp_path, monkeypatch, one_thread):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("robustspike.doubts.doubts", on_few_samples)
    assert all(long in text_of(page) for long in QUICK[page])
    scope, seen = run(page, QUICK[page])
    assert len(seen) >= 10
    assert all(bool(printed) == bool(said) for said, printed in seen)
    assert 0 <= scope["report"].outcome.robust_accuracy <= scope["report"].outcome.clean_accuracy <= 1


@pytest.mark.slow
@pytest.mark.parametrize("page", QUICK)
def test_the_page_says_what_is_printed(page, tmp_path, monkeypatch, one_thread):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    installed = importlib.metadata.version(page), ".".join(torch.__version__.split(".")[:2])
    named = re.search(r"(?:SpikingJelly|snnTorch|Norse) ([\d.]+\d)(?:,| and) PyTorch (\d+\.\d+)", text_of(page))
    assert named, f"{page}: say which versions printed it"
    if named.groups() != installed:
        pytest.skip(f"the page is of {named[0]}")
    for said, printed in run(page, {})[1]:
        assert printed == said


@pytest.mark.parametrize("page", QUICK)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)\)", text_of(page)):
        assert "://" in link or (DOCS / link).exists(), link
