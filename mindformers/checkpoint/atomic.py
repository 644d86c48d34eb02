"""Files that are either whole or absent: written under a temporary name, synced, then renamed.

Every file of the package goes through here. A process killed at any moment leaves the old file,
or the new one; a temporary name it may leave starts with ``TEMP_PREFIX`` and is never read.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mindformers.errors import CheckpointError

TEMP_PREFIX = ".tmp-"
_TEMP_NAME = re.compile(r"\.tmp-(\d{1,9})-[0-9a-f]{8}(\..{0,15})?")

_ADVICE = {
    errno.ENOSPC: "free some space or write to another disk",
    errno.EDQUOT: "raise the quota, free some space or write to another disk",
    errno.EACCES: "make the folder writable or choose another one",
    errno.EPERM: "make the folder writable or choose another one",
    errno.EROFS: "choose a folder on a writable file system",
    errno.EIO: "check the disk",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "a file stands where a folder is needed; choose another path",
    errno.EEXIST: "a file stands where a folder is needed; choose another path",
    errno.EISDIR: "a folder stands where a file is needed; choose another path",
}
_in_use: set[str] = set()  # temporary names this process is writing now


def temp_path(path: Path) -> Path:
    """Return an unused temporary name beside ``path``: it holds our process id and the suffix."""
    return path.with_name(f"{TEMP_PREFIX}{os.getpid()}-{secrets.token_hex(4)}{path.suffix[:16]}")


def is_leftover(path: Path) -> bool:
    """Tell whether ``path`` is a temporary name that no process of this machine is writing."""
    name = _TEMP_NAME.fullmatch(path.name)
    if name is None or path.name in _in_use:
        return False
    owner = int(name[1])
    if owner == os.getpid():  # a container gives the same id to every run
        return True
    try:
        os.kill(owner, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


@contextmanager
def temp_name(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``, marked as in use; what is left there is removed."""
    temp = temp_path(path)
    _in_use.add(temp.name)
    try:
        yield temp
    finally:
        remove(temp)
        _in_use.discard(temp.name)


def remove(path: Path) -> None:
    """Remove a file or a folder with all it holds, if it is there and the system lets us."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def free_bytes(path: Path) -> int | None:
    """Return the free bytes of the file system of ``path`` or of its nearest existing parent."""
    for folder in (path, *path.parents):
        with suppress(OSError):
            usage = shutil.disk_usage(folder)
            return usage.free if usage.total else None  # a virtual file system reports zero
    return None


def write_error(error: OSError, path: Path, needed: int | None = None) -> CheckpointError:
    """Return the one-line error of a failed write.

    Args:
        error: What the system reported.
        path: What was being written.
        needed: Bytes the file needs, where known.
    """
    found = f"cannot write: {error.strerror or error}"
    named = Path(os.fsdecode(error.filename)) if error.filename else path
    if named != path and not named.name.startswith(TEMP_PREFIX):
        found += f" ({named})"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        size = f"{needed} bytes needed, " if needed is not None else ""
        found += f" ({size}{free_bytes(path.parent)} bytes free)"
    return CheckpointError(found, where=str(path), fix=_ADVICE.get(error.errno or 0, ""))


def require_space(path: Path, needed: int) -> None:
    """Stop before a write that cannot fit.

    Args:
        path: The file or folder that is to be written.
        needed: Bytes it will hold.

    Raises:
        CheckpointError: If fewer bytes are free where ``path`` will be.
    """
    free = free_bytes(path.parent)
    if free is not None and free < needed:
        raise CheckpointError(
            f"cannot write: no space left ({needed} bytes needed, {free} bytes free)",
            where=str(path),
            fix=_ADVICE[errno.ENOSPC],
        )


def require_writable(path: str | Path) -> None:
    """Stop before work whose result could not be written; missing folders are made.

    Args:
        path: The file that will be written.

    Raises:
        CheckpointError: If the system refuses a file there.
    """
    target = _target(Path(path))
    try:
        with temp_name(target) as temp:
            temp.touch()
    except OSError as error:
        raise write_error(error, target) from error


def _target(path: Path) -> Path:
    """Return the file that writing ``path`` makes, a link followed; its folder is made.

    Raises:
        CheckpointError: If the folder cannot be made, or a folder has the file's name.
    """
    try:
        path = path.resolve() if path.is_symlink() else path
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    except OSError as error:
        raise write_error(error, path) from error
    return path


def sync_file(path: Path) -> None:
    """Push a file's bytes to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """Push a folder's names to the disk; a file system that cannot do it is left alone."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


@contextmanager
def atomic_file(path: str | Path, needed: int | None = None) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it becomes ``path`` on success, is removed on error.

    A symbolic link is followed: its target is replaced, the link stays. Missing folders are made.

    Args:
        path: The file to write.
        needed: Bytes it will hold, where known; checked against the free space first.

    Raises:
        CheckpointError: If the system refuses a write (space, permission, name), with the reason.
    """
    target = _target(Path(path))
    try:
        if needed is not None:
            require_space(target, needed)
        with temp_name(target) as temp:
            yield temp
            sync_file(temp)
            temp.replace(target)
            sync_folder(target.parent)
    except OSError as error:
        raise write_error(error, target, needed) from error


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write ``data`` to ``path``, whole or not at all; return the path."""
    with atomic_file(path, needed=len(data)) as temp:
        temp.write_bytes(data)
    return Path(path)


def write_text(path: str | Path, text: str) -> Path:
    """Write ``text`` as UTF-8 to ``path``, line ends untouched, whole or not at all; return it."""
    return write_bytes(path, text.encode("utf-8"))
