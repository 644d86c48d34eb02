"""How long weights take to load into one process, and into several that share them.

    python benchmarks/bench_load.py [--size base] [--processes 1 2 4] [--models .bench/models]

A bf16 Hugging Face directory of random weights (base: 1.1 billion) is loaded into a float32 network, by one
process and by tensor groups. The files are in the page cache. One JSON line for each number of processes:
median seconds of the slowest process, memory of the largest, parameters it holds.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_SAID = "share: "


def load_share(folder: str, tensor: int) -> None:
    """Load this process's share and print what it took."""
    from mindformers.models.auto import AutoConfig
    from mindformers.models.glm2.glm2 import ChatGLM2ForConditionalGeneration
    from mindformers.modules.start import not_drawn
    from mindformers.parallel.layout import Layout
    from mindformers.parallel.runtime import PYNATIVE_MODE, launched_rank, start_runtime

    layout = Layout(tensor=tensor, rank=launched_rank(), is_vocab_parallel=True)
    start_runtime(mode=PYNATIVE_MODE, layout=layout if tensor > 1 else None)
    config = AutoConfig.from_pretrained(folder)
    with not_drawn():
        network = ChatGLM2ForConditionalGeneration(config)
    began = time.monotonic()
    network.load_checkpoint(folder)
    seconds = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    count = sum(each.size for each in network.get_parameters())
    print(_SAID + json.dumps([seconds, peak, count]), flush=True)


def measure(folder: Path, processes: int) -> tuple[float, ...]:
    """Return seconds, MB and parameters of the process that had most of each."""
    own = [str(Path(__file__)), "--share", str(folder), str(processes)]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as temp:
        command = [sys.executable, *own]
        if processes > 1:
            command = ["bash", str(ROOT / "scripts/msrun_launcher.sh"), " ".join(own),
                       str(processes), "8118", temp, "True", "300"]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True)
        logs = "".join(p.read_text() for p in Path(temp).glob("worker_*.log"))
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}")
    said = [json.loads(each) for each in re.findall(f"{_SAID}(.*)", logs or done.stdout)]
    return tuple(max(each) for each in zip(*said, strict=True))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="base")
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--models", type=Path, default=ROOT / ".bench/models")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if arguments.share:
        load_share(arguments.share[0], int(arguments.share[1]))
        return 0
    from benchmarks.weights import write

    folder = write(arguments.models, arguments.size, "bf16")
    found: dict[int, list[tuple[float, ...]]] = {count: [] for count in arguments.processes}
    for _ in range(arguments.rounds):
        for count, runs in found.items():
            runs.append(measure(folder, count))
    for count, runs in found.items():
        seconds, peak, held = (statistics.median(each) for each in zip(*runs, strict=True))
        print(json.dumps({"processes": count, "seconds": round(seconds, 2), "peak_mb": round(peak),
                          "parameters": int(held)}), flush=True)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
