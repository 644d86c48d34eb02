"""What one rendering of a chat template may use: so many seconds, so many characters."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

from jinja2 import pass_eval_context
from jinja2.nodes import EvalContext
from jinja2.sandbox import SecurityError

MAX_CHARS = 64 * 2**20  # of one value, and of all values printed; a million tokens have some 5 MB
MAX_SECONDS = 5.0
_MAX_INTEGER_BITS = 4096


class _Budget:
    """What the rendering that runs now has left."""

    def __init__(self) -> None:
        self.deadline = time.monotonic() + MAX_SECONDS
        self.printed = 0

    def tick(self) -> None:
        if time.monotonic() > self.deadline:
            raise SecurityError(f"it runs longer than {MAX_SECONDS:g} seconds")

    def count(self, characters: int) -> None:
        self.printed += characters
        check_size(self.printed)
        self.tick()


_active: ContextVar[_Budget | None] = ContextVar("template_budget", default=None)


@contextmanager
def limited_rendering() -> Iterator[None]:
    """Bound what templates use inside this block, which belongs to one thread."""
    token = _active.set(_Budget())
    try:
        yield
    finally:
        _active.reset(token)


def tick() -> None:
    """Raise SecurityError when the rendering's time is over."""
    budget = _active.get()
    if budget is not None:
        budget.tick()


def check_size(size: int) -> None:
    """Raise SecurityError for a value of more than ``MAX_CHARS`` characters or items."""
    if size > MAX_CHARS:
        raise SecurityError(f"it builds more than {MAX_CHARS:,} characters")


def check_value(value: Any) -> Any:
    """Return ``value`` unless it is too long."""
    if isinstance(value, str | bytes | list | tuple):
        check_size(len(value))
    return value


def measure(value: Any) -> int:
    """Return how many characters ``value`` has as text, at least; stop at the bound.

    A list can hold one long string a thousand times, so its length alone says nothing.
    """
    total, pending, steps = 0, [value], 0
    while pending:
        item = pending.pop()
        if isinstance(item, Mapping):
            pending.extend(item.keys())
            pending.extend(item.values())
        elif isinstance(item, list | tuple):
            pending.extend(item)
        total += len(item) if isinstance(item, str) else 1
        check_size(total)
        steps += 1
        if not steps % 1024:
            tick()
    return total


@pass_eval_context  # a finalizer that wants a context is never run ahead of the rendering
def printed(context: EvalContext, value: Any) -> Any:
    """Return what a template prints, counted."""
    budget = _active.get()
    if budget is not None:
        budget.count(measure(value))
    return value


def ticking(iterable: Iterable[Any]) -> Iterator[Any]:
    """Yield the items of a template's loop, looking at the clock before each."""
    for item in iterable:
        tick()
        yield item


def concat(parts: list[Any]) -> str:
    """Return the texts of ``parts`` joined: Jinja's ``~``."""
    measure(parts)
    return "".join(map(str, parts))


def check_growth(name: str, subject: Any, arguments: tuple[Any, ...]) -> None:
    """Refuse a text operation whose result would be far longer than what goes in.

    Args:
        name: Of the filter or the string method.
        subject: What it is applied to.
        arguments: What it is given.
    """
    size = 0
    if name == "replace" and len(arguments) > 1:
        text, old, new = str(subject), str(arguments[0]), str(arguments[1])
        size = (text.count(old) if old else len(text) + 1) * len(new)
    elif name == "join":
        parts = [part for part in (subject, *arguments) if isinstance(part, list | tuple)]
        seams = [part for part in (subject, *arguments) if isinstance(part, str)]
        size = sum(map(measure, parts)) + sum(map(len, parts)) * sum(map(len, seams))
    elif name == "string":
        size = measure(subject)
    check_size(size)


def check_operands(operator: str, left: Any, right: Any) -> None:
    """Refuse ``left operator right`` when the result would be beyond the bounds."""
    if operator == "%" and isinstance(left, str | bytes):
        raise SecurityError("text formatting with % is not available")
    if operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
        check_size(len(left) + len(right))
    if operator == "*":
        for sequence, count in ((left, right), (right, left)):
            if hasattr(sequence, "__len__") and isinstance(count, int):
                check_size(len(sequence) * count)
    if operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length()
        if (bits * right if operator == "**" else bits + right.bit_length()) > _MAX_INTEGER_BITS:
            raise SecurityError(f"it builds a number of more than {_MAX_INTEGER_BITS} bits")


def guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the filter ``function`` with its growth checked."""
    skip = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)  # copies the mark by which Jinja knows that a filter wants the context
    def run(*args: Any, **kwargs: Any) -> Any:
        if len(args) > skip:
            check_growth(name, args[skip], (*args[skip + 1 :], *kwargs.values()))
        return check_value(function(*args, **kwargs))

    return run
