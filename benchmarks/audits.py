"""The figures of docs/audits and a page with every audit's answer, from the JSON that `robustspike audit` wrote.

python -m benchmarks.audits report.json sweep.json docs/audits docs/results/audits.md

The second is of networks that differ in one setting of their training, for the figure of trend.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from benchmarks.machine import description
from robustspike.report import view_png, view_svg
from robustspike.results import Audited, Bars, Chart, Comparison, Matrix, Network, Pictures, Table
from robustspike.results.trends import trend

# Figures of one network: those side by side would be too wide for a page.
ALONE = {"confusion", "examples", "heatmaps", "surface", "theorems", "bounds", "steps"}


HOW = """Networks of `robustspike demo` (T = 8, seed 0). Every accuracy under attack is an upper bound.

```sh
robustspike audit demo/vanilla --compare demo/at --compare demo/sr --compare demo/sr-star --samples 50 --out report.html
robustspike sweep --defence sr --time-steps 4 --over weight=0.03,0.1,0.3,1 --suite liu2024 --limit 100 --out lambda
robustspike audit lambda/weight=0.03 --compare lambda/weight=0.1 --compare lambda/weight=0.3 --compare lambda/weight=1 \\
    --audit gradients --suite liu2024 --samples 100 --out sweep.html
python -m benchmarks.audits report.json sweep.json docs/audits docs/results/audits.md
```
"""


def main(source: Path, sweep: Path, folder: Path, page: Path) -> None:
    """Write one figure for each audit into the folder, and the page."""
    comparison, several = (Comparison.model_validate_json(path.read_text()) for path in (source, sweep))
    for name, found in records(comparison).items():
        figure(name, found, folder)
    over = trend(several.networks)
    if over is None:
        raise SystemExit(f"{sweep}: the networks do not differ in exactly one numeric setting of their training")
    draw(next(view for view in over.views() if isinstance(view, Chart)), folder / "trend")
    page.write_text(text(comparison) + f"\n## [Against one setting](../audits/trend.md)\n\n{over.answer()}\n")


def records(comparison: Comparison) -> dict[str, dict[str, Audited]]:
    """The records of each audit by the networks' names."""
    names = dict.fromkeys(name for network in comparison.networks for name in network.audits)
    return {name: {n.name: n.audits[name] for n in comparison.networks if name in n.audits} for name in names}


def figure(name: str, found: dict[str, Audited], folder: Path) -> None:
    """The first view of an audit that can be drawn."""
    last = list(found.values())[-1]
    views = last.views() if name in ALONE else (*type(last).compared(found), *last.views())
    draw(next(view for view in views if not isinstance(view, Table)), folder / name)


def draw(view: Chart | Bars | Matrix | Pictures, path: Path) -> None:
    """As PNG where it is of pictures, else as SVG."""
    if isinstance(view, Pictures):
        view_png(view, path.with_suffix(".png"))
    else:
        path.with_suffix(".svg").write_text(view_svg(view))


def text(comparison: Comparison) -> str:
    """Every answer of every network, and the table of each audit."""
    parts = [
        "# Every audit on the demo's four networks\n",
        HOW,
        *(f"* {label}: {value}" for label, value in description(torch.device("cpu")).items()),
        "",
    ]
    parts += [accuracy(network) for network in comparison.networks]
    for name, found in records(comparison).items():
        one = next(iter(found.values()))
        parts += ["", f"## [{one.title}](../audits/{name}.md)", "", f"{one.conditions()}.", ""]
        parts += [f"* **{network}**: {record.answer()}" for network, record in found.items()]
        parts += ["", type(one).compared(found)[0].markdown()]
    return "\n".join(parts) + "\n"


def accuracy(network: Network) -> str:
    """The figures that the audits stand beside."""
    s = network.summary
    return (
        f"* **{network.name}**: clean {s.clean} %, worst case {s.robust} % under {s.header.suite}, {s.header.norm} ε = "
        f"{s.header.eps:.4g}, n = {s.robust.n}, seed {s.header.seed} (an upper bound)"
    )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
