"""The rules, one file per kind of operation. Importing this package fills `layermask.core.RULES`."""

from layermask.rules import (
    attention as attend,
)
from layermask.rules import (
    contract,
    convolve,
    fourier,
    metadata,
    normalise,
    overwrite,
    pointwise,
    pool,
    reduce,
    resample,
    shape,
)
from layermask.rules import (
    indexing as access,
)
from layermask.rules import (
    recurrent as recur,
)
from layermask.rules import (
    sorting as order,
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
