"""Errors as OpenAI's clients read them: a status and ``{"error": {message, type, param, code}}``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from mindformers.errors import (
    EngineBusyError,
    FormError,
    GenerationError,
    MindFormersError,
    TokenizerError,
)
from mindformers.logger import logger

CLIENT_GONE = 499  # nginx's number for a client that did not wait; nobody reads it but the log
_NO_RETRY = {"x-should-retry": "false"}  # OpenAI's clients try a 5xx again unless told not to


class ClientGoneError(Exception):
    """Nobody waits for the answer any more."""


class ApiError(Exception):
    """A request that is not answered.

    Args:
        status: HTTP's.
        message: What is wrong and what would be right.
        param: The field of the request it is about.
        code: A word for programs.
        headers: Further headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The answer's JSON."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        if self.status == 429:
            kind = "rate_limit_error"
        return {
            "error": {
                "message": self.message,
                "type": kind,
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> JSONResponse:
        """Return the answer."""
        return JSONResponse(self.body, self.status, self.headers)


def stopping() -> ApiError:
    """Return what a request gets while the server ends."""
    return ApiError(
        503,
        "the server is shutting down",
        code="shutting_down",
        headers={"retry-after": "10"},
    )


def too_many() -> ApiError:
    """Return what a request gets where too many are under way to look at it."""
    return ApiError(
        503,
        "too many requests at once",
        code="server_busy",
        headers={"retry-after": "1", "connection": "close"},
    )


def timed_out(seconds: float) -> ApiError:
    """Return what a request gets whose answer took too long."""
    return ApiError(
        504,
        f"the answer was not ready within {seconds:g} seconds; ask for less, or stream an answer",
        code="timeout",
        headers=_NO_RETRY,
    )


def failed(error: BaseException) -> ApiError:
    """Return what a request gets that failed, for no fault of its own but its schema's, and log where.

    Neither the log nor the answer holds what was asked: a message of ours tells of settings, another
    error only its kind and place.
    """
    if isinstance(error, FormError):
        return refused(error)
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "unknown place"
    logger.error("a request failed: %s at %s", type(error).__name__, where)
    logger.debug("a request failed", exc_info=error)
    text = str(error) if isinstance(error, MindFormersError) else type(error).__name__
    return ApiError(500, f"the request failed: {text}", code="internal_error", headers=_NO_RETRY)


def refused(error: MindFormersError) -> ApiError:
    """Return what a request gets that the library refuses before it runs."""
    if isinstance(error, EngineBusyError):
        wait = str(max(1, math.ceil(error.retry_after)))
        return ApiError(429, str(error), code="server_busy", headers={"retry-after": wait})
    if isinstance(error, GenerationError | TokenizerError):
        return ApiError(400, str(error), param=error.where or None)
    return failed(error)


def unreadable(errors: Sequence[Any]) -> ApiError:
    """Return what a request gets whose body is not of the documented form; the first fault is told."""
    first = errors[0]
    kind, path = first["type"], [str(part) for part in first["loc"][1:]]
    if kind == "json_invalid":
        return ApiError(400, f"the body is not JSON: {first['ctx']['error']} at byte {path[0]}")
    if kind == "missing" and not path:
        return ApiError(400, "the body is empty; a JSON object is expected")
    if kind == "unknown_field":
        param = ".".join([*path, first["ctx"]["name"]])
        return ApiError(400, f"{param}: {first['msg']}", param=param, code="unknown_parameter")
    param = ".".join(path)
    return ApiError(400, f"{param}: {first['msg']}" if path else first["msg"], param=param or None)


def add_handlers(app: FastAPI) -> None:
    """Give every error of the app the one form."""

    async def on_api_error(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return error.response()

    async def on_refusal(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, MindFormersError)
        return refused(error).response()

    async def on_unreadable(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return unreadable(error.errors()).response()

    async def on_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        text = str(error.detail)
        if error.status_code == 400:
            text = "the body is not JSON in UTF-8, or holds a number of too many digits"
        elif error.status_code == 404:
            text = "no such path; GET /openapi.json lists what there is"
        elif error.status_code == 405:
            text = f"{request.method[:16]} is not for this path"
        return ApiError(error.status_code, text, headers=error.headers).response()

    async def on_failure(_: Request, error: Exception) -> JSONResponse:
        return failed(error).response()

    async def on_client_gone(_: Request, __: Exception) -> Response:
        return Response(status_code=CLIENT_GONE)

    app.add_exception_handler(ApiError, on_api_error)
    app.add_exception_handler(ClientGoneError, on_client_gone)
    app.add_exception_handler(MindFormersError, on_refusal)
    app.add_exception_handler(RequestValidationError, on_unreadable)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Exception, on_failure)
