"""Tools of others, checked before anything is made of them; and arguments against their schemas."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mindformers.errors import TokenizerError
from mindformers.extras import import_extra
from mindformers.tokenizer.call_form import tool_name
from mindformers.tokenizer.conversation import normalise_tools
from mindformers.tokenizer.schema_checks import check_schema
from mindformers.tokenizer.tool_calls import ToolCall

MAX_TOOLS = 128
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def check_tools(tools: Any, where: str = "tools") -> list[dict[str, Any]]:
    """Return a checked copy of a tool list in OpenAI's form, fit for a request from outside.

    Args:
        tools: As for ``normalise_tools``; at most 128.
        where: What to call the list in an error.

    Raises:
        TokenizerError: If the list or an entry is malformed or too large, or a name is none.
    """
    if isinstance(tools, Sequence) and len(tools) > MAX_TOOLS:
        raise TokenizerError(f"{len(tools)} tools", where=where, allowed=f"at most {MAX_TOOLS}")
    checked = normalise_tools(tools, where=where)
    for index, tool in enumerate(checked):
        if tool["type"] != "function":
            continue
        place = f"{where}[{index}].function"
        name = tool_name(tool)
        if not _NAME.fullmatch(name):
            raise TokenizerError(
                f"the name is {name!r:.80}",
                where=f"{place}.name",
                allowed="1 to 64 letters, digits, underscores and hyphens",
            )
        parameters = tool["function"].get("parameters")
        if parameters is not None:
            check_schema(parameters, f"{place}.parameters")
            if parameters.get("type", "object") != "object":
                raise TokenizerError(
                    "arguments are always an object",
                    where=f"{place}.parameters",
                    allowed='{"type": "object", "properties": {...}}',
                )
    return checked


def argument_problems(
    call: ToolCall, tools: Sequence[Mapping[str, Any]], limit: int = 5
) -> list[str]:
    """Return what is wrong with a call, each problem a sentence; nothing when it can be made.

    Args:
        call: The call.
        tools: The tools, as ``normalise_tools`` gives them.
        limit: At most so many problems.

    Raises:
        MissingExtraError: If jsonschema-rs is not installed.
    """
    tool = next((each for each in tools if tool_name(each) == call.name), None)
    if tool is None:
        return [f"there is no tool {call.name!r}"]
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError):
        return ["the arguments are no JSON"]
    schema = tool.get("function", {}).get("parameters") or {}
    return schema_problems(arguments, {"type": "object", **schema}, limit)


def schema_problems(value: Any, schema: Any, limit: int = 5) -> list[str]:
    """Return where ``value`` does not fit a schema that ``check_schema`` has passed, each as a sentence.

    Patterns are matched in time linear in the text; formats are not checked.

    Args:
        value: What ``json.loads`` gives.
        schema: The schema.
        limit: At most so many problems.

    Raises:
        MissingExtraError: If jsonschema-rs is not installed.
        TokenizerError: If the schema itself is wrong.
    """
    validation = import_extra("jsonschema_rs", "checking arguments against a schema", "constrain")
    try:
        validator = validation.validator_for(
            schema,
            pattern_options=validation.RegexOptions(size_limit=1 << 20),
            validate_formats=False,
            retriever=_fetch_nothing,
        )
        problems = []
        for error in validator.iter_errors(value):
            place = "".join(f"[{each!r}]" for each in error.instance_path)
            problems.append(f"{place}: {error.message}"[:300] if place else error.message[:300])
            if len(problems) == limit:
                break
    except (ValueError, validation.ReferencingError) as error:
        raise TokenizerError(
            f"the schema cannot be used: {str(error)[:300]}", where="schema"
        ) from error
    return problems


def _fetch_nothing(uri: str) -> Any:
    raise ValueError(f"{uri!r:.80} is not fetched")
