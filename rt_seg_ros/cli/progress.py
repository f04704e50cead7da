"""Progress bars on long work; plain silence where nobody watches (a log file, a pipe)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")


def progress(
    items: Iterable[T], description: str, total: int | None = None, counts: Callable[[T], bool] = lambda item: True
) -> Iterator[T]:
    """Yield ``items``, with a bar on standard error while they last.

    :param total: their number, where ``len(items)`` does not tell
    :param counts: whether an item is one of these
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    console = Console(file=sys.stderr)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(description, total=total, rate="")
        for item in items:
            yield item
            if counts(item):
                speed = bar.tasks[0].speed
                bar.update(task, advance=1, rate=f"{speed:.1f}/s" if speed else "")


@contextmanager
def progress_share(description: str) -> Iterator[Callable[[float], bool]]:
    """Show a bar on standard error for work that tells itself how much of it is done, 0 to 1.

    :return: what takes the share; it returns True, for work that asks whether to go on
    """
    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(description, total=1.0)

        def show(share: float) -> bool:
            bar.update(task, completed=share)
            return True

        yield show
