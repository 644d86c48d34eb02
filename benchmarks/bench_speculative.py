"""Answers with guessed tokens beside plain ones: one that copies its prompt, and one drawn nearly at random.

    python benchmarks/bench_speculative.py
    python benchmarks/bench_speculative.py --layers 12 --hidden 768 --dtype int4

The network's weights are set by hand so that it copies: after a token it says what followed it where it stood
before. Its size is chosen; layers that add nothing make up the depth, and cost what they would in any network.
Each round answers in turn without guesses, with prompt lookup and with an assistant of two layers and 96 channels;
a ratio is that of one round. Prints a JSON line per figure: tokens per second (median of the
rounds), how many times as fast as the plain answers of the same round, the same of the CPU time of the whole answer
with its prompt (with MINDFORMERS_THREADS=1 other work on the machine hardly moves it), the share of guesses that
were right, tokens per pass. The answers of all figures are compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from mindformers.machine import usable_cpus

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
PLAIN = "plain"
# The second stands for text that cannot be guessed: each of sixteen tokens is about as likely, every time.
_DRAWN = {"do_sample": True, "top_k": 0, "temperature": 1000.0, "allowed_vocab_size": 16, "seed": 0}
ANSWERS: dict[str, dict[str, Any]] = {"copied": {}, "at random": _DRAWN}


def padded(array: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Return a matrix with zeros up to a size."""
    return np.pad(array, ((0, rows - array.shape[0]), (0, columns - array.shape[1])))


def copying_model(layers: int, hidden: int, ffn: int, vocab: int, args: argparse.Namespace) -> Any:
    """Return a model that copies, with ``layers`` layers of this width."""
    from mindformers.models.glm2.glm2_in_files import GlmInFiles
    from mindformers.models.glm2.glm2_native import native_network
    from mindformers.models.glm2.glm2_quantized import quantized_weights
    from mindformers.ops.native.arrays import of_array
    from tests.support import induction

    settings = induction.config(
        num_layers=layers, hidden_size=hidden, ffn_hidden_size=ffn, padded_vocab_size=vocab,
        seq_length=4096, num_blocks=512, quantization=args.dtype if args.dtype != "fp32" else None,
    )  # fmt: skip
    small = induction.weights(induction.config())
    # The codes fill the first channels; a row's mean square is what the norms divide by.
    root = np.sqrt(3 * induction.CODE / hidden).astype(np.float32)
    size, found = settings.kv_channels, {}
    for index in range(layers):
        old, new = (f"transformer.encoder.layers.{i}." for i in (min(index, 1), index))
        is_used = np.float32(index < 2)
        found |= {
            new + "input_layernorm.weight": np.full(hidden, root),
            new + "post_attention_layernorm.weight": np.full(hidden, root),
            new + "self_attention.query_key_value.weight": is_used
            * padded(small[old + "self_attention.query_key_value.weight"], 3 * size, hidden),
            new + "self_attention.query_key_value.bias": is_used
            * small[old + "self_attention.query_key_value.bias"],
            new + "self_attention.dense.weight": is_used
            * padded(small[old + "self_attention.dense.weight"], hidden, size),
            new + "mlp.dense_h_to_4h.weight": np.zeros((2 * ffn, hidden), np.float32),
            new + "mlp.dense_4h_to_h.weight": np.zeros((hidden, ffn), np.float32),
        }
    found["transformer.encoder.final_layernorm.weight"] = np.full(hidden, root)
    for name in ("embedding.embedding_weight", "output_layer.weight"):
        found[f"transformer.{name}"] = padded(small[f"transformer.{name}"], vocab, hidden)
    buffers = {name: (of_array(np.ascontiguousarray(each)),) for name, each in found.items()}
    return GlmInFiles(settings, native_network(settings, quantized_weights(settings, buffers)))


def prompt_of(new: int) -> list[int]:
    """Return a prompt whose greedy answer stands in it, as long as wanted."""
    text = np.random.default_rng(0).permutation(240)
    return [*np.resize(text, new + 100).tolist(), int(text[0])]


def answer(model: Any, prompt: list[int], new: int, **settings: Any) -> Any:
    """Return an answer with its times, and its CPU time."""
    began = time.process_time()
    found = model.generate(
        [prompt], max_new_tokens=new, eos_token_id=[], return_dict_in_generate=True, **settings
    )
    return found, time.process_time() - began


def line(
    figure: str, kind: str, runs: list[tuple[Any, float, float]], args: argparse.Namespace
) -> str:
    """Return the JSON line of a figure."""
    speeds = [(found.num_generated[0] - 1) / found.decode_seconds for found, *_ in runs]
    found, drafted = runs[-1][0], sum(runs[-1][0].num_drafted)
    ratios = [ratio for _, ratio, _ in runs]
    return json.dumps(
        {
            "bench": "speculative",
            "answer": kind,
            "figure": figure,
            "tokens/s": round(statistics.median(speeds), 1),
            "ratio": round(statistics.median(ratios), 2),
            "lowest": round(min(ratios), 2),
            "highest": round(max(ratios), 2),
            "cpu_ratio": round(statistics.median(ratio for *_, ratio in runs), 2),
            "right_%": round(100 * sum(found.num_accepted) / drafted, 1) if drafted else None,
            "tokens/pass": round((found.num_generated[0] - 1) / found.num_steps, 2),
            "layers": args.layers, "hidden": args.hidden, "dtype": args.dtype,
            "rounds": args.rounds, "cores": usable_cpus(),
        }
    )  # fmt: skip


def main() -> None:
    """Print one JSON line per figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12, help="2 or more")
    parser.add_argument("--hidden", type=int, default=768, help="96 or more; a multiple of 32")
    parser.add_argument("--ffn", type=int, default=2048)
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--dtype", choices=("fp32", "int8", "int4"), default="fp32")
    parser.add_argument("--new", type=int, default=128, help="tokens of the answer")
    parser.add_argument("--guesses", type=int, default=7, help="tokens guessed at a time")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    model = copying_model(args.layers, args.hidden, args.ffn, args.vocab, args)
    assistant = copying_model(2, 96, 256, args.vocab, args)
    figures: dict[str, dict[str, Any]] = {
        PLAIN: {},
        f"prompt lookup {args.guesses}": {"prompt_lookup_num_tokens": args.guesses},
        f"assistant {args.guesses}": {
            "assistant_model": assistant, "num_assistant_tokens": args.guesses,
        },
    }  # fmt: skip
    prompt = prompt_of(args.new)
    for name, drawing in ANSWERS.items():
        runs: dict[str, list[tuple[Any, float, float]]] = {figure: [] for figure in figures}
        for number in range(args.rounds + 1):  # in turn, so that a slow minute hits all alike
            found = {
                figure: answer(model, prompt, args.new, **drawing, **more)
                for figure, more in figures.items()
            }
            plain, plain_cpu = found[PLAIN]
            for figure, (each, cpu) in found.items():
                if each.sequences[0].tolist() != plain.sequences[0].tolist():
                    sys.exit(f"{figure}: another answer than without guesses")
                if number:  # the first round loads and fills the cache
                    ratio = plain.decode_seconds / each.decode_seconds
                    runs[figure].append((each, ratio, plain_cpu / cpu))
        for figure, rounds in runs.items():
            print(line(figure, name, rounds, args), flush=True)


if __name__ == "__main__":
    main()
