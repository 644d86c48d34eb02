"""Peak memory of answering long prompts, one process a length: it must grow with the length, not with its square.

    python benchmarks/bench_long_context.py
    python benchmarks/bench_long_context.py --form portable --lengths 2048 4096 8192

Each process reads a prompt of one length with a small network whose weights are set by hand, answers four tokens
and prints its peak resident memory. A JSON line per length: that peak, what it is above a prompt of 16 tokens,
that again per token, what of it is cache by the network's sizes, and whether the needle in the prompt was found.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from figures import measure

from mindformers.machine import usable_cpus

ROOT = Path(__file__).resolve().parents[1]
_ANSWER = """
import resource, sys
import numpy as np
sys.path.insert(0, sys.argv[3])
form, length = sys.argv[1], int(sys.argv[2])
from mindformers.ops.native.library import choose_backend
choose_backend(form)
from tests.support import induction
settings = induction.config(seq_length=length + 4, num_blocks=length // 16 + 1)
if form == "native":
    model = induction.native_model(settings)
else:
    from mindformers.parallel.runtime import start_runtime
    start_runtime(device_target="CPU", mode=1, seed=1)
    from mindspore import Tensor
    from mindformers.models.glm2.glm2 import ChatGLM2ForConditionalGeneration
    model = ChatGLM2ForConditionalGeneration(settings)
    for name, parameter in model.weight_parameters().items():
        parameter.set_data(Tensor(induction.weights(settings)[name]))
ids = np.random.default_rng(0).integers(0, 200, length)
ids[length // 3 : length // 3 + 2] = 210, 230
ids[-1] = 210
found = model.generate([ids.tolist()], max_new_tokens=4, eos_token_id=[])[0]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
slot = 2 * 4 * settings.n_kv_heads * settings.kv_channels * settings.num_layers
print([peak, slot * length, int(found[length] == 230)])
"""


def main() -> None:
    """Print one JSON line per length."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--form", choices=("native", "portable"), default="native")
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 8192, 16384, 32768])
    args = parser.parse_args()

    def run(length: int) -> list[float]:
        return measure([sys.executable, "-c", _ANSWER, args.form, str(length), str(ROOT)])

    base = run(16)[0]
    for length in args.lengths:
        peak, cache, is_found = run(length)
        figures = {
            "bench": "long_context",
            "form": args.form,
            "tokens": length,
            "peak_MB": round(peak / 1e6, 1),
            "above_16_tokens_MB": round((peak - base) / 1e6, 1),
            "bytes_per_token": round((peak - base) / length),
            "cache_MB": round(cache / 1e6, 1),
            "needle_found": bool(is_found),
            "cores": usable_cpus(),
        }
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
