"""Labelled pictures from folders: one type of sample, one table of layouts."""

from layermask.data.source import Sample, Source
from layermask.data.table import SOURCES, open_source

__all__ = ["SOURCES", "Sample", "Source", "open_source"]
