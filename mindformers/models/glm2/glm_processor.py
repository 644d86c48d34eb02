"""``GLMProcessor``: what a person hands to the model, a text or a conversation, as padded ids."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindformers.checkpoint.json_file import read_json, write_json
from mindformers.errors import TokenizerError
from mindformers.logger import warn_once
from mindformers.models.glm2.tokenizer_choice import open_tokenizer
from mindformers.registry import MindFormerModuleType, MindFormerRegister

CONFIG_NAME = "processor_config.json"
_FULL_WIDTH = {",": "，", "!": "！", ":": "：", ";": "；", "?": "？"}
_HALF_WIDTH_BESIDE_CHINESE = re.compile(r"(?<=[\u4e00-\u9fff])[,!:;?]|[,!:;?](?=[\u4e00-\u9fff])")


@MindFormerRegister.register(MindFormerModuleType.PROCESSOR)
class GLMProcessor:
    """Turn texts or conversations into a batch of ids.

    Args:
        tokenizer: A tokenizer, or the mapping with ``type`` that a YAML file holds in its place.
        max_length: Tokens per row; longer texts stay whole.
        padding: ``"max_length"``, ``"longest"``, or False.
        return_tensors: ``"ms"`` for a MindSpore tensor, ``"np"`` for a NumPy array, None for lists.

    Raises:
        TokenizerError: If the tokenizer cannot be built.
    """

    def __init__(
        self,
        tokenizer: Any = None,
        max_length: int = 128,
        padding: str | bool = "max_length",
        return_tensors: str | None = "ms",
    ) -> None:
        if isinstance(tokenizer, Mapping):
            kind = MindFormerModuleType.TOKENIZER
            tokenizer = MindFormerRegister.get_instance_from_cfg(tokenizer, kind)
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.padding = padding
        self.return_tensors = return_tensors

    def __call__(self, text_input: Any = None, image_input: Any = None) -> dict[str, Any]:
        """Return ``{"text": ids}``, ids of shape (rows, tokens), int32.

        Args:
            text_input: A text, a list of texts, a conversation (list of messages) or a list of
                those. A conversation becomes a prompt that ends with the assistant's token.
            image_input: Without effect; these models read text only.

        Raises:
            TokenizerError: If there is no tokenizer, or the input is none of these.
        """
        if image_input is not None:
            warn_once("GLMProcessor reads text only: image_input has no effect")
        if text_input is None:
            return {}
        if self.tokenizer is None:
            raise TokenizerError("the processor has no tokenizer", fix="pass tokenizer=...")
        options = {
            "padding": self.padding,
            "max_length": self.max_length,
            "truncation": False,
            "return_tensors": self.return_tensors,
        }
        batch = [text_input] if isinstance(text_input, str) else list(text_input)
        if not batch:
            raise TokenizerError("the input is empty", allowed="a text or messages")
        if isinstance(batch[0], str):
            return {"text": self.tokenizer(batch, **options)["input_ids"]}
        conversations = [batch] if isinstance(batch[0], Mapping) else batch
        ids = self.tokenizer.apply_chat_template(
            conversations, add_generation_prompt=True, **options
        )
        return {"text": ids}

    @staticmethod
    def process_response(response: str) -> str:
        """Return an answer with full-width punctuation beside Chinese characters."""
        response = response.strip().replace("[[训练时间]]", "2023年")
        return _HALF_WIDTH_BESIDE_CHINESE.sub(lambda match: _FULL_WIDTH[match.group()], response)

    def save_pretrained(self, save_directory: str | Path) -> tuple[str, ...]:
        """Write the tokenizer's files and ``processor_config.json``; return their paths."""
        if self.tokenizer is None:
            raise TokenizerError("the processor has no tokenizer to save", fix="pass tokenizer=...")
        paths: tuple[str, ...] = self.tokenizer.save_pretrained(save_directory)
        content = {
            "max_length": self.max_length,
            "padding": self.padding,
            "processor_class": type(self).__name__,
            "return_tensors": self.return_tensors,
        }
        target = Path(save_directory) / CONFIG_NAME
        return (*paths, str(write_json(target, content)))

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **settings: Any) -> GLMProcessor:
        """Build the processor of a model folder; ``settings`` override the stored ones.

        Raises:
            TokenizerError: If the folder has no vocabulary, or a file of it cannot be used.
        """
        config = Path(name_or_path) / CONFIG_NAME
        stored = read_json(config, TokenizerError) if config.is_file() else {}
        names = ("max_length", "padding", "return_tensors")
        tokenizer = open_tokenizer(name_or_path)
        return cls(tokenizer, **{**{n: stored[n] for n in names if n in stored}, **settings})
