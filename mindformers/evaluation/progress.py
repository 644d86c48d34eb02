"""A bar for passes over rows, on a terminal only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def row_bar(total: int, label: str, is_shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Show how many of ``total`` rows are done; yield what is called with a number of new ones."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not is_shown or not console.is_terminal or console.is_dumb_terminal:
        yield lambda count: None
        return
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.update(task, advance=count)
