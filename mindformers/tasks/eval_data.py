"""The rows an evaluation reads: MindRecord files, or text and conversations."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from mindformers.config.run_config import RunConfig
from mindformers.errors import ConfigError
from mindformers.evaluation.evaluator import EvalData
from mindformers.evaluation.rows import rows_of
from mindformers.models.base_config import PretrainedConfig
from mindformers.parallel.agreement import require_same
from mindformers.tasks import build
from mindformers.tasks.token_rows import ROWS_OF_DATA, TEXT, token_rows


def eval_paths(config: RunConfig) -> list[str]:
    """Return the files the settings name."""
    section = config.eval_dataset
    named = section.data_loader.dataset_dir if section else ""
    return [each for each in ([named] if isinstance(named, str) else named) if each]


def reads_text(config: RunConfig) -> bool:
    """Tell whether the data is text, which a tokenizer has to read."""
    return any(Path(each).suffix in (*ROWS_OF_DATA, *TEXT) for each in eval_paths(config))


def open_eval_data(
    config: RunConfig, settings: PretrainedConfig, tokenizer: Any = None, dataset: Any = None
) -> EvalData:
    """Return the rows to evaluate on, in the order of the files; every one counts.

    Args:
        config: The run's settings.
        settings: The network's.
        tokenizer: To read text with.
        dataset: Data that is built already; None: the data the settings name.

    Raises:
        ConfigError: If no data is named.
        DataError: If it cannot be used with this network.
    """
    paths = eval_paths(config)
    if dataset is None and not paths:
        raise ConfigError(
            "no evaluation data is named", where="eval_dataset.data_loader.dataset_dir",
            fix="add --eval_dataset_dir with a MindRecord file, a folder of them, or conversations in .jsonl",
        )  # fmt: skip
    if dataset is None and reads_text(config):
        return _from_text(config, paths, settings, tokenizer)
    dataset = _from_mindrecord(config, settings) if dataset is None else dataset
    build.check_dataset(dataset, settings, "the evaluation data")
    require_same({"the evaluation data": str(dataset.fingerprint)})
    name = ", ".join(paths) or type(dataset).__name__
    return EvalData(name, dataset.num_rows, lambda: rows_of(dataset.batches(0)))


def _from_mindrecord(config: RunConfig, settings: PretrainedConfig) -> Any:
    from mindformers.dataset.causal_lm import CausalLanguageModelDataset  # not for text

    section = config.eval_dataset
    assert section is not None
    given = section.model_dump(exclude_none=True)
    given["data_loader"]["shuffle"] = False
    given |= {
        "drop_remainder": False,
        "batch_size": section.batch_size or config.runner_config.batch_size,
    }
    return CausalLanguageModelDataset(given, vocab_size=settings.vocab_size)


def _from_text(
    config: RunConfig, paths: list[str], settings: PretrainedConfig, tokenizer: Any
) -> EvalData:
    assert config.eval_dataset is not None
    most = config.eval_dataset.data_loader.num_samples
    rows = [row for path in paths for row in token_rows(path, tokenizer, settings.seq_length, most)]
    rows = rows[:most]
    content = hashlib.sha256(b"".join(row.ids.tobytes() + row.labels.tobytes() for row in rows))
    require_same({"the evaluation data": content.hexdigest()})
    return EvalData(", ".join(paths), len(rows), lambda: rows)
