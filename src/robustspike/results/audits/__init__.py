"""What audits return: one record for each audit, which says in words, tables and charts what was measured."""

from robustspike.results.audits.audited import Audited, headlines
from robustspike.results.audits.gradients import Gradients, Norms, Spread

__all__ = ["AUDIT_RECORDS", "Audited", "Gradients", "Norms", "Spread", "headlines"]

AUDIT_RECORDS: dict[str, type[Audited]] = {
    "gradients": Gradients,
}
