"""JSON the way models were trained on it."""

from __future__ import annotations

import json
from typing import Any

from mindformers.errors import TokenizerError

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
