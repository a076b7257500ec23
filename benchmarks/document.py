"""The figures as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.comparisons import Row
from benchmarks.timing import Candidate, Spread, ratio

_HEAD = (
    "| What | Plain, ms | Ours, ms | Ratio | Wanted | Plain: rate (share of peak) | Ours: rate (share of peak) |\n"
    "|---|---|---|---|---|---|---|"
)

_READING = """\
Milliseconds and ratios are medians with [quartiles]. The candidates take turns within each round, and the ratio is
taken within each round, so that other load on the machine hits both sides. Rates are GFLOP/s of matrix products and
convolutions (counted on each side by the formulas of `torch.utils.flop_counter`; operations that one side saves
count for nothing), and shares refer to the best `torch.mm` of the row's number type measured in this process. A neuron
has no matrix product: its rate is GB/s of the least possible memory traffic (five passes over the currents), its share
that of a plain copy.

*Plain* (`benchmarks/plain.py`): a loop over time under autograd with the surrogate as an autograd Function, spikes
collected in a list; the image repeated T times and merged into the batch; contiguous NCHW; `loss.backward()` with
weight gradients in the attack; all samples through all steps. *Ours*: `robustspike` as installed. bfloat16 is
`torch.autocast` on either side; under it the plain loop keeps its potentials in bfloat16, ours in float32."""


def document(
    rows: Sequence[Row], peaks: dict[str, float], facts: dict[str, str], notes: Sequence[str], title: str
) -> str:
    """The whole page."""
    facts = facts | {
        "Best matrix product": f"{_giga(peaks['float32'])} GFLOP/s float32, {_giga(peaks['bfloat16'])} GFLOP/s bfloat16",
        "Best copy": f"{_giga(peaks['bytes'])} GB/s read and written",
    }
    return "\n".join(
        [
            f"# {title}\n",
            *(f"* {label}: {value}" for label, value in facts.items()),
            f"\n{_HEAD}",
            *(_line(row, peaks) for row in rows),
            f"\n{_READING}\n",
            *(f"* {note}" for note in notes),
            "",
        ]
    )


def _line(row: Row, peaks: dict[str, float]) -> str:
    gain = ratio(row.plain, row.ours)
    cells = [
        row.what,
        _spread(row.plain.milliseconds, 1),
        _spread(row.ours.milliseconds, 1),
        f"**{gain.median:.2f}** [{gain.low:.2f}–{gain.high:.2f}]",
        "" if row.wanted is None else f"≥ {row.wanted:g}",
        _rate(row.plain, peaks),
        _rate(row.ours, peaks),
    ]
    return f"| {' | '.join(cells)} |"


def _spread(s: Spread, digits: int) -> str:
    return f"{s.median:.{digits}f} [{s.low:.{digits}f}–{s.high:.{digits}f}]"


def _rate(candidate: Candidate, peaks: dict[str, float]) -> str:
    unit = "GB/s" if candidate.unit == "bytes" else "GFLOP/s"
    return f"{_giga(candidate.rate)} {unit} ({candidate.rate / peaks[candidate.unit]:.0%})"


def _giga(value: float) -> str:
    return f"{value / 1e9:.3g}"
