"""What speaks against a robustness figure: small probes of a model and of its evaluation, each judged by one check."""

from robustspike.doubts.all_checks import CHECKS, doubts
from robustspike.doubts.checklist import checklist

__all__ = ["CHECKS", "checklist", "doubts"]
