"""The chat page: files that are read once and served from memory, so that no path leads anywhere else."""

from __future__ import annotations

import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_FOLDER = Path(__file__).parent / "page"
_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
# The page loads nothing from elsewhere, sends nothing elsewhere, stands in no other page and makes no markup of text.
HEADERS = {
    "cache-control": "no-cache",  # kept, and asked for each time: a 304 when it is the same
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def page_routes(folder: Path = _FOLDER) -> list[Route]:
    """Return a route for each file of the page; none where it is not installed."""
    if not (folder / "index.html").is_file():
        return []
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in _TYPES]
    routes = [_route(f"/{path.relative_to(folder).as_posix()}", path) for path in files]
    return [_route("/", folder / "index.html"), *routes]


def _route(url: str, path: Path) -> Route:
    content, kind = path.read_bytes(), _TYPES[path.suffix]
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**HEADERS, "etag": tag}

    async def serve(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=kind, headers=headers)

    return Route(url, serve, methods=["GET"])
