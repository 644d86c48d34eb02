from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run_python(*args: object, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *map(str, args)], capture_output=True, text=True, env=environment,
        timeout=120, check=False, **options,
    )  # fmt: skip


def test_a_step_survives_a_kill_at_every_file_operation(tmp_path):
    done = run_python(ROOT / "tests/faults/kill_step_save.py", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    points = {
        name: int(n) for name, n in (line.rsplit(" ", 1) for line in done.stdout.splitlines())
    }
    assert points.keys() == {"save", "replace", "purge", "save and purge", "clean"}
    assert points["save"] > 20
    assert points["replace"] > points["save"]
