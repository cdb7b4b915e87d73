"""Sparse forms of rules. What is not here, or not in this form, the dense rule does."""

from layermask.sparse.rules import conv, layout, pool, tokens

from layermask.sparse.rules import pointwise  # isort: skip  # it takes what has no form of its own
from layermask.sparse.rules import attention  # isort: skip  # last: scores are added to and scaled too

__all__ = ["attention", "conv", "layout", "pointwise", "pool", "tokens"]
