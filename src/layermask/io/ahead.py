"""Work ahead on another thread: the next pictures are decoded while the model runs on this one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ahead(
    load: Callable[[T], R], items: Iterable[T], count: int = 4
) -> Generator[Callable[[], R], None, None]:
    """Yield, in order, functions that return `load(item)` or raise what it raised; `count` are begun early.

    Close the generator to stop early. One thread, so that the order of loading is fixed.
    """
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(1, thread_name_prefix="layermask-loading")
    try:
        for item in items:
            waiting.append(pool.submit(load, item))
            if len(waiting) > count:
                yield waiting.popleft().result
        while waiting:
            yield waiting.popleft().result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
