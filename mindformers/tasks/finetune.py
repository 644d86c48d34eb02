"""Finetune: the recipe, one step a line."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from typing import Any

from mindformers.config.run_config import RunConfig
from mindformers.errors import ConfigError
from mindformers.logger import logger
from mindformers.models.base_model import PreTrainedModel
from mindformers.parallel.mesh import mesh
from mindformers.tasks import build
from mindformers.tasks.evaluate import while_training
from mindformers.tasks.report import run_report
from mindformers.training.callbacks import Callback, build_callbacks
from mindformers.training.loop import train
from mindformers.training.lr_schedule import build_schedule
from mindformers.training.optimizer import AdamW
from mindformers.training.output_lock import hold_output
from mindformers.training.parallel_step import ParallelTrainStep
from mindformers.training.param_groups import get_optimizer_grouped_parameters
from mindformers.training.resume import find_resume_folder
from mindformers.training.run import TrainResult, TrainSettings
from mindformers.training.sharded_optimizer import ShardedAdamW
from mindformers.training.train_step import MFTrainOneStepCell


def finetune(
    config: RunConfig,
    *,
    network: Any = None,
    dataset: Any = None,
    optimizer: Any = None,
    callbacks: Sequence[Callback] = (),
    eval_dataset: Any = None,
    tokenizer: Any = None,
) -> TrainResult:
    """Train a network on conversations.

    Args:
        config: The run's settings.
        network: A built network; None: the one the settings describe, with the weights they name.
        dataset: Training data; None: the data the settings name.
        optimizer: A built optimizer; None: the one the settings describe.
        callbacks: Called besides those of the settings.
        eval_dataset: Data to evaluate on while training; None: the data the settings name.
        tokenizer: For evaluations that read texts; None: the one the settings describe.

    Returns:
        Where the run ended.
    """
    output_dir = build.start(config)
    with hold_output(output_dir):
        pass  # another run's folder is refused now, not after minutes; ``train`` takes the lock again
    resume_from = find_resume_folder(config.resume_training, config.load_checkpoint, output_dir)
    if network is None:
        network = build.build_network(config, resume_from or config.weights_path)
        start = build.base_weights(config, resume_from) if resume_from else config.weights_path
        if start:
            network.load_checkpoint(start)
        set_recompute(network, config)
    elif resume_from is not None and isinstance(network, PreTrainedModel):
        network.check_weights(network.config, resume_from)
    dataset = build.build_train_dataset(config, network) if dataset is None else dataset
    optimizer = optimizer or build_optimizer(network, config)
    step = build_step(network, optimizer, config)
    evaluation = while_training(config, network, tokenizer=tokenizer, dataset=eval_dataset)
    settings = train_settings(config)
    total_steps = settings.epochs * (len(dataset) // settings.accumulation)
    schedule = build_schedule(
        _section(config.lr_schedule), total_steps, config.optimizer.learning_rate
    )
    named = [_section(each) for each in config.callbacks if each is not config.loss_monitor]
    named.insert(
        0, {**_section(config.loss_monitor), "dataset_sink_mode": config.runner_config.sink_mode}
    )
    logger.info(
        "data: %d rows of %d tokens; %d steps in %d epochs",
        dataset.num_rows,
        dataset.seq_length,
        total_steps,
        settings.epochs,
    )
    result = train(
        step,
        dataset,
        settings,
        schedule=schedule,
        callbacks=[
            *run_report(config, tokenizer),
            *build_callbacks(named, is_first=mesh().layout.rank == 0, before_saving=evaluation),
            *callbacks,
        ],
        resume_from=resume_from,
    )
    if not mesh().layout.is_single:
        report_share(result.steps)
    return result


def report_share(steps: int) -> None:
    """Say what this process took and sent."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    logger.info(
        "rank %d: peak memory %.0f MB; sent per step (MB): %s",
        mesh().layout.rank, peak, mesh().traffic_per_step(steps),
    )  # fmt: skip


def set_recompute(network: Any, config: RunConfig) -> None:
    """Let layers compute their activations again, as ``recompute_config`` says.

    Raises:
        ConfigError: If it asks for selective recomputation.
    """
    section = config.recompute_config
    if section.select_recompute:
        raise ConfigError(
            "selective recomputation is not implemented",
            where="recompute_config.select_recompute",
            allowed="False",
            fix="recompute: True computes whole layers again",
        )
    layers, layout = network.config.num_layers, mesh().layout
    if section.recompute is True:
        network.recompute_layers(layers)
    elif isinstance(section.recompute, list) and len(section.recompute) == layout.pipeline:
        network.recompute_layers(min(section.recompute[layout.stage], layers))
    elif section.recompute:
        logger.warning(
            "recompute_config.recompute %s counts layers of pipeline stages: no effect in one process",
            section.recompute,
        )


def build_optimizer(network: Any, config: RunConfig) -> AdamW:
    """Return the optimizer over the trainable parameters; norms and biases do not decay."""
    arguments = config.optimizer.model_dump(exclude={"type"})
    groups = get_optimizer_grouped_parameters(network, arguments["weight_decay"])
    return (ShardedAdamW if mesh().layout.shards_optimizer else AdamW)(groups, **arguments)


def build_step(network: Any, optimizer: Any, config: RunConfig) -> MFTrainOneStepCell:
    """Return the training step."""
    options = config.runner_wrapper.model_dump(exclude={"type"})
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
        max_steps=runner.stop_step or None,
        allow_data_change=config.allow_data_change,
        config_text=build.config_text(config),
    )


def _section(section: Any) -> dict[str, Any]:
    return section.model_dump(exclude_none=True) if section is not None else {}
