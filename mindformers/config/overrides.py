"""Command line overrides: ``--a.b.c value`` and ``--options a.b=value`` to patches of a document.

A patch knows where it came from, so a report of problems names the flag and not the file.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mindformers.config.loader import Document, merge
from mindformers.config.yaml_text import KeyPath, parse_yaml, resolve_scalar
from mindformers.errors import ConfigError, did_you_mean

# The task holds a copy of the dataset section (a YAML alias): what changes one changes both.
_COPIES = {"train_dataset": "train_dataset_task", "eval_dataset": "eval_dataset_task"}
_NUMBER = re.compile(r"-\.?[0-9]")


@dataclass(frozen=True)
class Patch:
    """One value to set.

    Args:
        path: Where: ``("callbacks", 1, "prefix")``; a number addresses an item of a list.
        value: What to put there; a section is merged into the one that is there.
        origin: Where the wish came from, in the user's words: ``command line: --seed``.
    """

    path: KeyPath
    value: Any
    origin: str


def parse_value(text: str) -> Any:
    """Return the value a command line argument stands for.

    ``True``, ``null``, ``None``, ``3``, ``1e-6``, ``[1, 2]``, ``{"a": 1}`` and quoted text mean
    what they mean in YAML; everything else, the empty argument included, is text.
    """
    if not text:
        return ""
    if text[0] not in "[{\"'":
        return resolve_scalar(text)
    try:
        return parse_yaml(text, "command line")[0]
    except ConfigError:
        return text  # a template or a prompt may begin with a bracket


def parse_option_value(text: str) -> Any:
    """Like ``parse_value``, and ``1,2`` and ``(1,2)`` are lists."""
    if text[:1] == "(" and text[-1:] == ")":
        return parse_value(f"[{text[1:-1]}]")
    if "," in text and text[0] not in "[{\"'":
        return [parse_value(part.strip()) for part in text.split(",")]
    return parse_value(text)


def split_path(dotted: str, origin: str) -> KeyPath:
    """Return ``("a", 1, "b")`` for ``a.1.b``.

    Raises:
        ConfigError: If a part is empty.
    """
    parts = dotted.split(".")
    if not all(parts):
        raise ConfigError(
            f"{dotted!r} is no key path", where=origin, allowed="keys joined by single dots"
        )
    return tuple(int(part) if part.isdecimal() else part for part in parts)


def patches_from_arguments(
    arguments: Sequence[str], known_flags: Iterable[str] = ()
) -> list[Patch]:
    """Read ``--a.b.c value`` and ``--a.b.c=value``.

    Args:
        arguments: What the argument parser did not know.
        known_flags: Flags for the nearest-name hint.

    Raises:
        ConfigError: If an argument is no flag, or a flag has no value.
    """
    patches = []
    rest = list(arguments)
    while rest:
        flag, has_value, text = rest.pop(0).partition("=")
        if not flag.startswith("--") or flag == "--":
            raise ConfigError(
                f"unexpected argument {flag!r}",
                where="command line",
                allowed="--key value",
                fix=did_you_mean(f"--{flag.lstrip('-')}", known_flags),
            )
        origin = f"command line: {flag}"
        if not has_value:
            if not rest or (rest[0].startswith("-") and not _NUMBER.match(rest[0])):
                raise ConfigError(
                    "the value is missing",
                    where=origin,
                    allowed=f"{flag} value",
                    fix=did_you_mean(flag, known_flags),
                )
            text = rest.pop(0)
        patches.append(Patch(split_path(flag[2:], origin), parse_value(text), origin))
    return patches


def patches_from_options(options: Sequence[str]) -> list[Patch]:
    """Read the ``key=value`` items of ``--options``.

    Raises:
        ConfigError: If an item has no ``=``.
    """
    patches = []
    for item in options:
        key, has_value, text = item.partition("=")
        origin = f"command line: --options {key}"
        if not has_value:
            raise ConfigError(
                f"found {item!r}", where="command line: --options", allowed="key=value"
            )
        patches.append(Patch(split_path(key, origin), parse_option_value(text), origin))
    return patches


def apply_patches(document: Document, patches: Iterable[Patch]) -> Document:
    """Return a new document with the patches applied in order; sections that are missing are made.

    Raises:
        ConfigError: If a path leads through a plain value, or to a list item that is not there.
    """
    patched = Document(copy.deepcopy(document.data), dict(document.positions), document.source)
    for patch in patches:
        _apply(patched, patch)
        copied = _copy_of(patch, patched.data)
        if copied is not None:
            _apply(patched, copied)
    return patched


def _copy_of(patch: Patch, data: dict[str, Any]) -> Patch | None:
    """Return the same change for the task's copy of the dataset section, if there is one."""
    name = _COPIES.get(str(patch.path[0]))
    if name is None:
        return None
    task = data.get(name)
    if not isinstance(task, dict) or not isinstance(task.get("dataset_config"), dict):
        return None
    return Patch((name, "dataset_config", *patch.path[1:]), patch.value, patch.origin)


def _apply(document: Document, patch: Patch) -> None:
    holder: Any = document.data
    for depth, key in enumerate(patch.path[:-1], start=1):
        holder = _child(holder, key, patch)
        document.positions.setdefault(patch.path[:depth], (patch.origin, 0))
    last = patch.path[-1]
    _check_step(holder, last, patch)
    value = copy.deepcopy(patch.value)
    old = holder.get(last) if isinstance(holder, dict) else holder[last]
    if isinstance(value, dict) and isinstance(old, dict):
        _mark(document, patch.path, value, patch.origin)
        holder[last] = merge(old, value)
        return
    for known in [known for known in document.positions if known[: len(patch.path)] == patch.path]:
        del document.positions[known]
    document.positions[patch.path] = (patch.origin, 0)
    holder[last] = value


def _mark(document: Document, path: KeyPath, value: dict[str, Any], origin: str) -> None:
    for key, child in value.items():
        document.positions[(*path, key)] = (origin, 0)
        if isinstance(child, dict):
            _mark(document, (*path, key), child, origin)


def _child(holder: Any, key: str | int, patch: Patch) -> Any:
    _check_step(holder, key, patch)
    if isinstance(holder, dict) and holder.get(key) is None:
        holder[key] = {}
    return holder[key]


def _check_step(holder: Any, key: str | int, patch: Patch) -> None:
    path = ".".join(map(str, patch.path))
    if isinstance(holder, dict):
        if isinstance(key, int):
            raise ConfigError(
                f"{path}: {key} numbers a list item, but a section stands there",
                where=patch.origin,
                allowed=", ".join(holder) or "a key",
            )
    elif isinstance(holder, list):
        if not isinstance(key, int) or key >= len(holder):
            raise ConfigError(
                f"{path}: {key!r} is no item of a list of {len(holder)}",
                where=patch.origin,
                allowed=f"0 to {len(holder) - 1}" if holder else "an empty list has no items",
            )
    else:
        raise ConfigError(
            f"{path}: a plain value ({holder!r:.40}) stands before {key!r}",
            where=patch.origin,
            allowed="a section there",
        )
