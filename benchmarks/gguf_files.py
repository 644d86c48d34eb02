"""Write the shared weights as GGUF files for llama.cpp. Runs in the rival's environment; see run.sh.

python -m benchmarks.gguf_files --config small --models .bench/models
"""

from __future__ import annotations

import argparse
import ctypes
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

from benchmarks.presets import EPS, SIZES, Size
from benchmarks.weights import read, write

# llama.h, enum llama_ftype
_FILE_TYPES = {"f16": 1, "q8_0": 7, "q4_0": 2}
DTYPES = ("f32", *_FILE_TYPES)


@llama_cpp.llama_log_callback
def _silent(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
    """Take the library's log; it would hide the figures."""


def silence() -> None:
    """Keep llama.cpp from logging."""
    llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))


def gguf_path(models: Path, config: str, dtype: str) -> Path:
    """Return where a size's GGUF file is."""
    return models / f"{config}-{dtype}.gguf"


def _describe(writer: gguf.GGUFWriter, config: str, size: Size) -> None:
    writer.add_name(config)
    writer.add_context_length(32768 + 256)
    writer.add_embedding_length(size.hidden)
    writer.add_feed_forward_length(size.ffn)
    writer.add_block_count(size.layers)
    writer.add_head_count(size.heads)
    writer.add_head_count_kv(size.groups)
    writer.add_layer_norm_rms_eps(EPS)
    writer.add_rope_dimension_count(size.head_size // 2)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(size.vocab)
    writer.add_tokenizer_model("none")
    writer.add_file_type(0)


def _add_tensors(writer: gguf.GGUFWriter, size: Size, tensors: dict[str, np.ndarray]) -> None:
    writer.add_tensor("token_embd.weight", tensors["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", tensors["model.norm.weight"])
    writer.add_tensor("output.weight", tensors["lm_head.weight"])
    one_to_one = {
        "attn_norm.weight": "input_layernorm.weight",
        "attn_output.weight": "self_attn.o_proj.weight",
        "ffn_norm.weight": "post_attention_layernorm.weight",
        "ffn_up.weight": "mlp.gate_up_proj.weight",
        "ffn_down.weight": "mlp.down_proj.weight",
    }
    for i in range(size.layers):
        theirs, ours = f"blk.{i}.", f"model.layers.{i}."
        for target, source in one_to_one.items():
            writer.add_tensor(theirs + target, tensors[ours + source])
        for kind in ("weight", "bias"):
            parts = [tensors[f"{ours}self_attn.{name}_proj.{kind}"] for name in "qkv"]
            writer.add_tensor(f"{theirs}attn_qkv.{kind}", np.concatenate(parts))


def write_f32(models: Path, config: str) -> Path:
    """Write the f32 file unless it is there."""
    target = gguf_path(models, config, "f32")
    if target.is_file():
        return target
    unfinished = target.with_suffix(".tmp")
    writer = gguf.GGUFWriter(unfinished, "chatglm")
    _describe(writer, config, SIZES[config])
    _add_tensors(writer, SIZES[config], read(write(models, config, "fp32")))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    unfinished.rename(target)
    return target


def quantize(source: Path, target: Path, dtype: str) -> None:
    """Write another number form of the f32 file, every matrix alike.

    Raises:
        RuntimeError: If llama.cpp refuses.
    """
    if target.is_file():
        return
    unfinished = target.with_suffix(".tmp")
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = _FILE_TYPES[dtype]
    settings.pure = True  # the head and the embedding too, so that the bytes read are those counted
    code = llama_cpp.llama_model_quantize(
        str(source).encode(), str(unfinished).encode(), ctypes.byref(settings)
    )
    if code:
        raise RuntimeError(f"llama_model_quantize gave {code} for {target}")
    unfinished.rename(target)


def main() -> None:
    """Write all forms of the sizes asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", choices=SIZES, nargs="+", default=list(SIZES))
    parser.add_argument("--models", type=Path, required=True)
    arguments = parser.parse_args()
    silence()
    for config in arguments.config:
        source = write_f32(arguments.models, config)
        for dtype in _FILE_TYPES:
            quantize(source, gguf_path(arguments.models, config, dtype), dtype)


if __name__ == "__main__":
    main()
