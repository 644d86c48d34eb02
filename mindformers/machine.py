"""What of this machine a process can have: its CPU mask, its container's limits, free memory, open files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
_MEMORY = Path("/proc/meminfo")


def usable_cpus() -> int:
    """Return how many CPUs' worth of time this process can get, at least 1.

    A quota is rounded down: a thread that is throttled holds up all others.
    """
    has_mask = hasattr(os, "sched_getaffinity")  # Linux has
    count = len(os.sched_getaffinity(0)) if has_mask else os.cpu_count() or 1
    quotas = [each for folder, new in _control_groups("cpu") if (each := _quota_of(folder, new))]
    return max(1, int(min([float(count), *quotas])))


def installed_memory() -> int:
    """Return the bytes of memory this process's container or the machine has."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([whole, *(limit for limit, _ in _memory_limits())])


def open_files(wanted: int) -> int | None:
    """Return how many files this process may have open, up to ``wanted``; its own limit is raised so far.

    None where nobody can tell.
    """
    limits = _file_limits()
    if limits is None:
        return None
    own, most = limits
    if own < min(wanted, most):
        own = min(wanted, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (own, most))
    return min(wanted, own)


def free_memory() -> int | None:
    """Return the bytes that could be had now without swapping, or None where nobody can tell."""
    try:
        lines = _MEMORY.read_text(encoding="ascii").splitlines()
        free = next(
            int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")
        )
    except (OSError, ValueError, StopIteration):
        return None
    return max(0, min([free, *(limit - used for limit, used in _memory_limits())]))


def _file_limits() -> tuple[int, int] | None:
    """Return the limits of open files: the one that holds, and the one up to which it may be raised."""
    if resource is None:
        return None
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    own, most = (sys.maxsize if each == resource.RLIM_INFINITY else each for each in limits)
    return own, most


def _control_groups(controller: str) -> Iterator[tuple[Path, bool]]:
    """Yield this process's control groups that hold a controller, parents included; True: of version 2."""
    try:
        lines = _OWN_GROUPS.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = _GROUPS / controllers if controllers else _GROUPS
        own = base / path.lstrip("/")
        # In a container the path may be the host's: its limit then stands at the root that is mounted here.
        for folder in {base, own, *(each for each in own.parents if base in each.parents)}:
            yield folder, not controllers


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


def _memory_limits() -> Iterator[tuple[int, int]]:
    """Yield (limit, bytes used that cannot be dropped) of the control groups that set a limit."""
    for folder, is_unified in _control_groups("memory"):
        names = ("max", "current") if is_unified else ("limit_in_bytes", "usage_in_bytes")
        try:
            limit, used = (int((folder / f"memory.{name}").read_text("ascii")) for name in names)
        except (OSError, ValueError):  # not there, or "max"
            continue
        yield limit, max(0, used - _file_cache(folder))


def _file_cache(folder: Path) -> int:
    """Return the bytes of a control group's cached files, which give way to other needs."""
    try:
        rows = (line.split() for line in (folder / "memory.stat").read_text("ascii").splitlines())
        found = {name: int(value) for name, value in rows}
    except (OSError, ValueError):
        return 0
    return found.get("inactive_file", found.get("total_inactive_file", 0))
