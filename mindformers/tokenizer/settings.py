"""What a tokenizer is built from beside its vocabulary: keyword arguments, checked once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mindformers.errors import TokenizerError, did_you_mean
from mindformers.logger import warn_once
from mindformers.tokenizer.options import NO_LIMIT, check_side

# Arguments and file entries of other tokenizers that change nothing here.
_HARMLESS = frozenset(
    (
        *("add_bos_token", "add_eos_token", "add_prefix_space", "added_tokens", "auto_map"),
        *("backend", "bos_token", "cls_token", "do_lower_case", "end_token"),
        *("extra_special_tokens", "gmask_token", "image_size", "init_inputs", "is_local"),
        *("local_files_only", "mask_token", "model_input_names", "model_specific_special_tokens"),
        *("name_or_path", "processor_class", "remove_space", "sep_token"),
        *("special_tokens_map_file", "split_special_tokens", "tokenizer_class", "tokenizer_file"),
        *("tokenizer_type", "trust_remote_code", "type", "unk_token", "use_fast", "use_legacy"),
    )
)
# Harmless at False only.
_MUST_BE_FALSE = ("do_lower_case", "remove_space")
# Upstream's fine-tuning YAML names GLM-3's padding token, which GLM-4 does not have.
_FOREIGN_PADS = ("<pad>",)


@dataclass(frozen=True)
class TokenizerSettings:
    """The settings a tokenizer keeps, as its constructor takes them.

    Args:
        eos_token: Text of the token that ends a text.
        pad_token: Text of the token that fills batches.
        encode_special_tokens: Whether ``encode`` turns the text of a special token into its id. For
            trusted text only: a user could otherwise write control tokens.
        clean_up_tokenization_spaces: Whether ``decode`` removes blanks before English punctuation.
        padding_side: ``"left"`` or ``"right"``.
        truncation_side: ``"left"`` or ``"right"``.
        model_max_length: Tokens the model can read; None is no limit.
        chat_template: Jinja text; None is the template of glm-4-9b-chat.
        added_tokens_decoder: ``{id: {"content": text, "special": bool}}`` of tokenizer_config.json.
        additional_special_tokens: Further special tokens, numbered after all others.
    """

    eos_token: str = "<|endoftext|>"
    pad_token: str = "<|endoftext|>"
    encode_special_tokens: bool = False
    clean_up_tokenization_spaces: bool = False
    padding_side: str = "left"
    truncation_side: str = "right"
    model_max_length: int = NO_LIMIT
    chat_template: str | None = None
    added_tokens_decoder: Mapping[Any, Any] | None = None
    additional_special_tokens: tuple[str, ...] = ()

    @classmethod
    def parse(cls, arguments: Mapping[str, Any]) -> TokenizerSettings:
        """Check keyword arguments and return them as settings; unknown names are warned about once.

        Raises:
            TokenizerError: If a value cannot be used.
        """
        known = cls.__dataclass_fields__
        for name, value in arguments.items():
            if name in _MUST_BE_FALSE and value:
                warn_once(
                    "tokenizer: %s=%r has no effect, GLM-4 keeps the text as it is", name, value
                )
            elif name not in known and name not in _HARMLESS:
                hint = did_you_mean(name, known)
                warn_once(
                    "tokenizer: unknown argument %r has no effect%s",
                    name,
                    f"; {hint}" if hint else "",
                )
        settings = {name: value for name, value in arguments.items() if name in known}
        for name in ("eos_token", "pad_token"):
            settings[name] = _token_text(name, settings.get(name))
        for name in ("padding_side", "truncation_side"):
            if settings.get(name) is None:
                settings.pop(name, None)
            else:
                check_side(name, settings[name])
        settings["model_max_length"] = _max_length(settings.get("model_max_length"))
        settings["chat_template"] = _chat_template(settings.get("chat_template"))
        extra = settings.get("additional_special_tokens") or ()
        settings["additional_special_tokens"] = tuple(
            _token_text("additional_special_tokens", t) for t in extra
        )
        return cls(**settings)


def _token_text(name: str, token: Any) -> str:
    if token is None:
        return "<|endoftext|>"
    text = token.get("content") if isinstance(token, Mapping) else getattr(token, "content", token)
    if not isinstance(text, str) or not text:
        raise TokenizerError(f"{name}={token!r}", allowed="the text of a special token")
    if name == "pad_token" and text in _FOREIGN_PADS:
        warn_once("tokenizer: GLM-4 has no %r, padding with '<|endoftext|>'", text)
        return "<|endoftext|>"
    return text


def _max_length(value: Any) -> int:
    if value is None:
        return NO_LIMIT
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 1:
        raise TokenizerError(
            f"model_max_length={value!r}", allowed="a positive number of tokens, or null"
        )
    return min(int(min(value, 1e30)), NO_LIMIT)


def _chat_template(value: Any) -> str | None:
    """Return one template; a list of named ones is searched for ``default``."""
    if isinstance(value, list):
        value = {
            entry.get("name"): entry.get("template")
            for entry in value
            if isinstance(entry, Mapping)
        }
    if isinstance(value, Mapping):
        if "default" not in value:
            raise TokenizerError(
                f"chat_template has no template called 'default', only {sorted(map(str, value))}",
                fix="pass chat_template=...",
            )
        value = value["default"]
    if value is not None and not isinstance(value, str):
        raise TokenizerError(f"chat_template is a {type(value).__name__}", allowed="Jinja text")
    return value


def check_known_token(name: str, text: str, special_tokens: Iterable[str]) -> None:
    """Raise TokenizerError unless ``text`` is a special token."""
    tokens = list(special_tokens)
    if text not in tokens:
        raise TokenizerError(
            f"{name}={text!r} is no special token of this vocabulary",
            allowed=", ".join(tokens),
            fix=did_you_mean(text, tokens),
        )
