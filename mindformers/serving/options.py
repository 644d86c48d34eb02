"""From a request's fields to what the engine is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mindformers.generation.request import Constraint, Request
from mindformers.serving.errors import ApiError
from mindformers.serving.fields import AnswerFields
from mindformers.serving.service import Service

_SEEDS = 2**64  # OpenAI's are signed, the engine's are not
_SAME_NAMES = ("repetition_penalty", "presence_penalty", "frequency_penalty")


def check_answers(service: Service, body: AnswerFields, prompts: int = 1) -> None:
    """Pass a request whose answers are no more, and not otherwise sent, than they may be.

    Raises:
        ApiError: 400.
    """
    limits = service.settings.limits
    wanted = prompts * body.num_answers
    if wanted > limits.max_answers:
        raise ApiError(
            400, f"n: {wanted} answers; a request may have {limits.max_answers}", param="n"
        )
    if len(body.stops) > limits.max_stop:
        raise ApiError(
            400,
            f"stop: {len(body.stops)} strings; a request may have {limits.max_stop}",
            param="stop",
        )
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options: needs stream: true", param="stream_options")


def engine_request(
    service: Service,
    body: AnswerFields,
    prompt: list[int],
    *,
    max_tokens: int | None,
    logprobs: int | None,
    constraint: Callable[[], Constraint] | None = None,
    shown: tuple[str, ...] = (),
) -> Request:
    """Return the request of one prompt.

    Args:
        service: Gives defaults and limits.
        body: How answers are to be chosen.
        prompt: Ids.
        max_tokens: Tokens an answer may have; None: the server's default. What does not fit the model
            is cut off.
        logprobs: As ``Request``'s.
        constraint: As ``Request``'s.
        shown: As ``Request``'s.

    Raises:
        ApiError: 400, if the prompt or a field cannot be used.
        GenerationError: If a setting cannot be used.
    """
    limits = service.settings.limits
    wanted = limits.default_max_tokens if max_tokens is None else max_tokens
    room = _room(service, prompt)
    return Request(
        prompt=prompt,
        config=service.defaults.merged(
            max_new_tokens=min(room, wanted), **_choosing(service, body), **_bias(service, body)
        ),
        seed=None if body.seed is None else body.seed % _SEEDS,
        num_answers=body.num_answers,
        timeout=limits.request_timeout,
        logprobs=logprobs,
        constraint=constraint,
        shown=shown,
    )


def _room(service: Service, prompt: list[int]) -> int:
    """Return how many tokens an answer to a prompt can have."""
    if not prompt:
        raise ApiError(400, "the prompt has no tokens", param="prompt")
    room = service.engine.max_length - len(prompt)
    if room < 1:
        raise ApiError(
            400,
            f"the prompt has {len(prompt)} tokens; the model holds {service.engine.max_length} with "
            "the answer. Shorten it, or leave earlier messages out",
            code="context_length_exceeded",
        )
    return room


def _choosing(service: Service, body: AnswerFields) -> dict[str, Any]:
    """Return the settings a request names; temperature or top_p mean drawing, 0 means not."""
    settings: dict[str, Any] = {
        name: value for name in _SAME_NAMES if (value := getattr(body, name)) is not None
    }
    if body.top_k is not None:
        settings["top_k"] = min(body.top_k, service.engine.vocab_size)  # more keeps no more
    if body.min_tokens is not None:
        settings["min_new_tokens"] = body.min_tokens
    if body.stops:
        settings["stop_strings"] = body.stops
    if body.temperature == 0:
        return {**settings, "do_sample": False}
    drawing = {n: v for n in ("temperature", "top_p") if (v := getattr(body, n)) is not None}
    return {**settings, **drawing, **({"do_sample": True} if drawing else {})}


def _bias(service: Service, body: AnswerFields) -> dict[str, Any]:
    if not body.logit_bias:
        return {}
    size = len(service.tokenizer)
    bias = {}
    for name, value in body.logit_bias.items():
        if not (name.isascii() and name.isdigit() and len(name) < 10 and int(name) < size):
            raise ApiError(
                400, f"logit_bias: {name[:32]!r} is no token id; allowed: 0 to {size - 1}",
                param="logit_bias",
            )  # fmt: skip
        bias[int(name)] = value
    return {"logit_bias": bias}
