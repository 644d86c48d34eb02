"""Rows of the known data set forms as conversations: messages, sharegpt, alpaca, ADGen; and plain text.

The form is told by a row's keys, so files need no flag and may be mixed. Loads no
MindSpore.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from mindformers.dataset.messages import (
    Conversation,
    OrderPolicy,
    parse_conversation,
    parse_text,
)
from mindformers.dataset.rows import RawRow, parse_row, read_rows
from mindformers.dataset.turns import conversation_turns, from_json
from mindformers.errors import DataError, did_you_mean

Form = Literal["auto", "messages", "sharegpt", "alpaca", "adgen", "toolalpaca", "text"]
# The keys that tell a form; a row of several takes the first.
_KEYS = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "toolalpaca": ("conversations",),
    "alpaca": ("instruction", "output"),
    "adgen": ("content", "summary"),
    "text": ("text",),
}
_KNOWN_KEYS = ("messages", "conversations", "instruction", "output", "content", "summary", "text")
_FORMS = (
    "'messages' (GLM-4, OpenAI), 'conversations' (sharegpt, GLM-3), 'instruction' and 'output' "
    "(alpaca), 'content' and 'summary' (ADGen) or 'text' (plain text)"
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
    row: RawRow, *, order: OrderPolicy = "strict", form: Form = "auto"
) -> Conversation | DataError:
    """Return the conversation of a raw row, or the error that says why it is none."""
    try:
        return conversation_from_row(parse_row(row), where=row.where, order=order, form=form)
    except DataError as error:
        return error


def conversation_from_row(
    row: Mapping[str, Any], *, where: str = "", order: OrderPolicy = "strict", form: Form = "auto"
) -> Conversation:
    """Return the conversation of a parsed row.

    Args:
        row: One of the known forms; null is as good as no value.
        where: File and line, for messages.
        order: See ``parse_conversation``.
        form: The form; ``auto``: told by the row's keys.

    Raises:
        DataError: If the keys do not fit the form, or the conversation is malformed.
    """
    present = {key: value for key, value in row.items() if value is not None}
    name = _form_of(present, where) if form == "auto" else form
    if not any(key in present for key in _KEYS[name]):
        raise DataError(
            f"a row with the keys {_listed(present)}",
            where=where,
            allowed=f"the keys of the form {name!r}: {', '.join(_KEYS[name])}",
            fix="correct the file, or leave format at 'auto'",
        )
    if name == "text":
        return parse_text(present["text"], where=where)
    messages = _MESSAGES[name](present, where)
    return parse_conversation(
        messages, _tools(present.get("tools"), where), where=where, order=order
    )


def _form_of(row: Mapping[str, Any], where: str) -> str:
    for name, keys in _KEYS.items():
        if any(key in row for key in keys) and (name != "adgen" or "summary" in row):
            return name
    hints = (did_you_mean(str(name), _KNOWN_KEYS) for name in row)
    raise DataError(
        f"a row with the keys {_listed(row)}",
        where=where,
        allowed=_FORMS,
        fix=next(filter(None, hints), ""),
    )


def _listed(row: Mapping[str, Any]) -> str:
    return ", ".join([str(key) for key in row][:8]) or "(none)"


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


def _adgen_messages(row: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    for key in _KEYS["adgen"]:
        if not isinstance(row.get(key), str):
            found = f"is a {type(row[key]).__name__}" if key in row else "is missing"
            raise DataError(f"'{key}' {found}", where=where, allowed="a string")
    roles = ("user", "assistant")
    return [
        {"role": role, "content": row[key]} for role, key in zip(roles, _KEYS["adgen"], strict=True)
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


def _tools(value: Any, where: str) -> list[Any] | None:
    """Return a row's tool list; sharegpt files hold it as JSON text."""
    if value is None or value in ("", "[]"):
        return None
    tools = from_json(value, "'tools'", where)
    if not isinstance(tools, list):
        raise DataError(
            f"'tools' is a {type(tools).__name__}", where=where, allowed="a list of tool schemas"
        )
    return tools or None


_MESSAGES: dict[str, Callable[[Mapping[str, Any], str], Any]] = {
    "messages": lambda row, where: row["messages"],
    "sharegpt": conversation_turns,
    "toolalpaca": conversation_turns,
    "alpaca": _alpaca_messages,
    "adgen": _adgen_messages,
}
