"""Speed and memory of weight conversion, beside a plain copy of the same files.

    python benchmarks/bench_convert.py --gigabytes 2

Writes a synthetic Hugging Face directory (GLM-4 shapes, fewer layers, bfloat16), converts it in a
process of its own for each figure, and prints one JSON line per figure: megabytes written per second
(median of the repeats, file sync included) and the process's peak memory.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np

from mindformers.checkpoint.dtypes import BY_NAME
from mindformers.checkpoint.saving import write_shards
from mindformers.checkpoint.tensor_io import TensorToWrite
from mindformers.models.glm2.glm2_config import ChatGLM2Config
from mindformers.models.glm2.glm2_weights import PUBLISHED, count_parameters, stored_tensors
from mindformers.models.glm2.hf_config import config_from_hf, config_to_hf

_RUN = """
import json, resource, sys, time
from pathlib import Path
from mindformers.checkpoint.export import ExportOptions
from mindformers.models.glm2.convert_reversed import convert_ms_to_pt
from mindformers.models.glm2.convert_weight import convert_pt_to_ms
kind, source, target = sys.argv[1:4]
options = ExportOptions(force=True, max_shard_size=sys.argv[4])
start = time.perf_counter()
if kind == "copy":
    import os, shutil
    Path(target).mkdir(exist_ok=True)
    for path in Path(source).glob("*.safetensors"):
        with path.open("rb") as old, (Path(target) / path.name).open("wb") as new:
            shutil.copyfileobj(old, new, 32 * 2**20)
            new.flush()
            os.fsync(new.fileno())
elif kind == "reversed":
    convert_ms_to_pt(source, target, options=options)
else:
    convert_pt_to_ms(source, target, kind, options=options)
seconds = time.perf_counter() - start
path = Path(target)
files = [path] if path.is_file() else path.iterdir()
written = sum(f.stat().st_size for f in files)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([seconds, written, peak]))
"""


def synthetic_config(gigabytes: float) -> ChatGLM2Config:
    """GLM-4-9B with a quarter of its vocabulary and as many layers as the size asks for."""
    content = {"model_type": "glm", "rope_theta": 5e6, "vocab_size": 151552 // 4}
    one, two = (
        count_parameters(config_from_hf({**content, "num_hidden_layers": n})) for n in (1, 2)
    )
    layers = max(1, round((gigabytes * 1e9 / 2 - (2 * one - two)) / (two - one)))
    return config_from_hf({**content, "num_hidden_layers": layers})


def write_source(folder: Path, config: ChatGLM2Config, shard: str) -> None:
    """Write the directory; values are random bits of finite numbers, so that nothing compresses."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 2**14, 2**24, dtype=np.uint16).view(ml_dtypes.bfloat16)

    def blocks(count: int):
        for start in range(0, count, noise.size):
            yield noise[: min(noise.size, count - start)]

    tensors = [
        TensorToWrite(
            stored.name,
            BY_NAME["bfloat16"],
            stored.shape,
            partial(blocks, math.prod(stored.shape)),
        )
        for stored in stored_tensors(config, PUBLISHED["glm"])
    ]
    folder.mkdir()
    write_shards(folder, tensors, shard, {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config_to_hf(config)))


def remove(path: Path) -> None:
    """Remove an output, file or folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def measure(kind: str, source: Path, target: Path, shard: str) -> list[float]:
    """Run one conversion in a process of its own; return seconds, bytes written, peak KiB."""
    subprocess.run(["sync"], check=True)
    done = subprocess.run(
        [sys.executable, "-c", _RUN, kind, source, target, shard],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print one JSON line per figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the bfloat16 source")
    parser.add_argument("--max_shard_size", default="1GB")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", help="where to work; default: the system's temporary folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        source, ours = Path(scratch) / "hf", Path(scratch) / "ours"
        config = synthetic_config(args.gigabytes)
        write_source(source, config, args.max_shard_size)
        measure("bf16", source, ours, args.max_shard_size)
        figures = {
            "plain copy": ("copy", source, "copied"),
            "hf to ours, bf16": ("bf16", source, "out"),
            "hf to ours, fp32": ("fp32", source, "out"),
            "hf to ours, fp32, one .ckpt": ("fp32", source, "out.ckpt"),
            "ours to hf, bf16": ("reversed", ours, "out"),
        }
        runs: dict[str, list[list[float]]] = {figure: [] for figure in figures}
        for _ in range(args.repeats):  # in turn, so that a slow minute of the disk hits all alike
            for figure, (kind, start, name) in figures.items():
                target = Path(scratch) / name
                runs[figure].append(measure(kind, start, target, args.max_shard_size))
                remove(target)
        for figure, results in runs.items():
            rates = [written / seconds / 1e6 for seconds, written, _ in results]
            line = {
                "bench": "convert",
                "figure": figure,
                "MB/s": round(statistics.median(rates)),
                "min": round(min(rates)),
                "max": round(max(rates)),
                "peak_rss_MB": round(max(peak for _, _, peak in results) * 1024 / 1e6),
                "parameters": count_parameters(config),
                "written_MB": round(results[0][1] / 1e6),
                "repeats": args.repeats,
                "cores": os.cpu_count(),
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
