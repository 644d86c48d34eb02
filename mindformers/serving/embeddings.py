"""``POST /v1/embeddings``: texts as vectors, pooled from what the network makes of their tokens."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from mindformers.generation.array import Array
from mindformers.generation.request import Chunk, EmbeddingRequest
from mindformers.serving.completions import as_prompts, text_ids
from mindformers.serving.connection import while_connected
from mindformers.serving.errors import ApiError
from mindformers.serving.requests import EmbeddingsRequest
from mindformers.serving.run import Run
from mindformers.serving.service import Service, service_of

router = APIRouter()


@router.post("/v1/embeddings", response_model=None)
async def embeddings(body: EmbeddingsRequest, request: Request) -> Response:
    """Return the embedding of one text or of several."""
    service = service_of(request)
    given = as_prompts(body.input)
    _check(service, body, len(given))
    prompts = await asyncio.to_thread(lambda: [text_ids(service, each) for each in given])
    _check_prompts(service, prompts)
    wanted = EmbeddingRequest(
        prompts,
        pooling=service.settings.pooling,
        timeout=service.settings.limits.request_timeout,
    )
    run = Run(service, [wanted], request.state)
    try:
        chunks = await while_connected(run.read_all(), request.receive)
        as_base64, tokens = body.encoding_format == "base64", run.usage.prompt_tokens
        text = await asyncio.to_thread(_body, service.name, chunks, tokens, as_base64)
        return Response(text, media_type="application/json")
    finally:
        run.close()


def _check(service: Service, body: EmbeddingsRequest, inputs: int) -> None:
    service.check_model(body.model)
    most, size = service.settings.limits.max_inputs, service.engine.hidden_size
    if inputs > most:
        raise ApiError(400, f"input: {inputs} inputs; a request may have {most}", param="input")
    if body.dimensions not in (None, size):
        raise ApiError(
            400,
            f"dimensions: {body.dimensions}; this model's embeddings have {size}, and it was not "
            "trained to give shorter ones. Leave dimensions out",
            param="dimensions",
        )


def _check_prompts(service: Service, prompts: Sequence[Sequence[int]]) -> None:
    engine = service.engine
    for number, prompt in enumerate(prompts):
        if len(prompt) > engine.max_length:
            raise ApiError(
                400,
                f"input {number} has {len(prompt)} tokens; the model holds {engine.max_length}. "
                "Shorten it, or cut it into several",
                param="input",
                code="context_length_exceeded",
            )
        if max(prompt) >= engine.vocab_size:
            raise ApiError(
                400,
                f"input {number}: id {max(prompt)}; allowed: 0 to {engine.vocab_size - 1}",
                param="input",
            )


def _body(name: str, chunks: Sequence[Chunk], tokens: int, as_base64: bool) -> str:
    """Return the answer's JSON, put together in pieces: in one piece it would keep the engine's thread waiting."""
    data = [
        json.dumps(
            {
                "object": "embedding",
                "index": chunk.index,
                "embedding": _encoded(chunk.embedding, as_base64),
            }
        )
        for chunk in sorted(chunks, key=lambda each: each.index)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return (
        f'{{"object": "list", "data": [{", ".join(data)}], '
        f'"model": {json.dumps(name)}, "usage": {json.dumps(usage)}}}'
    )


def _encoded(embedding: Array | None, as_base64: bool) -> Any:
    """Return numbers, or the base64 of little-endian float32."""
    assert embedding is not None
    if as_base64:
        return base64.b64encode(embedding.astype("<f4").tobytes()).decode()
    return embedding.tolist()
