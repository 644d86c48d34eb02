"""Write seeded random GLM-4 weights as Hugging Face directories (``GlmForCausalLM``), fp32 and bf16. NumPy only.

    python -m benchmarks.weights --config small --models .bench/models

Every contestant reads these; the bf16 values are the fp32 ones rounded to nearest even.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.presets import EPS, SIZES, Size

SEED = 20
STD = 0.02
FILE = "model.safetensors"
_STORED = {"fp32": ("F32", "float32", 4), "bf16": ("BF16", "bfloat16", 2)}


def directory(models: Path, config: str, dtype: str) -> Path:
    """Return where a size's weights are; integer forms start from the bf16 ones."""
    return models / f"{config}-{'fp32' if dtype in ('fp32', 'f32') else 'bf16'}"


def shapes(size: Size) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the published name and the shape of every tensor."""
    hidden, kv = size.hidden, size.kv_size
    yield "model.embed_tokens.weight", (size.vocab, hidden)
    for i in range(size.layers):
        layer = f"model.layers.{i}"
        yield f"{layer}.input_layernorm.weight", (hidden,)
        for name, rows in (("q", hidden), ("k", kv), ("v", kv)):
            yield f"{layer}.self_attn.{name}_proj.weight", (rows, hidden)
            yield f"{layer}.self_attn.{name}_proj.bias", (rows,)
        yield f"{layer}.self_attn.o_proj.weight", (hidden, hidden)
        yield f"{layer}.post_attention_layernorm.weight", (hidden,)
        yield f"{layer}.mlp.gate_up_proj.weight", (2 * size.ffn, hidden)
        yield f"{layer}.mlp.down_proj.weight", (hidden, size.ffn)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (size.vocab, hidden)


def values(index: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the tensor, float32: norms near one, all else normal with 0.02."""
    drawn = np.random.default_rng([SEED, index]).standard_normal(shape, np.float32) * np.float32(
        STD
    )
    return drawn + np.float32(1) if "norm" in name else drawn


def to_bf16(array: np.ndarray) -> np.ndarray:
    """Round finite float32 to bfloat16, to nearest even; returned as the uint16 bits."""
    bits = array.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def hf_config(size: Size, dtype: str) -> dict[str, Any]:
    """Return the directory's config.json. No end token: every answer runs to its length."""
    return {
        "architectures": ["GlmForCausalLM"],
        "model_type": "glm",
        "attention_bias": True,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": 0,
        "head_dim": size.head_size,
        "hidden_act": "silu",
        "hidden_size": size.hidden,
        "intermediate_size": size.ffn,
        "max_position_embeddings": 32768 + 256,
        "num_attention_heads": size.heads,
        "num_hidden_layers": size.layers,
        "num_key_value_heads": size.groups,
        "partial_rotary_factor": 0.5,
        "rms_norm_eps": EPS,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": _STORED[dtype][1],
        "vocab_size": size.vocab,
    }


def write(models: Path, config: str, dtype: str) -> Path:
    """Write one directory unless it is there; return it."""
    folder, size = directory(models, config, dtype), SIZES[config]
    if (folder / FILE).is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(hf_config(size, dtype), indent=2))
    label, _, width = _STORED[dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes(size):
        end = offset + width * math.prod(shape)
        header[name] = {"dtype": label, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64)  # the data starts on a cache line
    unfinished = folder / f"{FILE}.tmp"
    with unfinished.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for index, (name, shape) in enumerate(shapes(size)):
            array = values(index, name, shape)
            file.write((array if dtype == "fp32" else to_bf16(array)).tobytes())
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(folder / FILE)
    return folder


def read(folder: Path) -> dict[str, np.ndarray]:
    """Return the tensors of an fp32 directory, mapped from the file."""
    path = folder / FILE
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    del header["__metadata__"]
    data = np.memmap(path, np.uint8, "r", offset=8 + length)
    return {
        name: data[slice(*entry["data_offsets"])].view(np.float32).reshape(entry["shape"])
        for name, entry in header.items()
    }


def main() -> None:
    """Write both number forms of the sizes asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", choices=SIZES, nargs="+", default=list(SIZES))
    parser.add_argument("--models", type=Path, required=True)
    arguments = parser.parse_args()
    for config in arguments.config:
        for dtype in _STORED:
            print(write(arguments.models, config, dtype))


if __name__ == "__main__":
    main()
