"""The packed engine: a masked model run on rows of its visible cells, so that hidden ones cost nothing."""

from layermask.sparse.engine import ENGINES, SparseEngine, packing

__all__ = ["ENGINES", "SparseEngine", "packing"]
