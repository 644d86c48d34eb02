"""Quantize: round the weights, and say what it costs on real text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mindformers.checkpoint.export import ExportOptions
from mindformers.checkpoint.loading import open_weights
from mindformers.errors import ConfigError
from mindformers.evaluation.rows import TokenRow
from mindformers.evaluation.scoring import open_scorer, score_rows
from mindformers.logger import logger
from mindformers.models.auto import AutoModel, AutoTokenizer
from mindformers.models.glm2.convert_quantized import QuantizeOptions, convert_quantized
from mindformers.models.glm2.glm2_config import ChatGLM2Config
from mindformers.models.glm2.glm2_in_files import GlmInFiles
from mindformers.models.glm2.hf_config import network_config
from mindformers.tasks.token_rows import token_rows
from mindformers.tokenizer.pretrained_files import vocabulary_in

CALIBRATION_ROWS = 64
Rows = Sequence[TokenRow]


@dataclass(frozen=True)
class QuantizeData:
    """Files of text a conversion uses.

    Attributes:
        calibration: To round with; None: to nearest.
        evaluation: To measure on, before and after; None: nothing is measured.
        length: Most ids of a row.
    """

    calibration: str | Path | None = None
    evaluation: str | Path | None = None
    length: int = 512


def quantize(
    input_path: str | Path,
    output_path: str | Path,
    wanted: QuantizeOptions,
    data: QuantizeData | None = None,
    *,
    config: str | Path | None = None,
    options: ExportOptions | None = None,
) -> dict[str, float]:
    """Write a directory of rounded weights.

    Args:
        input_path: A model directory, or a file of weights.
        output_path: A folder, or a ``.safetensors`` file.
        wanted: What to round, and how.
        data: Text to round with and to measure on.
        config: YAML of a run; None: the ``config.json`` beside the input.
        options: How to write.

    Returns:
        Perplexities: ``before`` and ``after``; empty where there is no text to measure on.

    Raises:
        MindFormersError: If a file cannot be used, or the output may not be written.
    """
    data, options = data or QuantizeData(), options or ExportOptions()
    tokenizer = _tokenizer(input_path, options) if data.calibration or data.evaluation else None
    length = min(data.length, _settings(input_path, config).seq_length)
    if data.calibration:
        rows = token_rows(data.calibration, tokenizer, length, CALIBRATION_ROWS)
        wanted = replace(wanted, rows=[row.ids for row in rows])
    measured = token_rows(data.evaluation, tokenizer, length) if data.evaluation else []
    convert_quantized(input_path, output_path, wanted, config=config, options=options)
    return _compare(Path(input_path), Path(output_path), measured, config) if measured else {}


def _compare(before: Path, after: Path, rows: Rows, config: str | Path | None) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, path in (("before", before), ("after", after)):
        settings = _settings(path, config)
        settings.update(quantization=None)
        found[name] = score_rows(open_scorer(open_to_measure(settings, path)), rows).perplexity
        logger.info("perplexity of %s on %d rows: %.4f", path, len(rows), found[name])
    return found


def open_to_measure(config: ChatGLM2Config, path: Path) -> Any:
    """Return the model of ``path``: its weights in their files, or the network where they cannot stay there.

    Raises:
        CheckpointError: If the files are damaged or hold another network's weights.
    """
    model = GlmInFiles.open(config, path)
    if model is None:
        model = AutoModel.from_config(config, download_checkpoint=False)
        model.load_checkpoint(path)
    return model


def _settings(path: str | Path, config: str | Path | None) -> ChatGLM2Config:
    with open_weights(path, verify=False) as source:
        return network_config(source.config(), source.config_where(), config)


def _tokenizer(input_path: str | Path, options: ExportOptions) -> Any:
    path = Path(options.tokenizer or input_path)
    folder = path if path.is_dir() or options.tokenizer else path.parent
    if not (folder.is_file() or vocabulary_in(folder)):
        raise ConfigError(
            f"no tokenizer.model and no tokenizer.json in {folder}, to read text with",
            where="--tokenizer", fix="give the model's",
        )  # fmt: skip
    return AutoTokenizer.from_pretrained(folder)
