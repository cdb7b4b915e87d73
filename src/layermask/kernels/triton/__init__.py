"""Kernels for GPUs, in Triton. Import its modules only where that is installed."""

import functools
import importlib.util


@functools.cache
def installed() -> bool:
    return importlib.util.find_spec("triton") is not None
