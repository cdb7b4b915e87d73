"""Reports: what was found as one HTML file that needs nothing else."""

from layermask.report.page import report_page

__all__ = ["report_page"]
