"""Memory for rows, kept from one pass to the next.

What the system gives afresh it clears page by page, which takes longer than many a layer: with an allocator
that returns large blocks to the system, as glibc's does, a fifth of a ResNet-50's pass.
"""

from __future__ import annotations

import mmap
import threading
import weakref
from bisect import insort
from collections import deque

import torch
from torch import Tensor

SMALL = 1 << 18  # bytes; less is left to torch
_PAGE = 1 << 12
_REGION = 1 << 26
_MAPS = hasattr(mmap, "MAP_ANONYMOUS")


class _Region:
    """A mapping of its own, of which free stretches are lent: the first that is long enough."""

    def __init__(self, size: int) -> None:
        self.bytes = memoryview(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        self.free = [(0, size)]  # begin and end, in order, none beside another

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
    """Regions, and what is lent of them; they are kept for as long as anyone who `uses` them lives."""

    def __init__(self) -> None:
        self._regions: list[_Region] = []
        self._returned: deque[tuple[weakref.ref[_Region], tuple[int, int]]] = deque()
        self._users: set[int] = set()
        self._lock = threading.Lock()  # never taken by finalizers, which run at any time

    def used_by(self, user: object) -> None:
        self._users.add(id(user))
        weakref.finalize(user, self._left, id(user))

    def _left(self, user: int) -> None:
        self._users.discard(user)
        if not self._users:
            self._regions = []  # what is lent lives on by itself

    def empty(self, like: Tensor, rows: int, columns: int) -> Tensor:
        """(rows, columns), uninitialised, of the dtype and device of `like`."""
        size = rows * columns * like.itemsize
        if size < SMALL or like.device.type != "cpu" or not self._users or not _MAPS:
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
        while self._returned:
            owner, part = self._returned.popleft()
            if region := owner():
                region.take_back(part)
        for region in self._regions:
            if part := region.lend(size):
                return region, part
        self._regions.append(_Region(max(size, _REGION)))
        return self._lend(size)


MEMORY = Memory()
empty = MEMORY.empty
