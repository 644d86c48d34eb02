"""From a request's messages to the ids of a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mindformers.serving.errors import ApiError
from mindformers.serving.requests import ChatMessage
from mindformers.serving.service import Service

Tools = Sequence[Mapping[str, Any]]


def prompt_ids(service: Service, messages: Sequence[ChatMessage], tools: Tools | None) -> list[int]:
    """Return the prompt of a conversation, up to where the answer begins.

    Raises:
        ApiError: 400, if the messages are too many.
        TokenizerError: If the conversation or the tools are malformed.
    """
    most = service.settings.limits.max_messages
    if len(messages) > most:
        raise ApiError(
            400, f"messages: {len(messages)}; a request may have {most}", param="messages"
        )
    tokenizer = service.tokenizer
    plain = [_message(each) for each in in_order_of_calls(messages)]
    segments = tokenizer.render(plain, tools or None, add_generation_prompt=True)
    ids: list[int] = tokenizer.encode_segments(segments)
    return ids


def in_order_of_calls(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Return the messages with the results of several calls in the order of the calls.

    GLM-4's form has no ids of calls: which result is which shows from the order alone.
    """
    ordered: list[ChatMessage] = []
    places: dict[str | None, int] = {}
    begin = 0  # of the results that follow the last calls
    for message in messages:
        ordered.append(message)
        if message.role not in ("tool", "observation"):
            places = {call.id: place for place, call in enumerate(message.tool_calls or ())}
            begin = len(ordered)
        elif message.tool_call_id in places:
            results = ordered[begin:]
            results.sort(key=lambda each: places.get(each.tool_call_id, len(places)))
            ordered[begin:] = results
    return ordered


def _message(message: ChatMessage) -> dict[str, Any]:
    """Return a message in the form the chat template reads."""
    role = "system" if message.role == "developer" else message.role
    plain: dict[str, Any] = {"role": role, "content": message.content or ""}
    if not isinstance(message.content, str | None):
        plain["content"] = [part.model_dump() for part in message.content]
    if message.tool_calls:
        plain["tool_calls"] = [
            {"type": "function", "function": call.function.model_dump()}
            for call in message.tool_calls
        ]
    if message.reasoning_content:
        plain["reasoning_content"] = message.reasoning_content
    return plain
