"""What the data tools show while they work and at the end: a progress bar, counts, a table."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from mindformers.dataset.tally import Tally
from mindformers.tools.dataset_preprocess.preview import printable


class Bar(Protocol):
    """What a progress bar can do; without a terminal it does nothing."""

    def add_bytes(self, count: int) -> None:
        """Move on by bytes of input."""

    def show_rows(self, count: int) -> None:
        """Show how many rows are done."""


class _NoBar:
    def add_bytes(self, count: int) -> None:
        pass

    def show_rows(self, count: int) -> None:
        pass


class _RichBar:
    def __init__(self, progress: Any, task: Any) -> None:
        self._progress, self._task = progress, task

    def add_bytes(self, count: int) -> None:
        self._progress.advance(self._task, count)

    def show_rows(self, count: int) -> None:
        self._progress.update(self._task, rows=count)


@contextmanager
def progress_bar(title: str, total_bytes: int) -> Iterator[Bar]:
    """Yield a bar on stderr; one that does nothing when stderr is no terminal."""
    if not sys.stderr.isatty():
        yield _NoBar()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[rows]} rows"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _RichBar(progress, progress.add_task(title, total=total_bytes or None, rows=0))


def print_table(title: str, rows: Mapping[str, str]) -> None:
    """Print two columns on stdout, framed on a terminal."""
    if not sys.stdout.isatty():
        width = max(map(len, rows))
        print(title)
        for name, value in rows.items():
            print(f"  {name:<{width}}  {value}")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, show_header=False)
    for name, value in rows.items():
        table.add_row(Text(name), Text(value, justify="right"))
    Console().print(table)


def print_dropped(tally: Tally) -> None:
    """Print the first messages about dropped rows on stderr."""
    for reason, messages in tally.examples.items():
        for message in messages:
            print(f"dropped ({reason}): {printable(message)}", file=sys.stderr)
        rest = tally.dropped[reason] - len(messages)
        if rest:
            print(f"dropped ({reason}): and {rest} more", file=sys.stderr)


def counts(tally: Tally, seconds: float) -> dict[str, str]:
    """Return the lines of the closing table."""
    lines = {
        "rows read": f"{tally.rows_read:,}",
        "rows written": f"{tally.rows_written:,}",
    }
    if tally.tokens:
        share = 100 * tally.trained_tokens / tally.tokens
        lines["tokens"] = f"{tally.tokens:,}"
        lines["trained tokens"] = f"{tally.trained_tokens:,} ({share:.1f} %)"
        lines["truncated rows"] = f"{tally.truncated:,} ({tally.cut_tokens:,} tokens cut)"
    if tally.split:
        lines["split rows"] = f"{tally.split:,}"
    if tally.unlearnt:
        lines["rows without a label"] = f"{tally.unlearnt:,}"
    lines["dropped rows"] = f"{sum(tally.dropped.values()):,}"
    for reason, count in sorted(tally.dropped.items()):
        lines[f"  {reason}"] = f"{count:,}"
    lines["rows/s"] = f"{tally.rows_read / max(seconds, 1e-9):,.0f}"
    return lines
