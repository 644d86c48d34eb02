"""The form an answer is held to: which tools it may or must call, which JSON it must be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mindformers.generation.request import Constraint
from mindformers.serving.errors import ApiError
from mindformers.serving.requests import ChatRequest, NamedTool
from mindformers.serving.service import Service
from mindformers.tokenizer.tool_schema import check_tools


@dataclass(frozen=True)
class Form:
    """What an answer may look like.

    Args:
        tools: What the model is told it may call.
        dialect: How it writes calls.
        is_parallel: Whether an answer may make several calls.
        constraint: Rules out what breaks the form; None: nothing is ruled out.
    """

    tools: list[dict[str, Any]] | None = None
    dialect: str = ""
    is_parallel: bool = True
    constraint: Callable[[], Constraint] | None = None


def form_of(service: Service, body: ChatRequest) -> Form:
    """Return the form a request asks for; compiling it may take a while.

    Raises:
        ApiError: 400, if its fields contradict one another.
        GenerationError: If a schema cannot be used.
        TokenizerError: If a tool cannot be used.
    """
    tools = None if body.tool_choice == "none" else body.tools or None
    schema = _schema(body)
    if tools is None:
        _check_choice(body)
        return Form(constraint=None if schema is None else service.grammars.json(schema))
    checked = check_tools(tools)
    choice: Any = body.tool_choice or "auto"
    is_named = isinstance(choice, NamedTool)
    is_parallel = body.parallel_tool_calls is not False and not is_named
    is_strict = any(each.get("function", {}).get("strict") for each in checked)
    constraint = None
    if choice != "auto" or is_strict or schema is not None:  # else the model writes as it likes
        constraint = service.grammars.tool_calls(
            checked,
            choice.model_dump() if is_named else choice,
            service.dialect,
            is_parallel=is_parallel,
            plain=schema,
        )
    return Form(checked, service.dialect, is_parallel, constraint)


def _schema(body: ChatRequest) -> Mapping[str, Any] | None:
    """Return the schema that an answer which calls nothing has to fit; None: it may be any text."""
    form = body.response_format
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return {"type": "object"}
    if form.json_schema is None:
        raise ApiError(
            400, "response_format.json_schema: is missing", param="response_format.json_schema"
        )
    return form.json_schema.schema_ or {}


def _check_choice(body: ChatRequest) -> None:
    if body.tool_choice not in (None, "none", "auto"):
        raise ApiError(400, "tool_choice: there are no tools", param="tool_choice")
