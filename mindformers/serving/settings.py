"""What a server is started with: where it listens, who may ask, and how much one request may take."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields
from typing import Any

from mindformers.errors import ConfigError
from mindformers.generation.request import POOLINGS

_ORIGIN = re.compile(r"https?://[^\s/?#@]+")


MAX_MESSAGES = 10_000  # a longer list is not read to its end, whatever a server allows


def _limit(default: float, meaning: str, most: float = math.inf) -> Any:
    return field(default=default, metadata={"meaning": meaning, "most": most})


@dataclass(frozen=True)
class Limits:
    """The most that one request may be or take; beyond it the request is refused.

    Raises:
        ConfigError: If a limit is not above zero, or beyond what is ever read.
    """

    max_body_bytes: int = _limit(2 * 2**20, "bytes of a request's body")
    body_timeout: float = _limit(30.0, "seconds a body may take to arrive")
    max_json_depth: int = _limit(64, "levels of nesting in a body")
    max_messages: int = _limit(1024, "messages of a conversation", MAX_MESSAGES)
    max_answers: int = _limit(16, "answers of one request: its prompts times n")
    max_stop: int = _limit(16, "stop strings")
    max_inputs: int = _limit(2048, "inputs of one request for embeddings")
    default_max_tokens: int = _limit(2048, "tokens of an answer where a request names no number")
    request_timeout: float = _limit(600.0, "seconds from a request to the end of its answer")

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            most = each.metadata["most"]
            if not 0 < value <= most:
                up_to = "" if math.isinf(most) else f", up to {most}"
                raise ConfigError(
                    f"found {value}", where=f"--{each.name}", allowed=f"a number above 0{up_to}"
                )

    @classmethod
    def meanings(cls) -> dict[str, tuple[Any, str]]:
        """Return default and meaning of every limit, by name."""
        return {each.name: (each.default, each.metadata["meaning"]) for each in fields(cls)}


@dataclass(frozen=True)
class ServerSettings:
    """How to serve.

    Args:
        host: Address or name to listen at.
        port: 0: any free one.
        api_keys: Keys that open the server; none: it is open to whoever reaches it.
        allow_no_key: Listen beyond this machine without a key.
        cors_origins: Origins whose pages may call from a browser, as ``https://example.org``.
        drain_timeout: Seconds that running answers get after SIGTERM.
        prompt_lookup: Tokens guessed at a time from the text so far; None: as the model's own settings say.
        pooling: What becomes a text's embedding: the ``mean`` of its tokens' hidden states, or the ``last`` one.
        limits: Of every request.

    Raises:
        ConfigError: If an origin is none, every one is let in without a key, nothing is to be guessed, or there is
            no such pooling.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    allow_no_key: bool = False
    cors_origins: tuple[str, ...] = ()
    drain_timeout: float = 30.0
    prompt_lookup: int | None = None
    pooling: str = POOLINGS[0]
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise ConfigError(
                f"found {self.pooling!r}", where="--pooling", allowed=", ".join(POOLINGS)
            )
        if self.prompt_lookup is not None and self.prompt_lookup < 1:
            raise ConfigError(
                f"found {self.prompt_lookup}",
                where="--prompt_lookup",
                allowed="1 or more; without it nothing is guessed",
            )
        for origin in self.cors_origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ConfigError(
                    f"found {origin!r}",
                    where="--cors_origin",
                    allowed="a page's origin without a path, as https://example.org, or *",
                )
        if "*" in self.cors_origins and not self.api_keys:
            raise ConfigError(
                "* lets every page that a browser shows here use this server",
                where="--cors_origin",
                fix="name the origins, or give the server a key",
            )
