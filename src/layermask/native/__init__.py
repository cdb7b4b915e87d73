"""Compiled kernels for CPUs: C sources beside this file, built once per machine by the user's own compiler.

Nothing depends on them: where there is no compiler, or `LAYERMASK_NATIVE=0` is set, the same work is done by
torch operators.
"""

from .build import call, library, pointer

__all__ = ["call", "library", "pointer"]
