"""Speed and memory of weight conversion, beside a copy of the same files and torch's pass over them.

    python benchmarks/bench_convert.py --gigabytes 4.4 --torch-python .bench/torch/bin/python

Writes a synthetic Hugging Face directory (GLM-4 shapes, fewer layers, bfloat16) and converts it, each
figure in a process of its own, all figures in turn in every round. Prints one JSON line per figure:
megabytes written per second (median of the rounds), the ratio to the copy and to torch's pass of the
same round, and the process's peak memory. Ours is always synced to the disk; torch's pass and the copy
come without (as they are used) and with. The figure of a process counts no imports, and what it reads lies in
the page cache.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np
from figures import measure

from mindformers.checkpoint.dtypes import BY_NAME
from mindformers.checkpoint.saving import write_shards
from mindformers.checkpoint.tensor_io import TensorToWrite
from mindformers.machine import usable_cpus
from mindformers.models.glm2.glm2_config import ChatGLM2Config
from mindformers.models.glm2.glm2_weights import PUBLISHED, count_parameters, stored_tensors
from mindformers.models.glm2.hf_config import config_from_hf, config_to_hf

_COPY = """
import json, os, resource, subprocess, sys, time
start = time.perf_counter()
subprocess.check_call(["cp", "--reflink=never", "-r", *sys.argv[1:3]])
files = [os.path.join(sys.argv[2], name) for name in os.listdir(sys.argv[2])]
for name in files if "--sync" in sys.argv else []:
    with open(name, "rb") as handle:
        os.fsync(handle.fileno())
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps([seconds, sum(map(os.path.getsize, files)), peak]))
"""
_OURS = """
import json, resource, sys, time
from pathlib import Path
from mindformers.checkpoint.export import ExportOptions
from mindformers.models.glm2.convert_reversed import convert_ms_to_pt
from mindformers.models.glm2.convert_weight import convert_pt_to_ms
source, target, kind, shard = sys.argv[1:5]
options = ExportOptions(force=True, max_shard_size=shard)
start = time.perf_counter()
if kind == "reversed":
    convert_ms_to_pt(source, target, options=options)
else:
    convert_pt_to_ms(source, target, kind, options=options)
seconds = time.perf_counter() - start
path = Path(target)
files = [path] if path.is_file() else path.iterdir()
written = sum(f.stat().st_size for f in files)
print(json.dumps([seconds, written, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""
_RIVAL = Path(__file__).with_name("rival_convert.py")
COPY, TORCH = "copy", "torch split"
INSTALLED = Path(".bench/torch/bin/python")  # where run.sh puts it


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


def figures_of(scratch: Path, shard: str, torch: Path | None) -> dict[str, list[str | Path]]:
    """Return figure -> command; each writes ``scratch / "out"`` or, for one file, that with a suffix."""
    hf, ours, wide, out = (scratch / name for name in ("hf", "bf16", "fp32", "out"))
    convert = [sys.executable, "-c", _OURS]
    copy = [sys.executable, "-c", _COPY, hf, out]
    figures: dict[str, list[str | Path]] = {COPY: copy, f"{COPY}, synced": [*copy, "--sync"]}
    if torch is not None:
        figures[TORCH] = [torch, _RIVAL, hf, out]
        figures[f"{TORCH}, synced"] = [torch, _RIVAL, hf, out, "--sync"]
    figures |= {
        "hf to ours, bf16": [*convert, hf, out, "bf16", shard],
        "ours to hf, bf16": [*convert, ours, out, "reversed", shard],
        "hf to ours, fp32": [*convert, hf, out, "fp32", shard],
        "ours to hf, fp32": [*convert, wide, out, "reversed", shard],
        "hf to ours, fp32, one .ckpt": [*convert, hf, out.with_suffix(".ckpt"), "fp32", shard],
    }
    return figures


def warm(folder: Path) -> None:
    """Read every file, so that it lies in the page cache as the directory all start from does."""
    for path in folder.iterdir():
        with path.open("rb", buffering=0) as file:
            while file.read(2**22):
                pass


def run_figure(scratch: Path, shard: str, command: list[str | Path]) -> list[float]:
    """Measure one figure; inputs that only some need are made before and removed afterwards."""
    source = next(Path(part) for part in command if str(part).startswith(str(scratch)))
    made = not source.exists()
    if made:
        make = [sys.executable, "-c", _OURS, scratch / "hf", source, source.name, shard]
        measure(make)
        warm(source)
    try:
        return measure(command)
    finally:
        for path in (scratch / "out", scratch / "out.ckpt", *([source] if made else [])):
            if path.exists():
                remove(path)


def rates(results: list[list[float]]) -> list[float]:
    """Return megabytes written per second, of each round."""
    return [written / seconds / 1e6 for seconds, written, _ in results]


def summary(figure: str, runs: dict[str, list[list[float]]]) -> dict[str, object]:
    """Return the line of one figure; a ratio is the median over the rounds of that round's ratio."""
    own = rates(runs[figure])
    line: dict[str, object] = {
        "bench": "convert",
        "figure": figure,
        "MB/s": round(statistics.median(own)),
        "min": round(min(own)),
        "max": round(max(own)),
    }
    for other in (COPY, TORCH, f"{COPY}, synced", f"{TORCH}, synced"):
        if other in runs and other != figure:
            pairs = zip(own, rates(runs[other]), strict=True)
            line[f"to {other}"] = round(statistics.median(a / b for a, b in pairs), 2)
    line["peak_rss_MB"] = round(max(peak for _, _, peak in runs[figure]) * 1024 / 1e6)
    line["written_MB"] = round(runs[figure][0][1] / 1e6)
    return line


def main() -> None:
    """Print one JSON line per figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the bfloat16 source")
    parser.add_argument("--max_shard_size", default="1GB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--figures", nargs="*", help="parts of names; default: all")
    parser.add_argument("--folder", help="where to work; default: the system's temporary folder")
    parser.add_argument(
        "--torch-python", type=Path, help=f"Python with torch and safetensors; default: {INSTALLED}"
    )
    args = parser.parse_args()
    torch = args.torch_python or (INSTALLED if INSTALLED.exists() else None)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        scratch = Path(folder)
        config = synthetic_config(args.gigabytes)
        write_source(scratch / "hf", config, args.max_shard_size)
        figures = {
            figure: command
            for figure, command in figures_of(scratch, args.max_shard_size, torch).items()
            if not args.figures or any(part in figure for part in args.figures)
        }
        runs: dict[str, list[list[float]]] = {figure: [] for figure in figures}
        for _ in range(args.rounds):  # in turn, so that a slow minute of the disk hits all alike
            for figure, command in figures.items():
                runs[figure].append(run_figure(scratch, args.max_shard_size, command))
    for figure in runs:
        about = {"parameters": count_parameters(config), "rounds": args.rounds}
        print(json.dumps({**summary(figure, runs), **about, "cores": usable_cpus()}), flush=True)


if __name__ == "__main__":
    main()
