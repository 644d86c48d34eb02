"""Serving over HTTP: tokens a second, time to the first token and between tokens, at 1 to 64 streams at once.

    python -m benchmarks.serve --models .bench/models --config small [--llama-python PATH [--llama-server PATH]]

Ours, and on the same weights, one after the other in each round: llama.cpp's own server, if its program is given
(``llama-server``, which batches), and that of its Python package, which takes one request after another
(``llama-cpp-python[server]`` and ``gguf`` in an environment of its own). JSON lines.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.measure import Watch
from benchmarks.plan import LLAMA, OURS
from benchmarks.presets import SIZES
from benchmarks.serve_client import load
from benchmarks.serve_files import served_directory
from benchmarks.weights import write
from mindformers.machine import usable_cpus

ROOT = Path(__file__).resolve().parents[1]
_FORMS = {
    "fp32": "f32",
    "bf16": "f16",
    "int8": "q8_0",
    "int4": "q4_0",
}  # what llama.cpp has beside ours
_PATIENCE = 600.0  # seconds a server may take to start


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, required=True, help="the folder weights.py fills")
    parser.add_argument("--config", choices=SIZES, default="small")
    parser.add_argument("--dtype", choices=_FORMS, default="bf16")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--requests", type=int, default=2, help="of each stream")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of a prompt")
    parser.add_argument("--new", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument("--llama-python", type=Path, help="Python with llama_cpp and gguf")
    parser.add_argument(
        "--llama-server", type=Path, help="llama.cpp's own server; --llama-python writes its file"
    )
    parser.add_argument(
        "--only-batching", action="store_true", help="without the server that takes one at a time"
    )
    arguments = parser.parse_args()
    if arguments.llama_server and not arguments.llama_python:
        parser.error("--llama-server needs --llama-python, which writes its file")
    arguments.models = arguments.models.resolve()
    return arguments


def ours(arguments: argparse.Namespace) -> list[str]:
    """Return the command that starts our server."""
    number = "fp32" if arguments.dtype == "fp32" else "bf16"
    source = write(arguments.models, arguments.config, number)
    folder = served_directory(source, SIZES[arguments.config].vocab)
    command = [sys.executable, "-m", "mindformers", "serve", str(folder)]
    command += ["--port", str(free_port()), "--max_running", str(max(arguments.streams))]
    command += ["--cache_tokens", str(max(arguments.streams) * _tokens_of_one(arguments))]
    if arguments.dtype in ("int8", "int4"):
        command += ["--quantization", arguments.dtype]
    return command


def gguf_file(arguments: argparse.Namespace) -> str:
    """Return llama.cpp's file of the weights, written by its own Python."""
    command = [str(arguments.llama_python), "-m", "benchmarks.serve_gguf"]
    command += ["--models", str(arguments.models), "--config", arguments.config]
    command += ["--dtype", _FORMS[arguments.dtype]]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.split()[-1]


def llama_python(arguments: argparse.Namespace, model: str) -> list[str]:
    """Return the command that starts the server of llama.cpp's Python package."""
    command = [str(arguments.llama_python), "-m", "llama_cpp.server", "--model", model]
    command += ["--host", "127.0.0.1", "--port", str(free_port())]
    command += ["--n_ctx", str(_tokens_of_one(arguments))]
    command += ["--n_threads", str(arguments.threads), "--n_threads_batch", str(arguments.threads)]
    # A request would otherwise break off the one before it.
    command += ["--interrupt_requests", "false"]
    # By default it computes the scores of all tokens of a prompt.
    return [*command, "--logits_all", "false", "--verbose", "false"]


def llama_server(arguments: argparse.Namespace, model: str) -> list[str]:
    """Return the command that starts llama.cpp's own server, with a place for each stream."""
    most, threads = max(arguments.streams), str(arguments.threads)
    command = [str(arguments.llama_server), "--model", model]
    command += ["--host", "127.0.0.1", "--port", str(free_port())]
    command += ["--parallel", str(most), "--ctx-size", str(most * _tokens_of_one(arguments))]
    return [*command, "--threads", threads, "--threads-batch", threads, "--threads-http", "4"]


def _tokens_of_one(arguments: argparse.Namespace) -> int:
    return int(arguments.prompt + arguments.new + 32)


def free_port() -> int:
    """Return a port nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(command: list[str], threads: int) -> Iterator[tuple[int, int]]:
    """Run a server while inside; gives its port and its process once it answers.

    Raises:
        RuntimeError: If it ends or does not answer in time; the message is its last word.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment |= {"MINDFORMERS_THREADS": str(threads)}
    port = int(command[command.index("--port") + 1])
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            if not _answers(process, port):
                log.seek(0)
                raise RuntimeError((log.read().split("\n")[-2:-1] or ["it said nothing"])[0])
            yield port, process.pid
        finally:
            process.terminate()
            process.wait(60)


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until a server answers; return whether it does before it ends or the patience does."""
    ends = time.monotonic() + _PATIENCE
    while process.poll() is None and time.monotonic() < ends:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5):
                return True
        except OSError:
            time.sleep(0.2)
    return False


def measure(who: str, command: list[str], arguments: argparse.Namespace, number: int) -> None:
    """Print a line for each number of streams."""
    about: dict[str, Any] = {"who": who, "what": "serve", "config": arguments.config}
    about |= {"dtype": arguments.dtype if who == OURS else _FORMS[arguments.dtype]}
    about |= {"round": number, "prompt": arguments.prompt, "new": arguments.new}
    shape = {"length": arguments.prompt, "new": arguments.new}
    try:
        with server(command, arguments.threads) as (port, _):
            load(port, 1, requests=1, **shape)  # unmeasured
            for streams in arguments.streams:
                watch = Watch()
                figures = load(
                    port, streams, requests=arguments.requests, first=1000 * streams, **shape
                )
                print(
                    json.dumps({**about, **figures, "seconds": round(watch.seconds(), 2)}),
                    flush=True,
                )
    except (RuntimeError, OSError) as error:
        print(json.dumps({**about, "value": None, "error": str(error)}), flush=True)


def main() -> None:
    """Measure all rounds, in another order each."""
    arguments = parse()
    contest = {OURS: ours(arguments)}
    if arguments.llama_python:
        model = gguf_file(arguments)
        if not arguments.only_batching:
            contest[f"{LLAMA} (Python)"] = llama_python(arguments, model)
        if arguments.llama_server:
            contest[f"{LLAMA} (llama-server)"] = llama_server(arguments, model)
    for number in range(arguments.rounds):
        order = list(contest)
        random.Random(number).shuffle(order)
        for who in order:
            measure(who, contest[who], arguments, number)


if __name__ == "__main__":
    main()
