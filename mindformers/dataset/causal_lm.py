"""``CausalLanguageModelDataset``: the training data of a YAML file's ``train_dataset`` section."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mindformers.config.data import DatasetSection
from mindformers.config.report import bind_section
from mindformers.dataset.mindrecord_store import rows_of_mindrecord
from mindformers.dataset.pipeline import ReadOptions, TrainDataset
from mindformers.dataset.token_dataset import RowForm, TokenDataset
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
        pad_token_id: What fills up a row of several documents.
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
        if section.packing:
            plain = ReadOptions(_READ_AT_ONCE, drop_remainder=False,
                                num_parallel_workers=options.num_parallel_workers)  # fmt: skip
            files = TrainDataset(loader.dataset_dir, plain, vocab_size=vocab_size)
            store = rows_of_mindrecord(files, cache_dir(section.cache_dir))
            length = section.max_seq_length or seq_length or files.seq_length
            self._data = TokenDataset(store, RowForm(length, pad_token_id, True), options)
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
