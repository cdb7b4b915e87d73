"""Memory for rows, kept by an operator from one pass to the next.

The operating system clears new memory page by page. This takes longer than many layers: a fifth of a pass of
ResNet-50, with an allocator that returns large blocks to the system, as that of glibc does. Buffers are
therefore reused.
"""

from __future__ import annotations

import contextlib
import mmap
import threading
import weakref
from bisect import insort
from collections import deque
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

SMALL = 1 << 18  # bytes; less is left to torch
_PAGE = 1 << 12
_REGION = 1 << 26
KEPT = 1 << 29  # bytes that an operator keeps between passes
_MAPS = hasattr(mmap, "MAP_ANONYMOUS")


class _Region:
    """A mapping of its own, of which free stretches are lent: the first that is long enough."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.bytes = memoryview(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        self.free = [(0, size)]  # begin and end, in order, none beside another

    @property
    def is_free(self) -> bool:
        return self.free == [(0, self.size)]

    def lend(self, size: int) -> tuple[int, int] | None:
        for i, (begin, end) in enumerate(self.free):
            if end - begin >= size:
                self.free[i : i + 1] = [(begin + size, end)] if end - begin > size else []
                return begin, begin + size
        return None

    def take_back(self, part: tuple[int, int]) -> None:
        insort(self.free, part)
        i = self.free.index(part)
        for at in (i, i - 1):  # with what is behind it, then with what is before
            if 0 <= at < len(self.free) - 1 and self.free[at][1] == self.free[at + 1][0]:
                self.free[at : at + 2] = [(self.free[at][0], self.free[at + 1][1])]


class Memory:
    """Regions, and what is lent of them: an operator's, which go back with it."""

    def __init__(self) -> None:
        self._regions: list[_Region] = []
        self._returned: deque[tuple[weakref.ref[_Region], tuple[int, int]]] = deque()
        self._lock = threading.Lock()  # never taken by finalizers, which run at any time

    def empty(self, like: Tensor, rows: int, columns: int) -> Tensor:
        """(rows, columns), uninitialised, of the dtype and device of `like`."""
        size = rows * columns * like.itemsize
        if size < SMALL or like.device.type != "cpu" or not _MAPS:
            return like.new_empty(rows, columns)
        try:
            with self._lock:
                region, part = self._lend(-(-size // _PAGE) * _PAGE)
        except OSError:  # no memory left: torch says so as its users know it
            return like.new_empty(rows, columns)
        lent = region.bytes[slice(*part)]
        weakref.finalize(lent, self._returned.append, (weakref.ref(region), part)).atexit = False
        return torch.frombuffer(lent, dtype=like.dtype, count=rows * columns).view(rows, columns)

    def _lend(self, size: int) -> tuple[_Region, tuple[int, int]]:
        self._collect()
        for region in self._regions:
            if part := region.lend(size):
                return region, part
        self._regions.append(_Region(max(size, _REGION)))
        return self._lend(size)

    def _collect(self) -> None:
        while self._returned:
            owner, part = self._returned.popleft()
            if region := owner():
                region.take_back(part)

    def give_back(self) -> None:
        """Unmap regions of which nothing is lent, the last ones first, until `KEPT` bytes are left."""
        with self._lock:
            self._collect()
            size = sum(region.size for region in self._regions)
            for region in reversed(list(self._regions)):
                if size > KEPT and region.is_free:
                    self._regions.remove(region)
                    size -= region.size


_lender: ContextVar[Memory | None] = ContextVar("memory for rows", default=None)


@contextlib.contextmanager
def _lending(memory: Memory) -> Iterator[None]:
    token = _lender.set(memory)
    try:
        yield
    finally:
        _lender.reset(token)
        memory.give_back()


def lending(sparse_engine: Any) -> contextlib.AbstractContextManager[None]:
    """Within the block, `empty` lends of the memory of a sparse engine, if there is one.

    Afterwards the memory gives back what is over its cap.
    """
    return contextlib.nullcontext() if sparse_engine is None else _lending(sparse_engine.memory)


def empty(like: Tensor, rows: int, columns: int) -> Tensor:
    """(rows, columns), uninitialised, of the dtype and device of `like`, of the memory of the pass if any."""
    memory = _lender.get()
    return like.new_empty(rows, columns) if memory is None else memory.empty(like, rows, columns)
