"""What the loop, its callbacks and its caller hand to one another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mindformers.training.state import TrainState
from mindformers.training.train_step import MFTrainOneStepCell


@dataclass(frozen=True)
class TrainSettings:
    """Settings of a run that the loop itself needs.

    Attributes:
        epochs: Passes over the data, 1 or more.
        accumulation: Micro batches of a step, 1 or more.
        seed: Seed of MindSpore's generators during the run.
        output_dir: Where checkpoints, metrics and logs go; one run at a time.
        max_skipped_steps: Steps in a row that may be skipped because their loss or gradient is not
            finite; 0 stops at the first.
        max_steps: Stop after this many steps of the whole run; None: after ``epochs``.
        allow_data_change: Resume although the data changed.
        config_text: The resolved YAML, kept in the output folder and in every checkpoint.
    """

    epochs: int = 1
    accumulation: int = 1
    seed: int = 0
    output_dir: str | Path = "./output"
    max_skipped_steps: int = 0
    max_steps: int | None = None
    allow_data_change: bool = False
    config_text: str = ""


@dataclass
class TrainRun:
    """A run under way; callbacks read it.

    Attributes:
        step: The training step, with the network and the optimizer.
        dataset: The data.
        schedule: Finished steps -> learning rate.
        settings: The settings.
        state: Position after the last finished step.
        total_steps: Steps of the whole run.
        stop_signal: Number of the signal that asked for an end, or None.
        stop_reason: Why the run ends after this step; a callback may say so. Empty: it goes on.
        announce: Tells all callbacks of the run what an evaluation found.
        is_asked_to_stop: Tells whether a signal has asked this process for an end since.
    """

    step: MFTrainOneStepCell
    dataset: Any
    schedule: Callable[[int], float]
    settings: TrainSettings
    state: TrainState
    total_steps: int
    stop_signal: int | None = None
    stop_reason: str = ""
    announce: Callable[[EvalReport], None] = field(default=lambda report: None, repr=False)
    is_asked_to_stop: Callable[[], bool] = field(default=lambda: False, repr=False)
    skipped_in_a_row: int = field(default=0, repr=False)

    @property
    def output_dir(self) -> Path:
        """Where the run writes."""
        return Path(self.settings.output_dir)

    @property
    def samples_per_step(self) -> int:
        """Rows of one step."""
        return self.state.batch_size * self.state.accumulation


@dataclass(frozen=True)
class EvalReport:
    """What an evaluation between two steps found; the same in every process.

    Attributes:
        global_step: Finished steps.
        epoch: Epoch of the last of them, counted from 1.
        results: Values by name, ``loss`` among them.
        seconds: Time it took.
    """

    global_step: int
    epoch: int
    results: Mapping[str, float]
    seconds: float


@dataclass(frozen=True)
class StepReport:
    """What one step of the run did.

    Attributes:
        global_step: Its number, counted from 1.
        total_steps: Steps of the whole run.
        epoch: Its epoch, counted from 1.
        epochs: Epochs of the run.
        step_in_epoch: Its number within the epoch, counted from 1.
        steps_per_epoch: Steps of an epoch.
        loss: Mean over its trained tokens.
        lr: Its learning rate.
        grad_norm: Global norm before clipping.
        overflow: It was skipped: the loss or the norm is not finite.
        loss_scale: Loss scale.
        num_samples: Its rows.
        num_tokens: Its tokens, padding included.
        num_trained_tokens: Its tokens with a label.
        seconds: Time it took.
        eta_seconds: Estimated time to the end of the run, 0 or more.
        is_spike: It was skipped: the norm is above what the step was told to skip.
        local_norms: Norm of each parameter's gradient, where the step finds them.
    """

    global_step: int
    total_steps: int
    epoch: int
    epochs: int
    step_in_epoch: int
    steps_per_epoch: int
    loss: float
    lr: float
    grad_norm: float
    overflow: bool
    loss_scale: float
    num_samples: int
    num_tokens: int
    num_trained_tokens: int
    seconds: float
    eta_seconds: float
    is_spike: bool = False
    local_norms: tuple[float, ...] = ()

    @property
    def tokens_per_second(self) -> float:
        """Tokens, padding included, per second of this step."""
        return self.num_tokens / max(self.seconds, 1e-9)


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        global_step: Steps finished, those before a resume included.
        loss: Loss of the last step of this run; None if it did none.
        seconds: Time this run took.
        stop_signal: Number of the signal that ended it early, or None.
        steps: Steps this run did.
    """

    global_step: int
    loss: float | None
    seconds: float
    stop_signal: int | None = None
    steps: int = 0

    @property
    def exit_code(self) -> int:
        """0, or 128 plus the signal (130 after Ctrl-C, 143 after SIGTERM)."""
        return 0 if self.stop_signal is None else 128 + self.stop_signal
