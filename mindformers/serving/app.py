"""The application: its routes, and the gates a request passes before it reaches them."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from mindformers.serving import about, chat, completions, embeddings, tokens
from mindformers.serving.body import BodyGate
from mindformers.serving.door import Door
from mindformers.serving.errors import add_handlers
from mindformers.serving.page import page_routes
from mindformers.serving.service import Service
from mindformers.version import __version__

_ERROR = {
    "description": "What is wrong, in OpenAI's form",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["error"],
                "properties": {
                    "error": {
                        "type": "object",
                        "required": ["message", "type", "param", "code"],
                        "properties": {
                            "message": {"type": "string"},
                            "type": {"type": "string"},
                            "param": {"type": ["string", "null"]},
                            "code": {"type": ["string", "null"]},
                        },
                    }
                },
            }
        }
    },
}


def build_app(service: Service, *, is_local: bool = True) -> ASGIApp:
    """Return the application of a service.

    Args:
        service: What it serves.
        is_local: Whether only this machine can reach it.
    """
    responses: dict[int | str, dict[str, Any]] = {"4XX": _ERROR, "5XX": _ERROR}
    app = FastAPI(
        title="MindFormers",
        version=__version__,
        docs_url=None,  # those pages load scripts from elsewhere
        redoc_url=None,
        responses=responses,
        redirect_slashes=False,
    )
    app.state.service = service
    for part in (about, chat, completions, embeddings, tokens):
        app.include_router(part.router)
    pages = page_routes()
    app.router.routes += pages
    add_handlers(app)
    inner: ASGIApp = BodyGate(app, service.settings.limits)
    open_paths = [about.HEALTH, *(page.path for page in pages)]
    outer: ASGIApp = Door(inner, service, open_paths, is_local)
    if service.settings.cors_origins:
        outer = CORSMiddleware(
            outer,
            allow_origins=list(service.settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            allow_credentials=False,
        )
    return outer
