"""The rules, one file per kind of operation. Importing this package fills `layermask.core.RULES`."""

from layermask.rules import (
    attention,
    contract,
    convolve,
    fourier,
    indexing,
    metadata,
    normalise,
    overwrite,
    pointwise,
    pool,
    recurrent,
    reduce,
    resample,
    shape,
    sorting,
)

__all__ = [
    "attention",
    "contract",
    "convolve",
    "fourier",
    "indexing",
    "metadata",
    "normalise",
    "overwrite",
    "pointwise",
    "pool",
    "recurrent",
    "reduce",
    "resample",
    "shape",
    "sorting",
]
