"""The keys of a run's YAML, each with its section; what follows from several of them is a property."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from mindformers.config.callbacks import (
    CallbackSection,
    CheckpointMonitorSection,
    LossMonitorSection,
    TrainCallBackSection,
)
from mindformers.config.data import DatasetSection, DatasetTaskSection
from mindformers.config.evaluation import EvaluationKeys
from mindformers.config.fields import Count, OptionalText, PositiveRate
from mindformers.config.inference import ProcessorSection
from mindformers.config.lr_schedule import LrScheduleSection
from mindformers.config.model import ModelSection
from mindformers.config.monitor import MonitorSection
from mindformers.config.optimizer import AdamWSection, OptimizerSection
from mindformers.config.runtime import (
    ContextSection,
    MoeSection,
    OpsSection,
    ParallelConfigSection,
    ParallelSection,
    RecomputeSection,
    SwapSection,
)
from mindformers.config.training import (
    RunnerConfigSection,
    RunnerWrapperSection,
    TrainerSection,
)

_ALWAYS_THERE = (
    "trainer", "context", "ops", "runner_config", "runner_wrapper", "optimizer", "parallel",
    "parallel_config", "recompute_config", "callbacks", "report",
)  # fmt: skip


class RunKeys(EvaluationKeys):
    """Every key of the file, each right by itself. All may be left out."""

    seed: int = Field(default=1, ge=0, lt=2**32, description="Seed of weights, order and sampling.")
    run_mode: Literal["train", "finetune", "eval", "predict", "predict_with_train_model"] | None = (
        Field(default=None, description="What to do; the command line may say it instead.")
    )
    output_dir: str = Field(
        default="./output", min_length=1, description="Folder for all a run writes."
    )
    load_checkpoint: OptionalText = Field(
        default="", description="Weights to start from: a file or a folder; empty: none."
    )
    resume_training: bool | str = Field(
        default=False,
        description="True: go on from the newest checkpoint; a text: from the one of this name.",
    )
    allow_data_change: bool = Field(
        False, description="Resume although the training data or its order is another one."
    )

    trainer: TrainerSection = Field(
        default_factory=TrainerSection, description="The recipe of the run."
    )
    model: ModelSection | None = Field(default=None, description="The network.")
    processor: ProcessorSection | None = Field(default=None, description="Prompts to token ids.")
    train_dataset: DatasetSection | None = Field(default=None, description="Training data.")
    train_dataset_task: DatasetTaskSection | None = Field(
        default=None, description="Kind of the data."
    )
    eval_dataset: DatasetSection | None = Field(default=None, description="Evaluation data.")
    eval_dataset_task: DatasetTaskSection | None = Field(
        default=None, description="Kind of the data."
    )
    runner_config: RunnerConfigSection = Field(
        default_factory=RunnerConfigSection, description="Length and batch."
    )
    runner_wrapper: RunnerWrapperSection = Field(
        default_factory=lambda: RunnerWrapperSection(use_clip_grad=True),
        description="The training step; without this section gradients are clipped at 1.0.",
    )
    lr_schedule: LrScheduleSection | None = Field(
        default=None, description="Learning rate by step; null: optimizer.learning_rate throughout."
    )
    optimizer: OptimizerSection = Field(default_factory=AdamWSection, description="The optimizer.")
    layer_scale: bool = Field(
        default=False, description="Let every layer learn slower than the one above it."
    )
    layer_decay: PositiveRate = Field(
        default=0.65,
        description="With layer_scale: factor on the learning rate from each layer to the one below.",
    )
    lr_scale: bool = Field(
        default=False,
        description="Multiply the learning rate by the rows of a step / lr_scale_factor.",
    )
    lr_scale_factor: Count = Field(
        default=256, description="With lr_scale: the rows the rate is meant for."
    )
    callbacks: list[CallbackSection] = Field(
        default=[], description="What happens between steps; a loss line is always printed."
    )

    input_data: OptionalText | list[str] = Field(
        default="",
        description="Prompts to answer: a text, a file of one prompt per line, or a list.",
    )
    predict_batch_size: Count | None = Field(
        default=None, description="Prompts answered at once; null: all of them."
    )
    assistant_model: OptionalText = Field(
        default="",
        description="Folder of a smaller model of the same vocabulary that guesses tokens; empty: none.",
    )
    adapter_id: OptionalText | list[str] = Field(
        default="",
        description="Predicting: folder of the LoRA adapters to answer with, one for all prompts or one for each; "
        "none: the weights alone.",
    )
    save_file: OptionalText = Field(
        default="",
        description="File of the answers, or of an evaluation's results; empty: a name of the task's own.",
    )

    context: ContextSection = Field(default_factory=ContextSection, description="The device.")
    ops: OpsSection = Field(default_factory=OpsSection, description="Operators on a CPU.")
    use_parallel: bool = Field(default=False, description="Run as one of several processes.")
    parallel: ParallelSection = Field(
        default_factory=ParallelSection, description="How processes share a run."
    )
    parallel_config: ParallelConfigSection = Field(
        default_factory=ParallelConfigSection, description="Degrees of parallelism."
    )
    recompute_config: RecomputeSection = Field(
        default_factory=RecomputeSection, description="Activations computed again."
    )
    swap_config: SwapSection | None = Field(default=None, description="Activations in host memory.")
    moe_config: MoeSection | None = Field(default=None, description="Mixture of experts.")
    monitor_config: MonitorSection | None = Field(
        default=None, description="Figures of the network."
    )

    @property
    def adapter_names(self) -> list[str]:
        """The adapters that are named; empty: none."""
        named = [self.adapter_id] if isinstance(self.adapter_id, str) else self.adapter_id
        return [name for name in named if name]

    @field_validator(*_ALWAYS_THERE, mode="before")
    @classmethod
    def _null_is_default(cls, value: Any, info: ValidationInfo) -> Any:
        """Take a section that is named but empty for one that is left out."""
        if value is not None:
            return value
        return cls.model_fields[str(info.field_name)].get_default(call_default_factory=True)

    @property
    def global_batch_size(self) -> int:
        """Rows of one training step, over all micro batches and processes."""
        copies = self.parallel_config.data_parallel if self.use_parallel else 1
        return self.runner_config.batch_size * self.micro_batches * copies

    @property
    def micro_batches(self) -> int:
        """Micro batches of one training step: those that accumulate, times those of the pipeline."""
        degrees = self.parallel_config
        has_stages = self.use_parallel and degrees.pipeline_stage > 1
        parts = degrees.micro_batch_num if has_stages else 1
        return self.runner_config.gradient_accumulation_steps * parts

    @property
    def weights_path(self) -> str:
        """Where the weights come from: load_checkpoint, else the model's own path; may be empty."""
        own = self.model.network.checkpoint_name_or_path if self.model else None
        return self.load_checkpoint or own or ""

    @property
    def loss_monitor(self) -> LossMonitorSection:
        """The loss line's settings; the defaults when callbacks does not list it."""
        listed = [each for each in self.callbacks if isinstance(each, LossMonitorSection)]
        return listed[0] if listed else LossMonitorSection()

    @property
    def stop_step(self) -> int | None:
        """The step a run ends with, whatever the epochs say; None: no limit."""
        listed = [
            each.stop_step for each in self.callbacks if isinstance(each, TrainCallBackSection)
        ]
        limits = [each for each in (self.runner_config.stop_step, *listed) if each]
        return min(limits, default=None)

    @property
    def checkpoint_monitor(self) -> CheckpointMonitorSection | None:
        """The settings of the checkpoints, or None when callbacks asks for none."""
        listed = [each for each in self.callbacks if isinstance(each, CheckpointMonitorSection)]
        return listed[0] if listed else None

    def to_dict(self) -> dict[str, Any]:
        """Return every setting under its YAML key, defaults included."""
        return self.model_dump(by_alias=True)
