"""Typed settings of training data: where it lies and how it is read."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mindformers.config.columns import COLUMNS
from mindformers.config.columns import IGNORED_LABEL as IGNORED_LABEL
from mindformers.config.fields import Count, OptionalText
from mindformers.config.inference import TokenizerSection
from mindformers.config.section import Section, only

TEXT_SUFFIXES = (".json", ".jsonl", ".parquet")
_COLUMNS = list(COLUMNS)
_ADGEN_COLUMNS = ["content", "summary"]
_FORMATS = {"ADGenDataLoader": "adgen", "ToolAlpacaDataLoader": "toolalpaca"}
_TEXT_KEYS = ("format", "train_on", "too_long", "no_label", "on_error", "order")


class DataLoaderSection(Section):
    """``data_loader``: the files."""

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
    shuffle: bool = Field(
        default=False, description="A new order in every epoch, drawn from the seed."
    )
    num_samples: Count | None = Field(default=None, description="Rows to use; null: all.")
    format: Literal["auto", "messages", "sharegpt", "alpaca", "adgen", "toolalpaca"] = Field(
        default="auto", description="Form of rows of text; auto: told by the keys of each row."
    )
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
    def _text_keys_need_text(self) -> DataLoaderSection:
        given = [name for name in _TEXT_KEYS if getattr(self, name) != _default_of(name)]
        if given and self.dataset_dir and not self.is_text:
            raise ValueError(
                f"{given[0]} has no effect on MindRecord files, whose rows are made already; "
                "allowed: with type JsonDataLoader"
            )
        return self

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
