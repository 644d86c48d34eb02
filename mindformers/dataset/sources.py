"""From the keys of a ``train_dataset`` section to stored rows and to how they make batches."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any, cast

import numpy as np

from mindformers.config.data import DatasetSection, FilesSection
from mindformers.dataset.formats import Form
from mindformers.dataset.mindrecord_check import check_vocabulary
from mindformers.dataset.mindrecord_store import rows_of_mindrecord
from mindformers.dataset.mixture import Mixture
from mindformers.dataset.pipeline import ReadOptions, TrainDataset
from mindformers.dataset.row_encoder import EncodeOptions
from mindformers.dataset.row_store import JoinedRows, RowStore
from mindformers.dataset.text_rows import rows_of_text
from mindformers.dataset.token_dataset import RowForm, TokenDataset
from mindformers.errors import ConfigError
from mindformers.logger import logger
from mindformers.ops.native.cache import cache_folder
from mindformers.tokenizer.named import tokenizer_of

_READ_AT_ONCE = 64  # rows of MindRecord files that are copied to a store
_DIVISOR = (
    32  # tokens that lengths of batches are multiples of: few different shapes, little filling
)


def open_stored(
    section: DatasetSection,
    options: ReadOptions,
    *,
    seq_length: int | None,
    tokenizer: Any,
    vocab_size: int | None,
    pad_token_id: int,
) -> TokenDataset:
    """Return the batches of the section's sources; arguments as of ``CausalLanguageModelDataset``.

    Raises:
        ConfigError: If text comes without a tokenizer or a length.
        DataError: If the files cannot be used.
    """
    loader, length = section.data_loader, section.row_length or seq_length
    if tokenizer is None and section.tokenizer and section.tokenizer.vocab_file:
        tokenizer = tokenizer_of(section.tokenizer)
    stores, lengths = [], []
    for files in loader.files:
        store, own = _open(files, section, length, tokenizer, vocab_size)
        stores.append(store)
        lengths.append(own)
    rows = JoinedRows(tuple(stores))
    layout = options.layout
    form = RowForm(
        max(lengths),
        tokenizer.pad_token_id if tokenizer is not None else pad_token_id,
        is_packed=section.packing,
        divisor=_divisor(section, layout.context * layout.tensor)
        if section.dynamic_batch
        else None,
        is_grouped=section.group_by_length,
    )
    mixture = _mixture(section, rows, options) if loader.sources else None
    return TokenDataset(rows, form, options, mixture)


def cache_dir(named: str = "") -> Path:
    """Return where rows are kept between runs: ``named``, else a folder of the user's cache."""
    if named:
        return Path(named).expanduser()
    return (cache_folder() or Path(tempfile.gettempdir()) / "mindformers") / "data"


def _open(
    files: FilesSection,
    section: DatasetSection,
    length: int | None,
    tokenizer: Any,
    vocab_size: int | None,
) -> tuple[RowStore, int]:
    """Return the rows of some files without their filling, and the tokens a row has room for."""
    loader, workers = section.data_loader, section.num_parallel_workers
    folder, source = cache_dir(section.cache_dir), files.dataset_dir
    if not files.is_text:
        plain = ReadOptions(_READ_AT_ONCE, drop_remainder=False, num_parallel_workers=workers)
        records = TrainDataset(source, plain, vocab_size=vocab_size)
        return rows_of_mindrecord(records, folder), length or records.seq_length
    if tokenizer is None:
        raise ConfigError(
            "text needs a tokenizer",
            where="train_dataset.tokenizer",
            fix="name its vocab_file, or give the data set a tokenizer",
        )
    if length is None:
        raise ConfigError(
            "no length of a row is given",
            where="train_dataset.max_seq_length",
            fix="set it, or give the model's seq_length",
        )
    options = EncodeOptions(
        length, loader.too_long, loader.on_error, loader.order, loader.no_label, loader.train_on,
        cast(Form, files.row_format),
    )  # fmt: skip
    store = rows_of_text(source, tokenizer, options, cache_dir=folder, num_workers=workers)
    if vocab_size is not None:
        check_vocabulary(store.max_id, vocab_size, Path(str(source)))
    return store, length


def _divisor(section: DatasetSection, processes: int) -> int:
    """Return what lengths are multiples of: the tokens of a row are shared among processes."""
    return math.lcm(section.divisor or _DIVISOR, processes)


def _mixture(section: DatasetSection, rows: JoinedRows, options: ReadOptions) -> Mixture:
    """Return how the sources are mixed, and say it."""
    sources = section.data_loader.sources
    mixture = Mixture(
        [len(store) for store in rows.stores],
        [source.weight for source in sources],
        min(len(rows), options.num_samples or len(rows)),
        options.seed,
        options.shuffle,
    )
    tokens = np.array([store.lengths.mean() for store in rows.stores]) * mixture.counts
    for source, size, count, part in zip(
        sources, mixture.sizes, mixture.counts.tolist(), tokens / tokens.sum(), strict=True
    ):
        logger.info(
            "source %s: %d of %d rows an epoch (%.2f passes), %.1f %% of the rows, about %.1f %% of the tokens",
            source.dataset_dir, count, size, count / size, 100 * count / mixture.num_rows, 100 * part,
        )  # fmt: skip
    return mixture
