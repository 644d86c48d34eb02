"""Questions about the typed sections: which keys has a section, which section stands at a path."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic.fields import FieldInfo

from mindformers.config.section import Section
from mindformers.config.yaml_text import KeyPath

TAGS = ("type", "pet_type")  # keys that say which of several sections is meant


def keys_of(section: type[Section]) -> dict[str, FieldInfo]:
    """Return the fields of a section by the key that a YAML file uses."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def sections_in(annotation: Any) -> list[type[Section]]:
    """Return the sections a field's type can hold, in the order they are declared."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    found: list[type[Section]] = []
    for argument in get_args(annotation):
        found += sections_in(argument)
    return found


def types_of(section: type[Section]) -> list[str]:
    """Return the values the section's ``type`` (or ``pet_type``) takes; empty if it has none."""
    fields = [section.model_fields[tag] for tag in TAGS if tag in section.model_fields]
    return [text for field in fields for text in _literals(field.annotation)]


def _literals(annotation: Any) -> list[str]:
    arguments = get_args(annotation)
    texts = [argument for argument in arguments if isinstance(argument, str)]
    return texts or [text for argument in arguments for text in _literals(argument)]


def section_for(candidates: Sequence[type[Section]], value: Any) -> type[Section] | None:
    """Return the section that a mapping is meant for: by its ``type``, else the first one."""
    if not candidates:
        return None
    wanted = {str(value[tag]) for tag in TAGS if tag in value} if isinstance(value, dict) else set()
    return next((each for each in candidates if wanted & {*types_of(each)}), candidates[0])


def child_section(section: type[Section] | None, key: str, value: Any) -> type[Section] | None:
    """Return the section under ``key``, or None when the key is unknown or holds plain values."""
    field = keys_of(section).get(key) if section else None
    return section_for(sections_in(field.annotation), value) if field else None


def section_at(root: type[Section], path: KeyPath, data: Any) -> type[Section] | None:
    """Return the section at a path; ``data`` decides between those of different ``type``."""
    section: type[Section] | None = root
    candidates: list[type[Section]] = [root]
    for key in path:
        if isinstance(key, int):
            data = data[key] if isinstance(data, list) and key < len(data) else None
            section = section_for(candidates, data)
            continue
        field = keys_of(section).get(key) if section else None
        candidates = sections_in(field.annotation) if field else []
        data = data.get(key) if isinstance(data, dict) else None
        section = section_for(candidates, data)
    return section


def all_keys(root: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield the dotted path and the field of every key below a section; lists add no level."""
    for key, field in keys_of(root).items():
        yield f"{prefix}{key}", field
        for section in sections_in(field.annotation):
            yield from all_keys(section, f"{prefix}{key}.")
