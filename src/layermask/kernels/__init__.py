"""Compiled kernels: C sources in c/ for CPUs, built once per machine by the user's own compiler
(`layermask build`, or at first use), and modules in triton/ for GPUs.

Nothing depends on them: where there is no compiler (or `LAYERMASK_NATIVE=0` is set), and where there is no
Triton, the same work is done by torch operators.
"""

from layermask.kernels.compile import Kernels
from layermask.kernels.loader import kernels_status, library

__all__ = ["Kernels", "kernels_status", "library"]
