"""Weights of a Hugging Face directory to ours, and split weights of ours to fused ones."""

from __future__ import annotations

from pathlib import Path

from mindformers.checkpoint.concat import concat_files
from mindformers.checkpoint.dtypes import weight_type
from mindformers.checkpoint.export import (
    ExportOptions, carry_files, export, may_be_in_weight_folder, output_path,
)  # fmt: skip
from mindformers.checkpoint.loading import open_weights
from mindformers.checkpoint.transfer import tensors_in_layout
from mindformers.errors import CheckpointError
from mindformers.models.glm2.glm2_weights import (
    NAMES, file_metadata, layout_named, map_source, stored_tensors,
)  # fmt: skip
from mindformers.models.glm2.hf_config import generation_settings, is_tied, network_config

# Endings of our split names -> ending of the fused one, from the one table of names.
FUSIONS = NAMES.fusions("mindformers")


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
        config: YAML of a run; its ``qkv_concat`` and ``mlp_concat`` choose the layout. None: the
            input's ``config.json``, fused.
        options: How to write.

    Returns:
        The output path.

    Raises:
        MindFormersError: If the input is no such directory, disagrees with the YAML, or the output
            may not be written.
    """
''' '''
