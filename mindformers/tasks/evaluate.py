"""Evaluate: the recipe, one step a line."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mindformers.evaluation.metrics  # noqa: F401 -- registers them
from mindformers.checkpoint.atomic import require_writable, write_text
from mindformers.checkpoint.json_file import write_json
from mindformers.config.run_config import RunConfig
from mindformers.evaluation.answers import Answer
from mindformers.evaluation.evaluator import Evaluator
from mindformers.evaluation.progress import row_bar
from mindformers.logger import logger
from mindformers.parallel.runtime import launched_rank
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from mindformers.tasks import build
from mindformers.tasks.eval_data import open_eval_data, reads_text
from mindformers.version import __version__

RESULTS_FILE = "eval_results.json"
ANSWERS_FILE = "eval_answers.jsonl"


def evaluate(
    config: RunConfig, *, network: Any = None, tokenizer: Any = None, dataset: Any = None
) -> dict[str, float]:
    """Find out how well a network foresees and answers data.

    Args:
        config: The run's settings; ``eval_dataset`` names the data and ``metric`` what is reported.
        network: A network with weights; None: the one the settings describe.
        tokenizer: Its tokenizer; None: the one the settings describe, where one is needed.
        dataset: The data, an object like ``TrainDataset``; None: the data the settings name.

    Returns:
        The results by name, see ``Evaluator``; also written to ``save_file`` or
        ``<output_dir>/eval_results.json``.
    """
    began = time.monotonic()
    output_dir, is_first = build.open_output(config), launched_rank() == 0
    target = Path(config.save_file or output_dir / RESULTS_FILE)
    if is_first:
        require_writable(target)
    weights = build.named_weights(config) if network is None else ""
    if network is None:
        network = build.open_text_model(config, weights)
    evaluator = build_evaluator(config, network, tokenizer=tokenizer, dataset=dataset)
    rows = evaluator.data.num_rows
    with row_bar(rows * evaluator.num_passes, "evaluate", is_first) as on_rows:
        results = evaluator(on_rows)
    if is_first:
        seconds = round(time.monotonic() - began, 3)
        facts = {"checkpoint": weights, "data": evaluator.data.name, "rows": rows,
                 "seconds": seconds, "version": __version__}  # fmt: skip
        write_json(target, {"results": plain_numbers(results), **facts})
        write_answers(evaluator.answers, target.with_name(ANSWERS_FILE))
        logger.info(
            "%d rows of %s in %.1f s: %s", rows, evaluator.data.name, seconds, results_text(results)
        )
        logger.info("results are saved at: %s", target)
    return results


def while_training(
    config: RunConfig, network: Any, *, tokenizer: Any = None, dataset: Any = None
) -> list[Any]:
    """Return what evaluates a network between steps, as ``do_eval`` and the intervals say; or nothing.

    Raises:
        ConfigError: If no data is named, or a metric cannot be had in this run.
        DataError: If the data cannot be used with this network.
    """
    if not config.do_eval:
        return []
    evaluator = build_evaluator(config, network, tokenizer=tokenizer, dataset=dataset)
    data = evaluator.data
    logger.info("evaluation while training: %d rows of %s", data.num_rows, data.name)

    def find() -> dict[str, float]:
        results = evaluator(callback.go_on)
        if launched_rank() == 0:
            write_answers(evaluator.answers, Path(config.output_dir) / ANSWERS_FILE)
        return results

    from mindformers.training.eval_callback import EvalCallBack  # brings MindSpore

    callback = EvalCallBack(find, config.eval_step_interval, config.eval_epoch_interval)
    return [callback]


def build_evaluator(
    config: RunConfig, network: Any, *, tokenizer: Any = None, dataset: Any = None
) -> Evaluator:
    """Return what evaluates a network as the settings say.

    Raises:
        ConfigError: If no data is named, or a metric cannot be had in this run.
        DataError: If the data cannot be used with this network.
    """
    if tokenizer is None and (config.has_text_metrics or (dataset is None and reads_text(config))):
        tokenizer = build.build_tokenizer(config)
        build.check_tokenizer(tokenizer, network.config)
    return Evaluator(
        network,
        open_eval_data(config, network.config, tokenizer, dataset),
        [
            MindFormerRegister.get_cls(MindFormerModuleType.METRIC, each.type)()
            for each in config.metric
        ],
        tokenizer,
        batch_size=eval_batch_size(config),
        turns=config.eval_turns,
        settings={"seed": config.seed},
    )


def eval_batch_size(config: RunConfig) -> int:
    """Return the rows of a pass: those of the evaluation data, else of training."""
    own = config.eval_dataset.batch_size if config.eval_dataset else None
    return own or config.runner_config.batch_size


def plain_numbers(results: Mapping[str, float]) -> dict[str, float | None]:
    """Return results as JSON holds them; a number that is not finite is None."""
    return {name: value if math.isfinite(value) else None for name, value in results.items()}


def results_text(results: Mapping[str, float]) -> str:
    """Return ``loss 1.8342 | perplexity 6.2600 | ...``; numbers of things have no decimals."""
    return " | ".join(
        f"{name} {value}" if isinstance(value, int) else f"{name} {value:.4f}"
        for name, value in results.items()
    )


def write_answers(answers: list[Answer], path: Path) -> None:
    """Write answers one a line, each with its prompt and that of the data; nothing if there are none."""
    if answers:
        lines = (json.dumps(vars(each), ensure_ascii=False) + "\n" for each in answers)
        write_text(path, "".join(lines))
