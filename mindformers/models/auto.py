"""``AutoConfig``, ``AutoModel``, ``AutoTokenizer``, ``AutoProcessor``: from a path to the right class.

A path is a run's YAML file, a Hugging Face directory (original ``chatglm`` layout or native ``glm``), a
directory saved by ``save_pretrained``, or a hub id (looked up in the local cache first).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mindformers.config.mindformer_config import MindFormerConfig
from mindformers.errors import ConfigError, MissingExtraError, nearest
from mindformers.models.base_config import PretrainedConfig
from mindformers.models.glm2.hf_config import config_from_hf
from mindformers.registry import MindFormerModuleType, MindFormerRegister

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_NEEDED = ["*.json", "*.safetensors", "tokenizer.model", "*.jinja"]


def resolve_source(name_or_path: str | Path) -> Path:
    """Return the local path of a YAML file, a directory or a hub id.

    Raises:
        ConfigError: If nothing is there.
        MissingExtraError: If it looks like a hub id and huggingface_hub is not installed.
    """
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path
    name = str(name_or_path)
    if not _HUB_ID.fullmatch(name):
        near = (
            nearest(path.name, [p.name for p in path.parent.iterdir()])
            if path.parent.is_dir()
            else []
        )
        raise ConfigError(
            "no such file or directory",
            where=name,
            allowed="a YAML file, a model directory or a hub id such as zai-org/glm-4-9b-chat-hf",
            fix=f"did you mean {path.parent / near[0]}?" if near else "check the path",
        )
    try:
        import huggingface_hub
    except ImportError:
        raise MissingExtraError(
            f"{name} is not a local path; to look it up on the hub",
            fix="run: pip install 'mindformers[hub]'",
        ) from None
    try:
        return Path(
            huggingface_hub.snapshot_download(name, allow_patterns=_NEEDED, local_files_only=True)
        )
    except Exception:  # huggingface_hub has no common base for "not in the cache"
        pass
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=_NEEDED))
    except Exception as error:
        raise ConfigError(
            f"neither in the local cache nor to be had from the hub ({type(error).__name__})",
            where=name,
            fix="download it where there is a network, then give the directory",
        ) from error


def _is_yaml(path: Path) -> bool:
    return path.suffix in (".yaml", ".yml")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot be read as JSON ({error})", where=str(path)) from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"holds a {type(content).__name__}", where=str(path), allowed="a JSON object"
        )
    return content


def _yaml_in(folder: Path) -> Path | None:
    found = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    if len(found) > 1:
        raise ConfigError(
            f"{len(found)} YAML files: {', '.join(p.name for p in found)}",
            where=str(folder),
            allowed="one",
            fix="give the YAML file itself",
        )
    return found[0] if found else None


def _build(module_type: str, settings: Any, **overrides: Any) -> Any:
    plain = settings.to_dict() if isinstance(settings, MindFormerConfig) else dict(settings)
    return MindFormerRegister.get_instance_from_cfg(
        {k: v for k, v in plain.items() if v is not None}, module_type, overrides
    )


class AutoConfig:
    """The settings of a network."""

    @classmethod
    def from_pretrained(cls, yaml_name_or_path: str | Path, **overrides: Any) -> PretrainedConfig:
        """Return the configuration a YAML file, a ``config.json`` or a directory describes.

        Args:
            yaml_name_or_path: See the module's docstring.
            **overrides: Fields to change.
        """
        path = resolve_source(yaml_name_or_path)
        if path.is_dir():
            described = path / "config.json"
            path = described if described.is_file() else _yaml_in(path) or described
        if _is_yaml(path):
            return _build(
                MindFormerModuleType.CONFIG,
                MindFormerConfig(str(path)).model.model_config,
                **overrides,
            )
        content = _read_json(path)
        own = content.pop("mindformers_config", None)
        if own is None:
            config: PretrainedConfig = config_from_hf(content)
        else:
            content.pop("model_type", None)
            config = MindFormerRegister.get_cls(MindFormerModuleType.CONFIG, own)(**content)
        if overrides:
            config.update(**overrides)
        return config


class AutoModel:
    """A network with its weights."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_dir: str | Path,
        *,
        load_weights: bool = True,
        **overrides: Any,
    ) -> Any:
        """Build the network and load its weights.

        Args:
            pretrained_model_name_or_dir: See the module's docstring. A YAML file's weights are its
                ``load_checkpoint`` or ``checkpoint_name_or_path``.
            load_weights: False leaves the network as initialised.
            **overrides: Fields of the configuration to change.
        """
        path = resolve_source(pretrained_model_name_or_dir)
        if not path.is_dir():
            return cls.from_config(path, **overrides)
        config = AutoConfig.from_pretrained(path, **overrides)
        network = cls._build(config)
        if load_weights:
            network.load_weights(path)
        network.pretrained_dir = path
        return network

    @classmethod
    def from_config(cls, config: Any, **overrides: Any) -> Any:
        """Build the network of a YAML path, a ``MindFormerConfig`` or a configuration object.

        Weights are loaded where the configuration names them.
        """
        if isinstance(config, PretrainedConfig):
            if overrides:
                config.update(**overrides)
            return cls._build(config)
        run = (
            config
            if isinstance(config, MindFormerConfig)
            else MindFormerConfig(str(resolve_source(config)))
        )
        settings = _build(MindFormerModuleType.CONFIG, run.model.model_config, **overrides)
        network = cls._build(settings)
        if run.load_checkpoint and not settings.checkpoint_name_or_path:
            network.load_checkpoint(run.load_checkpoint)
        return network

    @staticmethod
    def _build(config: PretrainedConfig) -> Any:
        for name in MindFormerRegister.names(MindFormerModuleType.MODELS):
            candidate = MindFormerRegister.get_cls(MindFormerModuleType.MODELS, name)
            if candidate.config_class is type(config):
                return candidate(config)
        raise ConfigError(
            f"no network is registered for {type(config).__name__}",
            allowed=", ".join(MindFormerRegister.names(MindFormerModuleType.MODELS)),
        )


class AutoModelForCausalLM(AutoModel):
    """A network that predicts the next token; the same as ``AutoModel`` in this family."""


def _from_pretrained(
    module_type: str,
    section: Callable[[MindFormerConfig], Any],
    default: str,
    name_or_path: str | Path,
    overrides: dict[str, Any],
) -> Any:
    path = resolve_source(name_or_path)
    if path.is_dir() and not (path / "tokenizer.model").is_file():
        found = _yaml_in(path)
        if found is None:
            raise ConfigError(
                "no tokenizer.model and no YAML file",
                where=str(path),
                fix="copy the model's tokenizer.model and tokenizer_config.json there",
            )
        path = found
    if _is_yaml(path):
        settings = section(MindFormerConfig(str(path)))
        if not settings:
            raise ConfigError(
                f"the file describes no {module_type}",
                where=str(path),
                fix="add a processor section, or give the model directory",
            )
        return _build(module_type, settings, **overrides)
    return MindFormerRegister.get_cls(module_type, default).from_pretrained(path, **overrides)


class AutoTokenizer:
    """A tokenizer with its chat template."""

    @classmethod
    def from_pretrained(cls, yaml_name_or_path: str | Path, **overrides: Any) -> Any:
        """Return the tokenizer of a directory, a ``tokenizer.model`` file or a YAML's ``processor.tokenizer``."""
        return _from_pretrained(
            MindFormerModuleType.TOKENIZER,
            lambda run: run.processor and run.processor.tokenizer,
            "ChatGLM4Tokenizer",
            yaml_name_or_path,
            overrides,
        )


class AutoProcessor:
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
