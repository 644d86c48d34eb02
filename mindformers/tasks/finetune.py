"""Finetune: the recipe, one step a line."""

from __future__ import annotations

import resource
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mindformers.config.run_config import RunConfig
from mindformers.logger import logger
from mindformers.models.base_model import PreTrainedModel
from mindformers.parallel.mesh import mesh
from mindformers.tasks import build
from mindformers.tasks.evaluate import while_training
from mindformers.tasks.patterns import check_patterns
from mindformers.tasks.report import run_report
from mindformers.tasks.trained import build_optimizer, build_rate
from mindformers.training.callbacks import Callback, before_saving, build_callbacks
from mindformers.training.loop import train
from mindformers.training.output_lock import hold_output
from mindformers.training.parallel_step import ParallelTrainStep
from mindformers.training.resume import find_resume_folder
from mindformers.training.run import TrainResult, TrainSettings
from mindformers.training.train_step import MFTrainOneStepCell


def finetune(
    config: RunConfig,
    *,
    network: Any = None,
    dataset: Any = None,
    optimizer: Any = None,
    tokenizer: Any = None,
    callbacks: Sequence[Callback] = (),
    eval_dataset: Any = None,
) -> TrainResult:
    """Train a network on conversations.

    Args:
        config: The run's settings.
        network: A built network; None: the one the settings describe, with the weights they name.
        dataset: Training data; None: the data the settings name.
        optimizer: A built optimizer; None: the one the settings describe.
        tokenizer: For data that is text, in training and evaluation; None: the one the settings or the
            weights name.
        callbacks: Called besides those of the settings.
        eval_dataset: Data to evaluate on while training; None: the data the settings name.

    Returns:
        Where the run ended.
    """
    if network is None:
        check_patterns(config, build.network_settings(config))
    output_dir = build.start(config)
    refuse_busy_output(output_dir)
    named = build_callbacks(named_callbacks(config), is_first=mesh().layout.rank == 0)
    resume_from = find_resume_folder(config.resume_training, config.load_checkpoint, output_dir)
    if network is None:
        network = starting_network(config, resume_from)
    elif resume_from is not None and isinstance(network, PreTrainedModel):
        network.check_weights(network.config, resume_from)
    if dataset is None:
        dataset = build.build_train_dataset(config, network, tokenizer)
    optimizer = optimizer or build_optimizer(network, config)
    step = build_step(network, optimizer, config)
    evaluation = while_training(config, network, tokenizer=tokenizer, dataset=eval_dataset)
    settings = train_settings(config)
    schedule = build_rate(optimizer, config, announced_steps(dataset, settings))
    listeners = [*run_report(config, tokenizer), *before_saving(named, evaluation), *callbacks]
    result = train(
        step, dataset, settings, schedule=schedule, callbacks=listeners, resume_from=resume_from
    )
    report_share(step, result.steps)
    return result


def refuse_busy_output(output_dir: Path) -> None:
    """Refuse another run's folder now, not after minutes; ``train`` takes the lock again."""
    with hold_output(output_dir):
        pass


def starting_network(config: RunConfig, resume_from: Path | None) -> Any:
    """Return the network of the settings with the weights it starts from; a resumed step's are loaded by ``train``."""
    network = build.build_network(config, resume_from or config.weights_path)
    start = build.base_weights(config, resume_from) if resume_from else config.weights_path
    if start:
        network.load_checkpoint(start)
    set_recompute(network, config)
    return network


def announced_steps(dataset: Any, settings: TrainSettings) -> int:
    """Say how much data there is, and return the steps of the whole run."""
    steps = settings.epochs * (len(dataset) // settings.accumulation)
    logger.info(
        "data: %d rows of %d tokens; %d steps in %d epochs",
        dataset.num_rows, dataset.seq_length, steps, settings.epochs,
    )  # fmt: skip
    return steps


def report_share(step: MFTrainOneStepCell, steps: int) -> None:
    """Say what this process held, took and sent."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    active = mesh()
    logger.info(
        "rank %d: weights %.1f MB, optimizer %.1f MB, peak memory %.0f MB",
        active.layout.rank, _megabytes(step.network.get_parameters()),
        _megabytes(step.optimizer.state_parameters()), peak / 1e6,
    )  # fmt: skip
    if not active.layout.is_single:
        logger.info("sent per step (MB): %s", active.traffic_per_step(steps))


def _megabytes(parameters: Iterable[Any]) -> float:
    return sum(each.size * each.itemsize for each in parameters) / 1e6


def set_recompute(network: Any, config: RunConfig) -> None:
    """Let layers compute their activations again, or the parts that ``select_recompute`` means."""
    section = config.recompute_config
    whole = _layer_count(section.recompute, "recompute", network.config.num_layers)
    parts = _layer_count(section.select_recompute, "select_recompute", network.config.num_layers)
    if whole:
        network.recompute_layers(whole)
    if parts > whole:
        network.recompute_parts(whole, parts)


def _layer_count(value: bool | list[int], key: str, layers: int) -> int:
    """Return how many of this process's layers a setting means."""
    layout = mesh().layout
    if not isinstance(value, list):
        return layers if value else 0
    if len(value) == layout.pipeline:
        return min(value[layout.stage], layers)
    logger.warning(
        "recompute_config.%s %s counts layers of pipeline stages: no effect in one process",
        key, value,
    )  # fmt: skip
    return 0


def build_step(network: Any, optimizer: Any, config: RunConfig) -> MFTrainOneStepCell:
    """Return the training step."""
    options = config.runner_wrapper.model_dump(exclude={"type"})
    watched = config.monitor_config
    if watched and watched.monitor_on:
        asked = watched.local_norm_format or watched.device_local_norm_format
        options["local_norm"] = options["local_norm"] or bool(asked)
    if mesh().layout.is_single:
        return MFTrainOneStepCell(network, optimizer, **options)
    buckets = config.parallel_config.gradient_aggregation_group
    return ParallelTrainStep(network, optimizer, num_buckets=buckets, **options)


def train_settings(config: RunConfig) -> TrainSettings:
    """Return what the loop needs of the settings."""
    runner = config.runner_config
    return TrainSettings(
        epochs=runner.epochs,
        accumulation=config.micro_batches,
        seed=config.seed,
        output_dir=config.output_dir,
        max_steps=config.stop_step,
        allow_data_change=config.allow_data_change,
        config_text=build.config_text(config),
    )


def named_callbacks(config: RunConfig) -> list[dict[str, Any]]:
    """Return the callbacks of the settings, the loss line first; those that other keys ask for are added."""
    sections = [_section(each) for each in config.callbacks if each is not config.loss_monitor]
    named = [each for each in sections if each["type"] != "TrainCallBack"]
    sink = {"dataset_sink_mode": config.runner_config.sink_mode}
    named.insert(0, {**_section(config.loss_monitor), **sink})
    if config.profile and all(each["type"] != "ProfileMonitor" for each in named):
        named.append({
            "type": "ProfileMonitor", "start_step": config.profile_start_step,
            "stop_step": config.profile_stop_step, "profile_rank_ids": config.profile_rank_ids,
            "profile_memory": config.profile_memory, "profiler_level": config.profile_level,
            "profile_pipeline": config.profile_pipeline, "mstx": config.mstx,
        })  # fmt: skip
    if config.monitor_config and config.monitor_config.monitor_on:
        named.append({"type": "TrainingStateMonitor", **_section(config.monitor_config)})
    return named


def _section(section: Any) -> dict[str, Any]:
    return section.model_dump(exclude_none=True) if section is not None else {}
