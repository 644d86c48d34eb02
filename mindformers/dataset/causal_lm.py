"""``CausalLanguageModelDataset``: the training data of a YAML file's ``train_dataset`` section."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from mindformers.config.data import DatasetSection
from mindformers.config.report import bind_section
from mindformers.dataset.encoding import EncodeOptions
from mindformers.dataset.formats import Form
from mindformers.dataset.mindrecord_check import check_vocabulary
from mindformers.dataset.mindrecord_store import rows_of_mindrecord
from mindformers.dataset.pipeline import ReadOptions, TrainDataset
from mindformers.dataset.row_store import RowStore
from mindformers.dataset.text_rows import rows_of_text
from mindformers.dataset.token_dataset import RowForm, TokenDataset
from mindformers.errors import ConfigError
from mindformers.ops.native.cache import cache_folder
from mindformers.parallel.layout import Layout
from mindformers.registry import MindFormerModuleType, MindFormerRegister

DEFAULT_BATCH_SIZE = 8
_READ_AT_ONCE = 64  # rows of MindRecord files that are copied to a store


@MindFormerRegister.register(MindFormerModuleType.DATASET)
class CausalLanguageModelDataset:
    """Rows of ``input_ids`` and ``labels`` as batches.

    Args:
        dataset_config: The section: a mapping or a checked ``DatasetSection``.
        seq_length: The model's row length (tokens); None: that of the files.
        vocab_size: Rows of the model's embedding; None: ids are not checked.
        layout: How processes share a batch; None: this one reads all of it.
        tokenizer: Makes token ids of text; not needed for MindRecord files.
        pad_token_id: What fills up a row of several documents, without a tokenizer.
        **settings: Keys of the section (``data_loader``, ``input_columns``, ``batch_size``,
            ``drop_remainder``, ``seed``, ``packing``, ...); they win over ``dataset_config``.

    Attributes:
        batch_size: Rows of a batch.
        seq_length: Tokens of a row.
        num_rows: Rows of an epoch.
        fingerprint: Changes when the data does (sha256, hex).

    Raises:
        ConfigError: If a key is unknown or has a wrong value.
        DataError: If the files cannot be used.
    """

    def __init__(
        self,
        dataset_config: Mapping[str, Any] | DatasetSection | None = None,
        *,
        seq_length: int | None = None,
        vocab_size: int | None = None,
        layout: Layout | None = None,
        tokenizer: Any = None,
        pad_token_id: int = 0,
        **settings: Any,
    ) -> None:
        section = _bind(dataset_config, settings)
        loader = section.data_loader
        options = ReadOptions(
            batch_size=section.batch_size or DEFAULT_BATCH_SIZE,
            shuffle=loader.shuffle,
            seed=section.seed or 0,
            drop_remainder=section.drop_remainder,
            num_samples=loader.num_samples,
            num_parallel_workers=section.num_parallel_workers,
            layout=layout or Layout(),
        )
        self._data: TrainDataset | TokenDataset
        if loader.is_text or section.packing:
            store, length = _stored(section, seq_length, tokenizer, vocab_size)
            pad = pad_token_id if tokenizer is None else tokenizer.pad_token_id
            form = RowForm(length, pad, is_packed=section.packing)
            self._data = TokenDataset(store, form, options)
        else:
            self._data = TrainDataset(
                loader.dataset_dir, options, seq_length=seq_length, vocab_size=vocab_size
            )
        self.batch_size, self.seq_length = self._data.batch_size, self._data.seq_length
        self.num_rows, self.fingerprint = self._data.num_rows, self._data.fingerprint

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        return len(self._data)

    def batches(self, epoch: int, start: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """Yield the batches of an epoch; see ``TrainDataset.batches`` and ``TokenDataset.batches``."""
        return self._data.batches(epoch, start)


def _stored(
    section: DatasetSection, seq_length: int | None, tokenizer: Any, vocab_size: int | None
) -> tuple[RowStore, int]:
    """Return the rows of the section's files without their filling, and the tokens of a row."""
    loader, workers = section.data_loader, section.num_parallel_workers
    folder, length = cache_dir(section.cache_dir), section.row_length or seq_length
    if not loader.is_text:
        plain = ReadOptions(_READ_AT_ONCE, drop_remainder=False, num_parallel_workers=workers)
        files = TrainDataset(loader.dataset_dir, plain, vocab_size=vocab_size)
        return rows_of_mindrecord(files, folder), length or files.seq_length
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
        cast(Form, loader.row_format),
    )  # fmt: skip
    source = loader.dataset_dir
    store = rows_of_text(source, tokenizer, options, cache_dir=folder, num_workers=workers)
    if vocab_size is not None:
        check_vocabulary(store.max_id, vocab_size, Path(str(source)))
    return store, length


def cache_dir(named: str = "") -> Path:
    """Return where rows are kept between runs: ``named``, else a folder of the user's cache."""
    if named:
        return Path(named).expanduser()
    return (cache_folder() or Path(tempfile.gettempdir()) / "mindformers") / "data"


def _bind(
    config: Mapping[str, Any] | DatasetSection | None, settings: Mapping[str, Any]
) -> DatasetSection:
    given = config.model_dump(exclude_unset=True) if isinstance(config, DatasetSection) else config
    return bind_section(DatasetSection, {**(given or {}), **settings}, "train_dataset")


@MindFormerRegister.register(MindFormerModuleType.DATASET)
class KeyWordGenDataset(CausalLanguageModelDataset):
    """The same under the name upstream's ADGen files go with: rows of ``content`` and ``summary``."""


@MindFormerRegister.register(MindFormerModuleType.DATASET)
class MultiTurnDataset(CausalLanguageModelDataset):
    """The same under the name upstream's dialogues with tools go with."""
