"""The training loop: epochs of steps, each reported to the callbacks."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import mindspore as ms

from mindformers.checkpoint.atomic import write_text
from mindformers.errors import ConfigError, DataError
from mindformers.logger import logger
from mindformers.parallel.heartbeat import beat
from mindformers.parallel.mesh import mesh
from mindformers.training.callback import Callback, CallbackList
from mindformers.training.diagnose import non_finite_error
from mindformers.training.lr_schedule import build_schedule
from mindformers.training.output_lock import hold_output
from mindformers.training.run import StepReport, TrainResult, TrainRun, TrainSettings
from mindformers.training.state import (
    TrainState,
    merge_state,
    random_state,
    restore_random_state,
)
from mindformers.training.step_folder import CONFIG_FILE, load_step
from mindformers.training.step_result import StepResult
from mindformers.training.stop_signals import StopSignals
from mindformers.training.train_step import MFTrainOneStepCell

_RECENT_STEPS = 20  # the time left is estimated from these


def train(
    step: MFTrainOneStepCell,
    dataset: Any,
    settings: TrainSettings,
    *,
    schedule: Callable[[int], float] | None = None,
    callbacks: Sequence[Callback] = (),
    resume_from: Path | None = None,
) -> TrainResult:
    """Train until the last epoch, ``max_steps`` or a signal.

    Args:
        step: The training step, with the network and the optimizer.
        dataset: Has ``batch_size``, ``fingerprint``, ``len()`` (batches of an epoch) and
            ``batches(epoch, start)``, which yields ``input_ids`` and ``labels``, (B, S) int32.
        settings: Epochs, accumulation, seed, output folder and limits.
        schedule: Finished steps -> learning rate; None: the optimizer's own rate.
        callbacks: Called in order.
        resume_from: A committed step folder to go on from; None starts anew.

    Returns:
        Where the run ended; ``exit_code`` tells whether a signal ended it.

    Raises:
        ConfigError: If a setting is out of range.
        DataError: If the data is too small, ends early, or is not that of the resumed run.
        TrainingError: If the output folder is in use, or a loss or gradient is not finite.
        CheckpointError: If the step to resume from cannot be used, or a save fails.
    """
    started = time.monotonic()
    run = _prepare(step, dataset, settings, schedule)
    every = CallbackList(callbacks)
    run.announce = partial(every.on_evaluation, run)
    loss, steps = None, 0
    is_first = mesh().layout.rank == 0
    with hold_output(settings.output_dir), StopSignals() as signals:
        run.is_asked_to_stop = lambda: signals.received is not None
        try:
            _set_position(run, resume_from)
            if settings.config_text and is_first:
                write_text(Path(settings.output_dir) / CONFIG_FILE, settings.config_text)
            every.on_train_begin(run)
            for report in _steps(run, signals):
                loss, steps = report.loss, steps + 1
                every.on_step_end(run, report)
                if report.step_in_epoch == report.steps_per_epoch:
                    every.on_epoch_end(run)
            run.stop_signal = signals.received
            every.on_train_end(run)
        except BaseException as error:
            every.on_exception(run, error)
            raise
    seconds = time.monotonic() - started
    return TrainResult(run.state.global_step, loss, seconds, run.stop_signal, steps)


def _prepare(
    step: MFTrainOneStepCell,
    dataset: Any,
    settings: TrainSettings,
    schedule: Callable[[int], float] | None,
) -> TrainRun:
    """Check the settings against the data and lay out the steps."""
    for name in ("epochs", "accumulation"):
        if getattr(settings, name) < 1:
            raise ConfigError(f"is {getattr(settings, name)}", where=name, allowed="1 or more")
    steps_per_epoch, left_over = divmod(len(dataset), settings.accumulation)
    if steps_per_epoch == 0:
        raise DataError(
            f"{len(dataset)} batches of {dataset.batch_size} rows do not fill one step of "
            f"{settings.accumulation}",
            fix="give more data, or lower batch_size or gradient_accumulation_steps",
        )
    if left_over:
        logger.warning("the last %d batches of each epoch do not fill a step", left_over)
    total = settings.epochs * steps_per_epoch
    if schedule is None:
        rate = step.optimizer.learning_rate
        schedule = rate if callable(rate) else build_schedule(None, total, rate)
    state = TrainState(
        seed=settings.seed,
        batch_size=dataset.batch_size,
        accumulation=settings.accumulation,
        steps_per_epoch=steps_per_epoch,
        data_fingerprint=str(dataset.fingerprint),
        optimizer=getattr(step.optimizer, "kind", type(step.optimizer).__name__),
        schedule=repr(schedule),
    )
    last = total if settings.max_steps is None else min(total, settings.max_steps)
    return TrainRun(step, dataset, schedule, settings, state, last)


def _set_position(run: TrainRun, resume_from: Path | None) -> None:
    """Seed a new run, or load the step to resume from."""
    ms.set_seed(run.settings.seed)
    ms.manual_seed(run.settings.seed)
    if resume_from is None:
        return
    saved = load_step(resume_from, run.step.network, run.step.optimizer)
    allow = run.settings.allow_data_change
    run.state = merge_state(saved, run.state, allow_data_change=allow)
    restore_random_state(run.state.rng_state)
    logger.info("resumed from %s after step %d", resume_from, run.state.global_step)


def _steps(run: TrainRun, signals: StopSignals) -> Iterator[StepReport]:
    """Run the steps that are left and yield a report of each."""
    recent: deque[float] = deque(maxlen=_RECENT_STEPS)
    batches: Iterator[Any] = iter(())
    epoch = -1
    while _goes_on(run, signals):
        began = time.monotonic()
        beat(f"step {run.state.global_step + 1}")
        done, accumulation = run.state.global_step, run.settings.accumulation
        now, step_in_epoch = divmod(done, run.state.steps_per_epoch)
        if now != epoch:
            epoch, batches = now, run.dataset.batches(now, step_in_epoch * accumulation)
        micro_batches = list(islice(batches, accumulation))
        if len(micro_batches) < accumulation:
            raise DataError(f"the data ended early in epoch {epoch + 1}, step {step_in_epoch + 1}")
        lr = run.schedule(done)
        result = run.step(micro_batches, lr)
        _check(run, result, micro_batches)
        recent.append(time.monotonic() - began)
        _advance(run, result, recent[-1])
        yield _report(run, result, lr, recent)


def _goes_on(run: TrainRun, signals: StopSignals) -> bool:
    """Tell whether there is another step."""
    has_steps = run.state.global_step < run.total_steps and not run.stop_reason
    return has_steps and not _is_stopped(signals)


def _is_stopped(signals: StopSignals) -> bool:
    """Tell whether a process of the run was asked to stop; all of them agree."""
    world = mesh().world
    if not world.is_alone:
        highest = world.all_reduce(ms.Tensor([float(signals.received or 0)], ms.float32), "max")
        signals.received = int(highest.asnumpy()[0]) or None
    return signals.received is not None


def _check(run: TrainRun, result: StepResult, micro_batches: list[Any]) -> None:
    """Stop, or count a skipped step, when the loss or the norm is not finite; say what is skipped."""
    if not result.overflow:
        run.skipped_in_a_row = 0
        if result.is_spike:
            logger.warning("step %d is skipped: the gradient norm %g is %g or more",
                           run.state.global_step + 1, result.grad_norm, run.step.spike)  # fmt: skip
        return
    run.skipped_in_a_row += 1
    epoch, index = divmod(run.state.global_step, run.state.steps_per_epoch)
    first = index * run.samples_per_step
    samples = f"samples {first} to {first + run.samples_per_step - 1} of epoch {epoch + 1}"
    position = f"step {run.state.global_step + 1} ({samples})"
    if run.skipped_in_a_row > run.settings.max_skipped_steps:
        raise non_finite_error(run.step, micro_batches, result, position)
    logger.warning(
        "%s is skipped: loss %g, gradient norm %g", position, result.loss, result.grad_norm
    )


def _advance(run: TrainRun, result: StepResult, seconds: float) -> None:
    state = run.state.advanced(result.num_tokens, result.num_trained_tokens, seconds)
    run.state = replace(state, optimizer_step=run.step.optimizer.step, rng_state=random_state())


def _report(run: TrainRun, result: StepResult, lr: float, recent: deque[float]) -> StepReport:
    state = run.state
    # The first step compiles the graph and says nothing about the others.
    usual = list(recent)[1:] if 1 < len(recent) < _RECENT_STEPS else list(recent)
    left = run.total_steps - state.global_step
    return StepReport(
        global_step=state.global_step, total_steps=run.total_steps,
        epoch=state.epoch, epochs=run.settings.epochs,
        step_in_epoch=state.step_in_epoch, steps_per_epoch=state.steps_per_epoch,
        loss=result.loss, lr=lr, grad_norm=result.grad_norm, overflow=result.overflow,
        is_spike=result.is_spike, local_norms=result.local_norms,
        loss_scale=run.step.loss_scale, num_samples=run.samples_per_step,
        num_tokens=result.num_tokens, num_trained_tokens=result.num_trained_tokens,
        seconds=recent[-1], eta_seconds=max(0.0, left * sum(usual) / len(usual)),
    )  # fmt: skip
