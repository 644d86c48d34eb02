"""Weights of a Hugging Face directory to ours, and split weights of ours to fused ones."""

from __future__ import annotations

from pathlib import Path

from mindformers.checkpoint.concat import concat_files
from mindformers.checkpoint.dtypes import weight_type
from mindformers.checkpoint.export import ExportOptions
from mindformers.errors import CheckpointError
from mindformers.logger import logger
from mindformers.models.glm2.conversion import open_conversion
from mindformers.models.glm2.glm2_weights import NAMES, file_metadata, layout_named

DEFAULT_DTYPE = "fp32"  # upstream's converter writes float32 unless told otherwise


def convert_pt_to_ms(
    input_path: str | Path,
    output_path: str | Path,
    dtype: str | None = None,
    *,
    config: str | Path | None = None,
    options: ExportOptions | None = None,
) -> Path:
    """Convert a Hugging Face directory, in either layout, to our names.

    Args:
        input_path: The directory, or one ``.safetensors`` file of it.
        output_path: A ``.ckpt`` or ``.safetensors`` file, or a folder, which gets ``config.json``,
            the generation settings and the tokenizer too.
        dtype: ``fp32``, ``fp16`` or ``bf16``; None: fp32.
        config: YAML of a run; its ``qkv_concat`` and ``mlp_concat`` choose which weights are fused.
            None: the input's ``config.json``, all fused.
        options: How to write.

    Returns:
        The output path.

    Raises:
        MindFormersError: If the input is no such directory, disagrees with the YAML, or the output
            may not be written.
    """
    kind = weight_type(dtype or DEFAULT_DTYPE)
    with open_conversion(input_path, output_path, config, options or ExportOptions()) as work:
        style = work.mapped.layout.style
        if style == "mindformers":
            raise CheckpointError(
                "has MindFormers' names already",
                where=str(input_path),
                allowed="a Hugging Face directory",
                fix="give --reversed to convert back, --concat to fuse split weights",
            )
        target = layout_named("mindformers", work.settings)
        tensors = work.tensors(work.stored(target), kind)
        work.check_tokenizer()
        work.settings.update(param_init_type=kind.name)
        logger.info(
            "converting %s (%s layout) to %s, %s", input_path, style, work.output, kind.name
        )
        metadata = file_metadata(target, work.settings)
        return work.write(tensors, metadata, work.settings.save_pretrained)


def convert_to_qkv_concat(
    input_path: str | Path, output_path: str | Path, *, options: ExportOptions | None = None
) -> Path:
    """Fuse wq, wk, wv to query_key_value and dense_left, dense_right to dense_h_to_4h.

    Args:
        input_path: One file of ours with split weights, or a folder of ``rank_X`` folders, whose
            ranks are fused each by itself: ``[q_r | k_r | v_r]`` and ``[gate_r | up_r]``.
        output_path: A file; for rank folders a folder, which gets ``rank_X/checkpoint_X.*``.
        options: How to write.

    Returns:
        The output path.

    Raises:
        CheckpointError: If the input is a Hugging Face directory or holds nothing to fuse.
    """
    return concat_files(
        Path(input_path),
        output_path,
        NAMES.fusions("mindformers"),
        options or ExportOptions(),
        known=NAMES.detect,
    )
