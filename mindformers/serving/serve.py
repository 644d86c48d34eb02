"""Serve: the recipe, one step a line."""

from __future__ import annotations

import gc
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mindformers.errors import ConfigError
from mindformers.generation.scheduler import EngineSettings
from mindformers.generation.serving_engine import open_engine
from mindformers.logger import logger
from mindformers.models.auto import AutoTokenizer
from mindformers.models.text_model import turn_ends
from mindformers.serving.address import claim_address, is_loopback, url_of
from mindformers.serving.app import build_app
from mindformers.serving.lifecycle import Server
from mindformers.serving.service import Service
from mindformers.serving.settings import ServerSettings
from mindformers.tasks.open_model import open_model

# Seconds after which a thread gives Python up to another: the engine's steps must not keep the streams waiting.
_TURN = 0.001


def serve(
    model_dir: str | Path,
    settings: ServerSettings,
    *,
    name: str | None = None,
    cache_tokens: int | None = None,
    engine: EngineSettings | None = None,
    **model: Any,
) -> None:
    """Serve a model until SIGTERM or Ctrl-C.

    Args:
        model_dir: What ``AutoModel`` and ``AutoTokenizer`` take.
        settings: Of the server.
        name: By which requests call the model; None: the folder's.
        cache_tokens: Tokens the cache of keys and values has room for; None: as memory allows.
        engine: What the engine may take at once; its ``num_blocks`` follows from ``cache_tokens``.
        **model: ``device_target`` and ``quantization``, as ``open_model`` takes them.

    Raises:
        MindFormersError: If the address, the model or a setting cannot be used.
    """
    with claim_address(settings.host, settings.port) as listener:
        is_local = is_loopback(listener)
        if not (is_local or settings.api_keys or settings.allow_no_key):
            raise ConfigError(
                f"{settings.host} is reached from other machines, and there is no API key",
                where="--host",
                fix="give --api_key_file, or --allow_no_key to let everybody in",
            )
        service = open_service(
            model_dir, settings, name=name, cache_tokens=cache_tokens, engine=engine, **model
        )
        logger.info(
            "serving %s at %s; %s",
            service.name,
            url_of(listener),
            "an API key is needed" if settings.api_keys else "no API key is needed",
        )
        sys.setswitchinterval(_TURN)
        gc.freeze()  # what is there by now stays: a search for garbage holds the streams up for less
        Server(build_app(service, is_local=is_local), service).run([listener])


def open_service(
    model_dir: str | Path,
    settings: ServerSettings,
    *,
    name: str | None = None,
    cache_tokens: int | None = None,
    engine: EngineSettings | None = None,
    **model: Any,
) -> Service:
    """Return the service of a model directory; arguments as for ``serve``."""
    network = open_model(model_dir, **model)
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    limits = engine or EngineSettings()
    if cache_tokens is not None:
        limits = replace(limits, num_blocks=_blocks(cache_tokens, network.config.block_size))
    return Service(
        name=name or Path(model_dir).resolve().name,
        engine=open_engine(network, tokenizer, **asdict(limits)),
        tokenizer=tokenizer,
        defaults=network.generation_defaults().merged(
            eos_token_id=turn_ends(network, tokenizer),
            allowed_vocab_size=len(tokenizer),
            prompt_lookup_num_tokens=settings.prompt_lookup,
        ),
        settings=settings,
    )


def _blocks(cache_tokens: int, block_size: int) -> int:
    if cache_tokens < block_size:
        raise ConfigError(
            f"found {cache_tokens}",
            where="--cache_tokens",
            allowed=f"{block_size} or more: the tokens of a block",
        )
    return cache_tokens // block_size
