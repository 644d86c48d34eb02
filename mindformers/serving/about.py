"""What a server tells of itself: its model, its health, its counters."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, PlainTextResponse, Response

from mindformers.serving.service import Service, service_of

router = APIRouter()
HEALTH = "/health"


@router.get("/v1/models", response_model=None)
async def list_models(request: Request) -> dict[str, Any]:
    """Return the one model this server has, as a list."""
    return {"object": "list", "data": [_model(service_of(request))]}


@router.get("/v1/models/{name:path}", response_model=None)
async def get_model(name: str, request: Request) -> dict[str, Any]:
    """Return the model of a name."""
    service = service_of(request)
    service.check_model(name)
    return _model(service)


@router.get(HEALTH, response_model=None)
async def health(request: Request) -> Response:
    """Tell whether requests are taken: 200, or 503 while the server ends."""
    is_stopping = service_of(request).is_stopping
    return JSONResponse(
        {"status": "stopping" if is_stopping else "ok"}, 503 if is_stopping else 200
    )


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Return the counters in Prometheus's text form."""
    text = await asyncio.to_thread(service_of(request).metrics.text)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


def _model(service: Service) -> dict[str, Any]:
    return {
        "id": service.name,
        "object": "model",
        "created": service.created,
        "owned_by": "mindformers",
        "max_model_len": service.engine.max_length,
    }
