"""Typed settings of training data: where it lies and how it is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mindformers.config.columns import COLUMNS
from mindformers.config.columns import IGNORED_LABEL as IGNORED_LABEL
from mindformers.config.fields import Count, OptionalText, PositiveRate
from mindformers.config.inference import TokenizerSection
from mindformers.config.section import Section, only

TEXT_SUFFIXES = (".json", ".jsonl", ".parquet")
_COLUMNS = list(COLUMNS)
_ADGEN_COLUMNS = ["content", "summary"]
_FORMATS = {"ADGenDataLoader": "adgen", "ToolAlpacaDataLoader": "toolalpaca"}
_TEXT_KEYS = ("format", "train_on", "too_long", "no_label", "on_error", "order")


class FilesSection(Section):
    """Files of one kind."""

    type: Literal["MindDataset", "JsonDataLoader", "ADGenDataLoader", "ToolAlpacaDataLoader"] = (
        Field(
            default="MindDataset",
            description="Format of the files: MindRecord (MindDataset), or text: JSON, JSON Lines, Parquet. "
            "Files whose names end in .json, .jsonl or .parquet are text whatever stands here.",
        )
    )
    dataset_dir: OptionalText | list[str] = Field(
        default="", description="A file, a folder of them, or a list of files."
    )
    format: Literal["auto", "messages", "sharegpt", "alpaca", "adgen", "toolalpaca", "text"] = (
        Field(
            default="auto", description="Form of rows of text; auto: told by the keys of each row."
        )
    )

    @property
    def is_text(self) -> bool:
        """Whether the files hold text, of which token ids have to be made."""
        paths = [self.dataset_dir] if isinstance(self.dataset_dir, str) else self.dataset_dir
        is_named = bool(paths) and all(path.endswith(TEXT_SUFFIXES) for path in paths)
        return self.type != "MindDataset" or is_named

    @property
    def row_format(self) -> str:
        """The form of the rows of text, as the loader's name says it."""
        return _FORMATS.get(self.type, self.format)


class SourceSection(FilesSection):
    """``data_loader.sources``: one of several sources of rows."""

    weight: PositiveRate = Field(
        default=1.0, description="Share of this source's rows in an epoch, beside those of others."
    )


class DataLoaderSection(FilesSection):
    """``data_loader``: the files."""

    sources: list[SourceSection] = Field(
        default=[], description="Several sources instead of dataset_dir, mixed by their weights."
    )
    shuffle: bool = Field(
        default=False, description="A new order in every epoch, drawn from the seed."
    )
    num_samples: Count | None = Field(default=None, description="Rows to use; null: all.")
    train_on: Literal["all", "last"] = Field(
        default="all", description="Which of an assistant's turns in a row of text are learnt."
    )
    too_long: Literal["truncate", "drop", "error", "split"] = Field(
        default="truncate", description="What becomes of conversations longer than a row."
    )
    no_label: Literal["drop", "error", "keep"] = Field(
        default="drop", description="What becomes of rows of text of which nothing is learnt."
    )
    on_error: Literal["error", "skip"] = Field(
        default="error", description="Whether a malformed row of text ends the run or is left out."
    )
    order: Literal["strict", "any"] = Field(
        default="strict", description="Whether the turns of a conversation have to make sense."
    )
    phase: Literal["train", "eval"] = Field(
        default="train", description="Read for compatibility; no effect."
    )
    version: int = Field(default=1, description="Read for compatibility; no effect.")
    origin_columns: Annotated[list[str], only(_ADGEN_COLUMNS, feature="another set of columns")] = (
        Field(default=_ADGEN_COLUMNS, description="Columns of the files of an ADGenDataLoader.")
    )

    @model_validator(mode="after")
    def _keys_fit_the_files(self) -> DataLoaderSection:
        if self.sources and self.dataset_dir:
            raise ValueError("sources and dataset_dir are both given; keep one of them")
        given = [name for name in _TEXT_KEYS if getattr(self, name) != _default_of(name)]
        if given and self.files and not any(each.is_text for each in self.files):
            raise ValueError(
                f"{given[0]} has no effect on MindRecord files, whose rows are made already; "
                "allowed: with type JsonDataLoader"
            )
        return self

    @property
    def files(self) -> Sequence[FilesSection]:
        """The sources, or the one that stands here; empty where none is named."""
        return self.sources or ([self] if self.dataset_dir else [])

    @property
    def has_text(self) -> bool:
        """Whether token ids have to be made of anything."""
        return any(each.is_text for each in self.files)


def _default_of(name: str) -> Any:
    return DataLoaderSection.model_fields[name].default


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
        description="Tokens of a row that is made of text or packed; null: the model's seq_length.",
    )
    max_source_length: Count | None = Field(
        default=None,
        description="Of a KeyWordGenDataset: with max_target_length and one token more, the length of a row.",
    )
    max_target_length: Count | None = Field(
        default=None, description="Of a KeyWordGenDataset, see max_source_length (tokens)."
    )
    ignore_pad_token_for_loss: Annotated[bool, only(True, feature="learning to fill up")] = Field(
        default=True, description="Filling is not learnt."
    )
    tokenizer: TokenizerSection | None = Field(
        default=None, description="Tokenizer for text; null: the processor's, or the weights' own."
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
    eod_reset: bool = Field(
        default=False,
        description="Rows of MindRecord files hold several documents, each ended by eod_token_id: none "
        "sees another, and each counts its positions from 0.",
    )
    eod_token_id: int | None = Field(
        default=None, ge=0, description="With eod_reset: the id that ends a document."
    )
    dynamic_batch: bool = Field(
        default=False, description="Fill rows up to the longest of their batch, not to one length."
    )
    divisor: Count | None = Field(
        default=None,
        description="With dynamic_batch: lengths are multiples of it (tokens); null: 32.",
    )
    remainder: Annotated[int | None, only(None, 0, feature="another remainder")] = Field(
        default=None, description="With dynamic_batch: what a length leaves over divisor; 0 alone."
    )
    group_by_length: bool = Field(
        default=False,
        description="With dynamic_batch: batches of rows of like length, in drawn order.",
    )
    token_monitor: Annotated[bool, only(False, feature="the token monitor")] = Field(
        default=False, description="Count tokens; not implemented."
    )

    @model_validator(mode="after")
    def _forms_fit(self) -> DatasetSection:
        if self.dynamic_batch and self.packing:
            raise ValueError(
                "dynamic_batch and packing are both True; packed rows are full already, keep one of them"
            )
        if self.eod_reset and self.eod_token_id is None:
            raise ValueError("eod_reset is True, but eod_token_id names no token")
        if self.eod_reset and self.is_stored:
            raise ValueError(
                "eod_reset is for MindRecord files whose rows are packed already; leave out packing, "
                "dynamic_batch, sources and files of text"
            )
        if self.group_by_length and not self.dynamic_batch:
            raise ValueError("group_by_length has no effect unless dynamic_batch is True")
        return self

    @property
    def is_stored(self) -> bool:
        """Whether token ids are kept between runs: rows are then read from there in any form."""
        loader = self.data_loader
        return loader.has_text or bool(loader.sources) or self.packing or self.dynamic_batch

    @property
    def row_length(self) -> int | None:
        """Tokens of a row that is made of text or packed, as the section says it."""
        if self.max_source_length and self.max_target_length:
            return self.max_source_length + self.max_target_length + 1
        return self.max_seq_length


class DatasetTaskSection(Section):
    """``train_dataset_task`` and ``eval_dataset_task``: what the rows are for."""

    type: Literal["CausalLanguageModelDataset", "KeyWordGenDataset", "MultiTurnDataset"] = Field(
        default="CausalLanguageModelDataset",
        description="Rows of input_ids and labels; the three differ in name only.",
    )
    dataset_config: DatasetSection | None = Field(
        default=None, description="The dataset section again: write an alias, '*train_dataset'."
    )
