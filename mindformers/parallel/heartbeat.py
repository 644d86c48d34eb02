"""Signs of life for a launcher that watches this process."""

from __future__ import annotations


def beat(phase: str = "") -> None:
    """Say that this process is alive, and what it does."""
    del phase
