"""``MindFormerConfig``: a configuration that can still be changed, with items and attributes.

Reading a key that is known but not set gives its default; a name that no section has is an error.
``bind`` turns it into the frozen ``RunConfig`` that the rest of the package reads.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindformers.config.loader import Document, load_yaml, merge
from mindformers.config.overrides import Patch, apply_patches, split_path
from mindformers.config.report import is_secret
from mindformers.config.run_config import RunConfig, bind_run_config
from mindformers.config.schema import child_section, keys_of, section_for, sections_in
from mindformers.config.section import Section
from mindformers.config.yaml_text import KeyPath
from mindformers.errors import ConfigError, did_you_mean

_IN_CODE = "set in code"
_INTERNAL = ("_section", "_document")


class MindFormerConfig(dict[str, Any]):
    """Settings of a run as nested dicts whose keys are attributes too.

    Args:
        *args: Paths of YAML files and dicts; later ones win over earlier ones, key by key.
        **kwargs: Top-level keys; they win over all of ``args``.

    Raises:
        ConfigError: If a file cannot be read, or an argument is neither a YAML path nor a dict.
    """

    _section: type[Section] | None
    _document: Document

    def __init__(self, *args: str | Path | Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__()
        document = Document(source=_IN_CODE)
        for argument in args:
            loaded = _as_document(argument)
            document.data = merge(document.data, loaded.data)
            document.positions.update(loaded.positions)
            document.source = loaded.source or document.source
        _set_internal(self, RunConfig, copy.deepcopy(document))
        self.update(merge(document.data, _plain(kwargs)))

    # Reading

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in _INTERNAL:
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(error.args[0]) from None

    def __missing__(self, key: str) -> Any:
        """Return the default of a known key; a section that is not set is None."""
        known = keys_of(self._section) if self._section else {}
        field = known.get(key)
        if field is None:
            hint = did_you_mean(str(key), [*known, *self])
            raise KeyError(f"no setting is called {key!r}; {hint}".rstrip("; "))
        if sections_in(field.annotation) or field.is_required():
            return None
        return copy.deepcopy(field.get_default(call_default_factory=True))

    def get_value(self, levels: str | list[str], default: Any = None) -> Any:
        """Return the value at a path, else ``default``.

        Args:
            levels: Keys joined by dots (``"callbacks.1.prefix"``), or a list of them.
            default: What to return where nothing is set.
        """
        value: Any = self
        for key in split_path(_dotted(levels), "get_value"):
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                return default
        return default if value is None else value

    # Changing

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        if name not in self:
            raise AttributeError(f"no setting is called {name!r}")
        del self[name]

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, _wrap(value, self._section, key))

    def update(self, *others: Any, **kwargs: Any) -> None:
        """Set keys, each as a whole; ``merge_from_dict`` merges sections."""
        for key, value in dict(*others, **kwargs).items():
            self[key] = value

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return the value of ``key``; set it to ``default`` first when it is not set."""
        if key not in self:
            self[key] = default
        return self[key]

    def set_value(self, levels: str | list[str], value: Any) -> None:
        """Set the value at a path (see ``get_value``); sections that are missing are made.

        Raises:
            ConfigError: If the path leads through a plain value or to a missing list item.
        """
        self._apply([Patch(split_path(_dotted(levels), "set_value"), _plain(value), _IN_CODE)])

    def merge_from_dict(self, options: Mapping[str, Any]) -> None:
        """Set several values by dotted path: ``{"model.model_config.seq_length": 128}``.

        Raises:
            ConfigError: If a path leads through a plain value or to a missing list item.
        """
        self._apply(
            [
                Patch(split_path(levels, "merge_from_dict"), _plain(value), _IN_CODE)
                for levels, value in options.items()
            ]
        )

    def _apply(self, patches: list[Patch]) -> None:
        patched = apply_patches(Document(self.to_dict()), patches)
        for key, value in patched.data.items():  # a data set's copy in its task is patched with it
            if key not in self or _plain(self[key]) != value:
                self[key] = value

    # The whole

    def to_dict(self) -> dict[str, Any]:
        """Return a copy of what is set, as plain dicts and lists."""
        return {key: _plain(value) for key, value in self.items()}

    def bind(self) -> RunConfig:
        """Return the typed, checked form.

        Raises:
            ConfigError: One report of every problem; it names the line of what a file holds.
        """
        data = self.to_dict()
        loaded = self._document
        positions = {
            path: position
            for path, position in loaded.positions.items()
            if _value_at(data, path) == _value_at(loaded.data, path)
        }
        return bind_run_config(Document(data, positions, loaded.source))

    def __deepcopy__(self, memo: dict[int, Any]) -> MindFormerConfig:
        return _rebuild(self.to_dict(), self._section, copy.deepcopy(self._document))

    def __copy__(self) -> MindFormerConfig:
        return self.__deepcopy__({})

    def copy(self) -> MindFormerConfig:
        """Return an independent copy."""
        return self.__deepcopy__({})

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.to_dict(), self._section, self._document)

    def __str__(self) -> str:
        return str(_masked(self.to_dict()))

    def __repr__(self) -> str:
        return f"MindFormerConfig({self})"


def _dotted(levels: str | list[str]) -> str:
    return levels if isinstance(levels, str) else ".".join(map(str, levels))


def _as_document(argument: Any) -> Document:
    if isinstance(argument, Mapping):
        return Document(_plain(argument))
    if not isinstance(argument, (str, Path)):
        raise ConfigError(
            f"found {argument!r:.60}", where="MindFormerConfig", allowed="YAML paths and dicts"
        )
    if not str(argument).endswith((".yaml", ".yml")):
        raise ConfigError(
            f"{str(argument)!r:.80} does not end in .yaml or .yml",
            where="MindFormerConfig",
            allowed="YAML paths and dicts",
        )
    return load_yaml(argument)


def _set_internal(
    config: MindFormerConfig, section: type[Section] | None, document: Document
) -> None:
    object.__setattr__(config, "_section", section)
    object.__setattr__(config, "_document", document)


def _rebuild(
    data: Mapping[str, Any], section: type[Section] | None, document: Document
) -> MindFormerConfig:
    config = MindFormerConfig()
    _set_internal(config, section, document)
    config.update(data)
    return config


def _wrap(value: Any, section: type[Section] | None, key: str) -> Any:
    """Turn the dicts of a value into configs that know their section."""
    if isinstance(value, Mapping):
        return _rebuild(_plain(value), child_section(section, key, value), Document())
    if isinstance(value, (list, tuple)):
        field = keys_of(section).get(key) if section else None
        candidates = sections_in(field.annotation) if field else []
        return [
            _rebuild(_plain(item), section_for(candidates, item), Document())
            if isinstance(item, Mapping)
            else item
            for item in value
        ]
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(child) for child in value]
    return value


def _masked(value: Any, key: str | int = "") -> Any:
    if isinstance(value, dict):
        return {name: _masked(child, name) for name, child in value.items()}
    if isinstance(value, list):
        return [_masked(child, key) for child in value]
    return "***" if is_secret(key) and value else value


def _value_at(data: Any, path: KeyPath) -> Any:
    for key in path:
        try:
            data = data[key]
        except (KeyError, IndexError, TypeError):
            return _IN_CODE
    return data
