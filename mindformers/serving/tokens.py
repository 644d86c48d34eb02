"""``POST /tokenize`` and ``/detokenize``: what a text costs, and what ids say."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from mindformers.serving.completions import text_ids
from mindformers.serving.conversation import prompt_ids
from mindformers.serving.errors import ApiError
from mindformers.serving.requests import DetokenizeRequest, TokenizeRequest
from mindformers.serving.service import Service, service_of
from mindformers.tokenizer.tool_schema import check_tools

router = APIRouter()


@router.post("/tokenize", response_model=None)
async def tokenize(body: TokenizeRequest, request: Request) -> Response:
    """Return the ids of a text or of a conversation."""
    service = service_of(request)
    service.check_model(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise ApiError(400, "give prompt or messages, one of them", param="prompt")
    return await asyncio.to_thread(_tokenized, service, body)


def _tokenized(service: Service, body: TokenizeRequest) -> Response:
    """Return the answer; made where it may take its time, as it can be long."""
    if body.messages is not None:
        tools = check_tools(body.tools) if body.tools else None
        ids = prompt_ids(service, body.messages, tools)
    else:
        ids = text_ids(service, body.prompt or "", body.add_special_tokens)
    return JSONResponse(
        {"tokens": ids, "count": len(ids), "max_model_len": service.engine.max_length}
    )


@router.post("/detokenize", response_model=None)
async def detokenize(body: DetokenizeRequest, request: Request) -> dict[str, str]:
    """Return the text of ids, control tokens as their names."""
    service = service_of(request)
    service.check_model(body.model)
    text = await asyncio.to_thread(
        service.tokenizer.decode,
        body.tokens,
        skip_special_tokens=False,
        spaces_between_special_tokens=False,
    )
    return {"prompt": text}
