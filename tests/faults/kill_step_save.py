"""Started by test_checkpoint_faults: kill a save, a replacement and a purge at every file operation.

Prints the number of kill points. Loads neither MindSpore nor NumPy.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from mindformers.checkpoint.manifest import (
    clean_leftovers,
    committed_steps,
    keep_latest,
    latest_step,
    read_step_folder,
    write_step_folder,
)
from tests.support.kill_points import survey, tick

CHUNK = b"0123456789" * 100


def writers(step: int) -> dict:
    def write(path: Path) -> None:
        with path.open("wb") as handle:
            for _ in range(4):
                handle.write(CHUNK + str(step).encode())
                handle.flush()
                tick()

    return {"model.safetensors": write, "optimizer/rank_0.safetensors": write}


def save(root: Path, step: int, name: str = "") -> None:
    write_step_folder(root, name or f"step_{step}", writers(step), {"step": step})


def main(scratch: Path) -> None:
    """Survey four things that happen in a run, each from the same start: steps 1 and 2 committed."""
    start = scratch / "start"
    for step in (1, 2):
        save(start, step)
    root = scratch / "root"
    actions = {
        "save": lambda: save(root, 3),
        "replace": lambda: save(root, 2),
        "purge": lambda: keep_latest(root, 1),
        "save and purge": lambda: (save(root, 3), keep_latest(root, 2)),
        "clean": lambda: clean_leftovers(root),
    }

    def reset() -> None:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(start, root)
        (root / ".tmp-999999999-aaaaaaaa").mkdir()

    def check() -> None:
        latest = latest_step(root, verify=True)
        assert latest is not None
        step = read_step_folder(latest)["step"]
        assert step in (2, 3)
        assert (latest / "model.safetensors").read_bytes() == (CHUNK + str(step).encode()) * 4
        clean_leftovers(root)
        assert not [p for p in root.iterdir() if p.name.startswith(".")]
        assert not [p for p in root.iterdir() if p.name.endswith(".replaced")]
        assert read_step_folder(committed_steps(root)[-1])["step"] == step
        save(root, 9)
        assert latest_step(root).name == "step_9"
        reset()

    for name, action in actions.items():
        reset()
        print(name, survey(action, check))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
