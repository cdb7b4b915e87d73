"""Labelled pictures from folders: one type of sample, one table of layouts."""

from layermask.data.registry import SOURCES, open_source
from layermask.data.source import Sample, Source

__all__ = ["SOURCES", "Sample", "Source", "open_source"]
