"""One conversation of a data set, checked: what a row has to be before it can teach anything.

Spellings (``tool`` for ``observation``, OpenAI's ``tool_calls``) are settled by the tokenizer's
rules, so training and prediction read a conversation alike. Loads no MindSpore.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mindformers.errors import DataError, TokenizerError
from mindformers.tokenizer.call_form import builtin_names
from mindformers.tokenizer.conversation import normalise_messages, normalise_tools
from mindformers.tokenizer.injection import strings_in

OrderPolicy = Literal["strict", "any"]

# What may follow a role. An observation answers a tool call, so it also needs one before it.
_FOLLOWERS = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "assistant", "observation"),
    "observation": ("assistant", "observation"),
}


@dataclass(frozen=True)
class Message:
    """One turn.

    Attributes:
        role: system, user, assistant or observation.
        content: What was said; of a tool call, its arguments.
        metadata: The tool that an assistant calls; empty for an ordinary answer.
        tools: Tool schemas a system message carries.
    """

    role: str
    content: str
    metadata: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the form the tokenizer's ``render`` takes; empty fields are left out."""
        result: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.metadata:
            result["metadata"] = self.metadata
        if self.tools:
            result["tools"] = list(self.tools)
        return result


@dataclass(frozen=True)
class Conversation:
    """A checked conversation, or plain text.

    Attributes:
        messages: Its turns, at least one of them an assistant's; none where it is text.
        tools: Tool schemas of the whole conversation.
        where: File and line it comes from, for messages.
        text: Plain text, all of which is learnt; empty where it is a conversation.
    """

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    where: str = ""
    text: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the row ``{"messages": [...], "tools": [...]}``, without tools only the former; or the text's."""
        if self.text:
            return {"text": self.text}
        row: dict[str, Any] = {"messages": [message.as_dict() for message in self.messages]}
        if self.tools:
            row["tools"] = list(self.tools)
        return row


def parse_conversation(
    messages: Any, tools: Any = None, *, where: str = "", order: OrderPolicy = "strict"
) -> Conversation:
    """Return the conversation that a row holds.

    Args:
        messages: A list of mappings with ``role``, ``content`` and optionally ``metadata``,
            ``tools``, ``tool_calls``.
        tools: Tool schemas of the whole conversation, or None.
        where: File and line, for messages.
        order: ``strict``: an optional system message, then user and assistant in turn, tool results
            after tool calls, an assistant's turn last. ``any``: whatever order.

    Raises:
        DataError: If a role is unknown, a content is empty or holds half a surrogate pair, the
            order is wrong, or no turn is an assistant's; names the message.
    """
    try:
        schemas = normalise_tools(tools) if tools else []
        normalised = normalise_messages(messages, builtin=builtin_names(schemas))
    except TokenizerError as error:
        raise data_error(error, where) from error
    turns = tuple(_message(entry, where, index) for index, entry in enumerate(normalised))
    if schemas:
        _check_text(schemas, _joined(where, "tools"))
    if not any(turn.role == "assistant" for turn in turns):
        raise DataError(
            "no message is an assistant's, so there is nothing to learn",
            where=where,
            fix="add the answer, or leave the row out",
        )
    if order == "strict":
        _check_order(turns, where)
    return Conversation(turns, tuple(schemas), where)


def parse_text(text: Any, *, where: str = "") -> Conversation:
    """Return a row of plain text.

    Raises:
        DataError: If it is no string, is empty or holds half a surrogate pair.
    """
    if not isinstance(text, str):
        raise DataError(f"'text' is a {type(text).__name__}", where=where, allowed="a string")
    if not text.strip():
        raise DataError("'text' is empty", where=where, fix="leave the row out")
    _check_text((text,), where)
    return Conversation((), (), where, text)


def data_error(error: TokenizerError, where: str) -> DataError:
    """Return a tokenizer's complaint about a row as a DataError that names the row."""
    return DataError(
        error.found, where=_joined(where, error.where), allowed=error.allowed, fix=error.fix
    )


def _joined(where: str, inner: str) -> str:
    return f"{where}: {inner}" if where and inner else where or inner


def _inside(where: str, index: int) -> str:
    return _joined(where, f"messages[{index}]")


def _message(entry: Mapping[str, Any], where: str, index: int) -> Message:
    role, content = entry["role"], entry["content"]
    metadata, tools = entry.get("metadata", ""), tuple(entry.get("tools", ()))
    if not content.strip() and not (role == "system" and tools):
        raise DataError(
            f"the content of the {role} message is empty",
            where=_inside(where, index),
            fix="fill it in or leave the row out (the chat template would drop the message)",
        )
    if metadata or tools or not content.isascii():
        _check_text((content, metadata, tools), _inside(where, index))
    return Message(role, content, metadata, tools)


def _check_text(value: Sequence[Any], where: str) -> None:
    try:
        for text in strings_in(value):
            text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"holds half a surrogate pair (\\u{ord(error.object[error.start]):04x})",
            where=where,
            fix="write the character itself, as UTF-8",
        ) from error
    except TokenizerError as error:
        raise data_error(error, where) from error


def _check_order(turns: Sequence[Message], where: str) -> None:
    before, called = "", False
    for index, turn in enumerate(turns):
        allowed = _FOLLOWERS[before]
        if turn.role not in allowed:
            found = f"{_article(turn.role)} message cannot follow {_article(before)} message"
            if not before:
                found = f"the conversation begins with {_article(turn.role)} message"
            raise DataError(
                found,
                where=_inside(where, index),
                allowed=" or ".join(allowed),
                fix="correct the roles, or take the order as it is with --order any",
            )
        _check_call(turn, before, called, where, index)
        called = bool(turn.metadata) or (called and turn.role == "observation")
        before = turn.role
    if before != "assistant":
        raise DataError(
            f"the conversation ends with {_article(before)} message, which nothing answers",
            where=_inside(where, len(turns) - 1),
            allowed="an assistant message at the end",
            fix="add the answer, or take the order as it is with --order any",
        )


def _check_call(turn: Message, before: str, called: bool, where: str, index: int) -> None:
    if turn.role == "observation" and not called:
        raise DataError(
            "an observation follows an assistant message that calls no tool",
            where=_inside(where, index),
            fix="name the tool under 'metadata' of the message before, or use --order any",
        )
    if turn.role == "assistant" == before and not (called or turn.metadata):
        raise DataError(
            "two assistant messages in a row, neither of them a tool call",
            where=_inside(where, index),
            fix="join them, or take the order as it is with --order any",
        )


def _article(role: str) -> str:
    return f"{'an' if role in ('assistant', 'observation') else 'a'} {role}"
