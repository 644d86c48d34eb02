"""The package's logger. Importing it writes nothing: handlers are added by a run, not by an import."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path

logger = logging.getLogger("mindformers")

_FORMAT = "%(asctime)s - mindformers[%(filename)s:%(lineno)d] - %(levelname)s - %(message)s"
_seen_once: set[str] = set()


def warn_once(message: str, *args: object) -> None:
    """Log ``message`` as a warning the first time it is given in this process."""
    text = message % args if args else message
    if text not in _seen_once:
        _seen_once.add(text)
        logger.warning("%s", text)


@contextmanager
def only_warnings() -> Iterator[None]:
    """Log nothing below a warning for a while, as where one line a batch would be too much."""
    level = logger.level
    logger.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(level)


def setup_console_logging(
    level: int = logging.INFO, handler: logging.Handler | None = None
) -> None:
    """Show log lines on the terminal (stderr); a second call replaces the first handler."""
    handler = handler or logging.StreamHandler()
    if handler.formatter is None:
        handler.setFormatter(logging.Formatter(_FORMAT))
    for old in [h for h in logger.handlers if getattr(h, "is_console", False)]:
        logger.removeHandler(old)
    handler.is_console = True  # type: ignore[attr-defined]
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False


def setup_file_logging(output_dir: str | Path, rank: int = 0) -> Path:
    """Write ``<output_dir>/log/rank_<rank>/{info,error}.log`` (rotating, 50 MB x 5); return the folder."""
    folder = Path(output_dir) / "log" / f"rank_{rank}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, level in (("info.log", logging.INFO), ("error.log", logging.ERROR)):
        target = str((folder / name).resolve())
        if any(getattr(h, "baseFilename", None) == target for h in logger.handlers):
            continue
        handler = RotatingFileHandler(target, maxBytes=50 * 2**20, backupCount=5, encoding="utf-8")
        handler.setLevel(level)
        handler.setFormatter(logging.Formatter(_FORMAT))
        logger.addHandler(handler)
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    return folder


# ``from mindformers import logger`` gives this module; it answers like the logger itself.
debug, info, warning, error = logger.debug, logger.info, logger.warning, logger.error
