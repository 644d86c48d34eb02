"""Predict: the recipe, one step a line."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mindformers.checkpoint.atomic import require_writable, write_text
from mindformers.config.run_config import RunConfig
from mindformers.errors import DataError
from mindformers.logger import logger
from mindformers.parallel.runtime import launched_rank
from mindformers.tasks import build
from mindformers.tasks.adapters import adapters_of, answer_with, without_adapters
from mindformers.tasks.assistant import open_assistant
from mindformers.tasks.pipeline import TextGenerationPipeline

RESULT_FILE = "text_generation_result.txt"  # upstream's name
_PATH = re.compile(r"\S*/\S*|\S+\.(txt|jsonl?|md)")  # what was perhaps meant as one


def predict(
    config: RunConfig, *, network: Any = None, tokenizer: Any = None, **settings: Any
) -> list[dict[str, list[str]]]:
    """Answer prompts; each is what a user says, and the chat template is applied.

    Args:
        config: The run's settings; ``input_data`` holds the prompts, ``adapter_id`` the adapters.
        network: A network with weights; None: the one the settings describe.
        tokenizer: Its tokenizer; None: the one the settings describe.
        **settings: Fields of ``GenerationConfig`` for this call; ``seed``.

    Returns:
        One ``{"text_generation_text": [answer]}`` per prompt; also written to ``save_file``.
    """
    prompts, target = read_prompts(config.input_data), Path(config.save_file or RESULT_FILE)
    is_first = launched_rank() == 0  # processes that share the network have the same answers
    if is_first:
        require_writable(target)
    weights = build.named_weights(config) if network is None else ""
    build.open_output(config)
    tokenizer = build.build_tokenizer(config) if tokenizer is None else tokenizer
    adapters = adapters_of(config, len(prompts))
    if network is None:
        build.check_tokenizer(tokenizer, build.network_settings(config))
        network = (
            build.open_network(without_adapters(config), weights)
            if adapters
            else build.open_text_model(config, weights)
        )
    if config.assistant_model:
        settings["assistant_model"] = open_assistant(config, tokenizer)
    pipeline = TextGenerationPipeline(network, tokenizer)

    def respond(asked: list[str]) -> list[dict[str, list[str]]]:
        return pipeline(
            asked,
            batch_size=config.predict_batch_size,
            apply_chat_template=True,
            **{"seed": config.seed, **settings},
        )

    answers = answer_with(network, adapters, prompts, respond) if adapters else respond(prompts)
    if is_first:
        save_answers(prompts, answers, target)
    return answers


def save_answers(
    prompts: Sequence[str], answers: Sequence[dict[str, list[str]]], target: Path
) -> None:
    """Write the answers to prompts as JSON, and say them."""
    for prompt, answer in zip(prompts, answers, strict=True):
        logger.info("%s -> %s", prompt, answer["text_generation_text"][0])
    logger.info("output result is: %s", answers)
    path = write_text(target, json.dumps(answers, ensure_ascii=False, indent=1) + "\n")
    logger.info("output result is saved at: %s", path)


def read_prompts(input_data: str | Sequence[str]) -> list[str]:
    r"""Return the prompts that ``--predict_data`` names.

    Args:
        input_data: Texts, or paths of UTF-8 files with one prompt per line (``\n`` written out is a
            newline; empty lines are passed over).

    Raises:
        DataError: If there is none, or a file cannot be read.
    """
    prompts: list[str] = []
    for item in [input_data] if isinstance(input_data, str) else input_data:
        if len(item) < 1024 and "\n" not in item and Path(item).is_file():
            try:
                lines = Path(item).read_text(encoding="utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(f"cannot be read as UTF-8 text ({error})", where=item) from error
            prompts += [line.replace("\\n", "\n") for line in lines if line.strip()]
        elif item:
            if _PATH.fullmatch(item):
                logger.warning(
                    "--predict_data: there is no file %s; it is answered as a text", item
                )
            prompts.append(item)
    if not prompts:
        raise DataError(
            "there is nothing to answer",
            where="--predict_data",
            fix="give a text, or a file of one prompt per line",
        )
    return prompts
