"""glibc's allocator in the process of the command line: large blocks that were freed are kept.

By default it gives them back to the system, which clears every page before it hands them out again. For plain
passes of a convolutional network that takes up to as long as the computation. Library users set the same by
environment variables (docs/engines.md); no import of layermask changes an allocator.
"""

from __future__ import annotations

import ctypes
import os
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
LARGE = 2**31 - 1  # bytes: mallopt takes an int


def keep_blocks() -> bool:
    """Have freed blocks kept; return whether that was done.

    Nothing is done where the user has set glibc's allocator, or where there is another C library.
    """
    chosen = any(name.startswith("MALLOC_") for name in os.environ)
    if (
        not sys.platform.startswith("linux")
        or chosen
        or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl
        return False
    return bool(mallopt(MMAP_THRESHOLD, LARGE) and mallopt(TRIM_THRESHOLD, LARGE))
