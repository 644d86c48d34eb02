"""From a function's signature and docstring to what a model is told of it, and back to checked values."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from pydantic import ConfigDict, Field, PydanticUserError, ValidationError, create_model

from mindformers.errors import ConfigError, ToolError

_SECTION = re.compile(r"(\w[\w ]*):\s*")
_ARGUMENT = re.compile(r"\*{0,2}(\w+)(?:\s*\([^)]*\))?:\s*(.*)")
_DEEPEST = 16  # a schema inside a schema
_MOST_FAULTS = 3  # of a wrong call, told to the model
_TYPES = "int, float, str, bool, list, dict, Optional, Literal, Enum, dataclass, TypedDict"


class Parameters:
    """The parameters of a function: their JSON schema, and JSON text to values.

    Args:
        function: Parameters are of the types JSON knows, or ``Literal``, ``Enum``, ``Optional``, a
            dataclass or a ``TypedDict``; one without a type is a string. Those with a default may be
            left out.
        name: What messages call it.

    Raises:
        ConfigError: If a parameter cannot be given by name, or is of a type that JSON cannot say.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.description, described = read_docstring(inspect.getdoc(function) or "")
        self._names = _named_parameters(function, name)
        try:
            hints = get_type_hints(function, include_extras=True)
            fields: dict[str, Any] = {
                # A name of its own: a parameter may be called like a method of pydantic's.
                f"parameter_{place}": (
                    hints.get(each.name, str),
                    Field(
                        ... if each.default is each.empty else None,
                        alias=each.name,
                        description=described.get(each.name),
                    ),
                )
                for place, each in enumerate(self._names)
            }
            self._model = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
            schema = self._model.model_json_schema()
        except (PydanticUserError, NameError, TypeError) as error:
            reason = str(error).partition("\n")[0]
            raise ConfigError(
                f"a parameter has a type that JSON cannot say: {reason}", where=name, allowed=_TYPES
            ) from error
        definitions = schema.get("$defs", {})
        self.schema = {
            "type": "object",
            "properties": {
                key: _plain(value, definitions) for key, value in schema["properties"].items()
            }
            if self._names
            else {},
            "required": schema.get("required", []),
        }

    def values(self, arguments: str) -> dict[str, Any]:
        """Return the values a JSON object gives, by parameter; left out: those it does not give.

        Raises:
            ToolError: If it is no JSON object or does not fit; says what the model has to change.
        """
        try:
            given = self._model.model_validate_json(arguments.strip() or "{}")
        except ValidationError as error:
            faults = [
                f"{'.'.join(map(str, fault['loc'])) or 'arguments'}: {fault['msg']}"
                for fault in error.errors(include_url=False)[:_MOST_FAULTS]
            ]
            raise ToolError(f"wrong arguments: {'; '.join(faults)}") from error
        return {
            each.name: getattr(given, field)
            for place, each in enumerate(self._names)
            if (field := f"parameter_{place}") in given.model_fields_set
        }


def _named_parameters(function: Callable[..., Any], name: str) -> list[inspect.Parameter]:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"its parameters cannot be read: {error}", where=name) from error
    found = []
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise ConfigError(
                f"the parameter {parameter.name!r} cannot be given by name",
                where=name,
                fix="remove the / from the signature",
            )
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            found.append(parameter)
    return found


def _plain(schema: Any, definitions: Mapping[str, Any], depth: int = 0) -> Any:
    """Return a schema that stands alone, without titles, defaults and the null of ``Optional``."""
    if depth > _DEEPEST:
        raise ConfigError(
            "a parameter's type holds itself",
            where="tools",
            fix="use dict and describe it in words",
        )
    if isinstance(schema, list):
        return [_plain(each, definitions, depth + 1) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        own = {key: value for key, value in schema.items() if key != "$ref"}
        return _plain(
            {**definitions[schema["$ref"].rpartition("/")[2]], **own}, definitions, depth + 1
        )
    kept = {key: value for key, value in schema.items() if key not in ("title", "default")}
    choices = [each for each in kept.get("anyOf", ()) if each != {"type": "null"}]
    if len(choices) == 1:
        del kept["anyOf"]
        return _plain({**choices[0], **kept}, definitions, depth + 1)
    if "properties" in kept:  # their names are no keywords
        inner = {
            name: _plain(each, definitions, depth + 1) for name, each in kept["properties"].items()
        }
        rest = {key: value for key, value in kept.items() if key != "properties"}
        return {**_plain(rest, definitions, depth), "properties": inner}
    order = sorted(
        kept, key=lambda key: key != "type"
    )  # as the schemas that models were trained on
    return {key: _plain(kept[key], definitions, depth + 1) for key in order}


def read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """Return the first paragraph, and what the ``Args:`` section says of each parameter."""
    first = " ".join(text.split("\n\n", 1)[0].split())
    described: dict[str, str] = {}
    section, current, indent = "", "", 0
    for line in text.splitlines():
        body = line.strip()
        heading = _SECTION.fullmatch(line)
        if heading:
            section, current = heading[1], ""
        elif section in ("Args", "Arguments", "Parameters") and body:
            width = len(line) - len(line.lstrip())
            found = _ARGUMENT.fullmatch(body)
            if found and (not current or width <= indent):
                current, indent = found[1], width
                described[current] = found[2]
            elif current:
                described[current] = f"{described[current]} {body}".strip()
    return first, described
