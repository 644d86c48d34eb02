"""JSON the way models were trained on it, and JSON files read with clear errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mindformers.errors import TokenizerError

MAX_JSON_BYTES = 64 * 2**20
_MAX_INDENT = 16


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return ``value`` as JSON text: keys in their order, Chinese as it is, no HTML escapes.

    The ``tojson`` filter of chat templates. Jinja's own sorts the keys and escapes ``<``, ``>``,
    ``&`` and all that is not ASCII: the model would read a tool list it has never seen the like of.

    Raises:
        TokenizerError: If the indent is beyond reason or the value is not JSON.
    """
    width = len(indent) if isinstance(indent, str) else indent or 0
    if width > _MAX_INDENT:
        raise TokenizerError(f"tojson(indent={width})", allowed=f"at most {_MAX_INDENT}")
    try:
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise TokenizerError(f"cannot be written as JSON: {error}") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object a file holds.

    Raises:
        TokenizerError: If the file cannot be read, is too large, is no JSON (with the line), or no
            object.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise TokenizerError(f"is larger than {MAX_JSON_BYTES // 2**20} MB", where=str(path))
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise TokenizerError(f"cannot be read ({error.strerror})", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise TokenizerError(f"is not UTF-8 text (byte {error.start})", where=str(path)) from error
    except json.JSONDecodeError as error:
        raise TokenizerError(f"is not JSON: {error.msg}", where=f"{path}:{error.lineno}") from error
    except RecursionError as error:
        raise TokenizerError("is nested too deeply", where=str(path)) from error
    if not isinstance(content, dict):
        raise TokenizerError(
            f"holds a JSON {type(content).__name__}", where=str(path), allowed="an object {...}"
        )
    return content
