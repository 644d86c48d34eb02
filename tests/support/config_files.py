"""Small YAML files for tests, and the message of a configuration that must be refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mindformers.config.loader import Document
from mindformers.config.run_config import RunConfig, bind_run_config
from mindformers.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = sorted((REPOSITORY / "configs").rglob("*.yaml"))


def write(folder: Path, text: str, name: str = "run.yaml") -> Path:
    """Write a YAML file and return its path."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def bind(**data: Any) -> RunConfig:
    """Bind top-level keys."""
    return bind_run_config(Document(data))


def refused(**data: Any) -> str:
    """Return the report of top-level keys that must not bind."""
    with pytest.raises(ConfigError) as caught:
        bind(**data)
    return str(caught.value)
