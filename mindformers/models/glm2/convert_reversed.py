"""Our weights, in whatever form, to a Hugging Face directory."""

from __future__ import annotations

from pathlib import Path

from mindformers.checkpoint.dtypes import weight_type
from mindformers.checkpoint.export import (
    ExportOptions,
    carry_files,
    check_output_path,
    export,
    is_folder,
)
from mindformers.checkpoint.json_file import write_json
from mindformers.checkpoint.loading import open_weights
from mindformers.checkpoint.transfer import tensors_in_layout
from mindformers.errors import CheckpointError, ConfigError
from mindformers.logger import logger
from mindformers.models.glm2.glm2_weights import (
    PUBLISHED,
    file_metadata,
    map_source,
    stored_tensors,
)
from mindformers.models.glm2.hf_config import (
    config_to_hf,
    generation_settings,
    is_tied,
    network_config,
)
from mindformers.models.glm2.tokenizer_choice import check_vocabulary, describe_tokenizer


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
    if options.output_format == "ckpt" or Path(output_path).suffix == ".ckpt":
        raise ConfigError("a Hugging Face directory as .ckpt", allowed="safetensors")
    if layout not in PUBLISHED:
        raise ConfigError(f"layout {layout!r}", allowed=" or ".join(PUBLISHED))
    output = check_output_path(output_path, options)
    with open_weights(input_path, options.verify) as source:
        content = source.config()
        settings = network_config(content, source.config_where(), config)
        mapped = map_source(settings, source.shapes, tied=is_tied(content), where=str(input_path))
        if mapped.layout.style != "mindformers":
            raise CheckpointError(
                f"has Hugging Face names ({mapped.layout.style} layout) already",
                where=str(input_path),
                allowed="weights of MindFormers",
                fix="leave --reversed out to convert to MindFormers",
            )
        tensors = tensors_in_layout(
            stored_tensors(settings, PUBLISHED[layout]),
            mapped.places,
            source.blocks,
            dtype_of=lambda name: source.tensors[name].dtype,
            dtype=weight_type(dtype) if dtype else None,
        )
        if is_folder(output):
            check_vocabulary(Path(options.tokenizer or source.folder))
        stored_as = tensors[0].dtype.name
        described = config_to_hf(settings, layout, stored_as)

        def add_files(folder: Path) -> None:
            write_json(folder / "config.json", described)
            carry_files(source.folder, folder, generation_settings(settings), options.tokenizer)
            describe_tokenizer(folder, Path(options.tokenizer or source.folder))

        logger.info("converting %s to %s (%s layout, %s)", input_path, output, layout, stored_as)
        return export(
            output, tensors, options, file_metadata(PUBLISHED[layout], settings), add_files
        )
