"""Top-level keys of upstream files that change nothing here; they bind at neutral values."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from mindformers.config.fields import Count, OptionalText
from mindformers.config.section import Section, only

_PROFILING = "With profile: ProfileMonitor's"


class NeutralKeys(Section):
    """Keys read so that a published file binds; at any other value the missing feature is named."""

    load_ckpt_format: Literal["ckpt", "safetensors"] = Field(
        default="ckpt", description="Read for compatibility; the files themselves decide."
    )
    auto_trans_ckpt: bool = Field(
        default=False,
        description="Read for compatibility; weights are always laid out for the run.",
    )
    transform_process_num: Count = Field(
        default=1, description="Read for compatibility; no effect."
    )
    src_strategy_path_or_dir: OptionalText = Field(
        default="", description="Read for compatibility: a step says itself what its layout is."
    )
    strategy_load_checkpoint: OptionalText = Field(
        default="", description="Read for compatibility; no effect."
    )
    only_save_strategy: Annotated[bool, only(False, feature="writing layout files")] = Field(
        default=False, description="Write the layout and stop; not implemented."
    )
    load_ckpt_async: Annotated[bool, only(False, feature="loading in the background")] = Field(
        default=False, description="Load in the background; not implemented."
    )
    balanced_load: Annotated[bool, only(False, feature="balanced loading")] = Field(
        default=False, description="Share the reading among processes; not implemented."
    )
    use_legacy: Annotated[
        bool,
        only(
            True,
            feature="upstream's newer stack (GLM-4-0414: configs/glm4/predict_glm4_9b_0414.yaml)",
        ),
    ] = Field(default=True, description="False: upstream's newer networks; not implemented.")
    use_legacy_format: Annotated[bool, only(True, feature="the iteration_N folder format")] = Field(
        default=True, description="False: upstream's newer checkpoint folders; not implemented."
    )
    pretrained_model_dir: Annotated[
        OptionalText, only("", feature="settings from a model folder; use model.model_config")
    ] = Field(default="", description="Folder whose config.json is the network; not implemented.")
    ignore_data_skip: Annotated[bool, only(False, feature="resuming at the first row")] = Field(
        default=False, description="Resume at the first row; not implemented."
    )
    data_skip_steps: Annotated[int | None, only(None, feature="skipping rows by hand")] = Field(
        default=None,
        description="Steps of data to skip; not implemented, resuming knows its place.",
    )
    remote_save_url: OptionalText = Field(
        default="",
        description="Address to copy results to; not implemented, any other text is ignored.",
    )
    eval_callbacks: Annotated[list[Any], only([], feature="a callback of an evaluation")] = Field(
        default=[], description="Callbacks of an evaluation; not implemented."
    )
    modal_type: Annotated[str | list[str] | None, only(None, feature="input other than text")] = (
        Field(default=None, description="Kind of each input; not implemented, inputs are text.")
    )
    micro_batch_interleave_num: Annotated[int, only(1, feature="interleaving parts of a batch")] = (
        Field(default=1, description="Parts of a batch computed in turns; not implemented.")
    )
    print_separate_loss: bool = Field(
        default=True, description="Has no effect: GLM-4 has one loss."
    )
    auto_tune: Annotated[bool, only(False, feature="tuning the data pipeline")] = Field(
        default=False, description="Tune the data pipeline; not implemented."
    )
    filepath_prefix: OptionalText = Field(
        default="./autotune", description="No effect while auto_tune is False."
    )
    autotune_per_step: Count = Field(
        default=10, description="No effect while auto_tune is False (steps)."
    )
    profile: bool = Field(
        default=False, description="Profile steps of a training: adds ProfileMonitor."
    )
    profile_communication: bool = Field(default=False, description="Read for compatibility.")
    profile_memory: bool = Field(default=True, description=f"{_PROFILING} profile_memory.")
    profile_pipeline: bool = Field(default=False, description=f"{_PROFILING} profile_pipeline.")
    profile_level: int = Field(default=1, ge=0, le=2, description=f"{_PROFILING} profiler_level.")
    profile_rank_ids: list[int] | None = Field(
        default=None, description=f"{_PROFILING} profile_rank_ids."
    )
    profile_start_step: Count = Field(default=1, description=f"{_PROFILING} start_step.")
    profile_stop_step: Count = Field(default=10, description=f"{_PROFILING} stop_step.")
    init_start_profile: bool = Field(default=False, description="Read for compatibility.")
    mstx: bool = Field(default=False, description=f"{_PROFILING} mstx.")
    exclude_cann_cpu: bool = Field(default=False, description="Read for compatibility; no effect.")
    postprocess_use_numpy: bool = Field(
        default=False, description="Has no effect: it is always NumPy."
    )
    train_precision_sync: Annotated[
        bool | None, only(None, False, feature="bitwise agreement of train and predict")
    ] = Field(default=None, description="Bitwise agreement of train and predict; not implemented.")
    infer_precision_sync: Annotated[
        bool | None, only(None, False, feature="bitwise agreement of train and predict")
    ] = Field(default=None, description="Bitwise agreement of train and predict; not implemented.")

    @field_validator("remote_save_url")
    @classmethod
    def _no_address(cls, value: str) -> str:
        if "://" in value:
            raise ValueError("copying results to an address is not implemented; allowed: empty")
        return value
