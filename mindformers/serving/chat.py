"""``POST /v1/chat/completions``."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from mindformers.generation.request import Chunk, Usage
from mindformers.serving.choices import Choice
from mindformers.serving.connection import OR_EVENTS
from mindformers.serving.conversation import prompt_ids
from mindformers.serving.errors import ApiError
from mindformers.serving.forms import Form, form_of
from mindformers.serving.logprobs import chat_entries
from mindformers.serving.options import check_answers, engine_request
from mindformers.serving.reply import reply
from mindformers.serving.requests import ChatRequest
from mindformers.serving.run import usage_body
from mindformers.serving.service import Service, service_of
from mindformers.tokenizer.tool_calls import AnswerStream, Delta

router = APIRouter()
_BETWEEN_CALLS = "<|assistant|>"  # parts two calls of one answer


@router.post("/v1/chat/completions", response_model=None, responses=OR_EVENTS)
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """Answer a conversation."""
    service = service_of(request)
    _check(service, body)
    form, prompt = await asyncio.to_thread(_prepare, service, body)
    wanted = engine_request(
        service,
        body,
        prompt,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        constraint=form.constraint,
        shown=(_BETWEEN_CALLS,) if form.tools else (),
    )
    answer = _Answer(service, body, form, request.state.request_id)
    return await reply(service, [wanted], answer, request, as_stream=bool(body.stream))


def _prepare(service: Service, body: ChatRequest) -> tuple[Form, list[int]]:
    """Return the form and the prompt of a conversation; either may take long enough to hold streams up."""
    form = form_of(service, body)
    return form, prompt_ids(service, body.messages, form.tools)


def _check(service: Service, body: ChatRequest) -> None:
    service.check_model(body.model)
    check_answers(service, body)
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError(400, "top_logprobs: needs logprobs: true", param="top_logprobs")


class _Answer:
    """The bodies of an answer, as one or as a stream."""

    def __init__(self, service: Service, body: ChatRequest, form: Form, request_id: str) -> None:
        self._service, self._body, self._form = service, body, form
        self._about = {
            "id": f"chatcmpl-{request_id}",
            "created": service.now(),
            "model": service.name,
        }
        self._choices = [self._choice() for _ in range(body.num_answers)]
        self._call_ids: dict[tuple[int, int], str] = {}

    def _choice(self) -> Choice:
        calls = None
        if self._form.tools:
            calls = AnswerStream(self._form.tools, self._form.dialect)
        return Choice(self._service.tokenizer, calls, self._form.is_parallel)

    # --- as a stream -----------------------------------------------------------------------------

    def first(self) -> Iterator[dict[str, Any]]:
        """Yield what a stream begins with: whose turn it is, in every answer."""
        for index in range(len(self._choices)):
            yield self._event(index, {"role": "assistant", "content": ""})

    def parts(self, chunk: Chunk) -> Iterator[dict[str, Any]]:
        """Yield what a chunk adds; log probabilities go with the first of it."""
        choice, index = self._choices[chunk.index], chunk.index
        deltas = [self._delta(index, each) for each in choice.take(chunk)]
        logprobs = self._logprobs(chunk)
        if logprobs and not deltas:
            deltas = [{}]
        for delta in deltas:
            yield self._event(index, delta, logprobs=logprobs)
            logprobs = None
        if chunk.finish_reason:
            yield self._event(index, {}, finish_reason=choice.finish_reason)

    def last(self, usage: Usage) -> Iterator[dict[str, Any]]:
        """Yield what follows all answers: the tokens used, where they were asked for."""
        if self._body.tells_usage:
            yield {
                **self._head("chat.completion.chunk"),
                "choices": [],
                "usage": usage_body(usage),
            }

    def _event(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        logprobs: dict[str, Any] | None = None,
        finish_reason: str | None = None,
    ) -> dict[str, Any]:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        usage = {"usage": None} if self._body.tells_usage else {}
        return {**self._head("chat.completion.chunk"), "choices": [choice], **usage}

    def _delta(self, index: int, delta: Delta) -> dict[str, Any]:
        if delta.index is None:
            return {"content": delta.content}
        function = {"arguments": delta.arguments}
        if not delta.name:
            return {"tool_calls": [{"index": delta.index, "function": function}]}
        call = {
            "index": delta.index,
            "id": self._call_id(index, delta.index),
            "type": "function",
            "function": {"name": delta.name, **function},
        }
        return {"tool_calls": [call]}

    # --- as one ----------------------------------------------------------------------------------

    def whole(self, chunks: Iterable[Chunk], usage: Usage) -> dict[str, Any]:
        """Return the body of an answer that has ended."""
        parts: list[list[Delta]] = [[] for _ in self._choices]
        logprobs: list[list[Any]] = [[] for _ in self._choices]
        for chunk in chunks:
            parts[chunk.index] += self._choices[chunk.index].take(chunk)
            found = self._logprobs(chunk)
            logprobs[chunk.index] += found["content"] if found else ()
        choices = [
            {
                "index": index,
                "message": self._message(index, parts[index]),
                "logprobs": {"content": logprobs[index], "refusal": None}
                if self._body.logprobs
                else None,
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(self._choices)
        ]
        about = self._head("chat.completion")
        return {**about, "choices": choices, "usage": usage_body(usage)}

    def _message(self, index: int, parts: list[Delta]) -> dict[str, Any]:
        content = "".join(each.content for each in parts if each.index is None)
        calls: dict[int, dict[str, Any]] = {}
        for each in parts:
            if each.index is None:
                continue
            call = calls.setdefault(
                each.index,
                {
                    "id": self._call_id(index, each.index),
                    "type": "function",
                    "function": {"name": each.name, "arguments": ""},
                },
            )
            call["function"]["arguments"] += each.arguments
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if calls:
            message |= {"content": content or None, "tool_calls": list(calls.values())}
        return message

    # --- both ------------------------------------------------------------------------------------

    def _head(self, kind: str) -> dict[str, Any]:
        return {**self._about, "object": kind}

    def _call_id(self, choice: int, call: int) -> str:
        return self._call_ids.setdefault((choice, call), f"call_{uuid.uuid4().hex[:24]}")

    def _logprobs(self, chunk: Chunk) -> dict[str, Any] | None:
        if not chunk.logprobs:
            return None
        ends = self._service.defaults.eos_token_id
        shown = [each for each in chunk.logprobs if each.token not in ends]
        return {"content": chat_entries(shown, self._service.tokenizer), "refusal": None}
