"""One run at a time in an output folder."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mindformers.checkpoint.atomic import write_text
from mindformers.errors import TrainingError
from mindformers.logger import logger
from mindformers.parallel.mesh import mesh

LOCK_NAME, OWNER_NAME = ".train.lock", ".train.lock.json"


class OutputLock:
    """A context manager that holds the folder; the system frees it when the process dies.

    Args:
        output_dir: The folder; made when missing.

    Raises:
        TrainingError: On entry, if another process holds it; its id and host are named.
    """

    def __init__(self, output_dir: str | Path):
        self.folder = Path(output_dir)
        self._lock = FileLock(str(self.folder / LOCK_NAME))

    def __enter__(self) -> OutputLock:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise TrainingError(
                f"another run writes here ({self._owner() or 'unknown process'})",
                where=str(self.folder),
                fix="wait for it, stop it, or give this run another output_dir",
            ) from None
        except OSError as error:
            raise TrainingError(
                f"cannot be written: {error.strerror}", where=str(self.folder),
                fix="choose a writable output_dir",
            ) from error  # fmt: skip
        former = self._owner()
        if former:
            logger.warning("took over the lock of a run that died (%s)", former)
        owner = {"pid": os.getpid(), "host": socket.gethostname(),
                 "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}  # fmt: skip
        write_text(self.folder / OWNER_NAME, json.dumps(owner))
        return self

    def __exit__(self, *_: object) -> None:
        (self.folder / OWNER_NAME).unlink(missing_ok=True)
        self._lock.release()

    def _owner(self) -> str:
        """Return who holds or held the lock, or an empty text."""
        try:
            owner = json.loads((self.folder / OWNER_NAME).read_text(encoding="utf-8"))
            return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            return ""


def hold_output(output_dir: str | Path) -> AbstractContextManager[Any]:
    """Return the lock of a run's folder, which the first of its processes takes for all."""
    return OutputLock(output_dir) if mesh().layout.rank == 0 else nullcontext()
