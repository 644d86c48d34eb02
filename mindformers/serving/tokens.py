"""``POST /tokenize`` and ``/detokenize``: what a text costs, and what ids say."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from mindformers.serving.completions import text_ids
from mindformers.serving.conversation import prompt_ids
from mindformers.serving.errors import ApiError
from mindformers.serving.requests import DetokenizeRequest, TokenizeRequest
from mindformers.serving.service import service_of
from mindformers.tokenizer.tool_schema import check_tools

router = APIRouter()


@router.post("/tokenize", response_model=None)
async def tokenize(body: TokenizeRequest, request: Request) -> dict[str, Any]:
    """Return the ids of a text or of a conversation."""
    service = service_of(request)
    service.check_model(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise ApiError(400, "give prompt or messages, one of them", param="prompt")
    if body.messages is not None:
        tools = check_tools(body.tools) if body.tools else None
        ids = await asyncio.to_thread(prompt_ids, service, body.messages, tools)
    else:
        text = body.prompt or ""
        ids = await asyncio.to_thread(text_ids, service, text, body.add_special_tokens)
    return {"tokens": ids, "count": len(ids), "max_model_len": service.engine.max_length}


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
