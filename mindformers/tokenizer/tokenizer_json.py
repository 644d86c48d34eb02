"""``tokenizer.json``: the same vocabulary in Hugging Face's form, as GLM-4-9B-0414 comes with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mindformers.checkpoint.json_file import read_json
from mindformers.errors import TokenizerError
from mindformers.tokenizer.rank_file import tokens_by_rank


def read_tokenizer_json(path: Path, split_pattern: str) -> list[bytes]:
    """Read and check a ``tokenizer.json``; return the token bytes, indexed by rank.

    Args:
        path: The file.
        split_pattern: The pattern by which texts must be split.

    Raises:
        TokenizerError: If it is no byte-level BPE, splits texts in another way, or its merges do
            not follow the ranks: encoding by rank would give other ids.
    """
    content = read_json(path, TokenizerError)
    model = content.get("model")
    vocab = model.get("vocab") if isinstance(model, Mapping) else None
    if not isinstance(model, Mapping) or model.get("type") != "BPE" or not isinstance(vocab, dict):
        raise _foreign(path, "its model is no byte-pair encoding")
    if content.get("normalizer") or split_pattern not in set(_patterns(content)):
        raise _foreign(path, "it splits or rewrites texts in another way")
    added = set(_added_tokens(content))
    try:
        known = {_bytes_of(text): rank for text, rank in vocab.items() if rank not in added}
        tokens = tokens_by_rank(path, known)
        _check_merges(path, model.get("merges") or (), vocab)
    except (KeyError, TypeError, ValueError) as error:
        raise _foreign(path, f"a token or a merge of it is not byte level ({error})") from error
    return tokens


def read_added_tokens(path: Path) -> dict[int, Any]:
    """Return the ``added_tokens_decoder`` of a ``tokenizer.json``: id to content and kind.

    Raises:
        TokenizerError: If the file is no JSON object.
    """
    return _added_tokens(read_json(path, TokenizerError))


def _added_tokens(content: Mapping[str, Any]) -> dict[int, Any]:
    entries = content.get("added_tokens") or ()
    return {entry["id"]: entry for entry in entries if isinstance(entry, Mapping) and "id" in entry}


def _foreign(path: Path, what: str) -> TokenizerError:
    return TokenizerError(
        f"this tokenizer.json is not GLM-4's: {what}",
        where=str(path),
        fix="use the tokenizer.model or the tokenizer.json of a GLM-4 model",
    )


def _patterns(content: Mapping[str, Any]) -> Iterator[str]:
    """Yield the regular expressions by which texts are split."""
    pending = [content.get("pre_tokenizer")]
    while pending:
        item = pending.pop()
        if isinstance(item, Mapping):
            pattern = item.get("pattern")
            if isinstance(pattern, Mapping) and isinstance(pattern.get("Regex"), str):
                yield pattern["Regex"]
            pending.extend(item.get("pretokenizers") or ())


def _check_merges(path: Path, merges: Any, vocab: Mapping[str, int]) -> None:
    last = -1
    for merge in merges:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        rank = vocab[left + right]
        if rank < last:
            raise _foreign(path, f"the merge {left!r} {right!r} comes after one of a higher rank")
        last = rank


def _letter_table() -> dict[int, int]:
    """Return byte by letter: byte-level vocabularies write printable bytes as they are.

    The other bytes follow from U+0100 on; a letter that stands for no byte becomes one beyond
    Latin-1, which then cannot be encoded.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {**dict.fromkeys(others, 0xFFFF), **{256 + i: byte for i, byte in enumerate(others)}}


_BYTE_OF_LETTER = _letter_table()


def _bytes_of(text: str) -> bytes:
    return text.translate(_BYTE_OF_LETTER).encode("latin-1")
