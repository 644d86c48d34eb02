"""YAML text to plain values, each with the line it stands on. Reads no file and executes nothing.

Scalars follow YAML 1.2 (``1e-6`` is a number, ``yes`` is text), duplicate keys are refused, and the
text a hostile or damaged file can grow into is bounded before anything is built from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from mindformers.errors import ConfigError
from mindformers.logger import logger

MAX_DEPTH = 32  # sections inside sections; the deepest key of a run configuration has 5
MAX_VALUES = 20_000  # values after every alias is expanded; a run configuration has about 200
MAX_DIGITS = 400  # of one number; a double holds 309

KeyPath = tuple[str | int, ...]
Positions = dict[KeyPath, tuple[str, int]]

_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT = re.compile(r"[-+]?[0-9]+")
_BASED_INT = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL_FLOAT = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_NULLS = ("", "~", "null", "Null", "NULL", "None")
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = {None, "!", f"{_TAG}str", f"{_TAG}map", f"{_TAG}seq"}


def resolve_scalar(text: str) -> Any:
    """Return the value of an unquoted scalar: null, bool, int, float, or the text itself."""
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if len(text) > MAX_DIGITS:
        return text
    if _INT.fullmatch(text):
        return int(text)
    if _BASED_INT.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    special = _SPECIAL_FLOAT.fullmatch(text)
    return float(text.replace(".", "")) if special else text


def parse_yaml(text: str, file: str) -> tuple[Any, Positions]:
    """Return the value of one YAML document, and file and line of every key path in it.

    Args:
        text: The document.
        file: Name used in messages.

    Raises:
        ConfigError: If the text is no YAML, repeats a key, asks for a tag (such as
            ``!!python/object``), holds several documents, or grows beyond the limits above.
    """
    root = _compose(text, file)
    if root is None:
        return None, {}
    expander = _Expander(file)
    return expander.value(root, (), 0), expander.positions


@dataclass(slots=True)
class _Node:
    """A scalar (value set), a list (items) or a mapping (pairs); ``line`` counts from 1."""

    kind: str
    line: int
    value: Any = None
    items: list[_Node] = field(default_factory=list)
    pairs: list[tuple[str, int, _Node]] = field(default_factory=list)
    lines: dict[str, int] = field(default_factory=dict)  # of the keys, to find one set twice


def _events(text: str, file: str) -> Iterator[yaml.Event]:
    """Yield the parser's events; its own errors become ConfigErrors."""
    try:
        yield from yaml.parse(text, Loader=_PARSER)
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, text, file) from error
    except yaml.reader.ReaderError as error:
        row = text.count("\n", 0, error.position)
        code = error.character if isinstance(error.character, int) else ord(error.character)
        raise ConfigError(
            f"the character U+{code:04X} is not allowed in YAML", where=f"{file}:{row + 1}"
        ) from error


def _syntax_error(error: yaml.MarkedYAMLError, text: str, file: str) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    row, column = (mark.line, mark.column) if mark else (0, 0)
    lines = text.splitlines() or [""]
    line = lines[min(row, len(lines) - 1)]
    indent = line[: len(line) - len(line.lstrip())]
    where = f"{file}:{row + 1}"
    if "\t" in indent or line[column : column + 1] == "\t":
        return ConfigError(
            "a tab stands where YAML needs spaces", where=where, fix="indent with spaces"
        )
    return ConfigError(f"not valid YAML: {error.problem or error.context}", where=where)


def _compose(text: str, file: str) -> _Node | None:
    composer = _Composer(file)
    for event in _events(text, file):
        composer.take(event)
    return composer.root


class _Composer:
    """Builds the tree of nodes from events. An alias is a second reference to the same node."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.root: _Node | None = None
        self._open: list[_Node] = []
        self._keys: list[tuple[str, int] | None] = []  # per open mapping: the key read last
        self._anchors: dict[str, _Node] = {}
        self._num_documents = 0
        self._num_nodes = 0
        self._hinted = False

    def take(self, event: yaml.Event) -> None:
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.DocumentStartEvent):
            self._num_documents += 1
            if self._num_documents > 1:
                raise self._error(line, "a second document starts here", "one document per file")
        elif isinstance(event, yaml.CollectionEndEvent):
            self._open.pop()
            self._keys.pop()
        elif isinstance(event, yaml.NodeEvent):
            self._take_node(event, line)

    def _take_node(self, event: yaml.NodeEvent, line: int) -> None:
        self._num_nodes += 1
        if self._num_nodes > 2 * MAX_VALUES:  # a key is a node too
            raise self._error(line, f"the file holds more than {MAX_VALUES} values")
        node = self._node(event, line)
        self._attach(node, event, line)
        if not isinstance(event, yaml.AliasEvent) and event.anchor:
            self._anchors[event.anchor] = node
        if isinstance(event, yaml.CollectionStartEvent):
            if len(self._open) >= MAX_DEPTH:
                raise self._error(line, f"sections are nested more than {MAX_DEPTH} deep")
            self._open.append(node)
            self._keys.append(None)

    def _node(self, event: yaml.NodeEvent, line: int) -> _Node:
        if isinstance(event, yaml.AliasEvent):
            target = self._anchors.get(str(event.anchor))
            if target is None:
                raise self._error(line, f"the alias *{event.anchor} has no anchor above it")
            if any(target is node for node in self._open):
                raise self._error(line, f"the alias *{event.anchor} stands inside its own anchor")
            return target
        tag = event.tag  # type: ignore[attr-defined]
        if tag not in _PLAIN_TAGS:
            raise self._error(
                line,
                f"the tag {tag.replace(_TAG, '!!')!r} is not accepted; nothing of it was executed",
                "plain values",
            )
        if not isinstance(event, yaml.ScalarEvent):
            return _Node("map" if isinstance(event, yaml.MappingStartEvent) else "list", line)
        return _Node("scalar", line, self._scalar(event, line))

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> Any:
        text: str = event.value
        if event.tag is not None or not event.implicit[0]:
            return text
        if text == "None" and not self._hinted:
            self._hinted = True
            logger.info("%s:%d: None is read as null; write null", self.file, line)
        return resolve_scalar(text)

    def _attach(self, node: _Node, event: yaml.NodeEvent, line: int) -> None:
        if not self._open:
            self.root = node
            return
        parent = self._open[-1]
        if parent.kind == "list":
            parent.items.append(node)
            return
        key = self._keys[-1]
        if key is not None:
            parent.pairs.append((*key, node))
            self._keys[-1] = None
            return
        if not isinstance(event, yaml.ScalarEvent):
            raise self._error(line, "a key is a list, a section or an alias", "text keys")
        name = event.value
        if name in parent.lines and name != "<<":
            raise self._error(
                line,
                f"the key {name!r} is set twice, first on line {parent.lines[name]}",
                fix="keep one of them",
            )
        parent.lines[name] = line
        self._keys[-1] = (name, line)

    def _error(self, line: int, found: str, allowed: str = "", fix: str = "") -> ConfigError:
        return ConfigError(found, where=f"{self.file}:{line}", allowed=allowed, fix=fix)


class _Expander:
    """Turns nodes into dicts, lists and scalars; every use of an alias becomes its own copy."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.positions: Positions = {}
        self._count = 0

    def value(self, node: _Node, path: KeyPath, depth: int) -> Any:
        self._grow(node, depth)
        if node.kind == "scalar":
            return node.value
        if node.kind == "list":
            values = []
            for index, item in enumerate(node.items):
                self.positions[(*path, index)] = (self.file, item.line)
                values.append(self.value(item, (*path, index), depth + 1))
            return values
        result: dict[str, Any] = {}
        for key, line, child in self._pairs(node, depth):
            self.positions[(*path, key)] = (self.file, line)
            result[key] = self.value(child, (*path, key), depth + 1)
        return result

    def _grow(self, node: _Node, depth: int) -> None:
        self._count += 1
        if self._count > MAX_VALUES or depth > MAX_DEPTH:
            raise ConfigError(
                f"the aliases grow to more than {MAX_VALUES} values or {MAX_DEPTH} levels",
                where=f"{self.file}:{node.line}",
                fix="remove the nested aliases",
            )

    def _pairs(self, node: _Node, depth: int) -> list[tuple[str, int, _Node]]:
        """Return the mapping's pairs with ``<<`` merged in below its own keys."""
        merged: dict[str, tuple[str, int, _Node]] = {}
        for key, line, child in node.pairs:
            if key != "<<":
                continue
            for source in child.items if child.kind == "list" else [child]:
                if source.kind != "map":
                    raise ConfigError(
                        "'<<' merges something that is no section",
                        where=f"{self.file}:{line}",
                        allowed="an alias of a section",
                    )
                self._grow(source, depth + 1)
                for pair in self._pairs(source, depth + 1):
                    self._grow(source, depth + 1)
                    merged.setdefault(pair[0], pair)
        own = {pair[0]: pair for pair in node.pairs if pair[0] != "<<"}
        return list({**merged, **own}.values())
