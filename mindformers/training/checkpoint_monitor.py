"""``CheckpointMonitor``: when a step is saved, and how many are kept."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from mindformers.checkpoint.atomic import free_bytes
from mindformers.checkpoint.manifest import clean_leftovers, committed_steps, keep_latest
from mindformers.config.options import refuse_options
from mindformers.errors import CheckpointError, ConfigError, TrainingError
from mindformers.logger import logger
from mindformers.parallel.mesh import mesh
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from mindformers.training.callback import Callback
from mindformers.training.run import StepReport, TrainRun
from mindformers.training.step_folder import (
    FORMATS,
    StepFormat,
    save_step,
    step_parameters,
    write_weights,
)

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "config": (None,),
    "keep_checkpoint_per_n_minutes": (0,),
    "integrated_save": (),  # each process saves its share, whatever it says
    "save_trainable_params": (False,),
    "async_save": (False,),
    "saved_network": (None,),
    "append_info": (None,),
    "enc_key": (None,),
    "enc_mode": (),  # has no effect without enc_key
    "global_batch_size": (),
    "remove_redundancy": (),  # nothing is ever written twice
    "embedding_size": (),
    "embedding_local_norm_threshold": (),
    "use_checkpoint_health_monitor": (False,),
    "health_ckpts_record_dir": (),
    "use_legacy_format": (True,),
}


@MindFormerRegister.register(MindFormerModuleType.CALLBACK)
class CheckpointMonitor(Callback):
    """Save a committed step folder every so often, at the end, and when the run has to stop.

    Args:
        prefix: Start of the weight files' names.
        directory: Folder of the steps; None: ``<output_dir>/checkpoint``.
        save_checkpoint_steps: Save every so many steps; None: 1, or 0 when seconds are given.
        save_checkpoint_seconds: Save when so many seconds have passed; 0 is off.
        keep_checkpoint_max: Steps to keep; 0 keeps all.
        checkpoint_format: ``ckpt`` or ``safetensors``, of the weights.
        save_optimizer: Save what a resume needs.
        options: ``save_network_params`` (also write the weights alone to
            ``checkpoint_network/rank_0``), ``exception_save`` (also save after an error that is not
            about numbers or files), and upstream's other arguments at their neutral values.

    Raises:
        ConfigError: If an argument is out of range or not implemented.
    """

    for_every_process = True

    def __init__(
        self,
        prefix: str = "CKP",
        directory: str | None = None,
        save_checkpoint_steps: int | None = None,
        save_checkpoint_seconds: int = 0,
        keep_checkpoint_max: int = 5,
        checkpoint_format: str = "ckpt",
        save_optimizer: bool = True,
        **options: Any,
    ):
        self.save_network_params = bool(options.pop("save_network_params", False))
        self.exception_save = bool(options.pop("exception_save", False))
        refuse_options("CheckpointMonitor", options, _NEUTRAL)
        if save_checkpoint_steps is None:
            save_checkpoint_steps = 0 if save_checkpoint_seconds else 1
        self.steps, self.seconds = save_checkpoint_steps, save_checkpoint_seconds
        self.keep, self.directory = keep_checkpoint_max, directory
        self.form = StepFormat(prefix, checkpoint_format, save_optimizer)
        self._check()
        self._saved_step = 0
        self._saved_at = 0.0

    def _check(self) -> None:
        for name, value in (("save_checkpoint_steps", self.steps),
                            ("save_checkpoint_seconds", self.seconds),
                            ("keep_checkpoint_max", self.keep)):  # fmt: skip
            if value < 0:
                _refuse(name, value, "0 or more")
        if self.steps and self.seconds:
            _refuse(
                "save_checkpoint_seconds", self.seconds, "0 when save_checkpoint_steps is given"
            )
        if self.form.weights not in FORMATS:
            _refuse("checkpoint_format", self.form.weights, " or ".join(FORMATS))
        prefix = self.form.prefix
        if not prefix or Path(prefix).name != prefix or "rank" in prefix:
            _refuse("prefix", prefix, "a file name without 'rank'")

    def root(self, run: TrainRun) -> Path:
        """Return the folder of the steps."""
        return Path(self.directory) if self.directory else run.output_dir / "checkpoint"

    def on_train_begin(self, run: TrainRun) -> None:
        """Remove what killed saves left and tell whether a step will fit."""
        root = self.root(run)
        if mesh().layout.rank == 0:
            clean_leftovers(root)
        self._saved_step, self._saved_at = run.state.global_step, time.monotonic()
        older = committed_steps(root)
        if older and run.state.global_step == 0:
            logger.warning("%s holds steps of an earlier run, up to %s; a later resume_training: "
                           "True takes the highest of all", root, older[-1].name)  # fmt: skip
        needed = step_bytes(run, self.form)
        free = free_bytes(root)
        if free is not None and free < needed:
            logger.warning("a checkpoint needs %d MB, %s has %d MB free",
                           needed >> 20, root, free >> 20)  # fmt: skip

    def on_step_end(self, run: TrainRun, report: StepReport) -> None:
        """Save when it is time."""
        by_steps = self.steps and report.global_step % self.steps == 0
        by_time = self.seconds and time.monotonic() - self._saved_at >= self.seconds
        if by_steps or by_time:
            self.save(run)

    def on_train_end(self, run: TrainRun) -> None:
        """Save the last step."""
        self.save(run)

    def on_exception(self, run: TrainRun, error: BaseException) -> None:
        """Save the last good step when the weights are known to be whole."""
        numbers = isinstance(error, TrainingError)
        other = self.exception_save and not isinstance(error, CheckpointError)
        if not mesh().layout.is_single:
            # The others take part in a save only if they have the same error: numbers, seen by all.
            numbers, other = numbers and run.skipped_in_a_row > 0, False
        if isinstance(error, Exception) and (numbers or other) and not run.step.is_updating:
            folder = self.save(run)
            if folder:
                logger.info("the last good step is kept in %s", folder)

    def save(self, run: TrainRun) -> Path | None:
        """Save the run's last finished step, unless it is saved already.

        Returns:
            The committed folder, or None if there was nothing new.
        """
        if run.state.global_step == self._saved_step:
            return None
        began = time.monotonic()
        step, root = run.step, self.root(run)
        folder = save_step(
            root, step.network, step.optimizer, run.state, self.form, run.settings.config_text
        )
        self._saved_step, self._saved_at = run.state.global_step, time.monotonic()
        logger.info("saved %s in %.1f s", folder, self._saved_at - began)
        rank = mesh().layout.rank
        if rank == 0:
            keep_latest(root, self.keep)
        if self.save_network_params:
            alone = run.output_dir / "checkpoint_network" / f"rank_{rank}"
            file = self.form.weight_file(run.state, rank)
            write_weights(step.network, alone / file, self.form.weights)
        return folder


def step_bytes(run: TrainRun, form: StepFormat) -> int:
    """Return about how many bytes one saved step takes."""
    saved = step_parameters(run.step.network)
    saved += run.step.optimizer.state_parameters() if form.has_optimizer else []
    return sum(parameter.size * parameter.itemsize for parameter in saved)


def _refuse(name: str, value: object, allowed: str) -> None:
    raise ConfigError(f"is {value!r}", where=f"CheckpointMonitor.{name}", allowed=allowed)
