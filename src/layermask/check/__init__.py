"""Whether masking a model gives the right answers: the laws, and what `layermask check` reports."""

from layermask.check.laws import LAWS, LawResult, check_laws
from layermask.check.report import LawReport, check

__all__ = ["LAWS", "LawReport", "LawResult", "check", "check_laws"]
