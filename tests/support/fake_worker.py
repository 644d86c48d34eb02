"""What a launched process may do, told by its arguments: ``RANKS:DEED=VALUE`` ..., RANKS a number or ``*``.

Without MindSpore, so that a run of several takes a second.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


def _beat(phase: str) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from mindformers.parallel import heartbeat

    heartbeat.start()
    heartbeat.beat(phase)


def _beat_on(seconds: str) -> None:
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        _beat("busy")
        time.sleep(0.1)


def _child(session: str) -> None:
    process = subprocess.Popen(["sleep", "300"], start_new_session=session == "own")
    Path(f"child_{os.environ['RANK_ID']}").write_text(str(process.pid))


def _save_on(code: str) -> None:
    def save(number: int, _: object) -> None:
        print(f"saved after {signal.Signals(number).name}", flush=True)
        sys.exit(int(code))

    signal.signal(signal.SIGTERM, save)
    signal.signal(signal.SIGINT, save)


def _raise(text: str) -> None:
    raise RuntimeError(text)


def _deaf(_: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


DEEDS: dict[str, Callable[[str], object]] = {
    "say": lambda text: print(text, flush=True),
    "env": lambda name: print(f"{name}={os.environ.get(name)}", flush=True),
    "sleep": lambda seconds: time.sleep(float(seconds)),
    "exit": lambda code: sys.exit(int(code)),
    "kill": lambda number: os.kill(os.getpid(), int(number)),
    "touch": lambda name: Path(name).touch(),
    "beat": _beat,
    "beat_on": _beat_on,
    "child": _child,
    "deaf": _deaf,
    "save_on_signal": _save_on,
    "raise": _raise,
}

if __name__ == "__main__":
    for argument in sys.argv[1:]:
        ranks, _, deed = argument.partition(":")
        if ranks in ("*", os.environ["RANK_ID"]):
            name, _, value = deed.partition("=")
            DEEDS[name](value)
