"""Tables in LaTeX and Markdown: escaped, aligned, and taken by LaTeX itself where it is installed."""

import re
import shutil
import subprocess

import pytest
from tests.report import made

from robustspike.results import Table, comparison_table
from robustspike.results.tables import _MATHS, _SPECIAL

TABLE = Table(
    "Digits & co: 5 % of λ_1",
    ("network", "clean [%]", "doubts"),
    (("SR* #2", "45.0 [40.1, 50.2]", "{none}"), ("[a]|b", "100.0 [96.4, 100.0]", "·"), ("*c", "·", "n ≤ 3")),
    "† ε = 8/255: ~a^b\\c <d>.",
)

COMMANDS = {command: sign for sign, command in _SPECIAL.items() if len(command) > 2 or command[0] == "\\"}


def read_back(text):
    """The plain text behind an escaped one: the commands of the other direction, longest first."""
    for command in sorted(COMMANDS, key=len, reverse=True):
        text = text.replace(command, COMMANDS[command])
    return text


def body(latex):
    """Cells of the rows between the first and the last rule, still escaped."""
    inside = latex[latex.index(r"\toprule") : latex.index(r"\bottomrule")]
    lines = [line.strip() for line in inside.splitlines() if line.endswith(r"\\")]
    return [re.split(r" & ", line.removesuffix(r" \\")) for line in lines]


def test_every_cell_comes_back():
    rows = body(TABLE.latex())
    assert len(rows) == 1 + len(TABLE.rows)
    for cells, expected in zip(rows, (TABLE.columns, *TABLE.rows), strict=True):
        plain = [re.sub(r"\{\\scriptsize (.*?)\}", r"\1", cell) for cell in cells]
        plain[0] = re.sub(r"^\{([\[*])\}", r"\1", plain[0])
        assert [read_back(cell) for cell in plain] == list(expected)


def test_nothing_special_is_left_bare():
    text = TABLE.latex()
    without = re.sub(r"\\[&%$#_{}]|\$[^$]*\$|\\[a-z]+(\{\})?", "", text)
    assert not set('%$#_~^<>|"') & set(without)
    ascii_or_letters = [character for character in text if ord(character) > 127]
    assert ascii_or_letters == []
    depth = [1 if c == "{" else -1 for c in re.sub(r"\\[{}]", "", text) if c in "{}"]
    assert sum(depth) == 0
    assert min(sum(depth[: i + 1]) for i in range(len(depth))) >= 0


def test_intervals_are_small_and_other_brackets_are_not():
    rows = body(TABLE.latex())
    assert rows[1][1] == r"45.0 {\scriptsize [40.1, 50.2]}"
    assert rows[2][1] == r"100.0 {\scriptsize [96.4, 100.0]}"
    assert rows[0][1] == r"clean [\%]"


def test_a_row_that_begins_like_an_option_is_guarded():
    r"""``\\[`` and ``\\*`` would belong to the row before."""
    rows = body(TABLE.latex())
    assert rows[2][0].startswith("{[}a]")
    assert rows[3][0].startswith("{*}c")


def test_words_to_the_left_and_figures_to_the_right():
    assert r"\begin{tabular}{lrl}" in TABLE.latex()


def test_caption_label_and_note():
    text = TABLE.latex()
    assert r"\caption{Digits \& co: 5 \% of $\lambda$\_1}" in text
    assert r"\label" not in text
    assert (
        text.index(r"\end{tabular}")
        < text.index(r"\footnotesize \textdagger{} $\varepsilon$")
        < text.index(r"\end{table}")
    )
    text = TABLE.latex("A 50 % caption", "tab:a_b-1.c")
    assert "\\caption{A 50 \\% caption}\n  \\label{tab:a_b-1.c}" in text
    assert "Digits" not in text
    assert "parbox" not in Table("t", ("a",), (("1",),)).latex()


@pytest.mark.parametrize("label", ["", "a b", "a}b", "tab:ε", "50%"])
def test_a_label_that_latex_would_not_take_is_refused(label):
    with pytest.raises(ValueError, match=r'label: expected letters, digits and : . _ -, such as "tab:digits", got'):
        TABLE.latex(label=label)


def test_the_table_of_a_comparison_has_its_figures():
    comparison, outcomes = made.comparison(3)
    text = comparison_table(comparison).latex(label="tab:x")
    for outcome in outcomes:
        rate = outcome.summary().robust
        figure, interval = str(rate).split(" ", 1)
        assert f"{figure} {{\\scriptsize {interval}}}" in text
    assert "upper bound" in text


def test_a_bar_in_a_cell_of_markdown_ends_no_cell():
    lines = TABLE.markdown().splitlines()
    assert r"| [a]\|b | 100.0 [96.4, 100.0] | · |" in lines


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX on PATH")
def test_latex_takes_it(tmp_path):
    signs = Table("".join(_SPECIAL), ("a", "b"), (("".join(_MATHS), "1.0 [0.5, 2.0]"),), "".join(_SPECIAL))
    comparison, _ = made.comparison(2)
    tables = [TABLE.latex(label="tab:a_b"), signs.latex(), comparison_table(comparison).latex()]
    text = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n"
    (tmp_path / "t.tex").write_text(text + "\n".join(tables) + "\n\\ref{tab:a_b}\\end{document}\n")
    argv = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    made_pdf = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    assert made_pdf.returncode == 0, made_pdf.stdout[-2000:]
    assert "Missing character" not in (tmp_path / "t.log").read_text(errors="replace")
