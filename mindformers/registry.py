"""Name -> class, for every ``type:`` entry of a YAML file. Small and loud: no scan, no environment path."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

from mindformers.errors import ConfigError, did_you_mean
from mindformers.logger import warn_once

T = TypeVar("T", bound=type)


class MindFormerModuleType:
    """The kinds of classes that can be named in a YAML file (upstream's names and values)."""

    TRAINER = "trainer"
    PIPELINE = "pipeline"
    PROCESSOR = "processor"
    TOKENIZER = "tokenizer"
    DATASET = "dataset"
    MASK_POLICY = "mask_policy"
    DATASET_LOADER = "dataset_loader"
    DATASET_SAMPLER = "dataset_sampler"
    TRANSFORMS = "transforms"
    ENCODER = "encoder"
    MODELS = "models"
    MODULES = "modules"
    TRANSFORMER = "transformer"
    BASE_LAYER = "base_layer"
    CORE = "core"
    HEAD = "head"
    LOSS = "loss"
    LR = "lr"
    OPTIMIZER = "optimizer"
    CONTEXT = "context"
    CALLBACK = "callback"
    WRAPPER = "wrapper"
    METRIC = "metric"
    CONFIG = "config"
    TOOLS = "tools"
    FEATURE_EXTRACTOR = "feature_extractor"
    DATA_HANDLER = "data_handler"
    TEXT_MODEL = "text_model"  # by a network's name, the class that answers from its files in place


class MindFormerRegister:
    """Register and look up classes by kind and name.

    A class is registered by the ``register`` decorator where it is defined, or ahead of its import
    by ``register_lazy`` (so that naming a class does not load MindSpore).
    """

    registry: ClassVar[dict[str, dict[str, type]]] = {}
    _lazy: ClassVar[dict[str, dict[str, str]]] = {}

    @classmethod
    def register(
        cls,
        module_type: str = MindFormerModuleType.TOOLS,
        alias: str | None = None,
        legacy: bool = True,
        search_names: Any = None,
    ) -> Callable[[T], T]:
        """Return a decorator that registers a class; arguments as in ``register_cls``."""

        def decorate(register_class: T) -> T:
            return cls.register_cls(register_class, module_type, alias, legacy, search_names)

        return decorate

    @classmethod
    def register_cls(
        cls,
        register_class: T,
        module_type: str = MindFormerModuleType.TOOLS,
        alias: str | None = None,
        legacy: bool = True,
        search_names: Any = None,
    ) -> T:
        """Register ``register_class`` and return it.

        Args:
            register_class: The class.
            module_type: Its kind.
            alias: Its name; None: the class's own.
            legacy: True; upstream's second set of classes is not implemented.
            search_names: Upstream's further names of that set; has no effect.

        Raises:
            ConfigError: If another class already has this name, or ``legacy`` is False.
        """
        if not legacy:
            raise ConfigError(
                "legacy=False: the second set of classes (mcore) is not implemented",
                where=f"register {register_class.__name__}",
                allowed="True",
            )
        if search_names:
            warn_once("register %s: search_names has no effect", register_class.__name__)
        name = alias or register_class.__name__
        known = cls.registry.setdefault(module_type, {})
        path = f"{register_class.__module__}:{register_class.__qualname__}"
        lazy = cls._lazy.get(module_type, {}).get(name)
        other = known.get(name)
        taken = other is not None and f"{other.__module__}:{other.__qualname__}" != path
        if taken or (other is None and lazy is not None and lazy != path):
            raise ConfigError(
                f"{module_type} {name!r} is registered already as {other or lazy}",
                fix="give the new class another name, or an alias",
            )
        known[name] = register_class
        return register_class

    @classmethod
    def register_lazy(cls, module_type: str, path: str, alias: str | None = None) -> None:
        """Register ``"package.module:Class"`` without importing it."""
        cls._lazy.setdefault(module_type, {})[alias or path.rpartition(":")[2]] = path

    @classmethod
    def names(cls, module_type: str) -> list[str]:
        """Return every registered name of a kind, sorted."""
        return sorted({*cls.registry.get(module_type, {}), *cls._lazy.get(module_type, {})})

    @classmethod
    def is_exist(cls, module_type: str, class_name: str | None = None) -> bool:
        """Tell whether the kind has any class, or the one named."""
        names = cls.names(module_type)
        return bool(names) if class_name is None else class_name in names

    @classmethod
    def get_cls(cls, module_type: str, class_name: str) -> Any:
        """Return the class registered under ``class_name``.

        Raises:
            ConfigError: If there is none; the message holds the nearest names.
        """
        found = cls.registry.get(module_type, {}).get(class_name)
        if found is not None:
            return found
        path = cls._lazy.get(module_type, {}).get(class_name)
        if path is None:
            names = cls.names(module_type)
            raise ConfigError(
                f"no {module_type} is called {class_name!r}",
                allowed=", ".join(names) or f"nothing of this kind is registered ({module_type})",
                fix=did_you_mean(class_name, names),
            )
        module, _, attribute = path.partition(":")
        loaded: type = getattr(importlib.import_module(module), attribute)
        cls.registry.setdefault(module_type, {})[class_name] = loaded
        return loaded

    @classmethod
    def get_instance_type_from_cfg(
        cls, cfg: Mapping[str, Any], module_type: str = MindFormerModuleType.MODELS
    ) -> Any:
        """Return the class that ``cfg["type"]`` names."""
        return cls.get_cls(module_type, str(_type_of(cfg)))

    @classmethod
    def get_instance_from_cfg(
        cls,
        cfg: Mapping[str, Any],
        module_type: str = MindFormerModuleType.TOOLS,
        default_args: Mapping[str, Any] | None = None,
    ) -> Any:
        """Build the class that ``cfg["type"]`` names with the rest of ``cfg`` as keyword arguments.

        Args:
            cfg: A mapping with the key ``type`` (a name, or a class).
            module_type: The kind to look in.
            default_args: Arguments that take precedence over those of ``cfg`` (upstream's rule).
        """
        _type_of(cfg)
        arguments = {**cfg, **(default_args or {})}
        target = arguments.pop("type")
        if inspect.isclass(target):
            return target(**arguments)
        return cls.get_cls(module_type, str(target))(**arguments)

    @classmethod
    def get_instance(
        cls,
        module_type: str = MindFormerModuleType.TOOLS,
        class_name: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Build the class registered under ``class_name`` with ``kwargs``."""
        return cls.get_instance_from_cfg({"type": class_name, **kwargs}, module_type)


def _type_of(cfg: Any) -> Any:
    if not isinstance(cfg, Mapping):
        raise TypeError(f"cfg must be a mapping, got {type(cfg).__name__}")
    if "type" not in cfg:
        raise ConfigError(f"no 'type' among {sorted(cfg)}", fix="name the class under 'type'")
    return cfg["type"]
