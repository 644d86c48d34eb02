"""Which tokenizer a model folder wants: GLM-4's ranks, or SentencePiece as ChatGLM2 or ChatGLM3 use it.

The published ChatGLM2 and ChatGLM3 folders hold the very same ``tokenizer.model`` and name the same class,
so what stands beside it has to tell. No code of a folder is ever run; it is read as text.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindformers.checkpoint.json_file import read_json, write_json
from mindformers.errors import TokenizerError
from mindformers.logger import logger
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from mindformers.tokenizer.pretrained_files import (
    CONFIG_NAME,
    TEMPLATE_NAME,
    VOCAB_NAME,
    vocabulary_in,
)
from mindformers.tokenizer.sentence_pieces import holds_sentence_pieces, load_sentence_pieces

GLM2, GLM3, GLM4 = "ChatGLM2Tokenizer", "ChatGLM3Tokenizer", "ChatGLM4Tokenizer"
_ROLE_TOKEN = "<|assistant|>"  # ChatGLM3 has role tokens, ChatGLM2 has none
_THEIR_CODE = "tokenization_chatglm.py"
_NAMES = {"chatglm2": GLM2, "chatglm3": GLM3}
_MAX_TEXT = 2**20  # bytes of a file that is searched for the role token


def open_tokenizer(source: str | Path, name: str | None = None, **settings: Any) -> Any:
    """Return the tokenizer of a model folder or of a ``tokenizer.model``.

    Args:
        source: The folder or the file.
        name: Its class; None: what the folder tells.
        **settings: Arguments of the class; they go before what the folder says.

    Raises:
        TokenizerError: If the vocabulary is SentencePiece and nothing says of which family.
    """
    return tokenizer_class(source, name).from_pretrained(source, **settings)


def tokenizer_class(source: str | Path, name: str | None = None) -> Any:
    """Return the class ``open_tokenizer`` takes; arguments and errors as there."""
    name = name or _class_name(Path(source))
    return MindFormerRegister.get_cls(MindFormerModuleType.TOKENIZER, name)


def _class_name(source: Path) -> str:
    folder, vocab_file = (
        (source, vocabulary_in(source) or source / VOCAB_NAME)
        if source.is_dir()
        else (source.parent, source)
    )
    config = folder / CONFIG_NAME
    settings = read_json(config, TokenizerError) if config.is_file() else {}
    named = settings.get("tokenizer_class")
    if MindFormerRegister.is_exist(MindFormerModuleType.TOKENIZER, str(named)):
        return str(named)
    if not holds_sentence_pieces(vocab_file):
        return GLM4
    found = _from_role_tokens(folder, settings) or _from_names(folder, settings)
    if not found:
        raise TokenizerError(
            "is a SentencePiece model, and nothing beside it says of which family",
            where=str(vocab_file),
            allowed=f"{GLM2} or {GLM3}",
            fix=f'write {{"tokenizer_class": "{GLM3}"}} into {CONFIG_NAME} beside it, or name the '
            "type in the YAML file's processor.tokenizer",
        )
    return found


def _from_role_tokens(folder: Path, settings: Mapping[str, Any]) -> str:
    """Tell by the role token: ChatGLM3's folders show it in their settings or in their code."""
    shown = ("chat_template", "added_tokens_decoder", "additional_special_tokens")
    if any(_ROLE_TOKEN in str(settings.get(name)) for name in shown):
        return GLM3
    if _holds(folder / TEMPLATE_NAME):
        return GLM3
    code = folder / _THEIR_CODE
    if not code.is_file():
        return ""
    return GLM3 if _holds(code) else GLM2


def _holds(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return _ROLE_TOKEN.encode() in stream.read(_MAX_TEXT)


def _from_names(folder: Path, settings: Mapping[str, Any]) -> str:
    config = folder / "config.json"
    content = read_json(config, TokenizerError) if config.is_file() else {}
    texts = (settings.get("name_or_path"), content.get("_name_or_path"), folder.resolve().name)
    for text in (str(each).lower() for each in texts):
        for name, family in _NAMES.items():
            if name in text:
                return family
    return ""


def check_vocabulary(source: Path) -> None:
    """Read the bare ``tokenizer.model`` that ``describe_tokenizer`` will meet, before any work is done.

    Args:
        source: The file, or a folder that may hold one.

    Raises:
        TokenizerError: If it is no vocabulary.
    """
    vocab_file = source / VOCAB_NAME if source.is_dir() else source
    if not vocab_file.is_file() or (source / CONFIG_NAME).exists():
        return
    if holds_sentence_pieces(vocab_file):
        load_sentence_pieces(vocab_file)
    else:
        open_tokenizer(vocab_file)


def describe_tokenizer(folder: Path, source: Path) -> None:
    """Make a folder that was written say which tokenizer it wants, where it does not yet.

    Args:
        folder: It may hold a ``tokenizer.model``, with or without ``tokenizer_config.json``.
        source: The folder or file its tokenizer was copied from, which may tell more.
    """
    vocab_file, config = folder / VOCAB_NAME, folder / CONFIG_NAME
    if not vocab_file.is_file():
        return
    name = _class_name_or_none(folder)
    if name and config.exists():
        return
    name = name or _class_name_or_none(source)
    if name is None:
        logger.warning("%s does not say which tokenizer it wants: %s or %s", folder, GLM2, GLM3)
    elif config.exists():
        write_json(config, {**read_json(config, TokenizerError), "tokenizer_class": name})
    else:
        tokenizer_class(vocab_file, name)(vocab_file).save_pretrained(folder)


def _class_name_or_none(source: Path) -> str | None:
    try:
        return _class_name(source)
    except TokenizerError:
        return None
