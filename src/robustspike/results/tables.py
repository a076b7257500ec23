"""Figures to read."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Figures to read: ``str(table)`` for a terminal, ``markdown()`` for a page, ``latex()`` for a paper."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def __str__(self) -> str:
        lines = [self.columns, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        text = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        return "\n".join([self.title, text[0], "-" * len(text[0]), *text[1:], *([self.note] if self.note else [])])

    def markdown(self) -> str:
        """The table in Markdown, with title and note."""
        lines = [[cell.replace("|", "\\|") for cell in cells] for cells in (self.columns, *self.rows)]
        rows = ["| " + " | ".join(cells) + " |" for cells in lines]
        rows.insert(1, "|" + " --- |" * len(self.columns))
        return "\n".join([f"**{self.title}**", "", *rows, *(["", self.note] if self.note else [])])

    def latex(self, caption: str | None = None, label: str | None = None) -> str:
        """The table in LaTeX: booktabs, intervals in small type, the note below. Needs ``\\usepackage{booktabs}``.

        Args:
            caption: plain text, escaped here; None: the title.
            label: what ``\\ref`` names it by; None: none.

        Raises:
            ValueError: for a label that LaTeX would not take as it is.

        Example:
            >>> table = Table("A & B", ("network", "worst case"), (("SR*", "45.0 [40.1, 50.2]"),), "At most.")
            >>> print(table.latex(label="tab:b"))
            \\begin{table}
              \\centering
              \\caption{A \\& B}
              \\label{tab:b}
              \\begin{tabular}{lr}
                \\toprule
                network & worst case \\\\
                \\midrule
                SR* & 45.0 {\\scriptsize [40.1, 50.2]} \\\\
                \\bottomrule
              \\end{tabular}
              \\par\\smallskip\\parbox{\\linewidth}{\\footnotesize At most.}
            \\end{table}
        """
        if label is not None and not re.fullmatch(r"[A-Za-z0-9:._-]+", label):
            raise ValueError(f'label: expected letters, digits and : . _ -, such as "tab:digits", got {label!r}')
        note = [rf"  \par\smallskip\parbox{{\linewidth}}{{\footnotesize {_escaped(self.note)}}}"] if self.note else []
        lines = [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{_escaped(self.title if caption is None else caption)}}}",
            *([rf"  \label{{{label}}}"] if label else []),
            rf"  \begin{{tabular}}{{{''.join(map(self._alignment, range(len(self.columns))))}}}",
            r"    \toprule",
            f"    {_row(self.columns)}",
            r"    \midrule",
            *(f"    {_row(row)}" for row in self.rows),
            r"    \bottomrule",
            r"  \end{tabular}",
            *note,
            r"\end{table}",
        ]
        return "\n".join(lines)

    def _alignment(self, column: int) -> str:
        """Words to the left, figures to the right."""
        return "r" if any(re.match(r"[+-]?\d", row[column]) for row in self.rows) and column else "l"


_INTERVAL = re.compile(r"(?<=\d )(\[-?\d+(?:\.\d+)?, -?\d+(?:\.\d+)?\])")

_SPECIAL = {character: f"\\{character}" for character in "&%$#_{}"}
_SPECIAL |= {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''", "†": r"\textdagger{}", "·": r"\textperiodcentered{}",
    "–": "--", "—": "---", "…": r"\dots{}", "“": "``", "”": "''", "’": "'", "\n": " ",
}  # fmt: skip
_MATHS = {
    "α": r"\alpha", "β": r"\beta", "γ": r"\gamma", "δ": r"\delta", "ε": r"\varepsilon", "θ": r"\theta", "κ": r"\kappa",
    "λ": r"\lambda", "μ": r"\mu", "µ": r"\mu", "π": r"\pi", "ρ": r"\rho", "σ": r"\sigma", "τ": r"\tau", "φ": r"\varphi",
    "Δ": r"\Delta", "Σ": r"\Sigma", "∞": r"\infty", "×": r"\times", "≤": r"\leq", "≥": r"\geq", "≈": r"\approx",
    "≠": r"\neq", "±": r"\pm", "−": "-", "→": r"\to", "∈": r"\in", "‖": r"\|", "√": r"\surd", "✓": r"\surd",
    "✗": r"\times", "▲": r"\triangle", "₀": "_0", "₁": "_1", "₂": "_2", "²": "^2", "³": "^3",
}  # fmt: skip
_SPECIAL |= {character: f"${command}$" for character, command in _MATHS.items()}


def _escaped(text: str) -> str:
    """Plain text as LaTeX, with signs that its usual fonts lack as mathematics."""
    return "".join(_SPECIAL.get(character, character) for character in text)


def _row(cells: tuple[str, ...]) -> str:
    made = [_INTERVAL.sub(r"{\\scriptsize \1}", _escaped(cell)) for cell in cells]
    if made[0].startswith(("[", "*")):  # the row before ends in \\, which would take either as its own
        made[0] = f"{{{made[0][0]}}}{made[0][1:]}"
    return " & ".join(made) + r" \\"
