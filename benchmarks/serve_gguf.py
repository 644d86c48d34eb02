"""Write the shared weights with a vocabulary, for llama.cpp's server. Runs in the rival's environment; see serve.py.

python -m benchmarks.serve_gguf --models .bench/models --config small --dtype q8_0
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gguf

from benchmarks.gguf_files import DTYPES, gguf_path, quantize, silence, write_f32
from benchmarks.presets import SIZES
from benchmarks.serve_files import SPECIAL, token_texts

# How GPT-2 writes bytes: 0x00-0x20 from U+0100 on, 0x7F-0xA0 and 0xAD after them.
_LETTERS = {byte: chr(byte) for byte in range(256)}
_LETTERS |= {b: chr(0x100 + i) for i, b in enumerate([*range(0x21), *range(0x7F, 0xA1), 0xAD])}


def tokens_of(vocab: int) -> list[str]:
    """Return every token as a GGUF file spells it."""
    plain = ["".join(_LETTERS[byte] for byte in token) for token in token_texts(vocab)]
    return [*plain, *(f"<|special_{n}|>" for n in range(SPECIAL))]


def with_vocabulary(source: Path, target: Path, vocab: int) -> None:
    """Copy a GGUF file with a vocabulary in place of none."""
    if target.is_file():
        return
    reader = gguf.GGUFReader(source)
    unfinished = target.with_suffix(".tmp")
    writer = gguf.GGUFWriter(unfinished, "chatglm")
    for field in reader.fields.values():
        if field.name.startswith(("GGUF.", "tokenizer.")) or field.name == "general.architecture":
            continue
        writer.add_key_value(field.name, field.contents(), field.types[0])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens_of(vocab))
    normal, control = int(gguf.TokenType.NORMAL), int(gguf.TokenType.CONTROL)
    writer.add_token_types([normal] * (vocab - SPECIAL) + [control] * SPECIAL)
    writer.add_token_merges(["\u0100 \u0100"])  # one has to be there; its text is in no prompt
    writer.add_eos_token_id(vocab - SPECIAL)
    writer.add_add_bos_token(False)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    unfinished.rename(target)


def main() -> None:
    """Write one form of one size; print its path."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--config", choices=SIZES, required=True)
    parser.add_argument("--dtype", choices=DTYPES, required=True)
    arguments = parser.parse_args()
    silence()
    plain = gguf_path(arguments.models, arguments.config, arguments.dtype)
    source = write_f32(arguments.models, arguments.config)
    if arguments.dtype != "f32":
        quantize(source, plain, arguments.dtype)
    target = plain.with_name(f"{plain.stem}-served.gguf")
    with_vocabulary(plain, target, SIZES[arguments.config].vocab)
    print(target)


if __name__ == "__main__":
    main()
