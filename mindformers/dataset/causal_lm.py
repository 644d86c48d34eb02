"""``CausalLanguageModelDataset``: the training data of a YAML file's ``train_dataset`` section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mindformers.config.data import DatasetSection
from mindformers.config.report import bind_section
from mindformers.dataset.pipeline import ReadOptions, TrainDataset
from mindformers.parallel.layout import Layout
from mindformers.registry import MindFormerModuleType, MindFormerRegister

DEFAULT_BATCH_SIZE = 8


@MindFormerRegister.register(MindFormerModuleType.DATASET)
class CausalLanguageModelDataset(TrainDataset):
    """Rows of ``input_ids`` and ``labels`` as batches.

    Args:
        dataset_config: The section: a mapping or a checked ``DatasetSection``.
        seq_length: The model's row length (tokens); None: that of the files.
        vocab_size: Rows of the model's embedding; None: ids are not checked.
        layout: How processes share a batch; None: this one reads all of it.
        **settings: Keys of the section (``data_loader``, ``input_columns``, ``batch_size``,
            ``drop_remainder``, ``seed``, ...); they win over ``dataset_config``.

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
        super().__init__(loader.dataset_dir, options, seq_length=seq_length, vocab_size=vocab_size)


def _bind(
    config: Mapping[str, Any] | DatasetSection | None, settings: Mapping[str, Any]
) -> DatasetSection:
    given = config.model_dump(exclude_unset=True) if isinstance(config, DatasetSection) else config
    return bind_section(DatasetSection, {**(given or {}), **settings}, "train_dataset")
