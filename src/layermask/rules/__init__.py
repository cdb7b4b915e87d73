"""The rules, one file per kind of operation. Importing this package fills `layermask.core.RULES`."""

from layermask.rules import (
    aten,
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
    "aten",
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
