"""A progress bar on standard error, with the time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from layermask.errors import import_optional


@contextmanager
def bar(description: str, total: int) -> Iterator[Callable[[float], None]]:
    """Yield `advance(done)`; where standard error is no terminal, only the finished bar is shown."""
    rich = import_optional("rich.progress", "cli")
    console = import_optional("rich.console", "cli").Console(stderr=True)
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
        try:
            yield lambda done: progress.advance(task, done)
            progress.update(
                task, total=progress.tasks[0].completed
            )  # fewer than expected may have been needed
        except BaseException:
            progress.update(task, visible=False)  # so that the error is the only line
            raise
