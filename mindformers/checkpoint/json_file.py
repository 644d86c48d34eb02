"""JSON objects from files that may hold anything, and to files that appear whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindformers.checkpoint.atomic import write_text
from mindformers.errors import CheckpointError, MindFormersError

MAX_JSON_BYTES = 64 * 2**20  # the largest published tokenizer.json has about 20 MB


def read_json(
    path: Path, kind: type[MindFormersError] = CheckpointError, *, fix: str = ""
) -> dict[str, Any]:
    """Return the JSON object a file holds; a byte order mark is dropped.

    Args:
        path: The file.
        kind: Error to raise.
        fix: What to do when the file cannot be read.

    Raises:
        MindFormersError: Of ``kind``, if the file cannot be read, is too large or holds no JSON object.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise kind(f"is larger than {MAX_JSON_BYTES // 2**20} MB", where=str(path))
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise kind(f"cannot be read ({error.strerror})", where=str(path), fix=fix) from error
    except UnicodeDecodeError as error:
        raise kind(f"is not UTF-8 text (byte {error.start})", where=str(path)) from error
    return parse_object(text, str(path), kind)


def parse_object(
    text: str, where: str, kind: type[MindFormersError] = CheckpointError
) -> dict[str, Any]:
    """Return the JSON object a text holds.

    Raises:
        MindFormersError: Of ``kind``, if it holds none.
    """
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise kind(f"is not JSON: {error.msg}", where=f"{where}:{error.lineno}") from error
    except (ValueError, RecursionError) as error:  # a number of too many digits, too deep a nesting
        found = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise kind(f"is not JSON we can read: {found}", where=where) from error
    if not isinstance(content, dict):
        raise kind(f"holds a {type(content).__name__}", where=where, allowed="one JSON object")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write an object as readable JSON, whole or not at all; return the path."""
    return write_text(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")
