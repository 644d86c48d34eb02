"""LoRA on real conversations by the published command line, beside peft and transformers on the same rows.

    python benchmarks/bench_lora.py --vocab_file tokenizer.model --data_path alpaca_data.json --torch-python PATH

Both adapt the same random weights of a size of presets.py with adapters beside every linear layer, and see the
same batches, filled up to their longest row; the first losses, before anything was learnt, must agree. The
vocabulary is cut to the size's. Further figures pack the same conversations, over weights as they are and held in
int4 (QLoRA). All take turns in every round.
One JSON line per figure: tokens of conversations per second (filling does not count), its ratio to peft in the
same round, the first loss, and peak memory. Without the two paths: the reference files beside the checkout.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bench_preprocess import default_inputs
from finetune_runs import ROOT, finetune_once

sys.path.insert(0, str(ROOT))
from benchmarks.presets import SIZES
from benchmarks.weights import hf_config, write
from mindformers.machine import usable_cpus

CONFIG = "configs/glm4/lora_glm4_tiny_cpu.yaml"
PEFT = "transformers + peft"
RANK, ALPHA, DROPOUT, RATE, SEED = 8, 16, 0.05, 1e-4, 42
PADDED, PACKED = {"dynamic_batch": True}, {"packing": True}
INT4 = {"model.model_config.pet_config.base_quantization": "int4"}
FORMS: dict[str, tuple[dict[str, bool], dict[str, str]]] = {
    "padded": (PADDED, {}),
    "packed": (PACKED, {}),
    "packed, base in int4": (PACKED, INT4),
}
CONTROL_TOKENS = 64  # rows kept free behind the cut vocabulary


@dataclass(frozen=True)
class Seen:
    """A run of one contestant: seconds and tokens without the first step, the first loss, and memory."""

    speed: float
    first_loss: float
    peak: float


def cut_vocabulary(source: Path, ranks: int, target: Path) -> Path:
    """Write the first ranks of a vocabulary: merges build on lower ranks, so they are one as well."""
    with source.open("rb") as file:
        target.write_bytes(b"".join(line for _, line in zip(range(ranks), file, strict=False)))
    return target


def run_keys(
    args: argparse.Namespace, vocab: Path, model: Path, form: dict[str, bool]
) -> dict[str, Any]:
    """Return what differs from the YAML file."""
    size = SIZES[args.size]
    special = (
        151329 - size.vocab + CONTROL_TOKENS
    )  # GLM-4's ids, moved to the end of the cut vocabulary
    return {
        **{f"model.model_config.{key}": value for key, value in {
            "num_layers": size.layers, "hidden_size": size.hidden, "ffn_hidden_size": size.ffn,
            "num_attention_heads": size.heads, "kv_channels": size.head_size, "seq_length": args.seq_length,
            "multi_query_group_num": size.groups, "padded_vocab_size": size.vocab,
            "eos_token_id": [151329 - special, 151336 - special, 151338 - special],
            "pad_token_id": 151329 - special,
            "layernorm_epsilon": hf_config(size, "fp32")["rms_norm_eps"],
        }.items()},
        **{f"train_dataset.{key}": value for key, value in form.items()},
        "processor.tokenizer.vocab_file": vocab, "load_checkpoint": model, "seed": SEED,
        "runner_config.batch_size": args.batch_size, "runner_config.epochs": 1,
        "runner_config.stop_step": args.steps, "lr_schedule.learning_rate": RATE,
        "lr_schedule.lr_end": RATE, "callbacks.0.per_print_times": 1,
        "callbacks.1.save_checkpoint_steps": 100_000,
    }  # fmt: skip


def write_batches(
    args: argparse.Namespace, vocab: Path, form: dict[str, bool], path: Path
) -> list[int]:
    """Write the batches a run of ours will see, in the rival's form; return the tokens of each."""
    from mindformers.dataset.causal_lm import CausalLanguageModelDataset
    from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer

    tokenizer = ChatGLM4Tokenizer(str(vocab))
    section = {**form, "batch_size": args.batch_size, "drop_remainder": True,
               "data_loader": {"dataset_dir": str(args.data_path), "shuffle": True}}  # fmt: skip
    data = CausalLanguageModelDataset(
        section, seq_length=args.seq_length, tokenizer=tokenizer, seed=SEED
    )
    arrays, tokens = {}, []
    for step, batch in zip(range(args.steps), data.batches(0), strict=False):
        ids, labels = batch["input_ids"], batch["labels"]
        before = np.full((len(ids), 1), -100, np.int64)  # transformers moves labels by one itself
        real = ids != tokenizer.pad_token_id
        arrays |= {f"ids_{step}": ids.astype(np.int64), f"mask_{step}": real.astype(np.int64),
                   f"labels_{step}": np.concatenate([before, labels[:, :-1]], 1).astype(np.int64)}  # fmt: skip
        tokens.append(int(real.sum()))
    np.savez(path, **arrays)
    return tokens


def ours(keys: dict[str, Any], data: Path, tokens: list[int]) -> Seen:
    """Run the command line once."""
    with tempfile.TemporaryDirectory() as name:
        run = finetune_once(keys, 1, data, Path(name), CONFIG)
        records = [json.loads(line) for line in (Path(name) / "output/metrics.jsonl").open()]
    seconds = sum(record["seconds"] for record in records[1:])
    return Seen(sum(tokens[1:]) / seconds, records[0]["loss"], run.shares[0].peak * 1e6)


def peft(args: argparse.Namespace, model: Path, rows: Path, tokens: list[int]) -> Seen:
    """Run the rival once."""
    settings = {"model": str(model), "rows": str(rows), "steps": args.steps, "rank": RANK, "alpha": ALPHA,
                "dropout": DROPOUT, "learning_rate": RATE, "threads": usable_cpus()}  # fmt: skip
    command = [args.torch_python, ROOT / "benchmarks/rival_peft.py", json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    found = json.loads(done.stdout.splitlines()[-1])
    return Seen(sum(tokens[1:]) / sum(found["seconds"][1:]), found["losses"][0], found["peak"])


def main() -> None:
    """Print one JSON line per figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab_file", type=Path, help="tokenizer.model")
    parser.add_argument("--data_path", type=Path, help="conversations: JSON, JSON Lines or Parquet")
    parser.add_argument(
        "--torch-python", required=True, help="Python with torch, transformers, peft"
    )
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--seq_length", type=int, default=512)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument(
        "--steps", type=int, default=6, help="of each process; the first is not timed"
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--models", type=Path, default=ROOT / ".bench/models")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not (args.vocab_file and args.data_path):
            args.vocab_file, args.data_path = default_inputs(folder)
        size = SIZES[args.size]
        vocab = cut_vocabulary(
            args.vocab_file, size.vocab - CONTROL_TOKENS, folder / "tokenizer.model"
        )
        model = write(args.models, args.size, "fp32")
        rows = folder / "rows.npz"
        tokens = {
            figure: write_batches(args, vocab, FORMS.get(figure, (PADDED,))[0], rows)
            for figure in (*FORMS, PEFT)  # the file of the last one is the rival's
        }
        runs: dict[str, list[Seen]] = {figure: [] for figure in (PEFT, *FORMS)}
        for _ in range(args.rounds):
            for figure in runs:
                if figure == PEFT:
                    seen = peft(args, model, rows, tokens[figure])
                else:
                    form, keys = FORMS[figure]
                    keys = {**run_keys(args, vocab, model, form), **keys}
                    seen = ours(keys, args.data_path, tokens[figure])
                print(f"{figure}: {seen}", file=sys.stderr, flush=True)  # a round may be broken off
                runs[figure].append(seen)
    for figure, found in runs.items():
        ratios = [own.speed / other.speed for own, other in zip(found, runs[PEFT], strict=True)]
        print(json.dumps({
            "bench": "lora", "figure": figure, "size": args.size, "batch_size": args.batch_size,
            "seq_length": args.seq_length, "tokens/s": round(statistics.median(each.speed for each in found), 1),
            f"to {PEFT}": round(statistics.median(ratios), 2), "rounds": args.rounds,
            "first_loss": round(found[0].first_loss, 4), "peak_GiB": round(max(each.peak for each in found) / 2**30, 2),
        }), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
