"""The tokenizer's part of a model folder: which files there are, and how they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mindformers.checkpoint.atomic import write_bytes, write_text
from mindformers.checkpoint.json_file import MAX_JSON_BYTES, read_json, write_json
from mindformers.errors import TokenizerError
from mindformers.logger import warn_once
from mindformers.tokenizer.vocabulary import Vocabulary

VOCAB_NAME = "tokenizer.model"
JSON_NAME = "tokenizer.json"
CONFIG_NAME = "tokenizer_config.json"
TEMPLATE_NAME = "chat_template.jinja"
_GENERIC_CLASSES = ("PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend")


def vocabulary_in(folder: Path) -> Path | None:
    """Return the vocabulary file of a model folder, ``tokenizer.model`` before ``tokenizer.json``, or None."""
    names = (VOCAB_NAME, JSON_NAME)
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_folder(path: Path, class_name: str, *aliases: str) -> tuple[Path, dict[str, Any]]:
    """Return the vocabulary file of a model folder and the settings stored beside it.

    Args:
        path: A folder, or a vocabulary file (its folder's settings are read then too).
        class_name: The tokenizer class that asks; another one in the folder is warned about.
        aliases: Other names of that class.

    Raises:
        TokenizerError: If there is no vocabulary, or a file cannot be read.
    """
    folder, vocab_file = (path, vocabulary_in(path)) if path.is_dir() else (path.parent, path)
    if vocab_file is None or not vocab_file.is_file():
        raise TokenizerError(
            _what_is_missing(path),
            where=str(path),
            fix=f"give a folder that holds {VOCAB_NAME} or {JSON_NAME}",
        )
    settings: dict[str, Any] = {}
    config = folder / CONFIG_NAME
    if config.is_file():
        settings = read_json(config, TokenizerError)
        stored = settings.get("tokenizer_class")
        if stored not in (None, class_name, *aliases, *_GENERIC_CLASSES):
            warn_once("%s names the class %s; it is read as %s", config, stored, class_name)
    template = folder / TEMPLATE_NAME
    if template.is_file():
        settings["chat_template"] = _read_text(template)
    return vocab_file, settings


def _what_is_missing(path: Path) -> str:
    if not path.exists():
        return "there is no such folder or file"
    names = sorted(entry.name for entry in path.iterdir())[:8]
    found = ", ".join(names) or "nothing"
    return f"the folder has no {VOCAB_NAME} and no {JSON_NAME}, only {found}"


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise TokenizerError("is too large for a template", where=str(path))
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"cannot be read ({error})", where=str(path)) from error


def write_config(folder: Path, content: dict[str, Any]) -> Path:
    """Write tokenizer_config.json (and a template file that is there) into ``folder``."""
    # A template file would hide the template written here.
    if "chat_template" in content and (folder / TEMPLATE_NAME).exists():
        write_text(folder / TEMPLATE_NAME, content["chat_template"])
    return write_json(_made(folder) / CONFIG_NAME, content)


def write_vocabulary(target: Path, filename_prefix: str | None, encoder: Vocabulary) -> Path:
    """Write the rank file into a folder, or as ``target`` if that has a suffix; return its path."""
    folder, name = (
        (target, VOCAB_NAME)
        if target.is_dir() or not target.suffix
        else (target.parent, target.name)
    )
    name = f"{filename_prefix}-{name}" if filename_prefix else name
    return write_bytes(_made(folder) / name, encoder.rank_file)


def _made(folder: Path) -> Path:
    if folder.exists() and not folder.is_dir():
        raise TokenizerError(
            "is a file, not a folder", where=str(folder), fix="give a folder to save into"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder
