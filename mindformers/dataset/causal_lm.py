"""``CausalLanguageModelDataset``: the training data of a YAML file's ``train_dataset`` section."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mindformers.config.data import DatasetSection
from mindformers.config.report import bind_section
from mindformers.dataset.pipeline import ReadOptions, TrainDataset
from mindformers.dataset.sources import open_stored
from mindformers.dataset.token_dataset import TokenDataset
from mindformers.parallel.layout import Layout
from mindformers.registry import MindFormerModuleType, MindFormerRegister

DEFAULT_BATCH_SIZE = 8


@MindFormerRegister.register(MindFormerModuleType.DATASET)
class CausalLanguageModelDataset:
    """Rows of ``input_ids`` and ``labels`` as batches.

    Args:
        dataset_config: The section: a mapping or a checked ``DatasetSection``.
        seq_length: The model's row length (tokens); None: that of the files.
        vocab_size: Rows of the model's embedding; None: ids are not checked.
        layout: How processes share a batch; None: this one reads all of it.
        tokenizer: Makes token ids of text; not needed for MindRecord files. A mapping describes one, as
            the section's own ``tokenizer`` does.
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
        if isinstance(tokenizer, Mapping):
            settings["tokenizer"], tokenizer = tokenizer, None
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
            eod_token_id=section.eod_token_id if section.eod_reset else None,
        )
        self._data: TrainDataset | TokenDataset
        if section.is_stored:
            self._data = open_stored(
                section, options, seq_length=seq_length, tokenizer=tokenizer,
                vocab_size=vocab_size, pad_token_id=pad_token_id,
            )  # fmt: skip
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
