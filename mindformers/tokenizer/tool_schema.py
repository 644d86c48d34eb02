"""Tools and JSON schemas of others, checked before anything is made of them; and arguments against them.

The caps keep one request from holding up the rest: nothing here, and no grammar made from what passes,
takes long.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import regex

from mindformers.errors import TokenizerError
from mindformers.extras import import_extra
from mindformers.tokenizer.call_form import tool_name
from mindformers.tokenizer.conversation import normalise_tools
from mindformers.tokenizer.schema_types import resolve
from mindformers.tokenizer.tool_calls import ToolCall

MAX_TOOLS = 128
MAX_SCHEMA = 100_000  # characters of its JSON
MAX_DEPTH = 64  # lists and objects within one another
MAX_PATTERN = 1_000  # characters
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_ATOM = r"(?:\\[pP]\{\w+\}|\\.|\[(?:\\.|[^\]\\])*\]|[^\\\[\]()|+*?{}])"
_REPEAT = r"(?:[+*]|\{\d+,\})"
# A repetition and nothing else, itself repeated: engines that go back try every way to cut it up.
_NESTED = re.compile(rf"\((?:\?:|\?<\w+>)?{_ATOM}{_REPEAT}\){_REPEAT}")


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


def check_schema(schema: Any, where: str = "json_schema") -> None:
    """Check that a JSON schema is within bounds and means something.

    Args:
        schema: A mapping.
        where: What to call it in an error.

    Raises:
        TokenizerError: If it is no JSON, too large or too deep, a ``pattern`` is no regular expression or
            repeats a repetition, or a ``$ref`` leads outside, nowhere or in a circle that never ends.
    """
    if not isinstance(schema, Mapping):
        raise TokenizerError(
            f"a schema cannot be a {type(schema).__name__}", where=where, allowed="an object"
        )
    _check_depth(schema, where)
    try:
        size = len(json.dumps(schema, ensure_ascii=False, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TokenizerError(f"the schema is no JSON: {error}", where=where) from error
    if size > MAX_SCHEMA:
        raise TokenizerError(
            f"the schema has {size} characters", where=where, allowed=f"at most {MAX_SCHEMA}"
        )
    for path, key, value in _keywords(schema, where):
        if key == "pattern" and isinstance(value, str):
            _check_pattern(value, path)
        elif key == "$ref" and isinstance(value, str):
            _check_reference(value, schema, path)
    _Endless(schema, where).check()


def _check_depth(value: Any, where: str) -> None:
    waiting = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise TokenizerError(
                "the schema is nested too deeply",
                where=where,
                allowed=f"at most {MAX_DEPTH} levels",
            )
        if isinstance(item, Mapping | list | tuple):
            items = item.values() if isinstance(item, Mapping) else item
            waiting.extend((each, depth + 1) for each in items)


def _keywords(schema: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    """Yield every key of every object within, with its place; names of properties are among them."""
    if isinstance(schema, Mapping):
        for key, value in schema.items():
            yield f"{path}.{key}", str(key), value
            if key not in ("const", "enum", "default", "examples"):
                yield from _keywords(value, f"{path}.{key}")
    elif isinstance(schema, list | tuple):
        for index, value in enumerate(schema):
            yield from _keywords(value, f"{path}[{index}]")


def _check_pattern(pattern: str, where: str) -> None:
    if len(pattern) > MAX_PATTERN:
        raise TokenizerError(
            f"a pattern of {len(pattern)} characters", where=where, allowed=f"at most {MAX_PATTERN}"
        )
    nested = _NESTED.search(pattern)
    if nested is not None:
        raise TokenizerError(
            f"the pattern repeats a repetition: {nested.group()!r:.80}",
            where=where,
            fix="one repetition says the same: write (a+)+ as a+",
        )
    try:
        regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError, MemoryError) as error:
        raise TokenizerError(
            f"the pattern {pattern!r:.80} is no regular expression: {error}", where=where
        ) from error


def _check_reference(reference: Any, root: Any, where: str) -> None:
    if resolve(root, reference) is None:
        raise TokenizerError(
            f"the reference {reference!r:.80} leads nowhere",
            where=where,
            allowed="a place in the same schema: #/$defs/NAME",
        )


class _Endless:
    """Finds schemas that no finite value fits, as each needs another of its kind within."""

    def __init__(self, root: Any, where: str) -> None:
        self._root, self._where = root, where
        self._finite: set[str] = set()  # references known to end
        self._steps = 0

    def check(self) -> None:
        if not self._ends(self._root, ("#",)):
            raise TokenizerError(
                "a $ref leads back to itself, so no value could ever end",
                where=self._where,
                fix="let an alternative or a property that is not required end the circle",
            )

    def _ends(self, schema: Any, within: tuple[str, ...]) -> bool:
        self._steps += 1
        if self._steps > MAX_SCHEMA:
            raise TokenizerError("the references are too many to follow", where=self._where)
        if not isinstance(schema, Mapping):
            return True
        reference = schema.get("$ref")
        if isinstance(reference, str) and not self._reference_ends(reference, within):
            return False
        needed = [*_list(schema.get("allOf")), *_required(schema)]
        if not all(self._ends(each, within) for each in needed):
            return False
        choices = [_list(schema.get(key)) for key in ("anyOf", "oneOf")]
        return all(not each or any(self._ends(one, within) for one in each) for each in choices)

    def _reference_ends(self, reference: str, within: tuple[str, ...]) -> bool:
        if reference in self._finite:
            return True
        if reference in within:
            return False
        ends = self._ends(resolve(self._root, reference), (*within, reference))
        if ends:
            self._finite.add(reference)
        return ends


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _required(schema: Mapping[str, Any]) -> list[Any]:
    """Return the schemas of what every object or list of ``schema`` holds."""
    properties = schema.get("properties")
    properties = properties if isinstance(properties, Mapping) else {}
    needed = [properties.get(key) for key in _list(schema.get("required")) if isinstance(key, str)]
    minimum = schema.get("minItems")
    if isinstance(minimum, int) and minimum > 0:
        needed += [*_list(schema.get("prefixItems"))[:minimum], schema.get("items")]
    return needed


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
