"""How many threads this process may keep busy."""

from __future__ import annotations

import os

from mindformers.errors import ConfigError
from mindformers.machine import usable_cpus

THREADS_VARIABLE = "MINDFORMERS_THREADS"
MOST_THREADS = 1024


def wanted_threads() -> int:
    """Return the thread count of ``MINDFORMERS_THREADS``; 0 or unset: all this process may use.

    Raises:
        ConfigError: If it is no whole number from 0 to 1024.
    """
    text = os.environ.get(THREADS_VARIABLE, "").strip() or "0"
    if not (text.isascii() and text.isdecimal() and int(text) <= MOST_THREADS):
        raise ConfigError(
            f"found {text!r}", where=THREADS_VARIABLE,
            allowed=f"a whole number, 0 (all CPUs of this process) to {MOST_THREADS}",
        )  # fmt: skip
    return int(text) or usable_cpus()
