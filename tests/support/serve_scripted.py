"""A process of its own with a scripted server: ``serve_scripted.py FOLDER DRAIN_TIMEOUT``; prints its URL.

A request's seed says how many words its answer has; without one it never ends.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

from mindformers.guard import run_guarded
from mindformers.serving.address import claim_address, url_of
from mindformers.serving.app import build_app
from mindformers.serving.lifecycle import Server
from tests.support.serving import counting, scripted_service, tiny_tokenizer


def words(request: Any, index: int) -> Any:
    return itertools.islice(counting(), request.seed)


def main(argv: Any) -> int:
    folder, drain_timeout = sys.argv[1:]
    tokenizer = tiny_tokenizer(Path(folder))
    service = scripted_service(tokenizer, words, drain_timeout=float(drain_timeout))
    listener = claim_address("127.0.0.1", 0)
    print(url_of(listener), flush=True)
    Server(build_app(service), service).run([listener])
    return 0


if __name__ == "__main__":
    sys.exit(run_guarded(main))
