"""Files of conversations straight to training rows: token ids are made once and kept in a cache. Loads no MindSpore."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mindformers.checkpoint.step_format import file_sha256
from mindformers.config.data import TEXT_SUFFIXES
from mindformers.dataset.encoding import encode_files, worthwhile_workers
from mindformers.dataset.row_encoder import EncodeOptions, PackedChunk
from mindformers.dataset.row_store import RowStore, RowWriter, TokenPacker, stored_rows
from mindformers.dataset.tally import Tally
from mindformers.errors import DataError, did_you_mean
from mindformers.logger import logger
from mindformers.parallel.heartbeat import beat
from mindformers.tokenizer.chat import default_template

# Raised when rows come out otherwise for the same input: what is in caches is then made again.
ROWS_VERSION = 1
_NOTABLE = 0.1  # a share of the input that nobody loses on purpose without wanting to know


def rows_of_text(
    source: str | Path | Sequence[str | Path],
    tokenizer: Any,
    options: EncodeOptions,
    *,
    cache_dir: Path,
    num_workers: int = 1,
) -> RowStore:
    """Return the training rows of files, made now unless the cache has them.

    They are kept under a hash of the files' content, the vocabulary, the chat template and the
    options; which row came from which file and line is not kept.

    Args:
        source: A file, a folder that is searched for JSON, JSON Lines and Parquet files, or a list.
        tokenizer: Renders and encodes.
        options: How rows are made.
        cache_dir: Folder of all stores.
        num_workers: Most processes that encode.

    Raises:
        DataError: If there is no file, one cannot be read, a row ends the work, or none is left.
        MissingExtraError: If a Parquet file is among them and pyarrow is not installed.
        CheckpointError: If the cache cannot be written.
    """
    files = text_files(source)
    identity = {
        "rows_version": ROWS_VERSION,
        "files": [file_sha256(file) for file in files],
        "tokenizer": tokenizer_identity(tokenizer),
        "options": asdict(options),
    }

    def write(writer: RowWriter) -> Tally:
        size = sum(file.stat().st_size for file in files)
        logger.info(
            "encoding %d file(s), %.1f MB; the rows are kept in %s",
            len(files), size / 1e6, cache_dir,
        )  # fmt: skip
        workers = worthwhile_workers(size, num_workers)
        return _write_rows(
            writer,
            encode_files(files, tokenizer, options, num_workers=workers, packer=TokenPacker()),
        )

    store = stored_rows(cache_dir, identity, write)
    _say(store.tally)
    return store


def _write_rows(writer: RowWriter, chunks: Iterable[PackedChunk]) -> Tally:
    """Write encoded rows as they come; return what became of the input."""
    began, tally = time.monotonic(), Tally()
    for chunk in chunks:
        beat("encoding the training data")
        if chunk.rows.num_rows:
            writer.write(chunk.rows)
        tally.add(chunk.tally)
    logger.info("encoded in %.1f s", time.monotonic() - began)
    return tally


def _say(tally: Tally) -> None:
    """Say what became of the rows, and warn where much of them is lost."""
    for line in told(tally):
        logger.info("%s", line)
    for what, count in (("left out", sum(tally.dropped.values())), ("cut", tally.truncated)):
        if count > _NOTABLE * tally.rows_read:
            share = 100 * count / tally.rows_read
            logger.warning("%.0f %% of the conversations were %s", share, what)


def text_files(source: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the files that ``dataset_dir`` means, sorted within a folder.

    Raises:
        DataError: If there is none.
    """
    sources = [source] if isinstance(source, str | Path) else list(source)
    found = list(dict.fromkeys(file for each in sources for file in _files_of(Path(each))))
    if not found:
        raise DataError("the list of data files is empty", where="dataset_dir")
    return found


def _files_of(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    if path.is_dir():
        files = sorted(
            each for each in path.rglob("*") if each.suffix in TEXT_SUFFIXES and each.is_file()
        )
        if files:
            yield from files
            return
        raise DataError(
            "the folder holds no data file",
            where=str(path),
            allowed=f"names in {', '.join(TEXT_SUFFIXES)}",
        )
    names = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
    raise DataError("there is no such file", where=str(path), fix=did_you_mean(path.name, names))


def tokenizer_identity(tokenizer: Any) -> dict[str, Any]:
    """Return what the ids of a conversation follow from: vocabulary, control tokens, chat template."""
    template = json.dumps(tokenizer.chat_template or default_template(), sort_keys=True)
    return {
        "vocabulary": tokenizer.vocab_hash,
        "special_tokens": dict(sorted(tokenizer.special_tokens.items())),
        "chat_template": hashlib.sha256(template.encode("utf-8")).hexdigest(),
        "class": type(tokenizer).__name__,
    }


def told(tally: Tally) -> Iterator[str]:
    """Yield lines that say what became of the rows."""
    share = 100 * tally.trained_tokens / max(1, tally.tokens)
    yield (
        f"data: {tally.rows_read:,} read, {tally.rows_written:,} rows of {tally.tokens:,} tokens, "
        f"{tally.trained_tokens:,} of them learnt ({share:.1f} %); truncated {tally.truncated:,} "
        f"({tally.cut_tokens:,} tokens cut), split {tally.split:,}, kept without a label "
        f"{tally.unlearnt:,}, dropped {sum(tally.dropped.values()):,}"
    )
    for reason, count in sorted(tally.dropped.items()):
        yield f"dropped ({reason}): {count:,}; first {tally.examples[reason][0]}"
