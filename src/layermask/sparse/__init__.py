"""The packed engine: a masked model run on rows of its visible cells, so that hidden ones cost nothing."""

from layermask.sparse.engine import ENGINES, Packing, packing

__all__ = ["ENGINES", "Packing", "packing"]
