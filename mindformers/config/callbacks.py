"""Typed settings of the callbacks: one section per ``callbacks[i].type``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from mindformers.config.fields import Count, OptionalText, Rate
from mindformers.config.monitor_callbacks import ProfileMonitorSection, SummaryMonitorSection
from mindformers.config.section import FILLED_IN, Section, only


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
    learning_rate: Annotated[Any, only(None, feature=FILLED_IN)] = Field(
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
    keep_best: OptionalText = Field(
        default="",
        description="Result of the evaluation, as eval_loss, whose best step is saved and never removed; "
        "best.json names it. Empty: none.",
    )
    keep_best_mode: Literal["auto", "min", "max"] = Field(
        default="auto",
        description="What is better; auto: a lower loss or perplexity, else a higher value.",
    )
    save_network_params: bool = Field(
        default=False, description="Write the weights alone to checkpoint_network too."
    )
    exception_save: bool = Field(
        default=False, description="Save after an error that is not about numbers or files."
    )
    integrated_save: bool = Field(
        default=True,
        description="Of several processes save_network_params writes one file of whole weights; false: each its share.",
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
    saved_network: Annotated[Any, only(None, feature=FILLED_IN)] = Field(
        default=None, description="Filled in by the run."
    )
    append_info: Annotated[
        list[str] | None, only(None, feature="adding entries to a checkpoint")
    ] = Field(default=None, description="More entries; not implemented.")
    config: Annotated[Any, only(None, feature=FILLED_IN)] = Field(
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


class EarlyStoppingSection(Section):
    """The end of a run whose evaluations get no better; needs do_eval."""

    type: Literal["EarlyStopping"] = Field(default="EarlyStopping", description="The callback.")
    monitor: str = Field(default="eval_loss", description="Result of the evaluation to look at.")
    min_delta: float = Field(
        default=0.0, allow_inf_nan=False, description="A better value is better by more than this."
    )
    patience: int = Field(
        default=0, ge=0, description="Evaluations in a row without a better value that end the run."
    )
    mode: Literal["auto", "min", "max"] = Field(
        default="auto",
        description="What is better; auto: a lower loss or perplexity, else a higher value.",
    )
    baseline: float | None = Field(
        default=None, description="Value that has to be bettered from the start; null: none."
    )
    verbose: bool = Field(default=False, description="Has no effect: the reason is always logged.")
    restore_best_weights: Annotated[
        bool,
        only(
            False,
            feature="going back to the best weights; keep_best of CheckpointMonitor keeps them",
        ),
    ] = Field(
        default=False, description="Go back to the best weights; not implemented, see keep_best."
    )


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
        | EarlyStoppingSection
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
