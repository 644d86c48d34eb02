"""Our weights, in whatever form, to a Hugging Face directory."""

from __future__ import annotations

from pathlib import Path

from mindformers.checkpoint.dtypes import weight_type
from mindformers.checkpoint.export import ExportOptions
from mindformers.checkpoint.json_file import write_json
from mindformers.errors import CheckpointError, ConfigError
from mindformers.logger import logger
from mindformers.models.glm2.conversion import open_conversion, refuse_ckpt
from mindformers.models.glm2.glm2_weights import PUBLISHED, file_metadata
from mindformers.models.glm2.hf_config import config_to_hf


def convert_ms_to_pt(
    input_path: str | Path,
    output_path: str | Path,
    dtype: str | None = None,
    *,
    config: str | Path | None = None,
    layout: str = "glm",
    options: ExportOptions | None = None,
) -> Path:
    """Convert our weights to a Hugging Face directory.

    Optimizer state, caches and counters of a training checkpoint are left out.

    Args:
        input_path: A ``.ckpt`` or ``.safetensors`` file, a folder we wrote, or a step folder.
        output_path: A folder (weights, ``config.json``, ``generation_config.json`` with every id
            that ends an answer, tokenizer), or one ``.safetensors`` file.
        dtype: ``fp32``, ``fp16`` or ``bf16``; None: each tensor's own type.
        config: YAML of a run; None: the ``config.json`` beside the input.
        layout: ``glm`` for the Hugging Face library, ``chatglm`` as the original repositories.
        options: How to write.

    Returns:
        The output path.

    Raises:
        MindFormersError: If the input is not ours, disagrees with the configuration, or the output
            may not be written.
    """
    options = options or ExportOptions()
    refuse_ckpt("a Hugging Face directory", output_path, options)
    if layout not in PUBLISHED:
        raise ConfigError(f"layout {layout!r}", allowed=" or ".join(PUBLISHED))
    target = PUBLISHED[layout]
    with open_conversion(input_path, output_path, config, options) as work:
        style = work.mapped.layout.style
        if style != "mindformers":
            raise CheckpointError(
                f"has Hugging Face names ({style} layout) already",
                where=str(input_path),
                allowed="weights of MindFormers",
                fix="leave --reversed out to convert to MindFormers",
            )
        tensors = work.tensors(work.stored(target), weight_type(dtype) if dtype else None)
        work.check_tokenizer()
        kind = tensors[0].dtype.name
        described = config_to_hf(work.settings, layout, kind)
        logger.info("converting %s to %s (%s layout, %s)", input_path, work.output, layout, kind)
        return work.write(
            tensors,
            file_metadata(target, work.settings),
            lambda folder: write_json(folder / "config.json", described),
        )
