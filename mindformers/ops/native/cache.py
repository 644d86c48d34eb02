"""Where compiled libraries are kept: each with its checksum beside it, complete or not there at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from mindformers.logger import warn_once

CACHE_VARIABLE = "MINDFORMERS_CACHE"
KEPT_BUILDS = 8  # of other sources, compilers or instruction sets; about 1 MB each
_LEFT_ALONE = 3600.0  # seconds after which what a build left behind is nobody's any more


def cache_folder() -> Path | None:
    """Return the folder compiled libraries belong in, or None for a user without a home."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(os.path.abspath(os.path.expanduser(chosen)))  # noqa: PTH100, PTH111 -- never raises
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if base.is_absolute():  # the XDG rules: a relative one does not count
        return base / "mindformers"
    try:
        return Path.home() / ".cache" / "mindformers"
    except RuntimeError:
        return None


def find(names: str) -> Path | None:
    """Return a complete library whose file name matches ``names``, the newest of several.

    Looks in the cache folder, then in the one that stands in for it.
    """
    for folder in (cache_folder(), _stand_in()):
        found = _newest(folder, names) if folder else []
        for path in found:
            if is_complete(path):
                return path
    return None


def is_complete(path: Path) -> bool:
    """Tell whether a library is the one its checksum was taken of."""
    try:
        wanted = checksum_file(path).read_text(encoding="ascii").strip()
        return hashlib.sha256(path.read_bytes()).hexdigest() == wanted
    except (OSError, UnicodeDecodeError):
        return False


def checksum_file(path: Path) -> Path:
    """Return the file with a library's checksum."""
    return path.with_name(path.name + ".sha256")


def folders_to_build_in() -> Iterator[Path]:
    """Yield folders a library can be written to and loaded from, the one it belongs in first."""
    wanted = cache_folder()
    if wanted is not None:
        reason = _why_not(wanted)
        if not reason:
            yield wanted
        else:
            warn_once(
                "the cache folder %s %s; compiled kernels go to a temporary one"
                " (%s names another folder)",
                wanted, reason, CACHE_VARIABLE,
            )  # fmt: skip
    own = _stand_in(make=True)
    yield own if own is not None else Path(tempfile.mkdtemp(prefix="mindformers-"))


def _why_not(folder: Path) -> str:
    """Make a folder if need be; return why no library can live there, or nothing."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
        if os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0):
            return "is on a file system nothing can be loaded from (noexec)"
    except OSError as error:
        return f"cannot be written ({error.strerror or error})"
    return ""


def _stand_in(make: bool = False) -> Path | None:
    """Return the temporary folder that is this user's alone; None if it is not there or not safe."""
    folder = Path(tempfile.gettempdir()) / f"mindformers-{os.getuid()}"
    try:
        if make:
            folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    # Anybody may make a folder of this name: one that others own or write to is never loaded from.
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return folder if is_ours and not stat.S_IMODE(found.st_mode) & 0o077 else None


def publish(built: Path, target: Path) -> None:
    """Move a finished library, which must lie on the same file system, to its place."""
    for path in (built, _write_checksum(built)):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    # A reader between the two sees another checksum, waits for the lock and then looks again.
    built.replace(target)
    checksum_file(built).replace(checksum_file(target))


def _write_checksum(built: Path) -> Path:
    digest = hashlib.sha256(built.read_bytes()).hexdigest()
    checksum_file(built).write_text(digest + "\n", encoding="ascii")
    return checksum_file(built)


def prune(folder: Path) -> None:
    """Remove all but the newest few libraries, and what builds that were killed have left."""
    for path in _newest(folder, "kernels-*.so")[KEPT_BUILDS:]:
        path.unlink(missing_ok=True)
        checksum_file(path).unlink(missing_ok=True)
    for path in folder.glob("build-*"):
        if _modified(path) < time.time() - _LEFT_ALONE:
            shutil.rmtree(path, ignore_errors=True)


def _newest(folder: Path, names: str) -> list[Path]:
    try:
        return sorted(folder.glob(names), key=_modified, reverse=True)
    except OSError:
        return []


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another process has just removed it
        return 0.0
