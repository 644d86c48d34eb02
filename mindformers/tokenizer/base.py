"""``PreTrainedTokenizer``: built from a rank file or a model folder; renders conversations too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from mindformers.errors import TokenizerError, did_you_mean
from mindformers.tokenizer import pretrained_files
from mindformers.tokenizer.batch import truncate_behind
from mindformers.tokenizer.bpe import load_encoder
from mindformers.tokenizer.chat import Segment, default_template
from mindformers.tokenizer.chat import chat_template as find_template
from mindformers.tokenizer.options import NO_LIMIT, OPTION_NAMES, EncodeOptions
from mindformers.tokenizer.settings import TokenizerSettings
from mindformers.tokenizer.special_tokens import SpecialTokens, build_special_tokens
from mindformers.tokenizer.text_encoder import TextEncoder
from mindformers.tokenizer.tokenizer_json import read_added_tokens
from mindformers.tokenizer.vocabulary import Vocabulary

Self = TypeVar("Self", bound="PreTrainedTokenizer")


class PreTrainedTokenizer(TextEncoder):
    """A tokenizer of the GLM-4 form: byte pairs by rank, special tokens and a chat template.

    Args:
        vocab_file: Path of the rank file (``tokenizer.model``) or of ``tokenizer.json``.
        **settings: See ``TokenizerSettings``; names known from other tokenizers are accepted
            without effect.

    Raises:
        TokenizerError: If the vocabulary or a setting cannot be used.
    """

    vocab_files_names: ClassVar[dict[str, str]] = {"vocab_file": pretrained_files.VOCAB_NAME}
    family_tokens: ClassVar[tuple[str, ...]] = ()
    end_tokens: ClassVar[tuple[str, ...]] = ()  # each ends an answer
    closing_token: ClassVar[str] = "<|user|>"  # follows the last answer of a training row
    trims_answers: ClassVar[bool] = False  # True: blanks around an answer are not part of it
    folder_classes: ClassVar[tuple[str, ...]] = ()  # names of this class in a model folder
    is_fast: ClassVar[bool] = False
    # Roles other tokenizers have a token for, and these vocabularies have not.
    bos_token = unk_token = sep_token = cls_token = mask_token = None
    bos_token_id = unk_token_id = sep_token_id = cls_token_id = mask_token_id = None

    def __init__(self, vocab_file: str | Path, **settings: Any) -> None:
        if Path(vocab_file).suffix == ".json" and settings.get("added_tokens_decoder") is None:
            settings["added_tokens_decoder"] = read_added_tokens(Path(vocab_file))
        checked = TokenizerSettings.parse(settings)
        encoder = self.open_vocabulary(vocab_file)
        super().__init__(encoder, self.build_table(encoder, checked), checked)
        self.vocab_file = str(vocab_file)
        self.name_or_path = str(Path(vocab_file).parent)
        self.chat_template = checked.chat_template

    @staticmethod
    def open_vocabulary(vocab_file: str | Path) -> Vocabulary:
        """Return the vocabulary of a file."""
        return load_encoder(vocab_file)

    def build_table(self, vocabulary: Vocabulary, settings: TokenizerSettings) -> SpecialTokens:
        """Return the special tokens beside a vocabulary."""
        return build_special_tokens(
            vocabulary.num_ranks,
            self.family_tokens,
            settings.added_tokens_decoder,
            settings.additional_special_tokens,
        )

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """The tokens with a role of their own, by role."""
        return {"eos_token": self.eos_token, "pad_token": self.pad_token}

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        chat_template: str | None = None,
        **variables: Any,
    ) -> list[Segment]:
        """Return a conversation as segments: the template's control tokens, and plain text.

        Args:
            messages: Mappings with ``role``, ``content`` and optionally ``metadata``, ``tools``,
                ``tool_calls``.
            tools: Tool schemas in OpenAI's form.
            add_generation_prompt: End with the assistant's token.
            chat_template: A template for this call.
            **variables: Further values the template reads.

        Raises:
            TokenizerError: If the conversation is malformed, the template fails or does not read a
                variable.
        """
        source = chat_template or self.chat_template or default_template()
        template = find_template(source, self._special_tokens)
        for name in variables:
            if name not in template.variables:
                choices = sorted(OPTION_NAMES | template.variables)
                raise TokenizerError(
                    f"unknown argument {name!r}, and the chat template does not read it",
                    fix=did_you_mean(name, choices),
                )
        return template.render(
            messages, tools, add_generation_prompt, variables, self.special_tokens_map
        )

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = True,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        return_dict: bool = False,
        **options: Any,
    ) -> Any:
        """Return the prompt of a conversation, or of each in a list of conversations.

        Args:
            conversation: A list of messages, or a list of such lists.
            chat_template: A template for this call.
            add_generation_prompt: End with the assistant's token.
            tokenize: False returns the text instead of ids.
            tools: Tool schemas in OpenAI's form.
            return_dict: Return mask and positions too.
            **options: See ``EncodeOptions``; others are passed to the template.

        Raises:
            TokenizerError: If the conversation, an option or the template cannot be used.
        """
        variables = {k: v for k, v in options.items() if k not in OPTION_NAMES}
        options = {k: v for k, v in options.items() if k in OPTION_NAMES}
        checked = EncodeOptions.parse({"truncation": False, **options})
        is_batch = isinstance(conversation, list | tuple) and isinstance(
            next(iter(conversation), None), list | tuple
        )
        rendered = [
            self.render(messages, tools, add_generation_prompt, chat_template, **variables)
            for messages in (conversation if is_batch else [conversation])
        ]
        if not tokenize:
            texts = ["".join(segment.text for segment in segments) for segments in rendered]
            return texts if is_batch else texts[0]
        rows = [self._truncate(self.encode_segments(segments), checked) for segments in rendered]
        encoding = self._finish(rows, is_batch, checked)
        return encoding if return_dict else encoding["input_ids"]

    def strip_answer(self, text: str, *, is_whole: bool = True) -> str:
        """Return an answer's text without what belongs to the form of its turn.

        Args:
            text: What the model wrote after the assistant's token, or (not whole) its beginning.
            is_whole: Whether the end of ``text`` is the end of the answer.
        """
        if not self.trims_answers:
            return text.removeprefix("\n")
        return text.strip() if is_whole else text.lstrip()

    def _truncate(self, ids: list[int], options: EncodeOptions) -> list[int]:
        limit = options.resolve_max_length(self.model_max_length)
        if options.truncation == "do_not_truncate" or limit is None or len(ids) <= limit:
            return ids
        return truncate_behind(self.get_prefix_tokens(), ids, limit, self.truncation_side)

    @classmethod
    def from_pretrained(cls: type[Self], name_or_path: str | Path, **settings: Any) -> Self:
        """Build the tokenizer of a model folder or of a vocabulary file in one.

        Raises:
            TokenizerError: If the folder has no vocabulary, or a file of it cannot be used.
        """
        vocab_file, stored = pretrained_files.read_folder(
            Path(name_or_path), cls.__name__, *cls.folder_classes
        )
        return cls(vocab_file, **{**stored, **settings})

    def save_pretrained(self, save_directory: str | Path, **unused: Any) -> tuple[str, ...]:
        """Write ``tokenizer.model`` and ``tokenizer_config.json``; return their paths.

        Args:
            save_directory: Folder, made when missing.
            **unused: ``save_name``, ``file_format`` and ``save_json`` of upstream; the form is
                always the one above.
        """
        for name in set(unused) - {"save_name", "file_format", "save_json"}:
            if name == "filename_prefix" and not unused[name]:
                continue
            raise TokenizerError(f"unknown argument {name!r}", where="save_pretrained")
        vocab = self.save_vocabulary(save_directory)
        config = pretrained_files.write_config(Path(save_directory), self._config())
        return (*vocab, str(config))

    def _config(self) -> dict[str, Any]:
        """Return the content of tokenizer_config.json, under the keys Hugging Face reads."""
        unused = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
        tokens = sorted(self._special_tokens.by_id.items())
        content: dict[str, Any] = {
            "added_tokens_decoder": {
                str(token_id): {"content": token.content, **unused, "special": token.special}
                for token_id, token in tokens
            },
            "additional_special_tokens": self.all_special_tokens,
            "chat_template": self.chat_template or default_template(),
            "clean_up_tokenization_spaces": self.clean_up_tokenization_spaces,
            "do_lower_case": False,
            "encode_special_tokens": self.encode_special_tokens,
            "eos_token": self.eos_token,
            "pad_token": self.pad_token,
            "padding_side": self.padding_side,
            "remove_space": False,
            "tokenizer_class": type(self).__name__,
            "truncation_side": self.truncation_side,
        }
        if self.model_max_length < NO_LIMIT:
            content["model_max_length"] = self.model_max_length
        return content

    def save_vocabulary(
        self, save_directory: str | Path, filename_prefix: str | None = None
    ) -> tuple[str]:
        """Write the rank file into a folder, or as the file named; return its path.

        Args:
            save_directory: A folder, or the path of a file with a suffix.
            filename_prefix: Put before the file's name, with a hyphen.
        """
        folder = Path(save_directory)
        return (str(pretrained_files.write_vocabulary(folder, filename_prefix, self._encoder)),)
