"""Every problem of a configuration as one line each: where, what was found, what is allowed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from mindformers.config.loader import Document
from mindformers.config.schema import TAGS, all_keys, keys_of, section_at, sections_in, types_of
from mindformers.config.section import Section
from mindformers.config.yaml_text import KeyPath
from mindformers.errors import ConfigError, MindFormersError, did_you_mean

S = TypeVar("S", bound=Section)

_REFERENCE = "docs/config_reference.md lists every key"
MAX_LISTED = 50  # problems of one report; near names are looked up for each
_SHOWN = 60  # characters of a value in a message
_SECRET = re.compile(
    r"(?i)(^|_)(enc_key|secret|password|passwd|credential|api_key|access_key|url)s?$"
)
_SECTION_TYPES = ("dict_type", "model_type", "model_attributes_type", "union_tag_invalid")
_WANTED = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "list_type": "a list",
    "none_required": "null",
    **dict.fromkeys(_SECTION_TYPES, "a section of 'key: value'"),
}
_LIMITS = {
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "less than {lt}",
    "less_than_equal": "{le} or less",
    "multiple_of": "a multiple of {multiple_of}",
    "too_short": "a list of {min_length}",
    "too_long": "a list of {max_length}",
    "string_pattern_mismatch": "text of the form {pattern}",
}


@dataclass(frozen=True)
class Problem:
    """One thing wrong at one key path; ``count`` is above 1 for the line that says how many more."""

    path: KeyPath
    found: str
    allowed: str = ""
    fix: str = ""
    count: int = 1

    def line(self, document: Document) -> str:
        """Return the problem as one line that begins with file and line, or the flag."""
        name = ".".join(_short(str(step)) for step in self.path)
        place = document.where(self.path) if self.path else ""
        if place.startswith("command line") and place.endswith(name):
            name = ""  # the flag says it already
        where = ": ".join(part for part in (place, name) if part)
        return str(MindFormersError(self.found, where=where, allowed=self.allowed, fix=self.fix))

    def mentions(self, paths: Sequence[KeyPath]) -> bool:
        """Tell whether the text names the last key of one of the paths."""
        words = set(re.findall(r"\w+", self.found))
        return any(path[-1] in words for path in paths if path)


def report(problems: Sequence[Problem], document: Document) -> ConfigError:
    """Return one error that holds every problem: its line, or a head and a line for each."""
    ordered = sorted(problems, key=lambda each: (not each.path, document.place(each.path)))
    lines: list[str] = []
    count = 0
    seen: set[tuple[str, str, str | int]] = set()
    for problem in ordered:
        place = document.where(problem.path)
        same = (place, problem.found, problem.path[-1] if problem.path else "")
        if same not in seen:  # an alias repeats the problem of its anchor
            lines.append(problem.line(document))
            count += problem.count
        if place != document.source:
            seen.add(same)
    if len(lines) == 1:
        return ConfigError(lines[0])
    head = f"{count} problems in {document.source or 'the configuration'}:"
    return ConfigError("\n  ".join([head, *lines]))


def problems_of(error: ValidationError, root: type[Section], data: Any) -> list[Problem]:
    """Return what a validation found, one problem per key, in the order of the sections."""
    grouped: dict[KeyPath, list[dict[str, Any]]] = {}
    problems: list[Problem] = []
    for detail in error.errors(include_url=False):
        path = _path(detail, data)
        if detail["type"] == "rules":
            problems += detail["ctx"]["problems"]
        else:
            grouped.setdefault(path, []).append(dict(detail))
    outer = {path[:end] for path in grouped for end in range(len(path))}
    for position, (path, details) in enumerate(grouped.items()):
        if position == MAX_LISTED:
            count = len(grouped) - position
            return [*problems, Problem((), f"and {count} more", count=count)]
        if path in outer and all(detail["type"] in _WANTED for detail in details):
            continue  # another form of this value was meant: its own problem stands further in
        problems.append(_problem(path, details, root, data))
    return problems


def bind_section(section: type[S], settings: Mapping[str, Any], where: str) -> S:
    """Return the typed form of settings that come from no file; ``where`` names them in messages.

    Raises:
        ConfigError: One report of every unknown name and wrong value.
    """
    data = dict(settings)
    try:
        return section.model_validate(data)
    except ValidationError as error:
        problems = problems_of(error, section, data)
        raise ConfigError(report(problems, Document()).found, where=where) from error


def is_secret(key: str | int) -> bool:
    """Tell whether a key's value must not be shown: an encryption key, a password, an address."""
    return isinstance(key, str) and _SECRET.search(key) is not None


def show(value: Any, key: str | int = "") -> str:
    """Return a value for a message: short, on one line, and with its kind where that is unclear."""
    if is_secret(key) and value:
        return "a value that is not shown"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a section"
    text = repr(value)
    return f"{_short(text)} (text)" if isinstance(value, str) else _short(text)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _path(detail: Any, data: Any) -> KeyPath:
    """Return the key path of an error; names of union members in its location are left out."""
    path: list[str | int] = []
    location = detail["loc"]
    for position, step in enumerate(location):
        is_last = position == len(location) - 1
        inside = isinstance(data, dict) and step in data
        inside = inside or (isinstance(data, list) and isinstance(step, int) and step < len(data))
        if inside:
            path.append(step)
            data = data[step]
        elif is_last and detail["type"] == "missing":
            path.append(step)
    return tuple(path)


def _problem(
    path: KeyPath, details: list[dict[str, Any]], root: type[Section], data: Any
) -> Problem:
    first = details[0]
    kind, value, context = first["type"], first["input"], first.get("ctx", {})
    key = path[-1] if path else ""
    if kind == "extra_forbidden":
        return _unknown_key(path, root, data)
    if kind == "missing":
        return Problem(path, "the key is missing")
    if kind == "union_tag_not_found":
        allowed = _names(_types_at(root, path, data))
        return Problem((*path, "type"), "the key is missing", allowed)
    if kind == "union_tag_invalid" and isinstance(value, dict):
        names = re.findall(r"'([^']*)'", context["expected_tags"])
        tag = next((each for each in TAGS if f"'{each}'" == context["discriminator"]), TAGS[0])
        fix = did_you_mean(str(value.get(tag)), names)
        return Problem((*path, tag), f"found {show(value.get(tag))}", _names(names), fix)
    if kind == "value_error":
        return _own_check(path, value, str(context["error"]))
    if kind == "literal_error":
        names = re.findall(r"'([^']*)'", context["expected"])
        allowed = context["expected"]
        fix = did_you_mean(str(value), names) if len(names) > 1 else ""
        return Problem(path, f"found {show(value, key)}", allowed, fix)
    wanted = [_WANTED.get(d["type"]) or _limit(d) for d in details]
    return Problem(path, f"found {show(value, key)}", " or ".join(dict.fromkeys(wanted)))


def _limit(detail: dict[str, Any]) -> str:
    form = _LIMITS.get(detail["type"])
    return form.format(**detail["ctx"]) if form else str(detail["msg"])


def _own_check(path: KeyPath, value: Any, message: str) -> Problem:
    """Describe the failure of a check of ours; its message may name the key it is about first."""
    first = message.split(" ", 1)[0]
    if isinstance(value, dict) and first in value:
        return Problem((*path, first), message)
    if not isinstance(value, dict) and "found" not in message:
        message = f"found {show(value, path[-1] if path else '')}: {message}"
    return Problem(path, message.replace("allowed: None", "allowed: null"))


def _names(names: Sequence[str]) -> str:
    return ", ".join(names)


def _types_at(root: type[Section], path: KeyPath, data: Any) -> list[str]:
    """Return the names that ``type`` takes at a path where several sections are possible."""
    keys = [step for step in path if isinstance(step, str)]
    holder = section_at(root, tuple(keys[:-1]), data)
    field = keys_of(holder).get(keys[-1]) if holder and keys else None
    return (
        [name for each in sections_in(field.annotation) for name in types_of(each)] if field else []
    )


def _unknown_key(path: KeyPath, root: type[Section], data: Any) -> Problem:
    key = str(path[-1])
    section = section_at(root, path[:-1], data)
    known = list(keys_of(section)) if section else []
    found = dict.fromkeys(name for name, _ in all_keys(root) if name.rpartition(".")[2] == key)
    elsewhere, own = list(found), ".".join(step for step in path if isinstance(step, str))
    hints = [did_you_mean(key, known)]
    if own in elsewhere:
        hints = ["another type has it"]
    elif elsewhere:
        hints.append(f"this name is known as {' or '.join(elsewhere[:3])}")
    fix = " ".join(hint for hint in hints if hint)
    allowed = _names(known) if known and not fix and len(known) <= 12 else ""
    return Problem(
        path, f"unknown key {_short(key)!r}", allowed, fix or ("" if allowed else _REFERENCE)
    )
