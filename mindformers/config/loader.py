"""A YAML file and its ``base_config`` to a ``Document``: values, and file and line of each."""

from __future__ import annotations

import codecs
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mindformers.config.yaml_text import KeyPath, Positions, parse_yaml
from mindformers.errors import ConfigError, did_you_mean

BASE_KEY = "base_config"
MAX_BYTES = 2**20  # the longest published configuration has 10 kB
MAX_FILES = 64  # of one base_config tree

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


@dataclass
class Document:
    """Plain values, and where each came from.

    Args:
        data: Dicts, lists and scalars as the file has them.
        positions: Key path -> (file, line); line 0 for what no file holds (a command line flag).
        source: Name of the whole, for the head of a report.
    """

    data: dict[str, Any] = field(default_factory=dict)
    positions: Positions = field(default_factory=dict)
    source: str = ""

    def place(self, path: KeyPath) -> tuple[str, int]:
        """Return file and line of a key path, or of the nearest section around it."""
        for end in range(len(path), 0, -1):
            position = self.positions.get(tuple(path[:end]))
            if position is not None:
                return position
        return self.source, 0

    def where(self, path: KeyPath) -> str:
        """Return ``place`` as ``file:line``, or the bare name where no file holds the value."""
        file, line = self.place(path)
        return f"{file}:{line}" if line else file


def load_yaml(path: str | Path) -> Document:
    """Read a YAML file and the files its ``base_config`` names.

    Args:
        path: The file. ``base_config`` in it is a path or a list of paths, relative to this file;
            later ones win over earlier ones, and the file itself wins over all.

    Raises:
        ConfigError: If a file cannot be read, is no YAML mapping, or inherits from itself.
    """
    loaded = _Inheritance()
    document = loaded.load(Path(path), [])
    document.source = str(path)
    return document


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``over`` laid on it: sections key by key, all else as a whole."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = (
            merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
        )
    return merged


class _Inheritance:
    def __init__(self) -> None:
        self.num_files = 0

    def load(self, path: Path, chain: list[Path], where: str = "") -> Document:
        self.num_files += 1
        if self.num_files > MAX_FILES:
            raise ConfigError(f"{BASE_KEY} names more than {MAX_FILES} files", where=where)
        text = read_text(path, where)
        if path.resolve() in [link.resolve() for link in chain]:
            names = " -> ".join(str(link) for link in [*chain, path])
            raise ConfigError(
                f"{BASE_KEY} goes in a circle: {names}", where=where, fix="cut one link"
            )
        data, positions = parse_yaml(text, str(path))
        if not isinstance(data, dict):
            found = "holds no settings" if data is None else f"holds {data!r:.40}"
            raise ConfigError(
                f"the file {found}", where=str(path), allowed="sections of 'key: value'"
            )
        bases = self._bases(data, path, positions)
        base = Document()
        for name in bases:
            inherited = self.load(
                path.parent / name, [*chain, path], f"{path}:{positions[(BASE_KEY,)][1]}"
            )
            base = Document(
                merge(base.data, inherited.data), {**base.positions, **inherited.positions}
            )
        return Document(merge(base.data, data), {**base.positions, **positions})

    def _bases(self, data: dict[str, Any], path: Path, positions: Positions) -> list[str]:
        named = data.pop(BASE_KEY, None)
        names = [named] if isinstance(named, str) else (named or [])
        if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
            raise ConfigError(
                f"{BASE_KEY}: found {named!r:.60}",
                where=f"{path}:{positions[(BASE_KEY,)][1]}",
                allowed="the path of a YAML file, or a list of paths",
            )
        return names


def read_text(path: Path, where: str = "") -> str:
    """Return the text of a small UTF-8 file; a byte order mark is dropped.

    Raises:
        ConfigError: If the file is missing, no regular file, unreadable, empty, larger than
            ``MAX_BYTES``, or not UTF-8 text.
    """
    raw = _read_bytes(path, where)
    for mark, encoding in _BYTE_ORDER_MARKS:
        if raw.startswith(mark):
            raise ConfigError(
                f"the file is {encoding} text",
                where=str(path),
                allowed="UTF-8",
                fix="save it as UTF-8",
            )
    if b"\0" in raw:
        line = raw[: raw.index(b"\0")].count(b"\n") + 1
        raise ConfigError(
            "the file holds a NUL byte: it is no text, or UTF-16 without a mark",
            where=f"{path}:{line}",
            allowed="UTF-8 text",
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"the byte 0x{raw[error.start]:02x} is not UTF-8",
            where=f"{path}:{line}",
            fix="save the file as UTF-8",
        ) from error
    if not text.strip():
        raise ConfigError("the file is empty", where=str(path), allowed="sections of 'key: value'")
    return text


def _read_bytes(path: Path, where: str) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            found = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise ConfigError(f"{path} is {found}", where=where, allowed="a YAML file")
        if status.st_size > MAX_BYTES:
            raise ConfigError(
                f"the file has {status.st_size:,} bytes",
                where=str(path),
                allowed=f"up to {MAX_BYTES:,}",
            )
        return path.read_bytes()
    except FileNotFoundError:
        names = sorted(p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        raise ConfigError(
            f"{path} does not exist", where=where, fix=did_you_mean(path.name, names)
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(f"{path} cannot be read: {reason}", where=where) from error
