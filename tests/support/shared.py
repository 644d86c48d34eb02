"""Where the reference material beside the checkout lies; tests skip with a reason when it is absent."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared"


def shared_file(relative: str) -> Path:
    """Return a file under ``../shared``, or skip the calling test."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"reference file {relative} is not beside this checkout")
    return path
