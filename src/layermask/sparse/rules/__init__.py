"""Sparse forms of rules. What is not here, or not in this form, the dense rule does."""

from layermask.sparse.rules import attention, conv, layout, pool, tokens

from layermask.sparse.rules import pointwise  # isort: skip  # last: it takes what has no form of its own

__all__ = ["attention", "conv", "layout", "pointwise", "pool", "tokens"]
