"""JSON objects from files that may hold anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mindformers.errors import CheckpointError

MAX_JSON_BYTES = 32 * 2**20


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: If the file cannot be read, is too large or holds no JSON object.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"larger than {MAX_JSON_BYTES} bytes", where=str(path))
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot be read: {error}", where=str(path)) from error
    return parse_object(text, str(path))


def parse_object(text: str, where: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        CheckpointError: If it is none.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"is no JSON: {error}", where=where) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"holds a {type(content).__name__}", where=where, allowed="an object")
    return content
