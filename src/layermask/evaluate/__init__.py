"""Experiments over many pictures: resumable, one row per picture and setting."""

from layermask.evaluate.runner import Progress, run
from layermask.evaluate.segments import SegmentRemoval
from layermask.evaluate.store import Store, read_results

__all__ = ["Progress", "SegmentRemoval", "Store", "read_results", "run"]
