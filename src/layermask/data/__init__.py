"""Labelled pictures from folders: one type of sample, one table of layouts."""

from layermask.data.registry import DATA_SOURCES, open_source
from layermask.data.source import Sample, Source

__all__ = ["DATA_SOURCES", "Sample", "Source", "open_source"]
