"""A progress bar on standard error, with the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from layermask.errors import import_optional

EVERY = 30.0  # seconds between the lines of a log


@contextmanager
def bar(description: str, total: int) -> Iterator[Callable[[float], None]]:
    """Yield `advance(done)`; where standard error is no terminal, a line every 30 s and the finished bar."""
    rich = import_optional("rich.progress", "cli")
    console = import_optional("rich.console", "cli").Console(stderr=True)
    log = None if console.is_terminal else _Log(description, total)
    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(),
        rich.TextColumn("left"),
        rich.TimeRemainingColumn(),
    )
    with rich.Progress(*columns, console=console) as progress:
        task = progress.add_task(description, total=total)

        def advance(done: float) -> None:
            progress.advance(task, done)
            if log:
                log.advance(done)

        try:
            yield advance
            progress.update(
                task, total=progress.tasks[0].completed
            )  # fewer than expected may have been needed
        except BaseException:
            progress.update(task, visible=False)  # so that the error is the only line
            raise


class _Log:
    """Lines for a file: how much is done, and the time left at the pace so far."""

    def __init__(self, description: str, total: float) -> None:
        self.description, self.total, self.done = description, total, 0.0
        self.begun = self.said = time.monotonic()

    def advance(self, done: float) -> None:
        self.done += done
        now = time.monotonic()
        if now - self.said >= EVERY and 0 < self.done < self.total:
            self.said = now
            left = (now - self.begun) * (self.total - self.done) / self.done
            words = f"{self.description} {self.done:,.0f}/{self.total:,}, about {clock(left)} left"
            print(words, file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """Return a time as "2:05 min", or "1:40 h" from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"
