"""Typed settings of the callbacks: one section per ``callbacks[i].type``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from mindformers.config.fields import Count, OptionalText, Rate
from mindformers.config.section import Section, only

_FILLED_IN = "setting what the run fills in"


class LossMonitorSection(Section):
    """The loss line of every step."""

    type: Literal["MFLossMonitor"] = Field(default="MFLossMonitor", description="The callback.")
    per_print_times: Count = Field(default=1, description="Steps between two lines.")
    check_for_nan_in_loss_and_grad: bool = Field(
        default=False, description="Has no effect: a loss that is not finite always stops the run."
    )
    calculate_per_token_loss: bool = Field(
        default=False, description="Read for compatibility; no effect."
    )
    print_separate_loss: bool = Field(
        default=False, description="Has no effect: GLM-4 has one loss."
    )
    learning_rate: Annotated[Any, only(None, feature=_FILLED_IN)] = Field(
        default=None, description="Filled in by the run."
    )
    micro_batch_num: Count = Field(default=1, description="Filled in by the run.")
    micro_batch_interleave_num: Count = Field(default=1, description="Filled in by the run.")
    gradient_accumulation_steps: Count = Field(default=1, description="Filled in by the run.")
    origin_epochs: Count | None = Field(default=None, description="Filled in by the run.")
    dataset_size: Count | None = Field(default=None, description="Filled in by the run.")
    initial_epoch: int = Field(default=0, ge=0, description="Filled in by the run.")
    initial_step: int = Field(default=0, ge=0, description="Filled in by the run.")
    global_batch_size: int = Field(default=0, ge=0, description="Filled in by the run.")


class CheckpointMonitorSection(Section):
    """Checkpoints while training."""

    type: Literal["CheckpointMonitor"] = Field(
        default="CheckpointMonitor", description="The callback."
    )
    prefix: str = Field(default="CKP", description="First part of the file names.")
    directory: OptionalText = Field(default="", description="Folder; empty: output_dir.")
    checkpoint_format: Literal["ckpt", "safetensors"] = Field(
        default="ckpt", description="Format of the weights on disk."
    )
    save_checkpoint_steps: Count | None = Field(
        default=None,
        description="Steps between two checkpoints; null: 1, or by time alone.",
    )
    save_checkpoint_seconds: int = Field(
        default=0, ge=0, description="Seconds between two checkpoints, instead of steps; 0: off."
    )
    keep_checkpoint_max: int = Field(
        default=5, ge=0, description="Checkpoints kept, older ones are removed; 0 keeps all."
    )
    keep_checkpoint_per_n_minutes: Annotated[int, only(0, feature="keeping by time")] = Field(
        default=0, description="Keep one per time; not implemented."
    )
    save_optimizer: bool = Field(default=True, description="Save what resuming needs.")
    save_network_params: bool = Field(
        default=False, description="Write the weights alone to checkpoint_network too."
    )
    exception_save: bool = Field(
        default=False, description="Save after an error that is not about numbers or files."
    )
    integrated_save: bool = Field(
        default=True,
        description="Read for compatibility: each process saves its share; convert_weight.py --reversed joins them.",
    )
    remove_redundancy: bool = Field(
        default=False,
        description="Read for compatibility: what several processes hold is always written once.",
    )
    save_trainable_params: Annotated[bool, only(False, feature="saving only trained weights")] = (
        Field(default=False, description="Only trained weights; not implemented.")
    )
    async_save: Annotated[bool, only(False, feature="saving in the background")] = Field(
        default=False, description="Save in the background; not implemented."
    )
    saved_network: Annotated[Any, only(None, feature=_FILLED_IN)] = Field(
        default=None, description="Filled in by the run."
    )
    append_info: Annotated[
        list[str] | None, only(None, feature="adding entries to a checkpoint")
    ] = Field(default=None, description="More entries; not implemented.")
    config: Annotated[Any, only(None, feature=_FILLED_IN)] = Field(
        default=None, description="Filled in by the run."
    )
    enc_key: Annotated[str | None, only(None, feature="encryption of checkpoints")] = Field(
        default=None, description="Key of encrypted checkpoints; not implemented."
    )
    enc_mode: str = Field(default="AES-GCM", description="No effect without enc_key.")
    global_batch_size: Count | None = Field(default=None, description="Filled in by the run.")
    embedding_size: Count = Field(default=4096, description="No effect without the health monitor.")
    embedding_local_norm_threshold: Rate = Field(
        default=1.0, description="No effect without the health monitor."
    )
    use_checkpoint_health_monitor: Annotated[
        bool, only(False, feature="the checkpoint health monitor")
    ] = Field(default=False, description="Judge checkpoints; not implemented.")
    health_ckpts_record_dir: OptionalText = Field(
        default="./output", description="No effect without the health monitor."
    )
    use_legacy_format: Annotated[bool, only(True, feature="the iteration_N folder format")] = Field(
        default=True, description="False: upstream's newer folders; not implemented."
    )

    @model_validator(mode="after")
    def _one_clock(self) -> CheckpointMonitorSection:
        if self.save_checkpoint_steps and self.save_checkpoint_seconds:
            raise ValueError(
                f"save_checkpoint_seconds {self.save_checkpoint_seconds} stands beside "
                f"save_checkpoint_steps {self.save_checkpoint_steps}; allowed: one of them"
            )
        return self

    @field_validator("prefix")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not value or "/" in value or "rank" in value:
            raise ValueError(
                f"found {value!r}; allowed: a file name's beginning without '/' and 'rank'"
            )
        return value


class MetricsWriterSection(Section):
    """Figures of every step in files; on by default."""

    type: Literal["MetricsWriter"] = Field(default="MetricsWriter", description="The callback.")
    tensorboard: bool = Field(
        default=True, description="Write TensorBoard events beside metrics.jsonl."
    )


class LossPlotSection(Section):
    """A picture of loss and learning rate; on by default."""

    type: Literal["LossPlot"] = Field(default="LossPlot", description="The callback.")
    every: Count = Field(default=100, description="Steps between two drawings.")


class ProgressBarSection(Section):
    """A progress bar on a terminal; on by default."""

    type: Literal["ProgressBar"] = Field(default="ProgressBar", description="The callback.")


class ProfileMonitorSection(Section):
    """Where the time of some steps goes; ``profile: True`` adds it too."""

    type: Literal["ProfileMonitor"] = Field(default="ProfileMonitor", description="The callback.")
    start_step: Count = Field(default=1, description="First step to profile.")
    stop_step: Count = Field(default=10, description="Last step to profile.")
    output_path: OptionalText = Field(
        default="", description="Folder; empty: profile in output_dir."
    )
    profile_rank_ids: list[int] | None = Field(
        default=None, description="Processes to profile; null: all."
    )
    profile_memory: bool = Field(default=False, description="Ascend: memory of operators too.")
    profiler_level: int = Field(
        default=0, ge=0, le=2, description="Ascend: how much is recorded of an operator."
    )
    with_stack: bool = Field(
        default=False, description="Record where in Python operators were called."
    )
    mstx: bool = Field(default=False, description="Ascend: record marks.")
    start_profile: bool = Field(
        default=True, description="Has no effect: the profiler runs from start_step on."
    )
    profile_communication: bool = Field(
        default=False, description="Has no effect: from level 1 on messages are operators."
    )
    data_simplification: bool = Field(
        default=True, description="Read for compatibility; no effect."
    )
    profile_pipeline: Annotated[bool, only(False, feature="choosing processes by stage")] = Field(
        default=False, description="One process of each stage; not implemented."
    )
    config: Annotated[Any, only(None, feature=_FILLED_IN)] = Field(
        default=None, description="Filled in by the run."
    )

    @model_validator(mode="after")
    def _in_order(self) -> ProfileMonitorSection:
        if self.stop_step < self.start_step:
            raise ValueError(
                f"stop_step {self.stop_step} comes before start_step {self.start_step}; "
                "allowed: the same step or a later one"
            )
        return self


class SummaryMonitorSection(Section):
    """TensorBoard events of the steps, and histograms of weights."""

    type: Literal["SummaryMonitor"] = Field(default="SummaryMonitor", description="The callback.")
    summary_dir: OptionalText = Field(
        default="", description="Folder; empty: summary in output_dir."
    )
    collect_freq: Count = Field(default=10, description="Steps between two records.")
    collect_specified_data: dict[Literal["histogram_regular"], str] | None = Field(
        default=None,
        description="What else: histogram_regular, a regular expression found in the names of weights to draw.",
    )
    keep_default_action: bool = Field(default=True, description="Read for compatibility.")
    custom_lineage_data: Annotated[Any, only(None, feature="data of MindInsight")] = Field(
        default=None, description="Data of MindInsight; not implemented."
    )
    collect_tensor_freq: Annotated[int | None, only(None, feature="writing tensors")] = Field(
        default=None, description="Steps between tensors; not implemented."
    )
    max_file_size: Annotated[int | None, only(None, feature="a limit on the file")] = Field(
        default=None, description="Largest file; not implemented."
    )
    export_options: Annotated[Any, only(None, feature="writing tensors")] = Field(
        default=None, description="Files of tensors; not implemented."
    )


class TrainCallBackSection(Section):
    """The step a run ends with; the same as ``runner_config.stop_step``."""

    type: Literal["TrainCallBack"] = Field(default="TrainCallBack", description="The callback.")
    stop_step: Count | None = Field(default=None, description="Last step; null: no limit.")


_ELSEWHERE = {
    "StressDetectCallBack": "it tests the arithmetic of NPUs",
    "SDCMonitor": "it looks for errors in the arithmetic of NPUs",
    "OnRequestExit": "a run ends with a saved step at SIGTERM and Ctrl-C without it",
    "TrainingStateMonitor": "monitor_config: {monitor_on: True} adds it",
    "MaxLogitsMonitor": "it clips the logits of newer networks",
    "TopkBiasBalanceCallback": "it balances experts, and GLM-4 has none",
    "ColdHotExpertMonitor": "it balances experts, and GLM-4 has none",
    "MoEDropRateCallback": "it watches experts, and GLM-4 has none",
    "ObsMonitor": "copying results to an address is not implemented; take rsync or the like",
}


def _say_why(value: Any) -> Any:
    """Refuse upstream's callbacks that have no place here, with the reason."""
    name = value.get("type") if isinstance(value, dict) else None
    if isinstance(name, str) and name in _ELSEWHERE:
        raise ValueError(f"found {name}: {_ELSEWHERE[name]}; leave it out")
    return value


CallbackSection = Annotated[
    Annotated[
        LossMonitorSection
        | CheckpointMonitorSection
        | MetricsWriterSection
        | LossPlotSection
        | ProgressBarSection
        | ProfileMonitorSection
        | SummaryMonitorSection
        | TrainCallBackSection,
        Field(discriminator="type"),
    ],
    BeforeValidator(_say_why),
]
