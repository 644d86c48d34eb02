"""The fields of ``GenerationConfig``: each one's default and the check its values must pass."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mindformers.errors import GenerationError

# Below this a draw is the likeliest token in all but name, and logits / temperature would overflow.
MIN_TEMPERATURE = 1e-5
MAX_STOP_CHARACTERS = 65_536  # of all stop strings together


@dataclass(frozen=True)
class Field:
    """One setting.

    Args:
        default: Value of a config that does not mention it.
        check: Takes a value, returns it in its one plain form; ``ValueError`` if refused.
        allowed: What ``check`` takes, in words.
    """

    default: Any
    check: Callable[[Any], Any]
    allowed: str

    def checked(self, name: str, value: Any) -> Any:
        """Return ``value`` in its plain form.

        Raises:
            GenerationError: If it is refused; names the field, the value and what is allowed.
        """
        try:
            return self.check(value)
        except (ValueError, TypeError) as error:
            shown = repr(value)
            shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
            found = str(error) or f"found {shown}"
            raise GenerationError(found, where=name, allowed=self.allowed) from error


def whole_number(value: Any) -> int:
    """Return an int of Python or NumPy as ``int``; a bool, a text or a float is refused."""
    if isinstance(value, bool):
        raise ValueError
    try:
        return operator.index(value)
    except TypeError as error:
        raise ValueError from error


def _whole(low: int, optional: bool = False) -> Callable[[Any], int | None]:
    def check(value: Any) -> int | None:
        if value is None and optional:
            return None
        number = whole_number(value)
        if number < low:
            raise ValueError
        return number

    return check


def _number(is_allowed: Callable[[float], bool]) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise ValueError
        number = float(value)
        if not math.isfinite(number) or not is_allowed(number):
            raise ValueError
        return number

    return check


def _flag(value: Any) -> bool:
    if type(value).__name__ not in ("bool", "bool_"):
        raise ValueError
    return bool(value)


def _neutral(neutral: Any, feature: str) -> Callable[[Any], Any]:
    """Take only the value that leaves a feature off which we do not have."""

    def check(value: Any) -> Any:
        if value != neutral:
            raise ValueError(f"found {value!r}, but {feature} is not available")
        return neutral

    return check


def _id_list(value: Any) -> list[int]:
    if value is None:
        return []
    if hasattr(value, "tolist"):
        value = value.tolist()
    items = value if isinstance(value, (list, tuple, set, frozenset)) else [value]
    ids = [whole_number(item) for item in items]
    if any(number < 0 for number in ids):
        raise ValueError
    return list(dict.fromkeys(ids))


def _id_lists(value: Any) -> list[list[int]]:
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(word, (list, tuple)) for word in value
    ):
        raise ValueError
    words = [[whole_number(number) for number in word] for word in value]
    if any(not word or min(word) < 0 for word in words):
        raise ValueError
    return words


def _bias(value: Any) -> dict[int, float]:
    """Take a dictionary by id; JSON has its keys as texts."""
    if not isinstance(value, Mapping):
        raise ValueError
    bias: dict[int, float] = {}
    for key, added in value.items():
        is_text = isinstance(key, str) and key.isascii() and key.isdigit()
        number = int(key) if is_text else whole_number(key)
        if number < 0:
            raise ValueError
        bias[number] = _number(lambda _: True)(added)
    return bias


def _early_stopping(value: Any) -> bool | str:
    return value if value == "never" else _flag(value)


def _string_list(value: Any) -> list[str]:
    if value is None:
        return []
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        raise ValueError
    if "" in items:
        raise ValueError("found an empty stop string, which would end every answer at once")
    total = sum(map(len, items))
    if total > MAX_STOP_CHARACTERS:
        raise ValueError(f"found {len(items)} stop strings of {total} characters")
    return list(dict.fromkeys(items))


_ABOVE_0 = "a whole number, 1 or above"
_FROM_0 = "a whole number, 0 or above"
_OPTIONAL_ID = "null or a token id, 0 or above"
_BOOL = "true or false"
_UNUSED = "read for compatibility: has no effect while parallel_decoding is false"

FIELDS: dict[str, Field] = {
    "max_length": Field(20, _whole(1), f"{_ABOVE_0} (tokens of prompt and answer)"),
    "max_new_tokens": Field(None, _whole(1, True), f"null or {_ABOVE_0} (tokens of the answer)"),
    "min_length": Field(0, _whole(0), f"{_FROM_0} (tokens of prompt and answer)"),
    "min_new_tokens": Field(None, _whole(0, True), f"null or {_FROM_0} (tokens of the answer)"),
    "num_beams": Field(1, _whole(1), f"{_ABOVE_0}; 1 is no search"),
    "num_return_sequences": Field(1, _whole(1), f"{_ABOVE_0} (answers to each prompt)"),
    "length_penalty": Field(1.0, _number(lambda _: True), "a finite number; above 0 favours long"),
    "early_stopping": Field(False, _early_stopping, 'true, false or "never"'),
    "do_sample": Field(False, _flag, _BOOL),
    "use_past": Field(False, _flag, _BOOL),
    "temperature": Field(
        1.0, _number(lambda t: t >= 0), "a finite number, 0 (take the likeliest token) or above"
    ),
    "top_k": Field(50, _whole(0), "0 (off) or a whole number of tokens to keep"),
    "top_p": Field(1.0, _number(lambda p: 0 <= p <= 1), "0 (keep one token) to 1 (off)"),
    "min_p": Field(0.0, _number(lambda p: 0 <= p <= 1), "0 (off) to 1 (keep the likeliest)"),
    "repetition_penalty": Field(1.0, _number(lambda p: p > 0), "a finite number above 0; 1 is off"),
    "presence_penalty": Field(0.0, _number(lambda _: True), "a finite number; 0 is off"),
    "frequency_penalty": Field(0.0, _number(lambda _: True), "a finite number; 0 is off"),
    "logit_bias": Field(
        {}, _bias, "token ids, each 0 or above, with what is added to their logits"
    ),
    "bad_words_ids": Field([], _id_lists, "a list of lists of token ids, none empty"),
    "encoder_repetition_penalty": Field(
        1.0, _neutral(1.0, "an encoder's repetition penalty"), "1.0"
    ),
    "renormalize_logits": Field(False, _flag, _BOOL),
    "return_dict_in_generate": Field(False, _flag, _BOOL),
    "output_scores": Field(False, _flag, _BOOL),
    "output_logits": Field(False, _flag, _BOOL),
    "pad_token_id": Field(None, _whole(0, True), _OPTIONAL_ID),
    "bos_token_id": Field(None, _whole(0, True), _OPTIONAL_ID),
    "eos_token_id": Field([], _id_list, "a token id or a list of them, each 0 or above"),
    "stop_strings": Field(
        [],
        _string_list,
        f"a text or a list of texts, none empty, {MAX_STOP_CHARACTERS} characters in all",
    ),
    "tool_call_token_id": Field(None, _whole(0, True), _OPTIONAL_ID),
    "allowed_vocab_size": Field(None, _whole(1, True), f"null or {_ABOVE_0} (ids below it)"),
    "prompt_lookup_num_tokens": Field(
        None, _whole(1, True), f"null or {_ABOVE_0} (tokens guessed at a time, at most)"
    ),
    "max_matching_ngram_size": Field(8, _whole(1), f"{_ABOVE_0} (tokens compared)"),
    "num_assistant_tokens": Field(5, _whole(1), f"{_ABOVE_0} (tokens guessed at a time, at most)"),
    "parallel_decoding": Field(False, _neutral(False, "lookahead decoding"), "false"),
    "window_size": Field(5, _whole(1), f"{_ABOVE_0}; {_UNUSED}"),
    "level": Field(5, _whole(1), f"{_ABOVE_0}; {_UNUSED}"),
    "guess_set_size": Field(3, _whole(1), f"{_ABOVE_0}; {_UNUSED}"),
}
