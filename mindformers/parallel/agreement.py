"""Processes of one run must mean the same: what differs is refused before the first step, not after a hang."""

from __future__ import annotations

from collections.abc import Mapping

from mindformers.errors import ConfigError
from mindformers.parallel.mesh import mesh


def require_same(facts: Mapping[str, str]) -> None:
    """Compare facts among all processes.

    Args:
        facts: What -> its value here, as text.

    Raises:
        ConfigError: On every process, if one has another value.
    """
    found = mesh().world.gather_objects(dict(facts))
    for what, value in found[0].items():
        others = [rank for rank, each in enumerate(found) if each.get(what) != value]
        if others:
            ranks = ", ".join(str(rank) for rank in others)
            raise ConfigError(
                f"not the same on all processes: {value[:24]} on rank 0, "
                f"{str(found[others[0]].get(what))[:24]} on rank {ranks}",
                where=what,
                fix="start all processes with the same files, settings and release",
            )
