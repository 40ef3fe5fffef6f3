"""Progress on a terminal: a bar with rate and time left, for what takes more than two seconds; else nothing."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

PATIENCE = 2.0
"""Seconds before a bar shows."""

_Item = TypeVar("_Item")


@contextmanager
def progress(what: str, total: int | None = None, *, unit: str = "images") -> Iterator[Callable[..., None]]:
    """A bar on stderr, where that is a terminal and rich is installed.

    Args:
        what: what is done.
        total: units of the whole, if they are known.
        unit: what is counted.

    Yields:
        A function that is told how many units are done, and how many there are if that was not known.
    """
    if not sys.stderr.isatty() or importlib.util.find_spec("rich") is None:
        yield lambda done, total=None: None
        return
    bar, task = _bar(what, total, unit)
    start = time.perf_counter()

    def show(done: int, total: int | None = None) -> None:
        seconds = time.perf_counter() - start
        if total is not None:
            bar.update(task, total=total)
        bar.update(task, completed=done, rate=f"{done / seconds:,.0f} {unit}/s" if seconds else "")
        if seconds > PATIENCE and not bar.live.is_started:
            bar.start()

    try:
        yield show
    finally:
        bar.stop()


def followed(items: Iterable[_Item], what: str, total: int | None = None, *, unit: str = "images") -> Iterator[_Item]:
    """The items, with a bar meanwhile."""
    with progress(what, total, unit=unit) as show:
        for done, item in enumerate(items, start=1):
            yield item
            show(done)


def _bar(what: str, total: int | None, unit: str) -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    return bar, bar.add_task(what, total=total, rate="")
