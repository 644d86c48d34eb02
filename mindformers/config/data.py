"""Typed settings of training data: where it lies and how it is read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mindformers.config.columns import COLUMNS
from mindformers.config.columns import IGNORED_LABEL as IGNORED_LABEL
from mindformers.config.fields import Count, OptionalText
from mindformers.config.section import Section, only

_COLUMNS = list(COLUMNS)


class DataLoaderSection(Section):
    """``data_loader``: the files."""

    type: Literal["MindDataset"] = Field(
        default="MindDataset", description="Format of the files: MindRecord."
    )
    dataset_dir: OptionalText | list[str] = Field(
        default="", description="A MindRecord file, a folder of them, or a list of files."
    )
    shuffle: bool = Field(
        default=False, description="A new order in every epoch, drawn from the seed."
    )
    num_samples: Count | None = Field(default=None, description="Rows to use; null: all.")


class DatasetSection(Section):
    """``train_dataset`` and ``eval_dataset``: how rows become batches."""

    data_loader: DataLoaderSection = Field(
        default_factory=DataLoaderSection, description="The files."
    )
    input_columns: Annotated[list[str], only(_COLUMNS, feature="another set of columns")] = Field(
        default=_COLUMNS, description="Columns of the files."
    )
    output_columns: Annotated[
        list[str] | None, only(None, _COLUMNS, feature="another set of columns")
    ] = Field(default=None, description="Columns of a batch; the input columns.")
    batch_size: Count | None = Field(
        default=None, description="Rows of one micro batch; null: runner_config.batch_size."
    )
    packing: bool = Field(
        default=False,
        description="Several documents a row; none sees another, so they train as they would alone.",
    )
    max_seq_length: Count | None = Field(
        default=None,
        description="Tokens of a row of several documents; null: the model's seq_length.",
    )
    cache_dir: OptionalText = Field(
        default="",
        description="Folder where token ids are kept between runs; empty: the user's cache folder.",
    )
    drop_remainder: bool = Field(
        default=True, description="Leave out the last batch when it is not full."
    )
    repeat: Annotated[int, only(1, feature="repeating the data")] = Field(
        default=1, description="Passes in one epoch; use runner_config.epochs for more."
    )
    seed: int | None = Field(
        default=None, ge=0, description="Seed of the order; null: the run's seed."
    )
    num_parallel_workers: Count = Field(
        default=8, description="Threads that read the files; never more than there are cores."
    )
    python_multiprocessing: bool = Field(
        default=False, description="Read for compatibility; no effect."
    )
    numa_enable: bool = Field(default=False, description="Read for compatibility; no effect.")
    prefetch_size: Count = Field(default=1, description="Read for compatibility; no effect.")
    auto_tune: Annotated[bool, only(False, feature="tuning the data pipeline")] = Field(
        default=False, description="Tune the pipeline; not implemented."
    )
    filepath_prefix: OptionalText = Field(
        default="./autotune", description="No effect while auto_tune is False."
    )
    autotune_per_step: Count = Field(
        default=10, description="No effect while auto_tune is False (steps)."
    )
    profile: Annotated[bool, only(False, feature="profiling")] = Field(
        default=False, description="Profile the pipeline; not implemented."
    )
    eod_reset: Annotated[bool, only(False, feature="masking of packed documents")] = Field(
        default=False, description="Mask packed documents from one another; not implemented."
    )
    eod_token_id: int | None = Field(
        default=None, ge=0, description="No effect while eod_reset is False."
    )
    dynamic_batch: Annotated[bool, only(False, feature="padding to the longest row")] = Field(
        default=False, description="Pad to the longest row; not implemented, rows have one length."
    )
    token_monitor: Annotated[bool, only(False, feature="the token monitor")] = Field(
        default=False, description="Count tokens; not implemented."
    )


class DatasetTaskSection(Section):
    """``train_dataset_task`` and ``eval_dataset_task``: what the rows are for."""

    type: Literal["CausalLanguageModelDataset"] = Field(
        default="CausalLanguageModelDataset", description="Rows of input_ids and labels."
    )
    dataset_config: DatasetSection | None = Field(
        default=None, description="The dataset section again: write an alias, '*train_dataset'."
    )
