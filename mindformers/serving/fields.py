"""What the bodies of all requests share: strict fields, and how an answer is to be chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from mindformers.errors import did_you_mean

MAX_ANSWERS = 128  # OpenAI's bound of n; a server's own limit is lower
MAX_TOP_LOGPROBS = 20
MAX_SEED = 2**63 - 1

Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[list[Text], Field(fail_fast=True)]
Ids = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(fail_fast=True)]


class Strict(BaseModel):
    """A part of a body: an unknown field is an error that names the nearest, and no type is guessed."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)
    # Fields that other servers have, and why they are refused here; null and [] say nothing.
    refused: ClassVar[Mapping[str, str]] = {}
    _names: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Keep the names once: a body may have very many parts."""
        cls._names = frozenset(each.alias or name for name, each in cls.model_fields.items())

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, data: Any) -> Any:
        names = cls._names
        if not isinstance(data, dict) or names.issuperset(data):
            return data
        known = {}
        for name, value in data.items():
            if name in names:
                known[name] = value
            elif name not in cls.refused:
                hint = did_you_mean(name[:64], names)
                _refuse(name, f"unknown field{f'; {hint}' if hint else ''}")
            elif value is not None and value != []:
                _refuse(name, cls.refused[name])
        return known


def either(allowed: str) -> WrapValidator:
    """Return a check of a field of several forms whose error names them all, not what each lacked."""

    def check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            raise PydanticCustomError(
                "no_alternative", "allowed: {allowed}", {"allowed": allowed}
            ) from error

    return WrapValidator(check)


def _refuse(name: str, reason: str) -> None:
    raise PydanticCustomError("unknown_field", "{reason}", {"name": name[:64], "reason": reason})


class StreamOptions(Strict):
    """What a stream tells besides the answer.

    Args:
        include_usage: End with a chunk that holds the tokens used.
        include_obfuscation: Accepted; nothing is padded here.
    """

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class AnswerFields(Strict):
    """How answers are chosen and when they end. What is left out is as the model's own files say.

    Args:
        model: The served model's name; may be left out.
        n: Answers wanted.
        max_tokens: Most tokens of an answer; what does not fit the model is cut off.
        min_tokens: Fewest tokens of an answer (not OpenAI's).
        temperature: 0 takes the likeliest token.
        top_p: Draw among the likeliest tokens that together have this probability.
        top_k: Draw among so many likeliest tokens, 0: all (not OpenAI's).
        repetition_penalty: Above 1: tokens there are already become less likely (not OpenAI's).
        presence_penalty: Subtracted from the score of each token the answer holds.
        frequency_penalty: The same for each time the answer holds it.
        logit_bias: Added to a token's score, by its id.
        stop: Texts that end an answer and are not part of it.
        seed: The same request with the same seed gives the same answer.
        stream: Send the answer as it is written.
        stream_options: Of a stream.
        user: Accepted without effect, as the following ones.
        metadata: As above.
        store: As above.
        service_tier: As above.
        safety_identifier: As above.
        prompt_cache_key: As above; the cache finds common beginnings by itself.
        prompt_cache_retention: As above.
        prompt_cache_options: As above.
    """

    model: str | None = None
    n: Annotated[int, Field(ge=1, le=MAX_ANSWERS)] | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    min_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    stop: Annotated[Text | Texts | None, either("a text or texts, none empty")] = None
    seed: Annotated[int, Field(ge=-MAX_SEED - 1, le=MAX_SEED)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, str] | None = None

    @property
    def stops(self) -> list[str]:
        """The stop strings as a list."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    @property
    def num_answers(self) -> int:
        """Answers of each prompt."""
        return self.n or 1

    @property
    def tells_usage(self) -> bool:
        """Whether a stream ends with the tokens used."""
        return bool(self.stream_options and self.stream_options.include_usage)
