"""The rules, one file per kind of operation. Importing this package fills `layermask.masked.RULES`."""

from . import (
    access,
    attend,
    contract,
    convolve,
    fourier,
    metadata,
    normalise,
    order,
    overwrite,
    pointwise,
    pool,
    recur,
    reduce,
    resample,
    shape,
)

__all__ = [
    "access",
    "attend",
    "contract",
    "convolve",
    "fourier",
    "metadata",
    "normalise",
    "order",
    "overwrite",
    "pointwise",
    "pool",
    "recur",
    "reduce",
    "resample",
    "shape",
]
