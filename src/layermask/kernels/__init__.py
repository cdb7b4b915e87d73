"""Compiled kernels: C sources beside this file for CPUs, built once per machine by the user's own compiler
(`layermask build`, or at first use), and modules in Triton for GPUs.

Nothing depends on them: where there is no compiler (or `LAYERMASK_NATIVE=0` is set), and where there is no
Triton, the same work is done by torch operators.
"""

import functools
import importlib
import importlib.util
from types import ModuleType

from layermask.kernels.compile import Kernels
from layermask.kernels.loader import kernels_status, library

__all__ = ["Kernels", "kernels_status", "library", "triton_kernels"]


@functools.cache
def triton_kernels(name: str) -> ModuleType | None:
    """A module of this package that is written in Triton, where that is; imported when first asked for."""
    return importlib.import_module(f".{name}", __name__) if importlib.util.find_spec("triton") else None
