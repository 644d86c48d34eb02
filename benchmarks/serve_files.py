"""A vocabulary for the made-up weights, so that servers can read and write text with them. Standard library only.

Its tokens are the 256 bytes and words of letters; nothing merges, so a text has as many tokens as it has bytes.
"""

from __future__ import annotations

import itertools
import string
from base64 import b64encode
from pathlib import Path

SPECIAL = 14  # GLM-4's special tokens, whose ids follow the others


def token_texts(vocab: int) -> list[bytes]:
    """Return the token of every id but the special ones."""
    lengths = range(3, 6)  # two letters would merge
    words = (
        "".join(each).encode()
        for length in lengths
        for each in itertools.product(string.ascii_lowercase, repeat=length)
    )
    single = [bytes([byte]) for byte in range(256)]
    return [*single, *itertools.islice(words, vocab - SPECIAL - len(single))]


def served_directory(source: Path, vocab: int) -> Path:
    """Return a directory with a model's files and a tokenizer beside them; the files are links."""
    folder = source.with_name(f"{source.name}-served")
    folder.mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        link = folder / name
        if not link.exists():
            link.symlink_to(source / name)
    lines = (
        f"{b64encode(token).decode()} {rank}\n" for rank, token in enumerate(token_texts(vocab))
    )
    (folder / "tokenizer.model").write_text("".join(lines), encoding="ascii")
    return folder
