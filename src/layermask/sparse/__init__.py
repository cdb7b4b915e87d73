"""The sparse engine: a masked model run on rows of its visible cells, so that hidden ones cost nothing."""

from layermask.sparse.engine import ENGINES, SparseEngine, sparse_engine_for

__all__ = ["ENGINES", "SparseEngine", "sparse_engine_for"]
