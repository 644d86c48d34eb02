"""How many threads this process may keep busy: its CPU mask and its container's quota."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mindformers.errors import ConfigError

THREADS_VARIABLE = "MINDFORMERS_THREADS"
MOST_THREADS = 1024
_ROOT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


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


def usable_cpus() -> int:
    """Return how many CPUs' worth of time this process can get, at least 1.

    A quota is rounded down: a thread that is throttled holds up all others.
    """
    has_mask = hasattr(os, "sched_getaffinity")  # Linux has
    count = len(os.sched_getaffinity(0)) if has_mask else os.cpu_count() or 1
    return max(1, int(min([float(count), *_quotas()])))


def _quotas() -> Iterator[float]:
    """Yield the CPU limits of this process's control groups, of either version, parents included."""
    try:
        lines = _OWN.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        names = controllers.split(",")
        if controllers and "cpu" not in names:
            continue
        base = _ROOT / controllers if controllers else _ROOT
        own = base / path.lstrip("/")
        # In a container the path may be the host's: its limit then stands at the root that is mounted here.
        for folder in {base, own, *(each for each in own.parents if base in each.parents)}:
            limit = _quota_of(folder, is_unified=not controllers)
            if limit:
                yield limit


def _quota_of(folder: Path, is_unified: bool) -> float:
    """Return the limit in CPUs a control group sets itself; 0: none."""
    try:
        if is_unified:
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii")
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii")
        return max(0.0, int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):  # not there, or "max"
        return 0.0
