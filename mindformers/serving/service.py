"""What every request of a server has to do with: the engine, the tokenizer, the settings, the counters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from starlette.requests import Request

from mindformers.generation.config import GenerationConfig
from mindformers.generation.constraint import GrammarCompiler
from mindformers.generation.request import Engine
from mindformers.serving.errors import ApiError
from mindformers.serving.feed import Bell
from mindformers.serving.metrics import Metrics
from mindformers.serving.settings import ServerSettings
from mindformers.tokenizer.tool_calls import dialect_of


@dataclass
class Service:
    """One served model.

    Args:
        name: By which requests call it.
        engine: Answers.
        tokenizer: The model's, with its chat template.
        defaults: How answers are chosen where a request does not say; its end tokens hold for all.
        settings: Of the server.
    """

    name: str
    engine: Engine
    tokenizer: Any
    defaults: GenerationConfig
    settings: ServerSettings = field(default_factory=ServerSettings)
    created: int = field(default_factory=lambda: Service.now())
    is_stopping: bool = False
    running: int = 0  # requests that wait for an answer or get one
    is_full: Callable[[], bool] = bool  # whether more requests are under way than there may be

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.engine)
        self._bell: Bell | None = None

    def check_model(self, name: str | None) -> None:
        """Pass a request for this model.

        Raises:
            ApiError: 404, if it names another.
        """
        if name is not None and name != self.name:
            raise ApiError(
                404,
                f"there is no model {name[:128]!r} here; this server has {self.name!r}",
                param="model",
                code="model_not_found",
            )

    @cached_property
    def dialect(self) -> str:
        """How the model writes calls of tools."""
        return dialect_of(self.tokenizer)

    @cached_property
    def grammars(self) -> GrammarCompiler:
        """What holds answers to a form; made when it is first asked for, and its memory is bounded."""
        return GrammarCompiler(self.tokenizer, self.engine.vocab_size)

    @property
    def bell(self) -> Bell:
        """What wakes the event loop that asks for it."""
        if self._bell is None or self._bell.loop is not asyncio.get_running_loop():
            self._bell = Bell()
        return self._bell

    @staticmethod
    def now() -> int:
        """Return the time that an answer says it was made."""
        return int(time.time())


def service_of(request: Request) -> Service:
    """Return the service a request came to."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service
