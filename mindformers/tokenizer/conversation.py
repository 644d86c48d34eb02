"""Conversations as people write them, in GLM or OpenAI form, as the chat template reads them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mindformers.errors import TokenizerError, did_you_mean
from mindformers.tokenizer.call_form import (
    BUILTIN_TOOLS,
    arguments_object,
    builtin_names,
    call_content,
    tool_name,
)

ROLES = ("system", "user", "assistant", "observation")
ROLE_ALIASES = {
    "tool": "observation",
    "function": "observation",
}  # OpenAI's names for a tool result

Message = dict[str, Any]


def normalise_messages(
    messages: Any, *, keep_tool_form: bool = False, builtin: Collection[str] = ()
) -> list[Message]:
    """Return checked copies of ``messages``, each with ``role`` and a string ``content``.

    ``tool`` and ``function`` become ``observation``; a list of text parts becomes one string; each
    OpenAI tool call of an assistant becomes a message of its own, its name as ``metadata`` and its
    arguments as content.

    Args:
        messages: A list of mappings with ``role``, ``content`` and optionally ``metadata``,
            ``tools``, ``tool_calls``.
        keep_tool_form: Leave ``tool_calls`` and the role ``tool`` as they are, for a template that
            reads them; such a template takes arguments as an object, so their JSON text becomes one.
        builtin: The built-in tools on offer, beside those that messages carry.

    Raises:
        TokenizerError: If it is no such list, or a role, a content or a tool call is wrong; names
            the message.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise TokenizerError(
            f"a conversation cannot be a {type(messages).__name__}",
            allowed='a list of {"role": ..., "content": ...}',
        )
    if not messages:
        raise TokenizerError("the conversation is empty", fix="give at least one message")
    result: list[Message] = []
    known = set(builtin)
    for index, message in enumerate(messages):
        if _is_plain(message):
            result.append(dict(message))
            continue
        checked = _normalise_one(message, f"messages[{index}]", keep_tool_form)
        known |= builtin_names(checked.get("tools", ()))
        if checked.get("tool_calls") and not keep_tool_form:
            result.extend(_split_calls(checked, known, index))
        else:
            result.append(checked)
    return result


def _is_plain(message: Any) -> bool:
    """Tell whether there is nothing to check or to change: a role and a text, no more."""
    return (
        type(message) is dict
        and len(message) == 2
        and type(message.get("content")) is str
        and message.get("role") in ROLES
    )


def _normalise_one(message: Any, where: str, keep_tool_form: bool) -> Message:
    if not isinstance(message, Mapping) or not all(isinstance(key, str) for key in message):
        raise TokenizerError(
            f"a message cannot be a {type(message).__name__}",
            where=where,
            allowed='a mapping with the keys "role" and "content"',
        )
    role = _role(message.get("role"), where, keep_tool_form)
    checked = {**message, "role": role, "content": _content(message.get("content"), where)}
    _check_metadata(checked, where)
    if checked.get("tools") is None:
        checked.pop("tools", None)
    else:
        checked["tools"] = normalise_tools(checked["tools"], where=f"{where}.tools")
    calls = checked.get("tool_calls")
    if not calls:
        return checked
    if role != "assistant":
        raise TokenizerError(
            f"tool_calls in a message of role {role!r}", where=where, allowed="assistant"
        )
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise TokenizerError(
            f"tool_calls is a {type(calls).__name__}", where=where, allowed="a list of calls"
        )
    functions = [_function(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)]
    if keep_tool_form:
        pairs = zip(calls, functions, strict=True)
        checked["tool_calls"] = [_with_object(call, function) for call, function in pairs]
    return checked


def _split_calls(message: Message, builtin: Collection[str], index: int) -> list[Message]:
    """Return an assistant's message as one for what it says, if anything, and one for each call."""
    where = f"messages[{index}].tool_calls"
    calls = [
        call_message(call.get("function", call), f"{where}[{i}]", builtin)
        for i, call in enumerate(message.pop("tool_calls"))
    ]
    return [message, *calls] if message["content"] else calls


def check_role(role: Any, where: str = "") -> str:
    """Return the GLM-4 role that ``role`` means (``tool`` and ``function`` mean ``observation``).

    Raises:
        TokenizerError: If there is no such role; names the nearest.
    """
    if isinstance(role, str):
        role = ROLE_ALIASES.get(role, role)
        if role in ROLES:
            return str(role)
    raise TokenizerError(
        f"unknown role {role!r}" if role is not None else "the message has no role",
        where=where,
        allowed=", ".join((*ROLES, *ROLE_ALIASES)),
        fix=did_you_mean(str(role), (*ROLES, *ROLE_ALIASES)),
    )


def _role(role: Any, where: str, keep_tool_form: bool) -> str:
    return "tool" if keep_tool_form and role == "tool" else check_role(role, where)


def _content(content: Any, where: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise TokenizerError(
            f"content is a {type(content).__name__}",
            where=where,
            allowed="a string, null or a list of text parts",
        )
    texts = []
    for index, part in enumerate(content):
        text = (
            part.get("text")
            if isinstance(part, Mapping) and part.get("type", "text") == "text"
            else part
        )
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise TokenizerError(
                f"a content part of type {kind!r}",
                where=f"{where}.content[{index}]",
                allowed='text parts {"type": "text", "text": "..."}',
            )
        texts.append(text)
    return "\n".join(texts)


def _check_metadata(message: Message, where: str) -> None:
    metadata = message.get("metadata")
    if metadata is None:
        message.pop("metadata", None)  # the template would print the word None
    elif (
        not isinstance(metadata, str)
        or len(metadata.splitlines()) > 1
        or metadata.endswith(("\n", "\r"))
    ):
        raise TokenizerError(
            f"metadata is {metadata!r:.80}",
            where=where,
            allowed="a single line of text (the name of the tool an assistant calls)",
        )


def call_message(function: Mapping[str, Any], where: str, builtin: Collection[str] = ()) -> Message:
    """Return a call as a message of its own: the name as ``metadata``, the arguments as content.

    Args:
        function: ``name``, and ``arguments`` as an object, as JSON text or None.
        where: What to call the call in an error.
        builtin: The built-in tools on offer; what they take is plain text.

    Raises:
        TokenizerError: If the name is no single line of text.
    """
    name = _tool_name(function.get("name"), where)
    content = call_content(name, function.get("arguments"), builtin)
    return {"role": "assistant", "metadata": name, "content": content}


def _function(call: Any, where: str) -> Mapping[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        raise TokenizerError(
            f"a tool call cannot be {call!r:.80}",
            where=where,
            allowed='{"function": {"name": "...", "arguments": "{...}"}}',
        )
    _tool_name(function.get("name"), where)
    return function


def _with_object(call: Mapping[str, Any], function: Mapping[str, Any]) -> dict[str, Any]:
    arguments = function.get("arguments")
    found = arguments_object(call_content(str(function["name"]), arguments))
    changed = {**function, "arguments": arguments if found is None else found}
    return {**call, "function": changed} if "function" in call else changed


def _tool_name(name: Any, where: str) -> str:
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise TokenizerError(
            f"the tool name is {name!r:.80}", where=where, allowed="a non-empty single line"
        )
    return name


def normalise_tools(tools: Any, *, where: str = "tools") -> list[dict[str, Any]]:
    """Return a checked copy of a tool list in OpenAI's form.

    Args:
        tools: A list of ``{"type": "function", "function": {...}}``, of bare function schemas with
            a ``name``, or of ``{"type": "python" | "simple_browser" | "cogview"}``.
        where: What to call the list in an error.

    Raises:
        TokenizerError: If an entry is something else, a name is missing or not one line, or stands
            twice.
    """
    if not isinstance(tools, Sequence) or isinstance(tools, str | bytes):
        raise TokenizerError(
            f"a tool list cannot be a {type(tools).__name__}",
            where=where,
            allowed="a list of tool schemas",
        )
    result, seen = [], set()
    for index, tool in enumerate(tools):
        checked = _normalise_tool(tool, f"{where}[{index}]")
        name = tool_name(checked)
        if name in seen:
            raise TokenizerError(f"two tools are called {name!r}", where=f"{where}[{index}]")
        seen.add(name)
        result.append(checked)
    return result


def _normalise_tool(tool: Any, where: str) -> dict[str, Any]:
    if not isinstance(tool, Mapping):
        raise TokenizerError(
            f"a tool cannot be a {type(tool).__name__}", where=where, allowed="a tool schema"
        )
    if "function" not in tool and "name" in tool and tool.get("type", "function") == "function":
        tool = {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}
    kind = tool.get("type", "function" if "function" in tool else None)
    if kind in BUILTIN_TOOLS:
        return dict(tool)
    if kind != "function":
        choices = ("function", *BUILTIN_TOOLS)
        raise TokenizerError(
            f"unknown tool type {kind!r}",
            where=where,
            allowed=", ".join(choices),
            fix=did_you_mean(str(kind), choices),
        )
    function = tool.get("function")
    if not isinstance(function, Mapping):
        raise TokenizerError(
            f"'function' is a {type(function).__name__}",
            where=where,
            allowed='{"name": ..., "description": ..., "parameters": {...}}',
        )
    _tool_name(function.get("name"), where)
    return {**tool, "type": kind, "function": dict(function)}
