"""Audits measure what an accuracy does not say: one function for each, which returns a record of results."""

from __future__ import annotations

from collections.abc import Callable

from robustspike.audits.auditing import audit
from robustspike.audits.bounds import bounds
from robustspike.audits.confusion import confusion
from robustspike.audits.energy import energy
from robustspike.audits.examples import examples
from robustspike.audits.gradients import gradients
from robustspike.audits.heatmaps import heatmaps
from robustspike.audits.noise import noise
from robustspike.audits.operations import operations
from robustspike.audits.reporting import AuditReport, side_by_side
from robustspike.audits.steps import steps
from robustspike.audits.surface import surface
from robustspike.audits.theorems import theorems
from robustspike.audits.vulnerability import vulnerability
from robustspike.audits.widths import widths
from robustspike.results.audits import Audited

__all__ = [
    "AUDITS", "AuditReport", "audit", "bounds", "confusion", "energy", "examples", "gradients", "heatmaps", "noise",
    "operations", "side_by_side", "steps", "surface", "theorems", "vulnerability", "widths",
]  # fmt: skip

AUDITS: dict[str, Callable[..., Audited]] = {
    "gradients": gradients,
    "heatmaps": heatmaps,
    "operations": operations,
    "examples": examples,
    "confusion": confusion,
    "noise": noise,
    "vulnerability": vulnerability,
    "surface": surface,
    "steps": steps,
    "widths": widths,
    "bounds": bounds,
    "theorems": theorems,
    "energy": energy,
}
