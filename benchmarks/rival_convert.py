"""torch's pass over a checkpoint: load each file, split gate_up, rename, save. Runs in the rival's environment.

    python rival_convert.py SOURCE TARGET [--sync]

Prints a JSON list: seconds, bytes written, peak KiB. Imports are not counted.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

from safetensors.torch import load_file, save_file


def split(source: Path, target: Path) -> None:
    """Write one file with its names changed and gate_up in two halves."""
    tensors = {}
    for name, tensor in load_file(source).items():
        ours = name.replace("model.layers", "transformer.encoder.layers")
        if "gate_up_proj" in name:
            gate, up = tensor.chunk(2, 0)
            tensors[ours.replace("gate_up", "gate")] = gate.contiguous()
            tensors[ours.replace("gate_up", "up")] = up.contiguous()
        else:
            tensors[ours] = tensor
    save_file(tensors, target)


def main() -> None:
    """Convert every file of a directory."""
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    start = time.perf_counter()
    target.mkdir()
    for path in sorted(source.glob("*.safetensors")):
        split(path, target / path.name)
        if "--sync" in sys.argv:
            with (target / path.name).open("rb") as handle:
                os.fsync(handle.fileno())
    seconds = time.perf_counter() - start
    written = sum(path.stat().st_size for path in target.iterdir())
    print(json.dumps([seconds, written, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))


if __name__ == "__main__":
    main()
