"""Audits measure what an accuracy does not say: one function for each, which returns a record of results."""

from __future__ import annotations

from collections.abc import Callable

from robustspike.audits.auditing import audit
from robustspike.audits.gradients import gradients
from robustspike.audits.reporting import AuditReport, side_by_side
from robustspike.results.audits import Audited

__all__ = ["AUDITS", "AuditReport", "audit", "gradients", "side_by_side"]

AUDITS: dict[str, Callable[..., Audited]] = {
    "gradients": gradients,
}
