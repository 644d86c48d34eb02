"""Which JSON types a schema allows a value, and which type a text is of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_MAX_STEPS = 32  # references and alternatives followed one after another


class _Integer(str):
    pass


class _Number(str):
    pass


# Numbers are read as texts: one of a million digits takes no time and meets no limit.
_KINDS: dict[type, str] = {
    _Integer: "integer",
    _Number: "number",
    str: "string",
    bool: "boolean",
    type(None): "null",
    list: "array",
    dict: "object",
}
ANY = frozenset(_KINDS.values())


def json_type(text: str) -> str:
    """Return the JSON type of a text; empty where it is no JSON."""
    try:
        value = json.loads(text, parse_int=_Integer, parse_float=_Number, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return ""
    return _KINDS[type(value)]


def is_object(text: str) -> bool:
    """Tell whether a text is one JSON object; NaN and Infinity, which Python reads, are no JSON."""
    return json_type(text) == "object"


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def types_of(schema: Any, key: str) -> frozenset[str]:
    """Return the JSON types that ``schema``, of an object, allows the value of ``key``."""
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    found = properties.get(key) if isinstance(properties, Mapping) else None
    return _types(found, schema, _MAX_STEPS)


def _types(schema: Any, root: Any, steps: int) -> frozenset[str]:
    if not isinstance(schema, Mapping) or not steps:
        return ANY
    if "$ref" in schema:
        return _types(resolve(root, schema["$ref"]), root, steps - 1)
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            return frozenset().union(*(_types(each, root, steps - 1) for each in schema[key]))
    named = schema.get("type")
    if isinstance(named, str | list):
        return frozenset([named] if isinstance(named, str) else filter(_is_text, named))
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list):
        return frozenset(_kind_of(value) for value in values)
    return ANY


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _kind_of(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _KINDS.get(type(value), "object")
    return "integer" if isinstance(value, int) else "number"


def resolve(root: Any, reference: Any) -> Any:
    """Return what a reference within a schema (``#/$defs/name``) means; None: nothing."""
    if not isinstance(reference, str) or not (reference + "/").startswith("#/"):
        return None
    found = root
    for step in reference.split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping):
            found = found.get(step)
        elif isinstance(found, list) and step.isdigit() and int(step) < len(found):
            found = found[int(step)]
        else:
            return None
    return found


def value_json(text: str, types: frozenset[str]) -> str:
    """Return the JSON of a value written without quotes: its own if it is of an allowed type, else a string.

    Args:
        text: The value as a text.
        types: JSON types it may have. Where a string is none of them, any JSON is taken as it is.
    """
    kind = json_type(text)
    # 5 is a number too, and 5.0 an integer to JSON Schema.
    fits = kind in types or ({kind} <= {"integer", "number"} and types & {"integer", "number"})
    if kind not in ("", "string") and (fits or "string" not in types):
        return text.strip()
    return json.dumps(text, ensure_ascii=False)
