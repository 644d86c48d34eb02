"""What a committed step says of itself: ``manifest.json`` with the size and sha256 of each file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mindformers.errors import CheckpointError, did_you_mean

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """What a committed step says of itself.

    Attributes:
        serial: Rank among the steps written under one root; later is higher.
        files: Relative file name -> (bytes, sha256 in hex).
        info: What the writer of the step stored (``step`` orders the steps).
    """

    serial: int
    files: dict[str, tuple[int, str]]
    info: dict[str, Any]

    def to_json(self) -> str:
        """Return the file's text; ``digest`` covers everything else in it."""
        content = {
            "version": FORMAT_VERSION,
            "serial": self.serial,
            "files": {name: list(entry) for name, entry in self.files.items()},
            "info": self.info,
        }
        return json.dumps({**content, "digest": _digest(content)}, indent=1, ensure_ascii=False)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex; computed again only when the file changed."""
    status = path.stat()
    return _file_sha256(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _file_sha256(path: Path, size: int, modified_ns: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read ``manifest.json`` of a step folder; the files themselves are not looked at.

    Raises:
        CheckpointError: If it is missing, damaged, or of a later version of the format.
    """
    path = folder / MANIFEST_NAME
    try:
        content = json.loads(path.read_bytes())
        stored = content.pop("digest")
        if content["version"] > FORMAT_VERSION:
            raise CheckpointError(
                f"format version {content['version']}",
                where=str(path),
                allowed=str(FORMAT_VERSION),
                fix="read it with a newer release",
            )
        if stored != _digest(content):
            raise ValueError("its digest does not match")
        files = {name: (int(size), str(sha)) for name, (size, sha) in content["files"].items()}
        return Manifest(int(content["serial"]), files, dict(content["info"]))
    except FileNotFoundError as error:
        raise CheckpointError(
            "is not a committed step: it has no manifest.json", where=str(folder)
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"damaged: {error}", where=str(path), fix="use an older step"
        ) from error


def check_files(
    folder: Path, manifest: Manifest, names: Iterable[str] | None = None, verify: bool = True
) -> None:
    """Check that files of a step are what was written.

    Args:
        folder: The step folder.
        manifest: Its manifest.
        names: The files to look at; all of them when None.
        verify: Compare the sha256 too; else only that the file is there with its size.

    Raises:
        CheckpointError: If a file is missing, has another size or another content.
    """
    for name in manifest.files if names is None else names:
        if name not in manifest.files:
            raise CheckpointError(
                f"the manifest lists no file {name!r}",
                where=str(folder),
                fix=did_you_mean(name, manifest.files),
            )
        size, sha256 = manifest.files[name]
        path = folder / name
        try:
            found = path.stat().st_size
        except OSError as error:
            raise CheckpointError(
                f"missing ({error.strerror})", where=str(path), fix="use an older step"
            ) from error
        if found != size:
            raise CheckpointError(
                f"has {found} bytes, the manifest says {size}",
                where=str(path),
                fix="use an older step",
            )
        if verify and file_sha256(path) != sha256:
            raise CheckpointError(
                "sha256 mismatch: its content changed since it was saved",
                where=str(path),
                fix="use an older step or copy the file again",
            )
