"""How a caller wants texts encoded: padding, truncation, form of the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from mindformers.errors import TokenizerError, did_you_mean
from mindformers.logger import warn_once

NO_LIMIT = int(1e30)  # what Hugging Face writes for "no maximal length"
_PADDING = {False: "do_not_pad", None: "do_not_pad", True: "longest"}
_TRUNCATION = {False: "do_not_truncate", None: None, True: "longest_first"}
# Known to callers of other tokenizers, without a meaning here at another value.
_NEUTRAL = {
    "stride": (0,),
    "is_split_into_words": (False,),
    "return_overflowing_tokens": (False,),
    "return_offsets_mapping": (False,),
    "return_token_type_ids": (None, False),
    "verbose": (True, False),
    "use_fast": (True, False, None),
}


@dataclass(frozen=True)
class EncodeOptions:
    """How encoded texts are cut, padded and returned.

    Args:
        padding: ``"do_not_pad"``, ``"longest"`` or ``"max_length"``; True is longest, False none.
        truncation: ``"do_not_truncate"``, ``"longest_first"``, ``"only_first"`` or
            ``"only_second"``; True is longest_first. None cuts only when ``max_length`` is given
            without padding.
        max_length: Tokens per row, special tokens included.
        pad_to_multiple_of: Round padded rows up to a multiple of this.
        padding_side: ``"left"`` or ``"right"``; None is the tokenizer's own.
        return_tensors: None for lists, ``"np"`` for int32 NumPy arrays, ``"ms"`` for MindSpore
            tensors.
        return_attention_mask: False leaves the mask out.
        return_special_tokens_mask: Add a mask that is 1 at special tokens.
        return_length: Add the number of tokens per row.
    """

    padding: Any = False
    truncation: Any = None
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    padding_side: str | None = None
    return_tensors: Any = None
    return_attention_mask: bool | None = None
    return_special_tokens_mask: bool = False
    return_length: bool = False

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> EncodeOptions:
        """Check keyword arguments and return them as options.

        Raises:
            TokenizerError: If a name or a value is unknown, or asks for what there is not.
        """
        known = {field.name for field in fields(cls)}
        for name, value in options.items():
            if name in _NEUTRAL and value not in _NEUTRAL[name]:
                raise TokenizerError(
                    f"{name}={value!r} is not available",
                    allowed=" or ".join(map(repr, _NEUTRAL[name])),
                )
            if name not in known and name not in _NEUTRAL:
                raise TokenizerError(
                    f"unknown argument {name!r}", where="tokenizer", fix=did_you_mean(name, known)
                )
        return cls(**{name: value for name, value in options.items() if name in known})

    def __post_init__(self) -> None:
        padding = _strategy(
            "padding", self.padding, _PADDING, ("longest", "max_length", "do_not_pad")
        )
        choices = ("longest_first", "only_first", "only_second", "do_not_truncate")
        truncation = _strategy("truncation", self.truncation, _TRUNCATION, choices)
        if truncation is None:
            cut = self.max_length is not None and padding == "do_not_pad"
            if cut:
                warn_once(
                    "max_length without truncation cuts texts; pass truncation=True to say so"
                )
            truncation = "longest_first" if cut else "do_not_truncate"
        object.__setattr__(self, "padding", padding)
        object.__setattr__(self, "truncation", truncation)
        for name in ("max_length", "pad_to_multiple_of"):
            value = getattr(self, name)
            if value is not None and (
                not isinstance(value, int) or isinstance(value, bool) or value < 1
            ):
                raise TokenizerError(f"{name}={value!r}", allowed="an integer of at least 1")
        check_side("padding_side", self.padding_side or "left")

    def resolve_max_length(self, model_max_length: int) -> int | None:
        """Return the length rows are cut or padded to, or None where there is no limit.

        Raises:
            TokenizerError: If rows are to be padded to a length nobody gave.
        """
        if self.max_length is not None:
            return self.max_length
        if model_max_length < NO_LIMIT:
            return model_max_length
        if self.padding == "max_length":
            raise TokenizerError("padding='max_length' without a max_length", fix="pass max_length")
        return None


OPTION_NAMES = frozenset(field.name for field in fields(EncodeOptions)) | frozenset(_NEUTRAL)


def _strategy(name: str, value: Any, words: Mapping[Any, Any], choices: Sequence[str]) -> Any:
    value = getattr(value, "value", value)  # an enumeration's member
    if isinstance(value, bool) or value is None:
        return words[value]
    if value not in choices:
        allowed = ", ".join(("True", "False", *choices))
        raise TokenizerError(
            f"{name}={value!r}", allowed=allowed, fix=did_you_mean(str(value), choices)
        )
    return value


def check_side(name: str, side: Any) -> str:
    """Return ``side`` if it is ``"left"`` or ``"right"``; raise TokenizerError otherwise."""
    if side not in ("left", "right"):
        raise TokenizerError(f"{name}={side!r}", allowed="'left' or 'right'")
    return str(side)
