"""Where a model comes from: a YAML file, a directory or a hub id, as a path on this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindformers.config.options import say_without_effect, without_options
from mindformers.errors import ConfigError, MissingExtraError, nearest
from mindformers.models.presets import PRESETS

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
    if name in PRESETS:
        raise ConfigError(
            "a name gives a configuration (AutoConfig), not files",
            where=name,
            allowed="a YAML file, a model directory or a hub id such as zai-org/glm-4-9b-chat-hf",
            fix="download the model and give its directory",
        )
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
            f"{name} is no local path, and looking it up on the hub needs huggingface_hub, "
            "which is not installed",
            fix="check the path, or run: pip install 'mindformers[hub]'",
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


def is_yaml(path: Path) -> bool:
    """Tell a YAML file by its name."""
    return path.suffix in (".yaml", ".yml")


def yaml_in(folder: Path, others: str, fix: str) -> Path:
    """Return the one YAML file of a folder that has none of the other files.

    Args:
        folder: Where to look.
        others: The files that would do as well, for the message.
        fix: What to do without any.

    Raises:
        ConfigError: If there is none, or there are several.
    """
    found = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    if len(found) > 1:
        raise ConfigError(
            f"{len(found)} YAML files: {', '.join(p.name for p in found)}",
            where=str(folder),
            allowed="one",
            fix="give the YAML file itself",
        )
    if not found:
        raise ConfigError(f"no {others} and no YAML file", where=str(folder), fix=fix)
    return found[0]


_NO_EFFECT = (
    "cache_dir", "force_download", "local_files_only", "token", "trust_remote_code",
    "resume_download", "proxies", "use_auth_token",
)  # fmt: skip
_LOADER_OPTIONS: dict[str, tuple[Any, ...]] = {
    "revision": (None, "main"),
    "ignore_mismatched_sizes": (False,),
    "use_legacy": (None, True),
    **dict.fromkeys(_NO_EFFECT, ()),
}


def without_loader_options(owner: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that are no options of the hub's or upstream's loaders.

    Args:
        owner: The class they were given to, for the message.
        given: Keyword arguments of its ``from_pretrained``.

    Raises:
        ConfigError: If an option asks for what is not implemented.
    """
    say_without_effect(owner, {name: given[name] for name in _NO_EFFECT if name in given})
    return without_options(owner, given, _LOADER_OPTIONS)
