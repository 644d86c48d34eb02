"""The turns of ``conversations`` rows as messages: sharegpt's form and GLM-3's. Loads no MindSpore."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mindformers.errors import DataError, did_you_mean
from mindformers.tokenizer.json_text import to_json

_SHAREGPT_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "function_call": "assistant",
    "observation": "observation",
    "system": "system",
}
_SHAREGPT_NAMES = (*_SHAREGPT_ROLES, "user", "assistant")


def conversation_turns(row: Mapping[str, Any], where: str) -> list[Any]:
    """Return the messages of a row with ``conversations``, of either form.

    A turn of sharegpt has ``from`` and ``value``. One of GLM-3 (the form ``ToolAlpacaDataLoader``
    reads) has ``role`` and ``content``; its role ``tool`` is a call and its result in one: ``name``,
    ``parameters`` and ``observation``.

    Args:
        row: The row; its ``system`` becomes a message in front.
        where: File and line, for messages.

    Raises:
        DataError: If a turn is of neither form.
    """
    turns = row["conversations"]
    if not isinstance(turns, list):
        raise DataError(
            f"'conversations' is a {type(turns).__name__}", where=where, allowed="a list of turns"
        )
    messages: list[Any] = []
    if system := row.get("system"):
        messages.append({"role": "system", "content": system})
    for index, turn in enumerate(turns):
        place = f"{where}: conversations[{index}]"
        is_glm3 = isinstance(turn, Mapping) and "role" in turn and "from" not in turn
        messages.extend(_glm3_turn(turn, place) if is_glm3 else _sharegpt_turn(turn, place))
    return messages


def _glm3_turn(turn: Mapping[str, Any], where: str) -> list[Any]:
    if turn["role"] != "tool" or "name" not in turn:
        return [turn]
    call = {"name": turn["name"], "arguments": turn.get("parameters")}
    result = turn.get("observation")
    if result is None:
        raise DataError(
            "the tool's turn has no 'observation'",
            where=where,
            allowed='{"role": "tool", "name": ..., "parameters": {...}, "observation": ...}',
        )
    content = result if isinstance(result, str) else to_json(result)
    return [_tool_call(call, where), {"role": "observation", "content": content}]


def _sharegpt_turn(turn: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(turn, Mapping) or "from" not in turn or "value" not in turn:
        raise DataError(
            f"the turn is {turn!r:.60}", where=where, allowed='{"from": ..., "value": ...}'
        )
    name, value = turn["from"], turn["value"]
    role = _SHAREGPT_ROLES.get(name, name) if isinstance(name, str) else None
    if name not in _SHAREGPT_NAMES or role is None:
        raise DataError(
            f"unknown role {name!r}",
            where=where,
            allowed=", ".join(_SHAREGPT_ROLES),
            fix=did_you_mean(str(name), _SHAREGPT_ROLES),
        )
    if name != "function_call":
        return [{"role": role, "content": value}]
    return [_tool_call(call, where) for call in _calls(value, where)]


def _calls(value: Any, where: str) -> list[Any]:
    call = from_json(value, "the function_call", where)
    calls = call if isinstance(call, list) else [call]
    if not calls:
        raise DataError("the function_call calls nothing", where=where)
    return calls


def _tool_call(call: Any, where: str) -> dict[str, Any]:
    if not isinstance(call, Mapping) or not isinstance(call.get("name"), str) or not call["name"]:
        raise DataError(
            f"the function_call is {call!r:.60}",
            where=where,
            allowed='{"name": "...", "arguments": {...}}',
        )
    return {"role": "assistant", "content": None, "tool_calls": [{"function": call}]}


def from_json(value: Any, what: str, where: str) -> Any:
    """Return what a JSON text holds; anything but a text as it is.

    Raises:
        DataError: If the text is no JSON; ``what`` and ``where`` name it.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise DataError(
            f"{what} is no JSON: {reason}", where=where, fix="correct the text"
        ) from error
