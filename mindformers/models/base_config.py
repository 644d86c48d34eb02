"""``PretrainedConfig``: what every family's configuration object can do. Loads no MindSpore."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ValidationError

from mindformers.config.section import Section
from mindformers.errors import ConfigError, did_you_mean


class PretrainedConfig:
    """A network's settings as plain attributes, checked through the family's typed section.

    Args:
        **settings: Fields of the section; an unknown name is an error with the nearest names.

    Raises:
        ConfigError: If a name is unknown or a value has the wrong type or range.
    """

    model_type: ClassVar[str] = ""
    section: ClassVar[type[Section]] = Section

    def __init__(self, **settings: Any) -> None:
        self._assign(settings)

    def _assign(self, settings: dict[str, Any]) -> None:
        settings = {key: value for key, value in settings.items() if key != "type"}
        known = self.section.model_fields
        unknown = [key for key in settings if key not in known]
        if unknown:
            raise ConfigError(
                f"unknown setting {unknown[0]!r}",
                where=type(self).__name__,
                fix=did_you_mean(unknown[0], known) or "see docs/config_reference.md",
            )
        try:
            checked = self.section.model_validate(settings)
        except ValidationError as error:
            lines = [
                f"{'.'.join(map(str, e['loc'])) or type(self).__name__}: {e['msg']}, found {e['input']!r}"
                if e["loc"]
                else e["msg"]
                for e in error.errors()
            ]
            raise ConfigError("; ".join(lines), where=type(self).__name__) from error
        self.__dict__.update(checked.model_dump(exclude={"type"}))

    def __getattr__(self, name: str) -> Any:
        near = did_you_mean(name, self.section.model_fields)
        raise AttributeError(
            f"{type(self).__name__} has no setting {name!r}" + (f"; {near}" if near else "")
        )

    def update(self, **settings: Any) -> None:
        """Change some fields; the whole is checked again."""
        self._assign({**self.to_dict(), **settings})

    def to_dict(self) -> dict[str, Any]:
        """Return every field as plain values, lists and dtype names included."""
        return {key: self.__dict__[key] for key in self.section.model_fields if key != "type"}

    def save_pretrained(self, save_directory: str | Path) -> Path:
        """Write ``config.json`` with every field, ``architectures`` and ``model_type``; return its path."""
        from mindformers.checkpoint.atomic import write_text

        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "mindformers_config": type(self).__name__,
            "model_type": self.model_type,
            **self.to_dict(),
        }
        return write_text(
            folder / "config.json", json.dumps(content, ensure_ascii=False, indent=2) + "\n"
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PretrainedConfig) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.to_dict()})"
