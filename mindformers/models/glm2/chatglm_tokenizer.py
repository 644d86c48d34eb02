"""What the tokenizers of ChatGLM2 and ChatGLM3 share: SentencePiece, their control tokens, their prefix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from mindformers.errors import TokenizerError, did_you_mean
from mindformers.tokenizer import pretrained_files
from mindformers.tokenizer.base import PreTrainedTokenizer
from mindformers.tokenizer.batch import BatchEncoding
from mindformers.tokenizer.options import NO_LIMIT, EncodeOptions
from mindformers.tokenizer.sentence_pieces import SentencePieces, load_sentence_pieces
from mindformers.tokenizer.settings import TokenizerSettings
from mindformers.tokenizer.special_tokens import (
    AddedToken,
    Segment,
    SpecialTokens,
    build_special_tokens,
)
from mindformers.tokenizer.token_table import Token
from mindformers.tokenizer.vocabulary import Vocabulary

Self = TypeVar("Self", bound="ChatGLMTokenizer")

Messages = Sequence[Mapping[str, Any]]
# In id order behind the pieces. Source: tokenization_chatglm.py of chatglm2-6b.
FAMILY_TOKENS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
PREFIX_TOKENS = ("[gMASK]", "sop")
BOS, EOS, UNK = "<s>", "</s>", "<unk>"
COMMANDS = {
    "<bos>": BOS,
    "<eos>": EOS,
    "<pad>": UNK,
}  # get_command's names of the model's own pieces
_PROBE = (("system", "a"), ("user", "b"), ("assistant", "c"), ("user", "d"))
# The texts upstream's files give for each role; ids never follow from them.
_ROLE_TEXTS = {
    "bos_token": ("<sop>", "sop", BOS),
    "eos_token": ("<eop>", "eop", EOS),
    "end_token": (EOS,),
    "mask_token": ("[MASK]",),
    "gmask_token": ("[gMASK]",),
    "pad_token": ("<pad>", UNK),
    "unk_token": (UNK,),
}


class ChatGLMTokenizer(PreTrainedTokenizer):
    """A SentencePiece vocabulary with the control tokens of ChatGLM behind it.

    The control tokens follow the pieces in a fixed order; the end of a text is the model's ``</s>``
    and filling is its ``<unk>``, whatever the arguments call them. Text never becomes a control
    token; decoding drops the blank SentencePiece puts before a text.

    Args:
        vocab_file: Path of ``tokenizer.model``.
        bos_token: Upstream's name; has no effect on ids, as the following ones.
        eos_token: As above.
        end_token: As above.
        mask_token: As above.
        gmask_token: As above.
        pad_token: As above.
        unk_token: As above.
        **kwargs: As for ``ChatGLM4Tokenizer``.

    Raises:
        MissingExtraError: If sentencepiece is not installed.
        TokenizerError: If the vocabulary or an argument cannot be used.
    """

    folder_classes: ClassVar[tuple[str, ...]] = ("ChatGLMTokenizer",)
    prefix_tokens: ClassVar[tuple[str, ...]] = PREFIX_TOKENS
    end_tokens: ClassVar[tuple[str, ...]] = (EOS,)
    closing_token: ClassVar[str] = EOS
    trims_answers: ClassVar[bool] = True
    spaces_between: ClassVar[bool] = False
    _encoder: SentencePieces

    def __init__(
        self,
        vocab_file: str | Path,
        bos_token: str = "<sop>",
        eos_token: str = "<eop>",
        end_token: str = "</s>",
        mask_token: str = "[MASK]",
        gmask_token: str = "[gMASK]",
        pad_token: str = "<pad>",
        unk_token: str = "<unk>",
        **kwargs: Any,
    ) -> None:
        texts = (bos_token, eos_token, end_token, mask_token, gmask_token, pad_token, unk_token)
        for (name, allowed), text in zip(_ROLE_TEXTS.items(), texts, strict=True):
            _check_text(name, text, allowed)
        super().__init__(vocab_file, eos_token=EOS, pad_token=UNK, **kwargs)

    @staticmethod
    def open_vocabulary(vocab_file: str | Path) -> SentencePieces:
        """Return the SentencePiece model of a file."""
        return load_sentence_pieces(vocab_file)

    def build_table(self, vocabulary: Vocabulary, settings: TokenizerSettings) -> SpecialTokens:
        """Return the control tokens: those behind the pieces, and the model's begin, end and unknown."""
        assert isinstance(vocabulary, SentencePieces)
        own = {BOS: vocabulary.bos_id, EOS: vocabulary.eos_id, UNK: vocabulary.unk_id}
        declared = {
            key: entry
            for key, entry in (settings.added_tokens_decoder or {}).items()
            if not str(key).isdigit() or int(key) not in own.values()
        }
        behind = build_special_tokens(
            vocabulary.num_ranks,
            self.family_tokens,
            declared,
            (text for text in settings.additional_special_tokens if text not in own),
        )
        inside = [AddedToken(text, number) for text, number in own.items()]
        return SpecialTokens([*behind.by_id.values(), *inside])

    # --- ids and tokens ------------------------------------------------------------------------

    @property
    def vocab_size(self) -> int:
        """Number of ids, control tokens included."""
        return len(self)

    def get_command(self, token: str) -> int:
        """Return the id of a control token, or of ``<bos>``, ``<eos>`` or ``<pad>``.

        Raises:
            TokenizerError: If there is none of this name.
        """
        return self.convert_special_tokens_to_ids(COMMANDS.get(token, token))

    def get_vocab(self) -> dict[Token, int]:
        """Return every piece and control token and its id."""
        vocab: dict[Token, int] = {piece: i for i, piece in enumerate(self._encoder.pieces)}
        vocab.update(self.special_tokens)
        return vocab

    def _token_of(self, token_id: int) -> Token:
        is_piece = isinstance(token_id, int) and 0 <= token_id < self._encoder.num_ranks
        return self._encoder.pieces[token_id] if is_piece else super()._token_of(token_id)

    def _id_of(self, token: Token) -> int:
        """Return a token's id; SentencePiece's unknown for what is no piece."""
        text = token.decode("utf-8", "replace") if isinstance(token, bytes) else token
        special = self._special_tokens.by_text.get(text)
        if special is not None:
            return special.id
        rank = self._encoder.rank_of(text.encode("utf-8", "replace"))
        return self._encoder.unk_id if rank is None else rank

    def convert_tokens_to_string(self, tokens: Iterable[bytes | str | int]) -> str:
        """Return the text of pieces, control tokens or ids."""
        ids = [token if isinstance(token, int) else self._id_of(token) for token in tokens]
        return str(self.decode(ids))

    # --- conversations -------------------------------------------------------------------------

    def encode_segments(self, segments: Iterable[Segment]) -> list[int]:
        """Return the ids of segments; each text is encoded by itself, as the original does.

        Raises:
            TokenizerError: If a control segment is no special token.
        """
        ids: list[int] = []
        for text, is_control in segments:
            if is_control:
                ids.append(self.convert_special_tokens_to_ids(text))
            else:
                ids += self._encoder.encode(text)
        return ids

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        chat_template: str | None = None,
        **variables: Any,
    ) -> list[Segment]:
        """Return a conversation as segments, in the family's form or through a template given for it.

        Arguments and errors are those of ``PreTrainedTokenizer.render``.
        """
        source = chat_template or self.chat_template
        if source or variables:
            return super().render(messages, tools, add_generation_prompt, source, **variables)
        return self.own_form(messages, tools, add_generation_prompt)

    def own_form(
        self,
        messages: Messages,
        tools: Messages | None,
        add_generation_prompt: bool,
    ) -> list[Segment]:
        """Return a conversation as segments in the family's form; a family says how."""
        raise NotImplementedError

    def as_batch(
        self, prompts: Sequence[Sequence[Segment]], padding: Any, return_tensors: Any
    ) -> BatchEncoding:
        """Return rendered conversations as ids with mask and positions, filled up on the left."""
        options = EncodeOptions.parse({"padding": padding, "return_tensors": return_tensors})
        return self._finish([self.encode_segments(each) for each in prompts], True, options)

    # --- folders -------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls: type[Self], name_or_path: str | Path, **settings: Any) -> Self:
        """Build the tokenizer of a model folder or of a ``tokenizer.model``.

        A chat template stored in the folder that writes the family's own form is left out: the form
        also carries tools and metadata, which the published templates drop.

        Raises:
            TokenizerError: If the folder has no vocabulary, or a file of it cannot be used.
        """
        vocab_file, stored = pretrained_files.read_folder(
            Path(name_or_path), cls.__name__, *cls.folder_classes
        )
        for name, allowed in _ROLE_TEXTS.items():  # a folder may call them as it likes
            if _text(stored.get(name)) not in allowed:
                stored.pop(name, None)
            else:
                stored[name] = _text(stored[name])
        tokenizer = cls(vocab_file, **{**stored, **settings})
        if tokenizer.chat_template and "chat_template" not in settings and tokenizer._is_own():
            tokenizer.chat_template = None
        return tokenizer

    def _is_own(self) -> bool:
        """Tell whether the chat template gives the same ids as the family's form."""
        probe = [{"role": role, "content": text} for role, text in _PROBE]
        try:
            own = self.own_form(probe, None, True)
        except TokenizerError:
            return False
        return self.encode_segments(self.render(probe, None, True)) == self.encode_segments(own)

    def _config(self) -> dict[str, Any]:
        """Return the content of tokenizer_config.json."""
        known = {*self.family_tokens, BOS, EOS, UNK}
        content: dict[str, Any] = {
            "clean_up_tokenization_spaces": self.clean_up_tokenization_spaces,
            "do_lower_case": False,
            "encode_special_tokens": self.encode_special_tokens,
            "eos_token": EOS,
            "pad_token": UNK,
            "padding_side": self.padding_side,
            "remove_space": False,
            "tokenizer_class": type(self).__name__,
            "truncation_side": self.truncation_side,
            "unk_token": UNK,
        }
        extra = [text for text in self.all_special_tokens if text not in known]
        if extra:
            content["additional_special_tokens"] = extra
        if self.chat_template:
            content["chat_template"] = self.chat_template
        if self.model_max_length < NO_LIMIT:
            content["model_max_length"] = self.model_max_length
        return content


def _text(token: Any) -> Any:
    return token.get("content") if isinstance(token, Mapping) else token


def _check_text(name: str, text: Any, allowed: tuple[str, ...]) -> None:
    if text not in allowed:
        raise TokenizerError(
            f"{name}={text!r}",
            allowed=" or ".join(map(repr, allowed)),
            fix=did_you_mean(str(text), allowed) or "leave it out: the ids do not follow from it",
        )
