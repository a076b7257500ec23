"""What evaluations return: frozen records that say beside each figure under what it was measured, and their files.

An evaluation is a folder with ``evaluation.json`` (the settings, one :class:`Header`), ``samples.jsonl`` (one line per
sample) and ``doubts.json`` (what the checks for gradient masking found). Every figure is computed from the lines, so two
runs can be compared sample by sample.
"""

from robustspike.results.audits import AUDIT_RECORDS, Audited
from robustspike.results.budgets import Budget, parse_budget
from robustspike.results.costs import Breaks, Broken
from robustspike.results.curves import CostCurve, Curve, StepsCurve, StepsRow
from robustspike.results.files import (
    DOUBTS_FILE,
    HEADER_FILE,
    ROWS_FILE,
    load_outcome,
    outcome_of,
    rank_files,
    read_doubts,
    read_header,
    read_rows,
    row_of,
)
from robustspike.results.findings import MARKS, Checklist, Doubts, Finding, doubts_sentence
from robustspike.results.outcome import ATTEMPT_FIELDS, Outcome
from robustspike.results.paired import McNemar, mcnemar
from robustspike.results.rates import Rate, Record, ResultError, rate
from robustspike.results.records import (
    FORMAT,
    Comparison,
    Header,
    Member,
    MemberSummary,
    Network,
    Summary,
    caveats,
    comparison_table,
    marked,
    under,
)
from robustspike.results.tables import Table
from robustspike.results.views import Bars, Chart, Line, Matrix, Picture, PictureRow, Pictures, View

__all__ = [
    "ATTEMPT_FIELDS", "AUDIT_RECORDS", "DOUBTS_FILE", "FORMAT", "HEADER_FILE", "MARKS", "ROWS_FILE", "Audited",
    "Bars", "Breaks", "Broken", "Budget", "Chart", "Checklist", "Comparison", "CostCurve", "Curve", "Doubts",
    "Finding", "Header", "Line", "Matrix", "McNemar", "Member", "MemberSummary", "Network", "Outcome", "Picture",
    "PictureRow", "Pictures", "Rate", "Record", "ResultError", "StepsCurve", "StepsRow", "Summary", "Table", "View",
    "caveats", "comparison_table", "doubts_sentence", "load_outcome", "marked", "mcnemar", "outcome_of",
    "parse_budget", "rank_files", "rate", "read_doubts", "read_header", "read_rows", "row_of", "under",
]  # fmt: skip
