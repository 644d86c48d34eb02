"""JSON schemas of others, checked before anything is made of them.

The caps keep one schema from holding up the rest: nothing here, and no grammar or validator made from
what passes, takes long.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import regex

from mindformers.errors import TokenizerError
from mindformers.tokenizer.schema_types import resolve

MAX_SCHEMA = 100_000  # characters of its JSON
MAX_DEPTH = 64  # lists and objects within one another
MAX_PATTERN = 1_000  # characters
MAX_REPEATED = 10_000  # of them, with what is repeated a number of times written out
MAX_PATTERNS = 200  # of them and of multipleOf, which is held to in the same way
# The work of finding out whether a text can fit patterns at once doubles with each.
MAX_PATTERNS_AT_ONCE = 8
_MAX_STEPS = 200_000  # schemas looked at, each as often as it is referred to
_ATOM = r"(?:\\[pP]\{\w+\}|\\.|\[(?:\\.|[^\]\\])*\]|[^\\\[\]()|+*?{}])"
_REPEAT = r"(?:[+*]|\{\d+,\})"
# A repetition and nothing else, itself repeated: engines that go back try every way to cut it up.
_NESTED = re.compile(rf"\((?:\?:|\?<\w+>)?{_ATOM}{_REPEAT}\){_REPEAT}")
_PIECE = re.compile(rf"(?P<open>\()|(?P<close>\))|\{{(?P<least>\d+),?(?P<most>\d*)\}}|{_ATOM}")
_JOINS = ("$ref", "allOf", "anyOf", "oneOf")  # what a value has to fit besides
_SAYS = (
    "pattern",
    "properties",
    "patternProperties",
    "additionalProperties",
    "items",
    "prefixItems",
)
_VALUES = ("const", "enum", "default", "examples")  # hold values, no schemas


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
    patterns = set()
    for path, key, value in _keywords(schema, where):
        for pattern in _patterns(key, value):
            _check_pattern(pattern, path)
        patterns.update(_automata(key, value))
        if key == "$ref" and isinstance(value, str):
            _check_reference(value, schema, path)
    if len(patterns) > MAX_PATTERNS:
        raise TokenizerError(
            f"{len(patterns)} patterns and multipleOf",
            where=where,
            allowed=f"at most {MAX_PATTERNS} different ones",
        )
    if len(patterns) > MAX_PATTERNS_AT_ONCE:
        _Joined(schema, where).check()
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
            if key not in _VALUES:
                yield from _keywords(value, f"{path}.{key}")
    elif isinstance(schema, list | tuple):
        for index, value in enumerate(schema):
            yield from _keywords(value, f"{path}[{index}]")


def _patterns(key: str, value: Any) -> list[str]:
    """Return the patterns a keyword states."""
    if key == "pattern" and isinstance(value, str):
        return [value]
    if key == "patternProperties" and isinstance(value, Mapping):
        return [str(name) for name in value]
    return []


def _automata(key: str, value: Any) -> list[str]:
    """Return what a keyword states that a text is read with an automaton for, each by a name."""
    return [f"{key} {value}"] if key == "multipleOf" else _patterns(key, value)


def _check_pattern(pattern: str, where: str) -> None:
    if len(pattern) > MAX_PATTERN:
        raise TokenizerError(
            f"a pattern of {len(pattern)} characters", where=where, allowed=f"at most {MAX_PATTERN}"
        )
    if _written_out(pattern) > MAX_REPEATED:
        raise TokenizerError(
            f"the pattern's repetitions, written out, are too long: {pattern!r:.80}",
            where=where,
            allowed=f"at most {MAX_REPEATED} characters",
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


def _written_out(pattern: str) -> int:
    """Return about how many characters a pattern has with its counts written out: 6 for ``(a{2}b){2}``."""
    around: list[int] = []  # lengths of what precedes the groups that are open
    length = last = 0
    for piece in _PIECE.finditer(pattern):
        if piece["open"]:
            around.append(length)
            length = 0
        elif piece["close"]:
            last = length
            length += around.pop() if around else 0
        elif piece["least"]:
            times = max(int(piece["least"][:9]), int(piece["most"][:9] or 0), 1)
            length += last * (times - 1)
            last *= times
        else:
            length, last = length + 1, 1
    return length


def _check_reference(reference: Any, root: Any, where: str) -> None:
    if resolve(root, reference) is None:
        raise TokenizerError(
            f"the reference {reference!r:.80} leads nowhere",
            where=where,
            allowed="a place in the same schema: #/$defs/NAME",
        )


class _Walk:
    """Follows the references of a schema; gives up where that takes too long."""

    def __init__(self, root: Any, where: str) -> None:
        self._root, self._where = root, where
        self._steps = 0

    def _step(self) -> None:
        self._steps += 1
        if self._steps > _MAX_STEPS:
            raise TokenizerError("the references are too many to follow", where=self._where)


class _Joined(_Walk):
    """Finds values that might have to fit many patterns at once: all that is joined counts."""

    def check(self) -> None:
        waiting = [self._root]
        while waiting:
            item = waiting.pop()
            if isinstance(item, Mapping):
                if _joins(item) and self._reach(item) > MAX_PATTERNS_AT_ONCE:
                    raise TokenizerError(
                        "too many patterns or multipleOf may have to be met at once",
                        where=self._where,
                        allowed=f"at most {MAX_PATTERNS_AT_ONCE} different ones under what allOf, "
                        "anyOf, oneOf or $ref join",
                    )
                waiting.extend(item.values())
            elif isinstance(item, list | tuple):
                waiting.extend(item)

    def _reach(self, schema: Mapping[str, Any]) -> int:
        patterns: set[str] = set()
        seen: set[int] = set()
        waiting: list[Any] = [schema]
        while waiting:
            item = waiting.pop()
            if isinstance(item, list | tuple):
                waiting.extend(item)
            if not isinstance(item, Mapping) or id(item) in seen:
                continue
            self._step()
            seen.add(id(item))
            for key, value in item.items():
                patterns.update(_automata(key, value))
                waiting.append(resolve(self._root, value) if key == "$ref" else value)
        return len(patterns)


def _joins(schema: Mapping[str, Any]) -> bool:
    found = [key for key in _JOINS if key in schema]
    return len(_list(schema.get("allOf"))) > 1 or (
        bool(found) and (len(found) > 1 or any(key in schema for key in _SAYS))
    )


class _Endless(_Walk):
    """Finds schemas that no finite value fits, as each needs another of its kind within."""

    def __init__(self, root: Any, where: str) -> None:
        super().__init__(root, where)
        self._finite: set[str] = set()  # references known to end

    def check(self) -> None:
        if not self._ends(self._root, ("#",)):
            raise TokenizerError(
                "a $ref leads back to itself, so no value could ever end",
                where=self._where,
                fix="let an alternative or a property that is not required end the circle",
            )

    def _ends(self, schema: Any, within: tuple[str, ...]) -> bool:
        self._step()
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
