"""One figure of a script that measures others: a process that prints its result as the last line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def measure(command: list[str | Path]) -> list[float]:
    """Run one process once what was written before is on the disk; return the numbers it prints."""
    subprocess.run(["sync"], check=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command[0]} ended with code {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
