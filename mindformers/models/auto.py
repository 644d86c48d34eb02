"""``AutoConfig``, ``AutoModel``, ``AutoTokenizer``, ``AutoProcessor``: from a path to the right class.

A path is a run's YAML file, a Hugging Face directory (original ``chatglm`` layout or native ``glm``), a
directory saved by ``save_pretrained``, or a hub id (looked up in the local cache first).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mindformers.checkpoint.json_file import read_json
from mindformers.config.mindformer_config import MindFormerConfig
from mindformers.errors import ConfigError, did_you_mean
from mindformers.models.base_config import PretrainedConfig
from mindformers.models.glm2.hf_config import config_from_hf
from mindformers.models.glm2.tokenizer_choice import open_tokenizer
from mindformers.models.presets import PRESETS, SupportList, preset_config
from mindformers.models.sources import is_yaml, resolve_source, without_loader_options, yaml_in
from mindformers.parallel.runtime import default_device
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from mindformers.tokenizer.pretrained_files import vocabulary_in


def _build(module_type: str, settings: Any, **overrides: Any) -> Any:
    plain = settings.to_dict() if isinstance(settings, MindFormerConfig) else dict(settings)
    return MindFormerRegister.get_instance_from_cfg(
        {k: v for k, v in plain.items() if v is not None}, module_type, overrides
    )


def _register(module_type: str, registered: type, exist_ok: bool) -> None:
    if exist_ok and MindFormerRegister.is_exist(module_type, registered.__name__):
        MindFormerRegister.registry.get(module_type, {}).pop(registered.__name__, None)
    MindFormerRegister.register_cls(registered, module_type)


class AutoConfig(SupportList):
    """The settings of a network."""

    @classmethod
    def from_pretrained(cls, yaml_name_or_path: str | Path, **overrides: Any) -> PretrainedConfig:
        """Return the configuration a YAML file, a ``config.json`` or a directory describes.

        Args:
            yaml_name_or_path: See the module's docstring; or a name of ``get_support_list``.
            **overrides: Fields to change.
        """
        overrides = without_loader_options("AutoConfig", overrides)
        if str(yaml_name_or_path) in PRESETS and not Path(yaml_name_or_path).exists():
            return preset_config(str(yaml_name_or_path), **overrides)
        path = resolve_source(yaml_name_or_path)
        if path.is_dir():
            described = path / "config.json"
            if not described.is_file():
                described = yaml_in(path, "config.json", "give the directory of a model")
            path = described
        if is_yaml(path):
            return _build(
                MindFormerModuleType.CONFIG,
                MindFormerConfig(str(path)).model.model_config,
                **overrides,
            )
        content = read_json(path, ConfigError)
        own = content.pop("mindformers_config", None)
        if own is None:
            config: PretrainedConfig = config_from_hf(content)
        else:
            family = MindFormerRegister.get_cls(MindFormerModuleType.CONFIG, own)
            config = family.from_dict(content)
        if overrides:
            config.update(**overrides)
        return config

    @classmethod
    def for_model(cls, model_type: str, **settings: Any) -> PretrainedConfig:
        """Return the configuration of a family, by its ``model_type``, with some fields set.

        Raises:
            ConfigError: If no family has this type.
        """
        kinds = {}
        for name in MindFormerRegister.names(MindFormerModuleType.CONFIG):
            family = MindFormerRegister.get_cls(MindFormerModuleType.CONFIG, name)
            kinds[getattr(family, "model_type", name)] = family
        if model_type not in kinds:
            raise ConfigError(
                f"no configuration has the model_type {model_type!r}",
                allowed=", ".join(sorted(kinds)),
                fix=did_you_mean(model_type, kinds),
            )
        return kinds[model_type](**settings)

    @classmethod
    def register(
        cls, model_type: str, config: type[PretrainedConfig], exist_ok: bool = False
    ) -> None:
        """Make a configuration class known by its ``model_type``.

        Raises:
            ConfigError: If the class says another type, or its name is taken.
        """
        if config.model_type != model_type:
            raise ConfigError(
                f"{config.__name__}.model_type is {config.model_type!r}, not {model_type!r}",
                where="AutoConfig.register",
            )
        _register(MindFormerModuleType.CONFIG, config, exist_ok)


class AutoModel(SupportList):
    """A network with its weights."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_dir: str | Path,
        *,
        config: PretrainedConfig | None = None,
        load_weights: bool = True,
        download_checkpoint: bool = True,
        **overrides: Any,
    ) -> Any:
        """Build the network and load its weights.

        Args:
            pretrained_model_name_or_dir: See the module's docstring. A YAML file's weights are its
                ``load_checkpoint`` or ``checkpoint_name_or_path``.
            config: The configuration to use; None: the directory's.
            load_weights: False leaves the network as initialised.
            download_checkpoint: Upstream's name of the same; False wins.
            **overrides: Fields of the configuration to change; with ``quantization`` the model only
                answers where the CPU kernels are used, and takes a quarter of the memory or less.
        """
        overrides = without_loader_options("AutoModel", overrides)
        path = resolve_source(pretrained_model_name_or_dir)
        if not path.is_dir():
            return cls.from_config(path, **overrides)
        if config is None:
            config = AutoConfig.from_pretrained(path)
        config = _changed(config, overrides)
        is_loaded = load_weights and download_checkpoint
        network = cls._load(config, path) if is_loaded else cls._build(config)
        network.pretrained_dir = path
        return network

    @classmethod
    def from_config(cls, config: Any, download_checkpoint: bool = True, **overrides: Any) -> Any:
        """Build the network of a YAML path, a ``MindFormerConfig`` or a configuration object.

        Weights are loaded where the configuration names them, unless ``download_checkpoint`` is False.
        """
        overrides = without_loader_options("AutoModel", overrides)
        if not download_checkpoint:
            overrides["checkpoint_name_or_path"] = None
        if isinstance(config, PretrainedConfig):
            return cls._build(_changed(config, overrides))
        run = (
            config
            if isinstance(config, MindFormerConfig)
            else MindFormerConfig(str(resolve_source(config)))
        )
        settings = _build(MindFormerModuleType.CONFIG, run.model.model_config, **overrides)
        network = cls._build(settings, run.model.arch and run.model.arch.type)
        if run.load_checkpoint and download_checkpoint and not settings.checkpoint_name_or_path:
            network.load_checkpoint(run.load_checkpoint)
        return network

    @classmethod
    def register(cls, config_class: type, model_class: type, exist_ok: bool = False) -> None:
        """Make a network class known as the one of a configuration class.

        Raises:
            ConfigError: If the network is built from another class, or its name is taken.
        """
        found = getattr(model_class, "config_class", None)
        if found is not config_class:
            raise ConfigError(
                f"{model_class.__name__}.config_class is {getattr(found, '__name__', found)}",
                where="AutoModel.register",
                allowed=config_class.__name__,
            )
        _register(MindFormerModuleType.MODELS, model_class, exist_ok)

    @classmethod
    def _load(cls, config: PretrainedConfig, path: Path) -> Any:
        if getattr(config, "quantization", None) and default_device() == "CPU":
            found = _in_files(config, path)
            if found is not None:
                return found
        from mindformers.modules.start import not_drawn  # brings MindSpore

        with not_drawn():
            network = cls._build(config)
        network.load_weights(path)
        return network

    @staticmethod
    def _build(config: PretrainedConfig, arch: str | None = None) -> Any:
        if arch:
            return MindFormerRegister.get_cls(MindFormerModuleType.MODELS, arch)(config)
        for name in MindFormerRegister.names(MindFormerModuleType.MODELS):
            candidate = MindFormerRegister.get_cls(MindFormerModuleType.MODELS, name)
            if candidate.config_class is type(config):
                return candidate(config)
        raise ConfigError(
            f"no network is registered for {type(config).__name__}",
            allowed=", ".join(MindFormerRegister.names(MindFormerModuleType.MODELS)),
        )


def open_in_files(pretrained_model_dir: str | Path, **overrides: Any) -> Any:
    """Return a model that only answers, its weights in place in a directory; None where that cannot be.

    Needs no MindSpore, so the first answer does not wait for its import.

    Args:
        pretrained_model_dir: A model directory.
        **overrides: Fields of the configuration to change.
    """
    path = resolve_source(pretrained_model_dir)
    if not path.is_dir():
        return None
    return _in_files(AutoConfig.from_pretrained(path, **overrides), path)


def _in_files(config: PretrainedConfig, path: Path) -> Any:
    for name in MindFormerRegister.names(MindFormerModuleType.TEXT_MODEL):
        family = MindFormerRegister.get_cls(MindFormerModuleType.TEXT_MODEL, name)
        if family.config_class is type(config):
            return family.open(config, path)
    return None


def _changed(config: PretrainedConfig, overrides: dict[str, Any]) -> PretrainedConfig:
    return type(config)(**{**config.to_dict(), **overrides}) if overrides else config


class AutoModelForCausalLM(AutoModel):
    """A network that predicts the next token; the same as ``AutoModel`` in this family."""


def _from_pretrained(
    module_type: str,
    section: Callable[[MindFormerConfig], Any],
    default: str | None,
    name_or_path: str | Path,
    overrides: dict[str, Any],
) -> Any:
    overrides = without_loader_options("AutoTokenizer", overrides)
    path = resolve_source(name_or_path)
    if path.is_dir() and vocabulary_in(path) is None:
        path = yaml_in(
            path,
            "tokenizer.model, no tokenizer.json",
            "copy tokenizer.model or tokenizer.json, and tokenizer_config.json, there",
        )
    if is_yaml(path):
        if not (settings := section(MindFormerConfig(str(path)))):
            raise ConfigError(
                f"the file describes no {module_type}",
                where=str(path),
                fix="add a processor section, or give the model directory",
            )
        return _build(module_type, settings, **overrides)
    if default is None:
        return open_tokenizer(path, **overrides)
    return MindFormerRegister.get_cls(module_type, default).from_pretrained(path, **overrides)


class AutoTokenizer(SupportList):
    """A tokenizer with its chat template."""

    @classmethod
    def from_pretrained(cls, yaml_name_or_path: str | Path, **overrides: Any) -> Any:
        """Return the tokenizer of a directory, a vocabulary file or a YAML's ``processor.tokenizer``."""
        return _from_pretrained(
            MindFormerModuleType.TOKENIZER,
            lambda run: run.processor and run.processor.tokenizer,
            None,
            yaml_name_or_path,
            overrides,
        )


class AutoProcessor(SupportList):
    """What turns a user's text or messages into a network's input."""

    @classmethod
    def from_pretrained(cls, yaml_name_or_path: str | Path, **overrides: Any) -> Any:
        """Return the processor of a directory or of a YAML's ``processor`` section."""
        return _from_pretrained(
            MindFormerModuleType.PROCESSOR,
            lambda run: run.processor,
            "GLMProcessor",
            yaml_name_or_path,
            overrides,
        )
