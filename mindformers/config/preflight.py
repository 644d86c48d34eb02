"""What a run needs before anything heavy is built: its sections, and paths that exist."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mindformers.config.data import DatasetSection
from mindformers.config.inference import NO_ADAPTER
from mindformers.config.loader import Document
from mindformers.config.report import Problem, report
from mindformers.config.run_config import RunConfig
from mindformers.config.yaml_text import KeyPath

TRAINING_MODES = ("train", "finetune")
_VOCABULARY: KeyPath = ("processor", "tokenizer", "vocab_file")


def check_run(config: RunConfig, document: Document | None = None) -> None:
    """Refuse a run that cannot start, with all reasons in one report.

    Args:
        config: The settings; ``run_mode`` decides what is needed.
        document: Where the settings came from, for file and line.

    Raises:
        ConfigError: If a section is missing, or a path is missing, of the wrong kind or unreadable.
    """
    problems = list(_problems(config))
    if problems:
        raise report(problems, document or Document())


def _problems(config: RunConfig) -> Iterator[Problem]:
    if config.model is None:
        yield Problem(("model",), "the section is missing", fix="take a file of configs/glm4")
    if config.run_mode in TRAINING_MODES:
        yield from _training(config)
    elif config.run_mode in ("predict", "eval"):
        yield from _prediction(config)
    if config.run_mode == "eval" or (config.do_eval and config.run_mode in TRAINING_MODES):
        yield from _data(
            config.eval_dataset, "eval", "a MindRecord file, a folder of them, or .jsonl"
        )
    output = Path(config.output_dir)
    if output.exists() and not output.is_dir():
        yield Problem(("output_dir",), f"{output} is a file", "a folder, which may be missing")


def _training(config: RunConfig) -> Iterator[Problem]:
    if config.model is not None and getattr(config.model.network, "quantization", None):
        yield Problem(
            ("model", "model_config", "quantization"), "rounded weights cannot be trained",
            fix="leave it out, and give it when predicting",
        )  # fmt: skip
    yield from _weights(config)
    yield from _data(config.train_dataset, "train", "a data file or a folder of them")


def _data(section: DatasetSection | None, use: str, wanted: str) -> Iterator[Problem]:
    key: KeyPath = (f"{use}_dataset", "data_loader", "dataset_dir")
    named = [each.dataset_dir for each in section.data_loader.files] if section else []
    paths = [path for each in named for path in ([each] if isinstance(each, str) else each)]
    if not any(paths):
        kind = {"train": "training", "eval": "evaluation"}[use]
        yield Problem(key, f"no {kind} data is named", fix=f"add --{use}_dataset with its path")
        return
    for path in paths:
        yield from _missing(key, path, wanted)


def _prediction(config: RunConfig) -> Iterator[Problem]:
    yield from _weights(config)
    for name in dict.fromkeys(config.adapter_names):
        if name != NO_ADAPTER:
            yield from _missing(("adapter_id",), name, f"a folder of adapters, or {NO_ADAPTER}")
    tokenizer = config.processor.tokenizer if config.processor else None
    if tokenizer is not None and tokenizer.vocab_file:
        yield from _missing(_VOCABULARY, tokenizer.vocab_file, "tokenizer.model", is_file=True)
    if config.assistant_model:
        yield from _missing(("assistant_model",), config.assistant_model, "a model's folder")


def _weights(config: RunConfig) -> Iterator[Problem]:
    if not config.weights_path:
        return
    key: KeyPath = ("load_checkpoint",)
    if not config.load_checkpoint:
        key = ("model", "model_config", "checkpoint_name_or_path")
    yield from _missing(key, config.weights_path, "a folder or a file of weights")


def _missing(key: KeyPath, name: str, wanted: str, *, is_file: bool = False) -> Iterator[Problem]:
    path = Path(name)
    try:
        if not path.exists():
            yield Problem(key, f"{name} does not exist", wanted, "give the real path")
        elif is_file and path.is_dir():
            yield Problem(key, f"{name} is a folder", wanted)
        elif not os.access(path, os.R_OK):
            yield Problem(key, f"{name} cannot be read", wanted, "check its permissions")
    except (OSError, ValueError) as error:  # a name too long, or with a NUL
        yield Problem(key, f"{name!r:.80} is no usable path: {error.args[-1]}", wanted)
