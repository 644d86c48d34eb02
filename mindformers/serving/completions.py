"""``POST /v1/completions``: texts continued as they are."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from mindformers.generation.request import Chunk, Usage
from mindformers.serving.connection import OR_EVENTS
from mindformers.serving.errors import ApiError
from mindformers.serving.logprobs import completion_entries
from mindformers.serving.options import check_answers, engine_request
from mindformers.serving.reply import reply
from mindformers.serving.requests import CompletionRequest
from mindformers.serving.run import usage_body
from mindformers.serving.service import Service, service_of

router = APIRouter()
_DEFAULT_TOKENS = 16  # OpenAI's, of this endpoint alone
_OBJECT = "text_completion"


@router.post("/v1/completions", response_model=None, responses=OR_EVENTS)
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Continue one text or several."""
    service = service_of(request)
    given = as_prompts(body.prompt)
    _check(service, body, len(given))
    prompts = await asyncio.to_thread(lambda: [text_ids(service, each) for each in given])
    wanted = [
        engine_request(
            service,
            body,
            prompt,
            max_tokens=body.max_tokens or _DEFAULT_TOKENS,
            logprobs=body.logprobs,
        )
        for prompt in prompts
    ]
    answer = _Answer(service, body, prompts, given, request.state.request_id)
    return await reply(service, wanted, answer, request, as_stream=bool(body.stream))


def as_prompts(prompt: str | list[int] | list[str] | list[list[int]]) -> list[str | list[int]]:
    """Return the prompts of a request as a list."""
    if isinstance(prompt, str):
        return [prompt]
    ids = [token for token in prompt if isinstance(token, int)]
    return [ids] if ids else [each for each in prompt if not isinstance(each, int)]


def text_ids(service: Service, prompt: str | list[int], with_prefix: bool = True) -> list[int]:
    """Return the ids of a prompt: a text gets the model's own beginning, ids are taken as they are.

    Raises:
        TokenizerError: If the text cannot be encoded.
    """
    if not isinstance(prompt, str):
        return prompt
    tokenizer = service.tokenizer
    ids: list[int] = tokenizer.encode_text(prompt)
    return list(tokenizer.build_inputs_with_special_tokens(ids)) if with_prefix else ids


def _check(service: Service, body: CompletionRequest, prompts: int) -> None:
    service.check_model(body.model)
    if not prompts:
        raise ApiError(400, "prompt: there is none", param="prompt")
    check_answers(service, body, prompts)
    if body.best_of is not None and body.best_of != body.num_answers:
        raise ApiError(
            400, "best_of: only as large as n; all answers are given back", param="best_of"
        )
    if body.echo and body.logprobs is not None:
        raise ApiError(
            400, "echo: not together with logprobs; a prompt's are not kept", param="echo"
        )


class _Answer:
    """The bodies of the answers, as one or as a stream."""

    def __init__(
        self,
        service: Service,
        body: CompletionRequest,
        prompts: list[list[int]],
        given: list[str | list[int]],
        request_id: str,
    ) -> None:
        self._service, self._body = service, body
        self._head = {
            "id": f"cmpl-{request_id}",
            "object": _OBJECT,
            "created": service.now(),
            "model": service.name,
        }
        self._count = len(prompts) * body.num_answers
        self._begins = [""] * self._count
        if body.echo:
            texts = [self._text(ids, each) for ids, each in zip(prompts, given, strict=True)]
            self._begins = [text for text in texts for _ in range(body.num_answers)]
        self._lengths = [len(text) for text in self._begins]

    def _text(self, ids: list[int], given: str | list[int]) -> str:
        return given if isinstance(given, str) else str(self._service.tokenizer.decode(ids))

    def first(self) -> Iterator[dict[str, Any]]:
        """Yield what a stream begins with: the prompts, where they are to be echoed."""
        for index, text in enumerate(self._begins):
            if text:
                yield self._event(index, text)

    def parts(self, chunk: Chunk) -> Iterator[dict[str, Any]]:
        """Yield what a chunk adds."""
        logprobs = self._logprobs(chunk)
        if chunk.text or logprobs or chunk.finish_reason:
            yield self._event(
                chunk.index, chunk.text, logprobs, _finish_reason(chunk.finish_reason)
            )

    def last(self, usage: Usage) -> Iterator[dict[str, Any]]:
        """Yield what follows all answers: the tokens used, where they were asked for."""
        if self._body.tells_usage:
            yield {**self._head, "choices": [], "usage": usage_body(usage)}

    def whole(self, chunks: Iterable[Chunk], usage: Usage) -> dict[str, Any]:
        """Return the body of answers that have ended."""
        texts = list(self._begins)
        reasons: list[str | None] = [None] * self._count
        logprobs: list[dict[str, Any] | None] = [None] * self._count
        for chunk in chunks:
            found = self._logprobs(chunk)
            logprobs[chunk.index] = _joined(logprobs[chunk.index], found)
            texts[chunk.index] += chunk.text
            reasons[chunk.index] = _finish_reason(chunk.finish_reason)
        choices = [
            self._choice(index, texts[index], logprobs[index], reasons[index])
            for index in range(self._count)
        ]
        return {**self._head, "choices": choices, "usage": usage_body(usage)}

    def _event(
        self,
        index: int,
        text: str,
        logprobs: dict[str, Any] | None = None,
        finish_reason: str | None = None,
    ) -> dict[str, Any]:
        usage = {"usage": None} if self._body.tells_usage else {}
        choice = self._choice(index, text, logprobs, finish_reason)
        return {**self._head, "choices": [choice], **usage}

    @staticmethod
    def _choice(
        index: int, text: str, logprobs: dict[str, Any] | None, finish_reason: str | None
    ) -> dict[str, Any]:
        return {
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }

    def _logprobs(self, chunk: Chunk) -> dict[str, Any] | None:
        if not chunk.logprobs:
            return None
        ends = self._service.defaults.eos_token_id
        shown = [each for each in chunk.logprobs if each.token not in ends]
        offset = self._lengths[chunk.index]
        self._lengths[chunk.index] += len(chunk.text)
        return completion_entries(shown, self._service.tokenizer, offset)


def _joined(first: dict[str, Any] | None, second: dict[str, Any] | None) -> dict[str, Any] | None:
    if first is None or second is None:
        return first or second
    return {name: first[name] + second[name] for name in first}


def _finish_reason(reason: str) -> str | None:
    """Return OpenAI's name; a call of a tool is text here, its end a stop."""
    return "stop" if reason in ("stop_string", "tool_calls") else reason or None
