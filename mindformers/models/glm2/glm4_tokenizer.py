"""The tokenizer of GLM-4: its special tokens, its prompt prefix and its message form."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from mindformers.models.glm2.glm4_tokens import END_TOKENS, SPECIAL_TOKENS
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from mindformers.tokenizer.base import PreTrainedTokenizer
from mindformers.tokenizer.conversation import check_role
from mindformers.tokenizer.special_tokens import Segment


@MindFormerRegister.register(MindFormerModuleType.TOKENIZER)
class ChatGLM4Tokenizer(PreTrainedTokenizer):
    """Tokenizer of GLM-4-9B, GLM-4-9B-Chat (also 1M), GLM-4-0414 and GLM-Z1.

    Encoding is byte level: every text comes back unchanged. The text of a special token in ordinary
    text stays text; only a chat template and ``encode_special_tokens=True`` make control ids of it.

    Args:
        vocab_file: Path of ``tokenizer.model``, lines of ``base64(token bytes) rank``, or of
            ``tokenizer.json``, the same vocabulary in Hugging Face's form.
        clean_up_tokenization_spaces: Whether ``decode`` removes blanks before English punctuation.
        encode_special_tokens: Whether ``encode`` turns the text of a special token into its id
            (trusted text only).
        eos_token: Text of the token that ends a text.
        pad_token: Text of the token that fills batches.
        **kwargs: ``chat_template``, ``padding_side`` ('left' unless given), ``truncation_side``
            ('right'), ``model_max_length``, ``additional_special_tokens``,
            ``added_tokens_decoder``; names of other tokenizers are accepted without effect, others
            warned about.

    Raises:
        TokenizerError: If the vocabulary or an argument cannot be used.
    """

    family_tokens: ClassVar[tuple[str, ...]] = SPECIAL_TOKENS
    prefix_tokens: ClassVar[tuple[str, ...]] = ("[gMASK]", "<sop>")
    end_tokens: ClassVar[tuple[str, ...]] = END_TOKENS

    def __init__(
        self,
        vocab_file: str | Path,
        clean_up_tokenization_spaces: bool = False,
        encode_special_tokens: bool = False,
        eos_token: str = "<|endoftext|>",
        pad_token: str = "<|endoftext|>",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            vocab_file,
            clean_up_tokenization_spaces=clean_up_tokenization_spaces,
            encode_special_tokens=encode_special_tokens,
            eos_token=eos_token,
            pad_token=pad_token,
            **kwargs,
        )

    def build_single_message(
        self, role: str, metadata: str | None, message: str, tokenize: bool = True
    ) -> list[int] | str:
        """Return one message as ids, or as text.

        Args:
            role: system, user, assistant or observation (also tool, function).
            metadata: What stands on the role's line: the tool an assistant calls.
            message: The content. Together with its line it is encoded as one string, as the chat
                template does.
            tokenize: False returns the text.

        Raises:
            TokenizerError: If there is no such role.
        """
        segments = [
            Segment(f"<|{check_role(role)}|>", True),
            Segment(f"{metadata or ''}\n{message}", False),
        ]
        if not tokenize:
            return "".join(segment.text for segment in segments)
        return self.encode_segments(segments)
