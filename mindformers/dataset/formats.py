"""Rows of the known data set forms as conversations: alpaca, sharegpt and messages.

The form is told by a row's keys, so files need no flag and may be mixed. Loads no
MindSpore.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mindformers.dataset.messages import Conversation, OrderPolicy, parse_conversation
from mindformers.dataset.rows import RawRow, parse_row, read_rows
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
_KNOWN_KEYS = ("messages", "conversations", "instruction", "output")
_FORMS = (
    "'messages' (GLM-4, OpenAI), 'conversations' (sharegpt) or 'instruction' and 'output' (alpaca)"
)


def read_conversations(
    path: str | Path, *, order: OrderPolicy = "strict"
) -> Iterator[Conversation | DataError]:
    """Yield the conversations of a file in order, and the error of each row that is none.

    Args:
        path: JSON Lines, or one JSON array.
        order: See ``parse_conversation``.

    Raises:
        DataError: If the file cannot be read (on).
    """
    for row in read_rows(path):
        yield row if isinstance(row, DataError) else conversation_or_error(row, order=order)


def conversation_or_error(
    row: RawRow, *, order: OrderPolicy = "strict"
) -> Conversation | DataError:
    """Return the conversation of a raw row, or the error that says why it is none."""
    try:
        return conversation_from_row(parse_row(row), where=row.where, order=order)
    except DataError as error:
        return error


def conversation_from_row(
    row: Mapping[str, Any], *, where: str = "", order: OrderPolicy = "strict"
) -> Conversation:
    """Return the conversation of a parsed row.

    Args:
        row: One of the known forms.
        where: File and line, for messages.
        order: See ``parse_conversation``.

    Raises:
        DataError: If the keys fit no form, or the conversation is malformed.
    """
    if "messages" in row:
        messages = row["messages"]
    elif "conversations" in row:
        messages = _sharegpt_messages(row, where)
    elif "instruction" in row or "output" in row:
        messages = _alpaca_messages(row, where)
    else:
        names = [str(key) for key in row]
        hints = (did_you_mean(name, _KNOWN_KEYS) for name in names)
        raise DataError(
            f"a row with the keys {', '.join(names[:8]) or '(none)'}",
            where=where,
            allowed=_FORMS,
            fix=next(filter(None, hints), ""),
        )
    return parse_conversation(messages, _tools(row.get("tools"), where), where=where, order=order)


def alpaca_prompt(instruction: str, context: str = "") -> str:
    """Return the user's text of an alpaca row.

    Args:
        instruction: The task.
        context: The row's ``input``. When it is not empty, one trailing "." of the instruction
            gives way to ": " and the context; without an instruction the context stands alone.
    """
    if not context:
        return instruction
    if not instruction:
        return context
    return f"{instruction.removesuffix('.')}: {context}"


def _alpaca_messages(row: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    if "output" not in row:
        hints = (did_you_mean(str(name), ("output",)) for name in row)
        raise DataError(
            "the alpaca row has no 'output'", where=where, fix=next(filter(None, hints), "")
        )
    texts = {}
    for key in ("instruction", "input", "output", "system"):
        value = row.get(key)
        texts[key] = "" if value is None else value
        if not isinstance(texts[key], str):
            raise DataError(f"'{key}' is a {type(value).__name__}", where=where, allowed="a string")
    messages = [{"role": "system", "content": texts["system"]}] if texts["system"] else []
    for question, answer in _history(row.get("history"), where):
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer})
    prompt = alpaca_prompt(texts["instruction"], texts["input"])
    if not prompt.strip():
        raise DataError("'instruction' and 'input' are both empty", where=where)
    if not texts["output"].strip():
        raise DataError("'output' is empty", where=where, fix="leave the row out")
    return [
        *messages,
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": texts["output"]},
    ]


def _history(value: Any, where: str) -> list[list[str]]:
    pairs = value or []
    is_pairs = isinstance(pairs, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
        for pair in pairs
    )
    if not is_pairs:
        raise DataError(
            f"'history' is {value!r:.60}", where=where, allowed="a list of [question, answer]"
        )
    return list(pairs)


def _sharegpt_messages(row: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    turns = row["conversations"]
    if not isinstance(turns, list):
        raise DataError(
            f"'conversations' is a {type(turns).__name__}", where=where, allowed="a list of turns"
        )
    messages: list[dict[str, Any]] = []
    if system := row.get("system"):
        messages.append({"role": "system", "content": system})
    for index, turn in enumerate(turns):
        messages.extend(_sharegpt_turn(turn, f"{where}: conversations[{index}]"))
    return messages


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
    call = _from_json(value, "the function_call", where)
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
    arguments = call.get("arguments")
    if not isinstance(arguments, str):
        arguments = to_json({} if arguments is None else arguments)
    return {"role": "assistant", "metadata": call["name"], "content": arguments or "{}"}


def _tools(value: Any, where: str) -> list[Any] | None:
    """Return a row's tool list; sharegpt files hold it as JSON text."""
    if value is None or value in ("", "[]"):
        return None
    tools = _from_json(value, "'tools'", where)
    if not isinstance(tools, list):
        raise DataError(
            f"'tools' is a {type(tools).__name__}", where=where, allowed="a list of tool schemas"
        )
    return tools or None


def _from_json(value: Any, what: str, where: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise DataError(
            f"{what} is no JSON: {reason}", where=where, fix="correct the text"
        ) from error
