"""Whether masking a model gives the right answers: the laws, and what `layermask check` reports."""

from layermask.check.laws import LAWS, LawResult, check_laws
from layermask.check.report import Report, check

__all__ = ["LAWS", "LawResult", "Report", "check", "check_laws"]
