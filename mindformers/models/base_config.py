"""``PretrainedConfig``: what every family's configuration object can do. Loads no MindSpore."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from mindformers.config.options import say_without_effect
from mindformers.config.report import bind_section
from mindformers.config.section import Section
from mindformers.errors import ConfigError, did_you_mean
from mindformers.models.presets import SupportList

Self = TypeVar("Self", bound="PretrainedConfig")
_FILE_KEYS = ("mindformers_config", "model_type", "architectures")  # of config.json; no settings


class PretrainedConfig(SupportList):
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
        checked = bind_section(self.section, settings, type(self).__name__)
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

    def to_diff_dict(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults."""
        defaults = type(self)().to_dict()
        return {key: value for key, value in self.to_dict().items() if value != defaults[key]}

    def to_json_string(self, use_diff: bool = True) -> str:
        """Return the text of a ``config.json``; without ``use_diff`` it holds every field."""
        content = {
            "mindformers_config": type(self).__name__,
            "model_type": self.model_type,
            **(self.to_diff_dict() if use_diff else self.to_dict()),
        }
        return json.dumps(content, ensure_ascii=False, indent=2) + "\n"

    def to_json_file(self, json_file_path: str | Path, use_diff: bool = True) -> Path:
        """Write ``to_json_string`` to a file; return its path."""
        from mindformers.checkpoint.atomic import write_text

        return write_text(Path(json_file_path), self.to_json_string(use_diff))

    def save_pretrained(
        self, save_directory: str | Path, save_name: str | None = None, save_json: bool = True
    ) -> Path:
        """Write ``config.json`` with every field and ``model_type``; return its path.

        Args:
            save_directory: Folder, made when missing.
            save_name: Upstream's; has no effect.
            save_json: Upstream's choice between YAML and JSON; has no effect.
        """
        del save_json  # both of upstream's forms are read back by from_pretrained, as this one is
        say_without_effect("save_pretrained", {"save_name": save_name})
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        return self.to_json_file(folder / "config.json", use_diff=False)

    @classmethod
    def from_pretrained(cls: type[Self], yaml_name_or_path: str | Path, **overrides: Any) -> Self:
        """Return the configuration a path or name describes; see ``AutoConfig``.

        Raises:
            ConfigError: If it is of another class.
        """
        # Looked up, not imported: the Auto classes know the families, which build on this file.
        auto = importlib.import_module("mindformers.models.auto")
        config = auto.AutoConfig.from_pretrained(yaml_name_or_path, **overrides)
        if not isinstance(config, cls):
            raise ConfigError(
                f"describes a {type(config).__name__}",
                where=str(yaml_name_or_path),
                allowed=cls.__name__,
            )
        return config

    @classmethod
    def from_json_file(cls: type[Self], json_file: str | Path) -> Self:
        """Return the configuration of a ``config.json``; see ``from_pretrained``."""
        return cls.from_pretrained(json_file)

    @classmethod
    def from_dict(cls: type[Self], config_dict: Mapping[str, Any], **overrides: Any) -> Self:
        """Return the configuration of the fields in ``config_dict``; ``overrides`` win."""
        settings = {key: value for key, value in config_dict.items() if key not in _FILE_KEYS}
        return cls(**{**settings, **overrides})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PretrainedConfig) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.to_dict()})"
